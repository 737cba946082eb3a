/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Runs in CUDA graphs. A captured run leaves the node of each of its launches; to compute another
 * run with the graph, its launches are done again into these nodes. One without blocks leaves a
 * node that does nothing, and switches off the node of another.
 */
#include "CudaDriver.h"
#include <stdlib.h>

static rt_captured *add_captured(rt_cuda_context *state) {
  if (state->num_captured == state->max_captured) {
    size_t count = 2 * state->max_captured + 16;
    rt_captured *larger = realloc(state->captured, count * sizeof(rt_captured));
    if (!larger)
      return NULL;
    state->captured = larger;
    state->max_captured = count;
  }
  return &state->captured[state->num_captured++];
}

moec_status rt_note_captured(moec_context *context, int32_t kernel) {
  const rt_cuda_model *cuda = context->model->on_device;
  rt_captured *captured = add_captured(context->on_device);
  if (!captured)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate the list of captured launches");
  *captured = (rt_captured){NULL, kernel};
  int status = 0;
  uint64_t id;
  rt_cu_graph graph;
  const rt_cu_node *last = NULL;
  size_t num_last = 0;
  rt_cu_result result = cuda->driver.StreamGetCaptureInfo(context->options.stream, &status, &id,
                                                          &graph, &last, &num_last);
  /* What comes next depends on the launch alone. */
  if (result == RT_CU_SUCCESS && num_last == 1)
    captured->node = last[0];
  else if (result == RT_CU_SUCCESS)
    return rt_fail(MOEC_ERROR_DEVICE, "the capture of the stream ended during the run");
  return rt_cu_check(&cuda->driver, result, "cannot find captured kernel '%s'",
                     cuda->desc->kernels[kernel]);
}

static moec_status fail_different(void) {
  return rt_fail(MOEC_ERROR_ARGUMENT,
                 "the run does not launch the kernels that were captured: capture it again");
}

moec_status rt_update_launch(moec_context *context, int32_t kernel,
                             const rt_cu_launch_config *config, void **arguments) {
  const rt_cuda_model *cuda = context->model->on_device;
  rt_cuda_context *state = context->on_device;
  if (state->next == state->num_captured || state->captured[state->next].kernel != kernel)
    return fail_different();
  rt_cu_node node = state->captured[state->next++].node;
  rt_cu_result result = RT_CU_SUCCESS;
  if (config) {
    rt_cu_kernel_node changed = {.function = cuda->kernels[kernel].function,
                                 .grid = {config->grid[0], config->grid[1], config->grid[2]},
                                 .block = {config->block[0], config->block[1], config->block[2]},
                                 .shared_bytes = config->shared_bytes,
                                 .parameters = arguments};
    result = cuda->driver.GraphExecKernelNodeSetParams(state->graph, node, &changed);
  }
  if (result == RT_CU_SUCCESS)
    result = cuda->driver.GraphNodeSetEnabled(state->graph, node, config ? 1 : 0);
  return rt_cu_check(&cuda->driver, result, "cannot change kernel '%s' of the graph",
                     cuda->desc->kernels[kernel]);
}

moec_status rt_check_updated(const moec_context *context) {
  const rt_cuda_context *state = context->on_device;
  return state->next == state->num_captured ? MOEC_OK : fail_different();
}
