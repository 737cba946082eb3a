/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * No threads (--threads=none).
 */
#include "Internal.h"

int32_t rt_choose_workers(int32_t wanted) {
  (void)wanted;
  return 1;
}

void rt_parallel_for(int32_t workers, int64_t n, moec_task_fn body, void *ctx) {
  (void)workers;
  for (int64_t task = 0; task < n; ++task)
    body(ctx, task, 0);
}
