/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Opening and closing of models.
 */
#include "Device.h"
#include <stdlib.h>
#include <string.h>

/* Bytes of a newer caller's structure that this library does not know. */
static bool has_unknown_fields(const void *options, size_t size, size_t known) {
  const unsigned char *bytes = options;
  for (size_t i = known; i < size; ++i)
    if (bytes[i])
      return true;
  return false;
}

static moec_status read_options(const moec_options *given, moec_options *options) {
  if (!given)
    return MOEC_OK;
  if (given->size < offsetof(moec_options, flags))
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_options.size is %zu: initialize the structure with "
                   "MOEC_OPTIONS_INIT",
                   given->size);
  if (has_unknown_fields(given, given->size, sizeof(*options)))
    return rt_fail(MOEC_ERROR_ARGUMENT, "moec_options has fields that this library does not know");
  memcpy(options, given, given->size < sizeof(*options) ? given->size : sizeof(*options));
  if (options->abi_version != MOEC_ABI_VERSION)
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "the program was compiled for version %u of the moec "
                   "interface, the library '%s' for version %u",
                   options->abi_version, moec_model_description.name, MOEC_ABI_VERSION);
  if (options->flags & ~(MOEC_OPEN_PREFETCH | MOEC_OPEN_POPULATE | MOEC_OPEN_HUGE_PAGES))
    return rt_fail(MOEC_ERROR_ARGUMENT, "moec_options.flags has unknown flags: %#x",
                   options->flags);
  return MOEC_OK;
}

static moec_status check_model(void) {
  const moec_model_desc *desc = &moec_model_description;
  if (desc->abi_version != MOEC_MODEL_ABI_VERSION)
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "the code of '%s' has version %u of the interface between "
                   "model and runtime, the runtime has version %u",
                   desc->name, desc->abi_version, MOEC_MODEL_ABI_VERSION);
  return MOEC_OK;
}

/*===-- The device --------------------------------------------------------===*/

static moec_status fail_without_code(const char *device, const char *target) {
  return rt_fail(MOEC_ERROR_ARGUMENT,
                 "moec_options.device_type asks for %s, but the library '%s' has no code for it: "
                 "compile the model with --target=%s",
                 device, moec_model_description.name, target);
}

/* NULL: the CPU. */
static moec_status choose_device(const moec_options *options, const moec_device **device) {
  const moec_level_desc *for_device = rt_first_level(/*on_device=*/true);
  bool runs_on_cpu = rt_first_level(/*on_device=*/false) != NULL;
  *device = NULL;
  switch (options->device_type) {
  case 0:
    if (for_device &&
        (!runs_on_cpu || options->device_id != 0 || for_device->cuda->device->is_present()))
      *device = for_device->cuda->device;
    break;
  case kDLCPU:
    if (!runs_on_cpu)
      return fail_without_code("the CPU", "cpu or cpu,cuda");
    break;
  case kDLCUDA:
    if (!for_device)
      return fail_without_code("a CUDA device", "cuda or cpu,cuda");
    *device = for_device->cuda->device;
    break;
  default:
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_options.device_type is %d, expected %d (the CPU), %d (CUDA) or 0",
                   options->device_type, (int)kDLCPU, (int)kDLCUDA);
  }
  if (!*device && options->device_id != 0)
    return rt_fail(MOEC_ERROR_ARGUMENT,
                   "moec_options.device_id is %d, but the library '%s' runs on the CPU",
                   options->device_id, moec_model_description.name);
  return MOEC_OK;
}

static moec_status open_device(moec_model *model, const moec_device *device,
                               const moec_options *options) {
  if (!device)
    return MOEC_OK;
  moec_status status = device->open(model, options);
  if (status != MOEC_OK)
    return status;
  model->device = device;
  model->device_id = options->device_id;
  rt_unmap_weights(model);
  return MOEC_OK;
}

DLDevice rt_model_device(const moec_model *model) {
  if (!model || !model->device)
    return (DLDevice){kDLCPU, 0};
  return (DLDevice){kDLCUDA, model->device_id};
}

const char *rt_model_info(const moec_model *model) {
  return model ? model->level->info_json : rt_info();
}

/*===-- Opening and closing -----------------------------------------------===*/

moec_status rt_open(const char *weights_path, const moec_options *given, moec_model **result) {
  if (!result)
    return rt_fail(MOEC_ERROR_ARGUMENT, "open: model is a null pointer");
  *result = NULL;
  moec_options options = MOEC_OPTIONS_INIT;
  moec_status status = read_options(given, &options);
  if (status != MOEC_OK)
    return status;
  const moec_device *device = NULL;
  status = check_model();
  if (status == MOEC_OK)
    status = choose_device(&options, &device);
  const moec_level_desc *level = NULL;
  if (status == MOEC_OK && !device)
    status = rt_choose_level(&level);
  if (status != MOEC_OK)
    return status;
  moec_model *model = calloc(1, sizeof(*model));
  if (!model)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate a model");
  atomic_init(&model->references, 1);
  model->level = level;
  status = rt_map_weights(model, weights_path, options.flags);
  if (status == MOEC_OK)
    status = open_device(model, device, &options);
  if (status != MOEC_OK) {
    rt_unmap_weights(model);
    free(model);
    return status;
  }
  *result = model;
  return MOEC_OK;
}

void rt_close(moec_model *model) {
  if (!model || atomic_fetch_sub(&model->references, 1) != 1)
    return;
  if (model->device)
    model->device->close(model);
  rt_unmap_weights(model);
  free(model);
}
