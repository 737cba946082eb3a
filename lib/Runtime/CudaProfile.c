/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Times of kernels: an event before each launch of a run, and one behind the last. They are read
 * when somebody asks, or before the next run.
 */
#include "CudaDriver.h"
#include <stdlib.h>

static moec_status check(const rt_cuda_model *cuda, rt_cu_result result) {
  return rt_cu_check(&cuda->driver, result, "cannot measure the time of kernels");
}

/* The next mark, with an event. */
static moec_status add_mark(const rt_cuda_model *cuda, rt_cuda_context *state,
                            rt_cuda_mark **mark) {
  if (state->num_marks == state->max_marks) {
    size_t count = 2 * state->max_marks + 16;
    rt_cuda_mark *larger = realloc(state->marks, count * sizeof(rt_cuda_mark));
    if (!larger)
      return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate the profile");
    state->marks = larger;
    state->max_marks = count;
  }
  *mark = &state->marks[state->num_marks];
  if (state->num_marks == state->num_events) {
    moec_status status =
        check(cuda, cuda->driver.EventCreate(&(*mark)->event, RT_CU_EVENT_DEFAULT));
    if (status != MOEC_OK)
      return status;
    ++state->num_events;
  }
  ++state->num_marks;
  return MOEC_OK;
}

moec_status rt_cuda_mark_region(moec_context *context, int32_t region) {
  const rt_cuda_model *cuda = context->model->on_device;
  rt_cuda_context *state = context->on_device;
  if (!(context->options.flags & MOEC_CONTEXT_PROFILE) || state->is_capturing || state->graph)
    return MOEC_OK;
  rt_cuda_mark *mark = NULL;
  moec_status status = add_mark(cuda, state, &mark);
  if (status != MOEC_OK)
    return status;
  mark->region = region;
  return check(cuda, cuda->driver.EventRecord(mark->event, context->options.stream));
}

moec_status rt_cuda_collect_profile(moec_context *context) {
  const rt_cuda_model *cuda = context->model->on_device;
  rt_cuda_context *state = context->on_device;
  size_t count = state->num_marks;
  state->num_marks = 0;
  /* A run that failed has no end. */
  if (count == 0 || state->marks[count - 1].region >= 0)
    return MOEC_OK;
  moec_status status = check(cuda, cuda->driver.EventSynchronize(state->marks[count - 1].event));
  for (size_t i = 0; status == MOEC_OK && i + 1 < count; ++i) {
    const rt_cuda_mark *mark = &state->marks[i];
    float milliseconds = 0;
    status = check(
        cuda, cuda->driver.EventElapsedTime(&milliseconds, mark->event, state->marks[i + 1].event));
    if (status == MOEC_OK)
      rt_profile_add(context, mark->region, (uint64_t)((double)milliseconds * 1e6));
  }
  return status;
}

void rt_cuda_free_marks(rt_cuda_context *state, const rt_cu_driver *driver) {
  for (size_t i = 0; i < state->num_events; ++i)
    (void)driver->EventDestroy(state->marks[i].event);
  free(state->marks);
}
