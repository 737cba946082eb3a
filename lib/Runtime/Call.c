/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What generated code calls. `call` is the context.
 */
#include "Internal.h"

int32_t moec_num_workers(void *call) { return ((moec_context *)call)->num_workers; }

void moec_check(void *call, bool ok, const char *message) {
  const char *none = NULL;
  if (!ok)
    atomic_compare_exchange_strong(&((moec_context *)call)->failure, &none, message);
}

void moec_require(void *call, bool ok, const char *message) {
  if (ok)
    return;
  moec_check(call, false, message);
  longjmp(((moec_context *)call)->escape, 1);
}

/* A loop that the user's hook runs. */
typedef struct {
  moec_context *context;
  int64_t n;
  moec_task_fn body;
  void *ctx;
  atomic_int_fast64_t done;
} rt_hook_loop;

static void run_hook_task(void *data, int64_t task, int32_t worker) {
  rt_hook_loop *loop = data;
  if (task < 0 || task >= loop->n || worker < 0 || worker >= loop->context->num_workers) {
    atomic_store(&loop->context->hook_failure, RT_HOOK_WORKER);
    return;
  }
  uint32_t state = rt_enter_float_state();
  loop->body(loop->ctx, task, worker);
  rt_leave_float_state(state);
  atomic_fetch_add(&loop->done, 1);
}

static void run_hook(moec_context *context, int64_t n, moec_task_fn body, void *ctx) {
  rt_hook_loop loop = {context, n, body, ctx, 0};
  context->options.parallel_for(context->options.pool, n, run_hook_task, &loop);
  int expected = RT_HOOK_OK;
  if (atomic_load(&loop.done) != n)
    atomic_compare_exchange_strong(&context->hook_failure, &expected, RT_HOOK_TASKS);
}

void moec_parallel_for(void *call, int64_t n, moec_task_fn body, void *ctx) {
  moec_context *context = call;
  if (n <= 0)
    return;
  if (n > 1 && context->options.parallel_for) {
    run_hook(context, n, body, ctx);
    return;
  }
  if (n > 1 && context->num_workers > 1) {
    rt_parallel_for(context->num_workers, n, body, ctx);
    return;
  }
  for (int64_t task = 0; task < n; ++task)
    body(ctx, task, 0);
}
