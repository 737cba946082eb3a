/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Threads of the embedding program only (--threads=custom). context_create
 * refuses contexts without a hook, so that loops never arrive here.
 */
#include "Internal.h"
#include <stdlib.h>

int32_t rt_choose_workers(int32_t wanted) {
  (void)wanted;
  return 0;
}

void rt_parallel_for(int32_t workers, int64_t n, moec_task_fn body, void *ctx) {
  (void)workers;
  (void)n;
  (void)body;
  (void)ctx;
  abort();
}
