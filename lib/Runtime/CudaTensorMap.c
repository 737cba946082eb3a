/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Tensor maps, which a context keeps: those of weights are encoded in its first run, others when an
 * address or a size changes.
 */
#include "CudaDriver.h"
#include <string.h>

#define MAX_RANK 5

/* The driver's order of dimensions is the other one, and it wants no sizes of 0: a tensor without
 * elements, which no kernel reads, gets one. */
static moec_status encode(const moec_context *context, const moec_tensor_map_desc *desc,
                          void *bytes) {
  const rt_cuda_model *cuda = context->model->on_device;
  uint64_t sizes[MAX_RANK], strides[MAX_RANK];
  uint32_t box[MAX_RANK], ones[MAX_RANK];
  for (int32_t i = 0; i < desc->rank; ++i) {
    int32_t from = desc->rank - 1 - i;
    sizes[i] = desc->sizes[from] > 0 ? (uint64_t)desc->sizes[from] : 1;
    box[i] = (uint32_t)desc->box[from];
    ones[i] = 1;
    if (i > 0)
      strides[i - 1] = (uint64_t)(desc->strides[from] * desc->element_bytes);
  }
  const void *data = desc->data ? desc->data : (const void *)(uintptr_t)cuda->weights;
  if (!data)
    return MOEC_OK;
  rt_cu_result result = cuda->driver.TensorMapEncodeTiled(
      bytes, desc->type, (uint32_t)desc->rank, (rt_cu_pointer)(uintptr_t)data, sizes, strides, box,
      ones, desc->interleave, desc->swizzle, desc->promotion, desc->fill);
  return rt_cu_check(&cuda->driver, result, "cannot make tensor map %d of the library '%s'",
                     desc->number, moec_model_description.name);
}

const void *moec_tensor_map(void *call, const moec_tensor_map_desc *desc) {
  moec_context *context = call;
  rt_cuda_context *state = context->on_device;
  rt_tensor_map *map = &state->maps[desc->number];
  if (map->is_encoded && memcmp(&map->desc, desc, sizeof(*desc)) == 0)
    return map->bytes;
  map->is_encoded = false;
  context->device_status = encode(context, desc, map->bytes);
  if (context->device_status != MOEC_OK)
    longjmp(context->escape, 1);
  map->desc = *desc;
  map->is_encoded = true;
  return map->bytes;
}
