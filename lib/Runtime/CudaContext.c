/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Contexts and calls on a CUDA device: memory and launches.
 */
#include "CudaDriver.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* What generated code expects of its workspace; the driver gives more. */
#define ALIGNMENT ((size_t)256)

static const rt_cuda_model *get_cuda(const moec_context *context) {
  return context->model->on_device;
}

moec_status rt_cuda_enter(moec_model *model) {
  const rt_cuda_model *cuda = model->on_device;
  return rt_cu_check(&cuda->driver, cuda->driver.CtxPushCurrent(cuda->context),
                     "cannot use CUDA device %d", cuda->device_id);
}

void rt_cuda_leave(moec_model *model) {
  const rt_cuda_model *cuda = model->on_device;
  rt_cu_context context;
  (void)cuda->driver.CtxPopCurrent(&context);
}

/*===-- Memory ------------------------------------------------------------===*/

/* Memory that a captured graph uses must not move, and a wait cannot be captured. */
static moec_status check_may_grow(const moec_context *context, const rt_buffer *buffer,
                                  size_t bytes, const char *what) {
  const rt_cuda_context *state = context->on_device;
  if (state->is_capturing)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "%s needs %zu bytes, which cannot be allocated while the stream is captured: "
                   "run once with inputs of this size before",
                   what, bytes);
  if (state->was_captured)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "%s needs %zu bytes, but a graph was captured with the %zu bytes that there "
                   "are: capture the largest size, or take another context",
                   what, bytes, buffer->bytes);
  return MOEC_OK;
}

static moec_status allocate(const moec_context *context, rt_buffer *buffer, size_t bytes,
                            const char *what) {
  const rt_cuda_model *cuda = get_cuda(context);
  const rt_hooks *hooks = &context->device_hooks;
  if (!hooks->allocate) {
    rt_cu_pointer memory = 0;
    moec_status status = rt_cu_check(&cuda->driver, cuda->driver.MemAlloc(&memory, bytes),
                                     "cannot allocate %zu bytes on CUDA device %d for %s", bytes,
                                     cuda->device_id, what);
    if (status == MOEC_OK)
      *buffer = (rt_buffer){(void *)(uintptr_t)memory, bytes};
    return status;
  }
  void *memory = hooks->allocate(hooks->allocator, bytes, ALIGNMENT);
  if (!memory)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate %zu bytes on CUDA device %d for %s", bytes,
                   cuda->device_id, what);
  *buffer = (rt_buffer){memory, bytes};
  if ((uintptr_t)memory % ALIGNMENT != 0)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "the allocate hook returned memory that is not aligned to %zu bytes", ALIGNMENT);
  return MOEC_OK;
}

void rt_cuda_release(moec_context *context, rt_buffer *buffer) {
  const rt_cuda_model *cuda = get_cuda(context);
  const rt_hooks *hooks = &context->device_hooks;
  if (!buffer->memory)
    return;
  (void)cuda->driver.StreamSynchronize(context->options.stream);
  if (hooks->deallocate)
    hooks->deallocate(hooks->allocator, buffer->memory, buffer->bytes);
  else
    (void)cuda->driver.MemFree((rt_cu_pointer)(uintptr_t)buffer->memory);
  *buffer = (rt_buffer){NULL, 0};
}

moec_status rt_cuda_grow(moec_context *context, rt_buffer *buffer, size_t bytes, const char *what) {
  if (bytes <= buffer->bytes)
    return MOEC_OK;
  moec_status status = check_may_grow(context, buffer, bytes, what);
  if (status != MOEC_OK)
    return status;
  rt_cuda_release(context, buffer);
  return allocate(context, buffer, bytes, what);
}

/* Zeros behind what the stream has to do already. */
static moec_status grow_counters(moec_context *context, size_t bytes) {
  const rt_cuda_model *cuda = get_cuda(context);
  rt_cuda_context *state = context->on_device;
  if (bytes <= state->counters.bytes)
    return MOEC_OK;
  moec_status status = rt_cuda_grow(context, &state->counters, bytes, "the buffer of counters");
  if (status != MOEC_OK)
    return status;
  status = rt_cu_check(&cuda->driver,
                       cuda->driver.MemsetD8Async((rt_cu_pointer)(uintptr_t)state->counters.memory,
                                                  0, bytes, context->options.stream),
                       "cannot clear the buffer of counters");
  if (status != MOEC_OK)
    rt_cuda_release(context, &state->counters);
  return status;
}

void *moec_counters(void *call, int64_t bytes) {
  moec_context *context = call;
  context->device_status = grow_counters(context, (size_t)bytes);
  if (context->device_status != MOEC_OK)
    longjmp(context->escape, 1);
  return ((const rt_cuda_context *)context->on_device)->counters.memory;
}

/*===-- Launches ----------------------------------------------------------===*/

/* A size of a grid or block. False when it is more than the driver can be told. */
static bool set_size(unsigned *to, int64_t size) {
  *to = (unsigned)size;
  return size >= 0 && size <= INT_MAX;
}

/* How the launch is told to the driver. */
static moec_status configure(const moec_context *context, const moec_launch_desc *launch,
                             rt_cu_launch_config *config) {
  const rt_cuda_model *cuda = get_cuda(context);
  const rt_kernel *kernel = &cuda->kernels[launch->kernel];
  const char *name = cuda->desc->kernels[launch->kernel];
  *config = (rt_cu_launch_config){{0}, {0}, launch->shared_bytes, context->options.stream, NULL, 0};
  bool fits = true;
  for (int i = 0; i < 3; ++i)
    fits = set_size(&config->grid[i], launch->grid[i]) &&
           set_size(&config->block[i], launch->block[i]) && fits;
  if (!fits)
    return rt_fail(MOEC_ERROR_DEVICE,
                   "kernel '%s' would need a grid of %lld x %lld x %lld blocks, which is more "
                   "than any device has",
                   name, (long long)launch->grid[0], (long long)launch->grid[1],
                   (long long)launch->grid[2]);
  if (launch->shared_bytes > kernel->max_shared_bytes)
    return rt_fail(MOEC_ERROR_DEVICE,
                   "kernel '%s' needs %u bytes of shared memory, but CUDA device %d has %u for a "
                   "block",
                   name, launch->shared_bytes, cuda->device_id, kernel->max_shared_bytes);
  return MOEC_OK;
}

/* What it takes in a graph, for later runs that have blocks. */
static void empty(const moec_launch_desc *launch, rt_cu_launch_config *config) {
  for (int i = 0; i < 3; ++i) {
    config->grid[i] = launch->cluster[0] > 0 ? (unsigned)launch->cluster[i] : 1;
    config->block[i] = 1;
  }
  config->shared_bytes = 0;
}

static moec_status launch_kernel(moec_context *context, const moec_launch_desc *launch,
                                 void **arguments) {
  const rt_cuda_model *cuda = get_cuda(context);
  const rt_cuda_context *state = context->on_device;
  rt_cu_launch_config config;
  moec_status status = configure(context, launch, &config);
  if (status != MOEC_OK)
    return status;
  bool is_empty = !config.grid[0] || !config.grid[1] || !config.grid[2];
  if (state->graph)
    return rt_update_launch(context, launch->kernel, is_empty ? NULL : &config, arguments);
  if (is_empty && !state->is_capturing)
    return MOEC_OK;
  if (is_empty)
    empty(launch, &config);
  rt_cu_launch_attribute cluster = {.id = RT_CU_CLUSTER_DIMENSION};
  if (launch->cluster[0] > 0) {
    cluster.value.cluster.x = (unsigned)launch->cluster[0];
    cluster.value.cluster.y = (unsigned)launch->cluster[1];
    cluster.value.cluster.z = (unsigned)launch->cluster[2];
    config.attributes = &cluster;
    config.num_attributes = 1;
  }
  rt_cu_function function = is_empty ? cuda->nothing : cuda->kernels[launch->kernel].function;
  status = rt_cuda_mark_region(context, launch->region);
  if (status == MOEC_OK)
    status = rt_cu_check(
        &cuda->driver,
        cuda->driver.LaunchKernelEx(&config, function, is_empty ? NULL : arguments, NULL),
        "cannot launch kernel '%s'", cuda->desc->kernels[launch->kernel]);
  if (status == MOEC_OK && state->is_capturing)
    status = rt_note_captured(context, launch->kernel);
  return status;
}

void moec_launch(void *call, const moec_launch_desc *launch, void **arguments) {
  moec_context *context = call;
  context->device_status = launch_kernel(context, launch, arguments);
  if (context->device_status != MOEC_OK)
    longjmp(context->escape, 1);
}

/*===-- Checks ------------------------------------------------------------===*/

/* With unified addresses, which every device here has, kernels use the same one. */
static moec_status make_check_place(moec_context *context) {
  const rt_cuda_model *cuda = get_cuda(context);
  rt_cuda_context *state = context->on_device;
  if (state->is_capturing)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "the place for failed checks cannot be allocated while the stream is captured: "
                   "run once before");
  void *memory = NULL;
  moec_status status = rt_cu_check(
      &cuda->driver,
      cuda->driver.MemHostAlloc(&memory, sizeof(*state->failure),
                                RT_CU_MEM_HOST_PORTABLE | RT_CU_MEM_HOST_DEVICEMAP),
      "cannot allocate %zu bytes of pinned memory for failed checks", sizeof(*state->failure));
  state->failure = memory;
  if (status == MOEC_OK)
    *state->failure = NULL;
  return status;
}

const char **moec_check_place(void *call) {
  moec_context *context = call;
  rt_cuda_context *state = context->on_device;
  if (!state->failure) {
    context->device_status = make_check_place(context);
    if (context->device_status != MOEC_OK)
      longjmp(context->escape, 1);
  }
  return (const char **)state->failure;
}

/* Once for each failure. */
static moec_status report_failure(moec_context *context) {
  rt_cuda_context *state = context->on_device;
  const char *message = state->failure ? *state->failure : NULL;
  if (!message)
    return MOEC_OK;
  *state->failure = NULL;
  return rt_fail(MOEC_ERROR_RUN, "an earlier run failed: %s", message);
}

/*===-- Contexts and runs -------------------------------------------------===*/

moec_status rt_cuda_create_context(moec_context *context) {
  rt_cuda_context *state = calloc(1, sizeof(rt_cuda_context));
  size_t bytes = get_cuda(context)->desc->num_tensor_maps * sizeof(rt_tensor_map);
  if (state && bytes)
    state->maps = aligned_alloc(_Alignof(rt_tensor_map), bytes);
  if (!state || (bytes && !state->maps)) {
    free(state);
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate a context");
  }
  if (bytes)
    memset(state->maps, 0, bytes);
  context->on_device = state;
  return MOEC_OK;
}

void rt_cuda_destroy_context(moec_context *context) {
  rt_cuda_context *state = context->on_device;
  bool has_memory = state->failure || state->marks || state->counters.memory;
  if (has_memory && rt_cuda_enter(context->model) == MOEC_OK) {
    const rt_cu_driver *driver = &get_cuda(context)->driver;
    rt_cuda_release(context, &state->counters);
    if (state->failure)
      (void)driver->MemFreeHost((void *)state->failure);
    rt_cuda_free_marks(state, driver);
    rt_cuda_leave(context->model);
  }
  free(state->captured);
  free(state->maps);
  free(state);
}

moec_status rt_cuda_begin_run(moec_context *context, void *graph_exec) {
  const rt_cuda_model *cuda = get_cuda(context);
  rt_cuda_context *state = context->on_device;
  state->graph = graph_exec;
  state->next = 0;
  state->is_capturing = false;
  moec_status status = report_failure(context);
  if (status != MOEC_OK)
    return status;
  status = rt_cuda_collect_profile(context);
  if (status != MOEC_OK)
    return status;
  if (graph_exec && !state->was_captured)
    return rt_fail(MOEC_ERROR_ARGUMENT, "no run of this context was captured into a graph");
  if (graph_exec)
    return MOEC_OK;
  int capture = RT_CU_CAPTURE_NONE;
  status =
      rt_cu_check(&cuda->driver, cuda->driver.StreamIsCapturing(context->options.stream, &capture),
                  "cannot use the stream of the context");
  state->is_capturing = capture == RT_CU_CAPTURE_ACTIVE;
  if (state->is_capturing)
    state->num_captured = 0;
  return status;
}

moec_status rt_cuda_end_run(moec_context *context) {
  rt_cuda_context *state = context->on_device;
  state->was_captured |= state->is_capturing;
  if (state->num_marks > 0)
    return rt_cuda_mark_region(context, -1);
  return state->graph ? rt_check_updated(context) : MOEC_OK;
}

moec_status rt_cuda_wait(moec_context *context) {
  const rt_cuda_model *cuda = get_cuda(context);
  moec_status status =
      rt_cu_check(&cuda->driver, cuda->driver.StreamSynchronize(context->options.stream),
                  "a run failed on CUDA device %d", cuda->device_id);
  return status == MOEC_OK ? report_failure(context) : status;
}
