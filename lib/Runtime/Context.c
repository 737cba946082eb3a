/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Making and destroying of contexts. Everything that a run needs and whose size
 * does not depend on the inputs is made here, in one block.
 */
#include "Device.h"
#include <string.h>

#define MAX_WORKERS 65536

static moec_status read_options(const moec_context_options *given, moec_context_options *options) {
  if (!given)
    return MOEC_OK;
  if (given->size < offsetof(moec_context_options, num_workers))
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_context_options.size is %zu: initialize the structure "
                   "with MOEC_CONTEXT_OPTIONS_INIT",
                   given->size);
  for (size_t i = sizeof(*options); i < given->size; ++i)
    if (((const unsigned char *)given)[i])
      return rt_fail(MOEC_ERROR_ARGUMENT, "moec_context_options has fields that "
                                          "this library does not know");
  memcpy(options, given, given->size < sizeof(*options) ? given->size : sizeof(*options));
  return MOEC_OK;
}

/* What a library for the CPU or one for a device does not have. */
static moec_status check_device_options(const moec_model *model,
                                        const moec_context_options *options) {
  if (!model->device && options->stream)
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_context_options.stream is for CUDA devices, but the library '%s' runs on "
                   "the CPU",
                   moec_model_description.name);
  if (model->device && options->parallel_for)
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_context_options.parallel_for is for the CPU, but the library '%s' runs "
                   "on a CUDA device",
                   moec_model_description.name);
  return MOEC_OK;
}

static moec_status check_options(const moec_context_options *options) {
  if (options->flags & ~MOEC_CONTEXT_PROFILE)
    return rt_fail(MOEC_ERROR_ARGUMENT, "moec_context_options.flags has unknown flags: %#x",
                   options->flags);
  if (options->num_workers < 0 || options->num_workers > MAX_WORKERS)
    return rt_fail(MOEC_ERROR_ARGUMENT, "moec_context_options.num_workers is %d, expected 0 to %d",
                   options->num_workers, MAX_WORKERS);
  if (!options->allocate != !options->deallocate)
    return rt_fail(MOEC_ERROR_ARGUMENT, "moec_context_options has only one of "
                                        "allocate and deallocate");
  if (options->parallel_for && options->num_workers == 0)
    return rt_fail(MOEC_ERROR_PARALLEL, "moec_context_options has parallel_for but no num_workers");
  return MOEC_OK;
}

static moec_status choose_workers(const moec_context_options *options, int32_t *num_workers) {
  *num_workers =
      options->parallel_for ? options->num_workers : rt_choose_workers(options->num_workers);
  if (*num_workers == 0)
    return rt_fail(MOEC_ERROR_PARALLEL,
                   "the library '%s' was compiled with --threads=custom: "
                   "moec_context_options needs parallel_for and num_workers",
                   moec_model_description.name);
  if (*num_workers > MAX_WORKERS)
    *num_workers = MAX_WORKERS;
  return MOEC_OK;
}

/* The largest numbers of any entry. */
typedef struct {
  size_t args, rank, symbols, output_dims;
} rt_limits;

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static size_t sum_ranks(const moec_tensor_desc *tensors, int32_t count, size_t *max_rank) {
  size_t sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    sum += (size_t)tensors[i].rank;
    *max_rank = max_size(*max_rank, (size_t)tensors[i].rank);
  }
  return sum;
}

static rt_limits find_limits(const moec_level_desc *level) {
  rt_limits limits = {0, 0, 0, 0};
  for (uint32_t i = 0; i < level->num_entries; ++i) {
    const moec_entry_desc *entry = &level->entries[i];
    limits.args = max_size(limits.args, (size_t)entry->num_inputs + (size_t)entry->num_outputs);
    limits.symbols = max_size(limits.symbols, (size_t)entry->num_symbols);
    (void)sum_ranks(entry->inputs, entry->num_inputs, &limits.rank);
    limits.output_dims =
        max_size(limits.output_dims, sum_ranks(entry->outputs, entry->num_outputs, &limits.rank));
  }
  return limits;
}

/* Reserves an array in the block and returns its offset. */
static size_t reserve(size_t *bytes, size_t count, size_t element) {
  size_t at = *bytes;
  *bytes += (count * element + 15) / 16 * 16;
  return at;
}

static moec_context *make_context(const moec_level_desc *level,
                                  const moec_context_options *options) {
  rt_limits limits = find_limits(level);
  size_t slot_bytes = sizeof(rt_descriptor) + 2 * limits.rank * sizeof(int64_t);
  size_t bytes = 0;
  (void)reserve(&bytes, 1, sizeof(moec_context));
  size_t args = reserve(&bytes, limits.args, sizeof(rt_descriptor *));
  size_t slots = reserve(&bytes, limits.args, slot_bytes);
  size_t symbols = reserve(&bytes, limits.symbols, sizeof(rt_symbol));
  size_t outputs = reserve(&bytes, limits.output_dims, sizeof(int64_t));
  size_t shown = reserve(&bytes, limits.output_dims, sizeof(int64_t));

  char *block = rt_allocate(options, bytes, 64);
  if (!block)
    return NULL;
  memset(block, 0, bytes);
  moec_context *context = (moec_context *)block;
  context->bytes = bytes;
  context->args = (rt_descriptor **)(block + args);
  for (size_t i = 0; i < limits.args; ++i)
    context->args[i] = (rt_descriptor *)(block + slots + i * slot_bytes);
  context->symbols = (rt_symbol *)(block + symbols);
  context->output_dims = (int64_t *)(block + outputs);
  context->shown_dims = (int64_t *)(block + shown);
  return context;
}

moec_status rt_context_create(moec_model *model, const moec_context_options *given,
                              moec_context **result) {
  if (!result)
    return rt_fail(MOEC_ERROR_ARGUMENT, "context_create: context is a null pointer");
  *result = NULL;
  if (!model)
    return rt_fail(MOEC_ERROR_ARGUMENT, "context_create: model is a null pointer");
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  int32_t num_workers = 0;
  moec_status status = read_options(given, &options);
  if (status == MOEC_OK)
    status = check_options(&options);
  if (status == MOEC_OK)
    status = check_device_options(model, &options);
  if (status == MOEC_OK && !model->device)
    status = choose_workers(&options, &num_workers);
  if (status != MOEC_OK)
    return status;
  rt_hooks device_hooks = {NULL, NULL, NULL};
  if (model->device) {
    num_workers = 1;
    device_hooks = (rt_hooks){options.allocate, options.deallocate, options.allocator};
    options.allocate = NULL;
    options.deallocate = NULL;
  }
  moec_context *context = make_context(model->level, &options);
  if (!context)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate a context");
  context->model = model;
  context->options = options;
  context->device_hooks = device_hooks;
  context->num_workers = num_workers;
  context->profile.current = -1;
  atomic_flag_clear(&context->busy);
  if (model->device) {
    status = model->device->create_context(context);
    if (status != MOEC_OK) {
      rt_deallocate(&options, context, context->bytes);
      return status;
    }
  }
  atomic_fetch_add(&model->references, 1);
  *result = context;
  return MOEC_OK;
}

static void destroy_workspace(moec_context *context) {
  moec_model *model = context->model;
  if (!model->device) {
    rt_deallocate(&context->options, context->workspace.memory, context->workspace.bytes);
    return;
  }
  if (model->device->enter(model) == MOEC_OK) {
    model->device->release(context, &context->workspace);
    model->device->leave(model);
  }
  model->device->destroy_context(context);
}

void rt_context_destroy(moec_context *context) {
  if (!context)
    return;
  moec_context_options options = context->options;
  destroy_workspace(context);
  rt_deallocate(&options, context->staged_inputs.memory, context->staged_inputs.bytes);
  rt_deallocate(&options, context->staged_outputs.memory, context->staged_outputs.bytes);
  rt_destroy_chunks(context);
  rt_deallocate(&options, context->profile.times,
                (size_t)context->profile.capacity * sizeof(moec_region_time));
  rt_close(context->model);
  rt_deallocate(&options, context, context->bytes);
}

int32_t rt_context_workers(const moec_context *context) {
  return context ? context->num_workers : 0;
}
