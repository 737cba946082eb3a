/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * From the caller's tensors to the descriptors of generated code and back.
 */
#include "Internal.h"
#include <inttypes.h>
#include <string.h>

const moec_entry_desc *rt_find_entry(const moec_level_desc *level, const char *name) {
  for (uint32_t i = 0; i < level->num_entries; ++i)
    if (!name || strcmp(name, level->entries[i].name) == 0)
      return &level->entries[i];
  (void)rt_fail(MOEC_ERROR_ARGUMENT, "the library '%s' has no entry '%s'",
                moec_model_description.name, name ? name : "");
  return NULL;
}

/* Staged tensors begin at multiples of this. */
#define STAGING_ALIGNMENT 64u

/* The number of the input that output `index` extends; -1 for none. */
static int32_t extended_by(const moec_entry_desc *entry, int32_t index) {
  return entry->extends ? entry->extends[index] : -1;
}

static bool is_extended(const moec_entry_desc *entry, int32_t input) {
  for (int32_t i = 0; i < entry->num_outputs; ++i)
    if (extended_by(entry, i) == input)
      return true;
  return false;
}

static size_t staged_bytes(const DLTensor *tensor, bool may_have_gaps) {
  if (rt_is_usable_in_place(tensor, may_have_gaps))
    return 0;
  size_t bytes = rt_tensor_bytes(tensor);
  return (bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
}

/* A descriptor of memory with these strides; NULL: row-major. */
static void fill_descriptor(rt_descriptor *descriptor, void *data, const int64_t *shape,
                            const int64_t *strides, int32_t rank) {
  descriptor->allocated = data;
  descriptor->aligned = data;
  descriptor->offset = 0;
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; --i) {
    descriptor->extents[i] = shape[i];
    descriptor->extents[rank + i] = strides ? strides[i] : stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
}

static moec_status check_count(const moec_entry_desc *entry, const char *kind, const void *tensors,
                               int32_t found, int32_t expected) {
  if (found != expected)
    return rt_fail(MOEC_ERROR_ARGUMENT, "%s: %d %ss given, expected %d", entry->name, found, kind,
                   expected);
  if (!tensors && expected > 0)
    return rt_fail(MOEC_ERROR_ARGUMENT, "%s: the array of %ss is a null pointer", entry->name,
                   kind);
  return MOEC_OK;
}

/* A dimension of input `index` against the entry's description. */
static moec_status check_dim(moec_context *context, const moec_entry_desc *entry, int32_t index,
                             int32_t dim, int64_t size) {
  const moec_tensor_desc *desc = &entry->inputs[index];
  int64_t expected = desc->dims[dim];
  if (expected == MOEC_DIM_COMPUTED || expected == size)
    return MOEC_OK;
  if (expected >= 0)
    return rt_fail(MOEC_ERROR_TENSOR,
                   "%s: dimension %d of input '%s' is %" PRId64 ", expected %" PRId64, entry->name,
                   dim, desc->name, size, expected);
  rt_symbol *symbol = &context->symbols[-1 - expected];
  if (symbol->value < 0) {
    *symbol = (rt_symbol){size, index, dim};
    return MOEC_OK;
  }
  if (symbol->value == size)
    return MOEC_OK;
  return rt_fail(MOEC_ERROR_TENSOR,
                 "%s: dimension %d of input '%s' is %" PRId64
                 ", but dimension %d of input '%s' is %" PRId64 " and both are '%s'",
                 entry->name, dim, desc->name, size, symbol->dim, entry->inputs[symbol->input].name,
                 symbol->value, entry->symbols[-1 - expected]);
}

static moec_status check_input(moec_context *context, const moec_entry_desc *entry, int32_t index,
                               const DLTensor *tensor) {
  rt_tensor_name name = {entry->name, "input", &entry->inputs[index],
                         rt_model_device(context->model)};
  moec_status status = rt_check_tensor(&name, tensor);
  if (status == MOEC_OK)
    status = rt_check_layout(&name, tensor, /*is_output=*/false);
  if (status == MOEC_OK)
    status = rt_check_in_place(&name, tensor, is_extended(entry, index));
  for (int32_t i = 0; status == MOEC_OK && i < tensor->ndim; ++i)
    status = check_dim(context, entry, index, i, tensor->shape[i]);
  return status;
}

moec_status rt_prepare_inputs(moec_context *context, const moec_entry_desc *entry,
                              const DLTensor *const *in, int32_t n_in) {
  moec_status status = check_count(entry, "input", (const void *)in, n_in, entry->num_inputs);
  if (status != MOEC_OK)
    return status;
  for (int32_t i = 0; i < entry->num_symbols; ++i)
    context->symbols[i].value = -1;
  size_t bytes = 0;
  for (int32_t i = 0; i < n_in; ++i) {
    status = check_input(context, entry, i, in[i]);
    if (status != MOEC_OK)
      return status;
    bytes += staged_bytes(in[i], is_extended(entry, i));
  }
  status = rt_grow(context, &context->staged_inputs, bytes, "copies of the inputs");
  if (status != MOEC_OK)
    return status;
  char *staging = context->staged_inputs.memory;
  for (int32_t i = 0; i < n_in; ++i) {
    size_t staged = staged_bytes(in[i], is_extended(entry, i));
    if (staged)
      rt_gather(staging, in[i]);
    fill_descriptor(context->args[i], staged ? staging : rt_tensor_data(in[i]), in[i]->shape,
                    staged ? NULL : in[i]->strides, in[i]->ndim);
    if (staged)
      staging += staged;
  }
  return MOEC_OK;
}

moec_status rt_compute_shapes(moec_context *context, const moec_entry_desc *entry) {
  entry->shapes((void *const *)context->args, context->output_dims);
  const int64_t *dims = context->output_dims;
  for (int32_t i = 0; i < entry->num_outputs; ++i)
    for (int32_t j = 0; j < entry->outputs[i].rank; ++j, ++dims)
      if (*dims < 0)
        return rt_fail(MOEC_ERROR_RUN,
                       "%s: the values of the inputs give output '%s' a "
                       "negative dimension %d: %" PRId64,
                       entry->name, entry->outputs[i].name, j, *dims);
  return MOEC_OK;
}

static moec_status check_output(const moec_context *context, const moec_entry_desc *entry,
                                int32_t index, const DLTensor *tensor, const int64_t *dims) {
  rt_tensor_name name = {entry->name, "output", &entry->outputs[index],
                         rt_model_device(context->model)};
  moec_status status = rt_check_tensor(&name, tensor);
  if (status != MOEC_OK)
    return status;
  for (int32_t i = 0; i < tensor->ndim; ++i)
    if (tensor->shape[i] != dims[i])
      return rt_fail(MOEC_ERROR_TENSOR,
                     "%s: dimension %d of output '%s' is %" PRId64 ", expected %" PRId64,
                     entry->name, i, name.desc->name, tensor->shape[i], dims[i]);
  status = rt_check_layout(&name, tensor, /*is_output=*/true);
  if (status == MOEC_OK)
    status = rt_check_in_place(&name, tensor, extended_by(entry, index) >= 0);
  return status;
}

/* Does the output begin with the memory of the input that it extends? Sizes have been checked:
 * they differ along one axis only. */
static bool is_in_place(const moec_entry_desc *entry, const DLTensor *in, const DLTensor *out,
                        int32_t input, int32_t output) {
  if (extended_by(entry, output) != input || rt_tensor_data(in) != rt_tensor_data(out) ||
      in->ndim != out->ndim)
    return false;
  for (int32_t i = 0; i < out->ndim; ++i)
    if (in->shape[i] > 1 && rt_stride_bytes(in, i) != rt_stride_bytes(out, i))
      return false;
  return rt_is_usable_in_place(in, true) && rt_is_usable_in_place(out, true);
}

static moec_status check_overlaps(const moec_entry_desc *entry, const DLTensor *const *in,
                                  DLTensor *const *out, int32_t index) {
  const char *name = entry->outputs[index].name;
  for (int32_t i = 0; i < entry->num_inputs; ++i)
    if (!is_in_place(entry, in[i], out[index], i, index) && rt_may_overlap(out[index], in[i]))
      return rt_fail(MOEC_ERROR_TENSOR, "%s: output '%s' overlaps input '%s'", entry->name, name,
                     entry->inputs[i].name);
  for (int32_t i = 0; i < index; ++i)
    if (rt_may_overlap(out[index], out[i]))
      return rt_fail(MOEC_ERROR_TENSOR, "%s: output '%s' overlaps output '%s'", entry->name, name,
                     entry->outputs[i].name);
  return MOEC_OK;
}

moec_status rt_prepare_outputs(moec_context *context, const moec_entry_desc *entry,
                               const DLTensor *const *in, DLTensor *const *out, int32_t n_out) {
  moec_status status = check_count(entry, "output", (const void *)out, n_out, entry->num_outputs);
  if (status != MOEC_OK)
    return status;
  size_t bytes = 0;
  const int64_t *dims = context->output_dims;
  for (int32_t i = 0; i < n_out; ++i) {
    status = check_output(context, entry, i, out[i], dims);
    if (status == MOEC_OK)
      status = check_overlaps(entry, in, out, i);
    if (status != MOEC_OK)
      return status;
    bytes += staged_bytes(out[i], extended_by(entry, i) >= 0);
    dims += out[i]->ndim;
  }
  status = rt_grow(context, &context->staged_outputs, bytes, "copies of the outputs");
  if (status != MOEC_OK)
    return status;
  char *staging = context->staged_outputs.memory;
  for (int32_t i = 0; i < n_out; ++i) {
    size_t staged = staged_bytes(out[i], extended_by(entry, i) >= 0);
    fill_descriptor(context->args[entry->num_inputs + i], staged ? staging : rt_tensor_data(out[i]),
                    out[i]->shape, staged ? NULL : out[i]->strides, out[i]->ndim);
    if (staged)
      staging += staged;
  }
  return MOEC_OK;
}

void rt_finish_outputs(moec_context *context, const moec_entry_desc *entry, DLTensor *const *out) {
  for (int32_t i = 0; i < entry->num_outputs; ++i)
    if (staged_bytes(out[i], extended_by(entry, i) >= 0))
      rt_scatter(out[i], context->args[entry->num_inputs + i]->aligned);
}
