/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Do tensors share memory?
 */
#include "Internal.h"

/* Bytes begin ... begin+length-1. */
typedef struct {
  uint64_t begin, length;
} rt_range;

/* Addresses of the elements of a tensor that is not empty. When period is not
 * 0, dimensions that step by multiples of it are left out. */
static rt_range find_range(const DLTensor *tensor, int64_t period) {
  rt_range range = {(uintptr_t)rt_tensor_data(tensor), rt_element_bytes(tensor)};
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    int64_t step = rt_stride_bytes(tensor, i);
    if (tensor->shape[i] == 1 || (period && step % period == 0))
      continue;
    int64_t extent = step * (tensor->shape[i] - 1);
    range.begin -= extent < 0 ? (uint64_t)-extent : 0;
    range.length += (uint64_t)(extent < 0 ? -extent : extent);
  }
  return range;
}

static bool are_disjoint(rt_range a, rt_range b) {
  return a.begin + a.length <= b.begin || b.begin + b.length <= a.begin;
}

/* Different columns of one buffer whose rows are `period` bytes apart? */
static bool are_different_columns(const DLTensor *a, const DLTensor *b, int64_t period) {
  rt_range ra = find_range(a, period), rb = find_range(b, period);
  uint64_t rows = (uint64_t)period;
  uint64_t distance = (rb.begin % rows + rows - ra.begin % rows) % rows;
  return distance >= ra.length && distance + rb.length <= rows;
}

static bool differ_in_columns(const DLTensor *a, const DLTensor *b) {
  for (int32_t i = 0; i < a->ndim; ++i) {
    int64_t period = rt_stride_bytes(a, i);
    if (period < 0)
      period = -period;
    if (a->shape[i] > 1 && period > 0 && are_different_columns(a, b, period))
      return true;
  }
  return false;
}

bool rt_may_overlap(const DLTensor *a, const DLTensor *b) {
  if (rt_is_empty(a) || rt_is_empty(b))
    return false;
  return !are_disjoint(find_range(a, 0), find_range(b, 0)) && !differ_in_columns(a, b) &&
         !differ_in_columns(b, a);
}

static int64_t step_of(const DLTensor *tensor, int32_t dim) {
  int64_t step = rt_stride_bytes(tensor, dim);
  return step < 0 ? -step : step;
}

/* Every dimension must step over all that the dimensions with smaller steps
 * cover. */
bool rt_overlaps_itself(const DLTensor *tensor) {
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    if (tensor->shape[i] <= 1)
      continue;
    int64_t step = step_of(tensor, i);
    int64_t covered = (int64_t)rt_element_bytes(tensor);
    for (int32_t j = 0; j < tensor->ndim; ++j) {
      int64_t other = step_of(tensor, j);
      if (tensor->shape[j] > 1 && (other < step || (other == step && j < i)))
        covered += other * (tensor->shape[j] - 1);
    }
    if (step < covered)
      return true;
  }
  return false;
}
