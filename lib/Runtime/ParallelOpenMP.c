/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Parallel loops with OpenMP (--threads=openmp).
 */
#include "Internal.h"
#include <omp.h>

int32_t rt_choose_workers(int32_t wanted) {
  return wanted > 0 ? wanted : (int32_t)omp_get_max_threads();
}

void rt_parallel_for(int32_t workers, int64_t n, moec_task_fn body, void *ctx) {
  atomic_int_fast64_t next = 0;
  /* Always the same number of threads: a team that changes its size is set up
   * anew. Threads draw tasks, so that fewer threads than asked for are right. */
#pragma omp parallel num_threads(workers) default(none) shared(next, n, body, ctx)
  {
    int32_t worker = (int32_t)omp_get_thread_num();
    uint32_t state = rt_enter_float_state();
    for (int64_t task = atomic_fetch_add(&next, 1); task < n; task = atomic_fetch_add(&next, 1))
      body(ctx, task, worker);
    rt_leave_float_state(state);
  }
}
