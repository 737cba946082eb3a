/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Checks of single tensors. Nothing that a caller gives is trusted but that
 * pointers which are not null point at what they should.
 */
#include "Internal.h"
#include <inttypes.h>
#include <stdio.h>

/* More bytes than any address space of this architecture. */
#define MAX_BYTES ((int64_t)1 << 47)

#define DTYPE_TEXT 32

/* "float32", "bool", "int8x4", ... */
static const char *format_dtype(char *text, unsigned code, unsigned bits, unsigned lanes) {
  static const char *const names[] = {"int",    "uint",    "float", "handle",
                                      "bfloat", "complex", "bool"};
  static const char *const float8[] = {"float8_e3m4",     "float8_e4m3",     "float8_e4m3b11fnuz",
                                       "float8_e4m3fn",   "float8_e4m3fnuz", "float8_e5m2",
                                       "float8_e5m2fnuz", "float8_e8m0fnu"};
  const unsigned first8 = sizeof(names) / sizeof(names[0]);
  const unsigned end8 = first8 + sizeof(float8) / sizeof(float8[0]);
  int length;
  if (code == kDLBool && bits == 8)
    length = snprintf(text, DTYPE_TEXT, "bool");
  else if (code < first8)
    length = snprintf(text, DTYPE_TEXT, "%s%u", names[code], bits);
  else if (code < end8)
    length = snprintf(text, DTYPE_TEXT, "%s", float8[code - first8]);
  else
    length = snprintf(text, DTYPE_TEXT, "type code %u of %u bits", code, bits);
  if (lanes != 1 && length < DTYPE_TEXT)
    snprintf(text + length, DTYPE_TEXT - (size_t)length, "x%u", lanes);
  return text;
}

static moec_status check_dtype(const rt_tensor_name *name, const DLTensor *tensor) {
  const moec_tensor_desc *desc = name->desc;
  DLDataType dtype = tensor->dtype;
  if (dtype.code == desc->code && dtype.bits == desc->bits && dtype.lanes == desc->lanes)
    return MOEC_OK;
  char found[DTYPE_TEXT], expected[DTYPE_TEXT];
  return rt_fail(MOEC_ERROR_TENSOR, "%s: %s '%s' has dtype %s, expected %s", name->entry,
                 name->kind, desc->name, format_dtype(found, dtype.code, dtype.bits, dtype.lanes),
                 format_dtype(expected, desc->code, desc->bits, desc->lanes));
}

static moec_status check_device(const rt_tensor_name *name, const DLTensor *tensor) {
  int found = (int)tensor->device.device_type;
  if (name->device.device_type == kDLCPU) {
    if (found == kDLCPU)
      return MOEC_OK;
    return rt_fail(MOEC_ERROR_TENSOR,
                   "%s: %s '%s' is on a device of DLPack type %d, expected the "
                   "CPU (type %d)",
                   name->entry, name->kind, name->desc->name, found, (int)kDLCPU);
  }
  /* Managed memory is of no device. */
  if (found == kDLCUDAManaged ||
      (found == kDLCUDA && tensor->device.device_id == name->device.device_id))
    return MOEC_OK;
  if (found == kDLCPU)
    return rt_fail(MOEC_ERROR_TENSOR, "%s: %s '%s' is on the CPU, expected CUDA device %d",
                   name->entry, name->kind, name->desc->name, name->device.device_id);
  return rt_fail(MOEC_ERROR_TENSOR,
                 "%s: %s '%s' is on device %d of DLPack type %d, expected CUDA device %d (type %d)",
                 name->entry, name->kind, name->desc->name, tensor->device.device_id, found,
                 name->device.device_id, (int)kDLCUDA);
}

moec_status rt_check_tensor(const rt_tensor_name *name, const DLTensor *tensor) {
  const moec_tensor_desc *desc = name->desc;
  if (!tensor)
    return rt_fail(MOEC_ERROR_ARGUMENT, "%s: %s '%s' is a null pointer", name->entry, name->kind,
                   desc->name);
  moec_status status = check_device(name, tensor);
  if (status == MOEC_OK)
    status = check_dtype(name, tensor);
  if (status != MOEC_OK)
    return status;
  if (tensor->ndim != desc->rank)
    return rt_fail(MOEC_ERROR_TENSOR, "%s: %s '%s' has rank %d, expected %d", name->entry,
                   name->kind, desc->name, tensor->ndim, desc->rank);
  if (tensor->ndim > 0 && !tensor->shape)
    return rt_fail(MOEC_ERROR_TENSOR, "%s: the shape of %s '%s' is a null pointer", name->entry,
                   name->kind, desc->name);
  return MOEC_OK;
}

/* Adds count * step to *bytes, if that stays in the address space. */
static bool add_extent(int64_t *bytes, int64_t count, int64_t step) {
  int64_t extent;
  return !__builtin_mul_overflow(count, step, &extent) &&
         !__builtin_add_overflow(*bytes, extent, bytes) && *bytes <= MAX_BYTES;
}

/* Are the elements without gaps fewer bytes than any memory has? Sizes of zero
 * count as one, so that products of the others cannot overflow anywhere. */
static bool is_small_enough(const DLTensor *tensor) {
  int64_t bytes = (int64_t)rt_element_bytes(tensor);
  for (int32_t i = 0; i < tensor->ndim; ++i)
    if (tensor->shape[i] > 0 &&
        (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes) || bytes > MAX_BYTES))
      return false;
  return true;
}

/* The same for the range that the strides span. */
static bool is_range_small_enough(const DLTensor *tensor) {
  int64_t element = (int64_t)rt_element_bytes(tensor);
  int64_t bytes = element;
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    int64_t stride = tensor->strides[i];
    if (tensor->shape[i] <= 1)
      continue;
    if (stride < -MAX_BYTES || stride > MAX_BYTES ||
        !add_extent(&bytes, tensor->shape[i] - 1, (stride < 0 ? -stride : stride) * element))
      return false;
  }
  return true;
}

moec_status rt_check_layout(const rt_tensor_name *name, const DLTensor *tensor, bool is_output) {
  const char *tensor_name = name->desc->name;
  for (int32_t i = 0; i < tensor->ndim; ++i)
    if (tensor->shape[i] < 0)
      return rt_fail(MOEC_ERROR_TENSOR, "%s: dimension %d of %s '%s' is negative: %" PRId64,
                     name->entry, i, name->kind, tensor_name, tensor->shape[i]);
  if (!is_small_enough(tensor))
    return rt_fail(MOEC_ERROR_TENSOR, "%s: %s '%s' is larger than any address space", name->entry,
                   name->kind, tensor_name);
  if (rt_is_empty(tensor))
    return MOEC_OK;
  if (!tensor->data)
    return rt_fail(MOEC_ERROR_TENSOR, "%s: the data of %s '%s' is a null pointer", name->entry,
                   name->kind, tensor_name);
  if (!tensor->strides)
    return MOEC_OK;
  if (!is_range_small_enough(tensor))
    return rt_fail(MOEC_ERROR_TENSOR,
                   "%s: the strides of %s '%s' span more than any address "
                   "space",
                   name->entry, name->kind, tensor_name);
  if (is_output && rt_overlaps_itself(tensor))
    return rt_fail(MOEC_ERROR_TENSOR, "%s: elements of %s '%s' overlap each other by its strides",
                   name->entry, name->kind, tensor_name);
  return MOEC_OK;
}

size_t rt_element_bytes(const DLTensor *tensor) {
  return ((size_t)tensor->dtype.bits * tensor->dtype.lanes + 7) / 8;
}

bool rt_is_empty(const DLTensor *tensor) {
  for (int32_t i = 0; i < tensor->ndim; ++i)
    if (tensor->shape[i] == 0)
      return true;
  return false;
}

size_t rt_tensor_bytes(const DLTensor *tensor) {
  size_t bytes = rt_element_bytes(tensor);
  for (int32_t i = 0; i < tensor->ndim; ++i)
    bytes *= (size_t)tensor->shape[i];
  return bytes;
}

char *rt_tensor_data(const DLTensor *tensor) {
  return tensor->data ? (char *)tensor->data + tensor->byte_offset : NULL;
}

int64_t rt_stride_bytes(const DLTensor *tensor, int32_t dim) {
  int64_t bytes = (int64_t)rt_element_bytes(tensor);
  if (tensor->strides)
    return bytes * tensor->strides[dim];
  for (int32_t i = tensor->ndim - 1; i > dim; --i)
    bytes *= tensor->shape[i];
  return bytes;
}

bool rt_is_contiguous(const DLTensor *tensor) {
  if (!tensor->strides || rt_is_empty(tensor))
    return true;
  int64_t expected = 1;
  for (int32_t i = tensor->ndim - 1; i >= 0; --i) {
    if (tensor->shape[i] != 1 && tensor->strides[i] != expected)
      return false;
    expected *= tensor->shape[i];
  }
  return true;
}

/* Are the elements of the last dimension side by side, and strides not negative? */
static bool has_plain_rows(const DLTensor *tensor) {
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    bool is_last = i == tensor->ndim - 1;
    if (tensor->shape[i] > 1 && (is_last ? tensor->strides[i] != 1 : tensor->strides[i] < 0))
      return false;
  }
  return true;
}

bool rt_is_usable_in_place(const DLTensor *tensor, bool may_have_gaps) {
  size_t alignment = rt_element_bytes(tensor) / tensor->dtype.lanes;
  if (alignment == 0)
    alignment = 1;
  bool is_aligned = (uintptr_t)rt_tensor_data(tensor) % alignment == 0;
  return rt_is_empty(tensor) ||
         (is_aligned && (rt_is_contiguous(tensor) || (may_have_gaps && has_plain_rows(tensor))));
}

moec_status rt_check_in_place(const rt_tensor_name *name, const DLTensor *tensor,
                              bool may_have_gaps) {
  if (name->device.device_type == kDLCPU)
    return MOEC_OK;
  if (!rt_is_usable_in_place(tensor, may_have_gaps))
    return rt_fail(MOEC_ERROR_TENSOR,
                   "%s: %s '%s' is strided, which is not supported on a CUDA device: give a "
                   "row-major copy",
                   name->entry, name->kind, name->desc->name);
  if (!rt_is_empty(tensor) && (uintptr_t)rt_tensor_data(tensor) % RT_DEVICE_ALIGNMENT != 0)
    return rt_fail(MOEC_ERROR_TENSOR,
                   "%s: %s '%s' is not aligned to %u bytes, as a CUDA device needs it: give a copy",
                   name->entry, name->kind, name->desc->name, RT_DEVICE_ALIGNMENT);
  return MOEC_OK;
}
