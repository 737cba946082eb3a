/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The calls that work on tensors.
 */
#include "Device.h"

/* Takes the context for one call and finds the entry. */
static moec_status begin_call(moec_context *context, const char *entry_name,
                              const moec_entry_desc **entry) {
  if (!context)
    return rt_fail(MOEC_ERROR_ARGUMENT, "the context is a null pointer");
  *entry = rt_find_entry(context->model->level, entry_name);
  if (!*entry)
    return MOEC_ERROR_ARGUMENT;
  if (atomic_flag_test_and_set_explicit(&context->busy, memory_order_acquire))
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "%s: the context is in use by another call; make one "
                   "context for each thread",
                   (*entry)->name);
  return MOEC_OK;
}

static void end_call(moec_context *context) {
  atomic_flag_clear_explicit(&context->busy, memory_order_release);
}

static void describe_outputs(moec_context *context, const moec_entry_desc *entry,
                             DLTensor *const *out) {
  int64_t *shown = context->shown_dims;
  const int64_t *dims = context->output_dims;
  for (int32_t i = 0; i < entry->num_outputs; ++i) {
    const moec_tensor_desc *desc = &entry->outputs[i];
    out[i]->device = rt_model_device(context->model);
    out[i]->dtype.code = desc->code;
    out[i]->dtype.bits = desc->bits;
    out[i]->dtype.lanes = desc->lanes;
    out[i]->ndim = desc->rank;
    out[i]->shape = shown;
    out[i]->strides = NULL;
    for (int32_t j = 0; j < desc->rank; ++j)
      *shown++ = *dims++;
  }
}

static moec_status check_described(const moec_entry_desc *entry, DLTensor *const *out,
                                   int32_t n_out) {
  if (n_out != entry->num_outputs)
    return rt_fail(MOEC_ERROR_ARGUMENT, "%s: %d outputs given, expected %d", entry->name, n_out,
                   entry->num_outputs);
  if (!out && n_out > 0)
    return rt_fail(MOEC_ERROR_ARGUMENT, "%s: the array of outputs is a null pointer", entry->name);
  for (int32_t i = 0; i < n_out; ++i)
    if (!out[i])
      return rt_fail(MOEC_ERROR_ARGUMENT, "%s: output '%s' is a null pointer", entry->name,
                     entry->outputs[i].name);
  return MOEC_OK;
}

moec_status rt_output_shapes(moec_context *context, const char *entry_name,
                             const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                             int32_t n_out) {
  const moec_entry_desc *entry;
  moec_status status = begin_call(context, entry_name, &entry);
  if (status != MOEC_OK)
    return status;
  status = check_described(entry, out, n_out);
  if (status == MOEC_OK)
    status = rt_prepare_inputs(context, entry, in, n_in);
  if (status == MOEC_OK)
    status = rt_compute_shapes(context, entry);
  if (status == MOEC_OK)
    describe_outputs(context, entry, out);
  end_call(context);
  return status;
}

/* Bytes for inputs that have been prepared. */
static moec_status compute_workspace(moec_context *context, const moec_entry_desc *entry,
                                     size_t *bytes) {
  int64_t found = entry->workspace((void *const *)context->args, context->num_workers);
  if (found < 0)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "%s: the workspace for inputs of these shapes is larger "
                   "than any address space",
                   entry->name);
  *bytes = (size_t)found;
  return MOEC_OK;
}

moec_status rt_workspace_size(moec_context *context, const char *entry_name,
                              const DLTensor *const *in, int32_t n_in, uint64_t *bytes) {
  if (!bytes)
    return rt_fail(MOEC_ERROR_ARGUMENT, "workspace_size: bytes is a null pointer");
  const moec_entry_desc *entry;
  moec_status status = begin_call(context, entry_name, &entry);
  if (status != MOEC_OK)
    return status;
  size_t found = 0;
  status = rt_prepare_inputs(context, entry, in, n_in);
  if (status == MOEC_OK)
    status = compute_workspace(context, entry, &found);
  *bytes = found;
  end_call(context);
  return status;
}

static moec_status prepare(moec_context *context, const moec_entry_desc *entry,
                           const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                           int32_t n_out) {
  moec_status status = rt_prepare_inputs(context, entry, in, n_in);
  if (status == MOEC_OK)
    status = rt_compute_shapes(context, entry);
  if (status == MOEC_OK)
    status = rt_prepare_outputs(context, entry, in, out, n_out);
  size_t bytes = 0;
  if (status == MOEC_OK)
    status = compute_workspace(context, entry, &bytes);
  if (status != MOEC_OK)
    return status;
  const moec_device *device = context->model->device;
  return (device ? device->grow : rt_grow)(context, &context->workspace, bytes, "the workspace");
}

static void call_entry(moec_context *context, const moec_entry_desc *entry) {
  atomic_store(&context->failure, NULL);
  atomic_store(&context->hook_failure, RT_HOOK_OK);
  context->missing_bytes = 0;
  context->device_status = MOEC_OK;
  rt_release_chunks(context);
  uint32_t state = rt_enter_float_state();
  rt_profile_begin(context);
  if (_setjmp(context->escape) == 0)
    entry->run((void *const *)context->args, context->workspace.memory, context->model->weights,
               context);
  rt_profile_end(context);
  rt_leave_float_state(state);
}

static moec_status check_result(moec_context *context, const moec_entry_desc *entry) {
  /* Its message has been set. */
  if (context->device_status != MOEC_OK)
    return context->device_status;
  int hook_failure = atomic_load(&context->hook_failure);
  if (hook_failure == RT_HOOK_WORKER)
    return rt_fail(MOEC_ERROR_PARALLEL,
                   "%s: the parallel_for hook gave a task or worker number out "
                   "of range (the context has %d workers)",
                   entry->name, context->num_workers);
  if (hook_failure == RT_HOOK_TASKS)
    return rt_fail(MOEC_ERROR_PARALLEL,
                   "%s: the parallel_for hook returned without having run each "
                   "task once",
                   entry->name);
  const char *failure = atomic_load(&context->failure);
  if (failure)
    return rt_fail(MOEC_ERROR_RUN, "%s: %s", entry->name, failure);
  if (context->missing_bytes < 0)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "%s: a tensor whose size depends on data is larger than any address space",
                   entry->name);
  if (context->missing_bytes > 0)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "%s: cannot allocate %lld bytes for a tensor whose size depends on data",
                   entry->name, (long long)context->missing_bytes);
  return MOEC_OK;
}

static moec_status run_entry(moec_context *context, const moec_entry_desc *entry,
                             const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                             int32_t n_out) {
  moec_status status = prepare(context, entry, in, n_in, out, n_out);
  if (status != MOEC_OK)
    return status;
  call_entry(context, entry);
  status = check_result(context, entry);
  if (status == MOEC_OK)
    rt_finish_outputs(context, entry, out);
  return status;
}

/* The same on a device; with a graph, into that. */
static moec_status run_on_device(moec_context *context, void *graph_exec,
                                 const moec_entry_desc *entry, const DLTensor *const *in,
                                 int32_t n_in, DLTensor *const *out, int32_t n_out) {
  const moec_device *device = context->model->device;
  moec_status status = device->enter(context->model);
  if (status != MOEC_OK)
    return status;
  status = device->begin_run(context, graph_exec);
  if (status == MOEC_OK)
    status = run_entry(context, entry, in, n_in, out, n_out);
  if (status == MOEC_OK)
    status = device->end_run(context);
  device->leave(context->model);
  return status;
}

moec_status rt_run(moec_context *context, const char *entry_name, const DLTensor *const *in,
                   int32_t n_in, DLTensor *const *out, int32_t n_out) {
  const moec_entry_desc *entry;
  moec_status status = begin_call(context, entry_name, &entry);
  if (status != MOEC_OK)
    return status;
  status = context->model->device ? run_on_device(context, NULL, entry, in, n_in, out, n_out)
                                  : run_entry(context, entry, in, n_in, out, n_out);
  end_call(context);
  return status;
}

moec_status rt_wait(moec_context *context) {
  if (!context)
    return rt_fail(MOEC_ERROR_ARGUMENT, "the context is a null pointer");
  const moec_device *device = context->model->device;
  if (!device)
    return MOEC_OK;
  moec_status status = device->enter(context->model);
  if (status != MOEC_OK)
    return status;
  status = device->wait(context);
  device->leave(context->model);
  return status;
}

moec_status rt_update_graph(moec_context *context, void *graph_exec, const char *entry_name,
                            const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                            int32_t n_out) {
  if (!graph_exec)
    return rt_fail(MOEC_ERROR_ARGUMENT, "update_graph: graph_exec is a null pointer");
  const moec_entry_desc *entry;
  moec_status status = begin_call(context, entry_name, &entry);
  if (status != MOEC_OK)
    return status;
  if (context->model->device)
    status = run_on_device(context, graph_exec, entry, in, n_in, out, n_out);
  else
    status = rt_fail(MOEC_ERROR_ARGUMENT, "%s: the model runs on the CPU, which has no graphs",
                     entry->name);
  end_call(context);
  return status;
}
