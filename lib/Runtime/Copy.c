/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Copies between strided tensors and row-major buffers.
 */
#include "Internal.h"
#include <string.h>

typedef struct {
  const DLTensor *tensor;
  size_t element;
  char *packed; /* advances */
  bool to_packed;
} rt_copy;

static void copy_bytes(rt_copy *copy, char *strided, size_t bytes) {
  if (copy->to_packed)
    memcpy(copy->packed, strided, bytes);
  else
    memcpy(strided, copy->packed, bytes);
  copy->packed += bytes;
}

/* The sizes that elements have get loops without calls. */
static void copy_row(rt_copy *copy, char *strided, int64_t n, int64_t step) {
  switch (copy->element) {
  case 1:
    for (int64_t i = 0; i < n; ++i)
      copy_bytes(copy, strided + i * step, 1);
    break;
  case 2:
    for (int64_t i = 0; i < n; ++i)
      copy_bytes(copy, strided + i * step, 2);
    break;
  case 4:
    for (int64_t i = 0; i < n; ++i)
      copy_bytes(copy, strided + i * step, 4);
    break;
  case 8:
    for (int64_t i = 0; i < n; ++i)
      copy_bytes(copy, strided + i * step, 8);
    break;
  default:
    for (int64_t i = 0; i < n; ++i)
      copy_bytes(copy, strided + i * step, copy->element);
  }
}

static void copy_dims(rt_copy *copy, char *strided, int32_t dim) {
  const DLTensor *tensor = copy->tensor;
  if (dim == tensor->ndim) {
    copy_bytes(copy, strided, copy->element);
    return;
  }
  int64_t step = rt_stride_bytes(tensor, dim);
  int64_t n = tensor->shape[dim];
  if (dim < tensor->ndim - 1) {
    for (int64_t i = 0; i < n; ++i)
      copy_dims(copy, strided + i * step, dim + 1);
    return;
  }
  if (step == (int64_t)copy->element)
    copy_bytes(copy, strided, (size_t)n * copy->element);
  else
    copy_row(copy, strided, n, step);
}

void rt_gather(void *buffer, const DLTensor *tensor) {
  rt_copy copy = {tensor, rt_element_bytes(tensor), buffer, true};
  copy_dims(&copy, rt_tensor_data(tensor), 0);
}

void rt_scatter(const DLTensor *tensor, const void *buffer) {
  /* The buffer is only read in this direction. */
  rt_copy copy = {tensor, rt_element_bytes(tensor), (char *)buffer, false};
  copy_dims(&copy, rt_tensor_data(tensor), 0);
}
