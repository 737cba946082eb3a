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

/* The tasks that a worker begins with; alone on its cache line. */
typedef struct {
  _Alignas(64) atomic_int_fast64_t next;
  int64_t end;
} rt_range;

/* 16 KiB of stack. */
#define MAX_RANGES 256

/* Where range `i` of `count` begins. */
static int64_t begin_of(int64_t n, int32_t count, int32_t i) {
  int64_t rest = n % count;
  return n / count * i + (i < rest ? i : rest);
}

void rt_parallel_for(int32_t workers, int64_t n, moec_task_fn body, void *ctx) {
  /* Neighbouring tasks read neighbouring memory: a worker goes through a range of them,
   * then helps the others with what is left of theirs. */
  rt_range ranges[MAX_RANGES];
  int32_t count = workers < MAX_RANGES ? workers : MAX_RANGES;
  for (int32_t i = 0; i < count; ++i) {
    atomic_init(&ranges[i].next, begin_of(n, count, i));
    ranges[i].end = begin_of(n, count, i + 1);
  }
  /* Always the same number of threads: a team that changes its size is set up
   * anew. Any thread may run any task, so that fewer threads than asked for are right. */
#pragma omp parallel num_threads(workers) default(none) shared(ranges, count, body, ctx)
  {
    int32_t worker = (int32_t)omp_get_thread_num();
    uint32_t state = rt_enter_float_state();
    for (int32_t i = 0; i < count; ++i) {
      rt_range *range = &ranges[(worker + i) % count];
      for (int64_t task = atomic_fetch_add(&range->next, 1); task < range->end;
           task = atomic_fetch_add(&range->next, 1))
        body(ctx, task, worker);
    }
    rt_leave_float_state(state);
  }
}
