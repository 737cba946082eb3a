/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Models on a CUDA device: the device, its context, the kernels, the weights.
 */
#include "CudaDriver.h"
#include "Device.h"
#include <stdio.h>
#include <stdlib.h>

/*===-- The device --------------------------------------------------------===*/

static moec_status get_attribute(const rt_cuda_model *cuda, int attribute, int *value) {
  return rt_cu_check(&cuda->driver, cuda->driver.DeviceGetAttribute(value, attribute, cuda->device),
                     "cannot find the properties of CUDA device %d", cuda->device_id);
}

static moec_status find_device(rt_cuda_model *cuda) {
  const rt_cu_driver *driver = &cuda->driver;
  int count = 0, major = 0, minor = 0;
  moec_status status =
      rt_cu_check(driver, driver->DeviceGetCount(&count), "cannot count the CUDA devices");
  if (status == MOEC_OK && count == 0)
    return rt_fail(MOEC_ERROR_DEVICE,
                   "the library '%s' runs on CUDA devices, but there is none here",
                   moec_model_description.name);
  if (status == MOEC_OK && (cuda->device_id < 0 || cuda->device_id >= count))
    return rt_fail(MOEC_ERROR_DEVICE, "there is no CUDA device %d: found %d, numbered from 0",
                   cuda->device_id, count);
  if (status == MOEC_OK)
    status = rt_cu_check(driver, driver->DeviceGet(&cuda->device, cuda->device_id),
                         "cannot use CUDA device %d", cuda->device_id);
  if (status == MOEC_OK)
    status = get_attribute(cuda, RT_CU_CAPABILITY_MAJOR, &major);
  if (status == MOEC_OK)
    status = get_attribute(cuda, RT_CU_CAPABILITY_MINOR, &minor);
  cuda->capability = 10 * major + minor;
  return status;
}

/*===-- Kernels -----------------------------------------------------------===*/

/* Can a device of that capability run it? */
static bool fits(const moec_image_desc *image, uint32_t capability) {
  if (image->is_exact)
    return image->capability == capability;
  bool needs_same_major = image->kind == MOEC_IMAGE_CUBIN;
  return image->capability <= capability &&
         (!needs_same_major || image->capability / 10 == capability / 10);
}

/* Of two that fit: that for the higher capability, and of these what need not be compiled. */
static bool is_better(const moec_image_desc *image, const moec_image_desc *best) {
  return !best || image->capability > best->capability ||
         (image->capability == best->capability &&
          (image->is_exact > best->is_exact || best->kind == MOEC_IMAGE_PTX));
}

/* The best of all levels, and its level; NULL: none fits. */
static const moec_image_desc *find_image(uint32_t capability, const moec_level_desc **level) {
  const moec_model_desc *model = &moec_model_description;
  const moec_image_desc *best = NULL;
  for (uint32_t i = 0; i < model->num_levels; ++i) {
    const moec_cuda_desc *desc = model->levels[i]->cuda;
    for (uint32_t j = 0; desc && j < desc->num_images; ++j)
      if (fits(&desc->images[j], capability) && is_better(&desc->images[j], best)) {
        best = &desc->images[j];
        *level = model->levels[i];
      }
  }
  return best;
}

/* "sm_80 and newer, sm_90a" */
static void list_architectures(char *text, size_t size) {
  const moec_model_desc *model = &moec_model_description;
  size_t length = 0;
  text[0] = 0;
  for (uint32_t i = 0; i < model->num_levels; ++i) {
    const moec_cuda_desc *desc = model->levels[i]->cuda;
    for (uint32_t j = 0; desc && j < desc->num_images && length < size; ++j) {
      const moec_image_desc *image = &desc->images[j];
      const char *range = image->is_exact                   ? "a"
                          : image->kind == MOEC_IMAGE_CUBIN ? " and newer of its generation"
                                                            : " and newer";
      length += (size_t)snprintf(text + length, size - length, "%ssm_%u%s", length ? ", " : "",
                                 image->capability, range);
    }
  }
}

static moec_status fail_architecture(const rt_cuda_model *cuda) {
  char name[256] = "unknown", found[256];
  (void)cuda->driver.DeviceGetName(name, sizeof(name), cuda->device);
  list_architectures(found, sizeof(found));
  return rt_fail(MOEC_ERROR_DEVICE,
                 "CUDA device %d (%s) is of architecture sm_%d, but the library '%s' has code for "
                 "%s; compile the model again with --gpu-arch for this device",
                 cuda->device_id, name, cuda->capability, moec_model_description.name, found);
}

/* Chooses the level and loads its kernels. */
static moec_status load_module(moec_model *model, rt_cuda_model *cuda) {
  const rt_cu_driver *driver = &cuda->driver;
  const moec_image_desc *image = find_image((uint32_t)cuda->capability, &model->level);
  if (!image)
    return fail_architecture(cuda);
  cuda->desc = model->level->cuda;
  char log[384] = "";
  int options[] = {RT_CU_JIT_ERROR_LOG, RT_CU_JIT_ERROR_LOG_BYTES};
  void *values[] = {log, (void *)(uintptr_t)sizeof(log)};
  rt_cu_result result = driver->ModuleLoadDataEx(&cuda->module, image->data, 2, options, values);
  if (result == RT_CU_NO_BINARY_FOR_GPU)
    return fail_architecture(cuda);
  log[sizeof(log) - 1] = 0;
  const char *hint = result == RT_CU_UNSUPPORTED_PTX_VERSION
                         ? " (the driver is older than the code: update it)"
                         : "";
  return rt_cu_check(driver, result, "cannot load the kernels of '%s'%s%s%s",
                     moec_model_description.name, hint, log[0] ? ": " : "", log);
}

/* Lets a kernel have as much dynamic shared memory as the device has. */
static moec_status allow_shared_memory(const rt_cuda_model *cuda, rt_kernel *kernel,
                                       const char *name, int available) {
  const rt_cu_driver *driver = &cuda->driver;
  int used = 0;
  rt_cu_result result =
      driver->FuncGetAttribute(&used, RT_CU_STATIC_SHARED_BYTES, kernel->function);
  if (result == RT_CU_SUCCESS)
    result = driver->FuncSetAttribute(kernel->function, RT_CU_MAX_DYNAMIC_SHARED_BYTES,
                                      available - used);
  kernel->max_shared_bytes = (uint32_t)(available - used);
  return rt_cu_check(driver, result, "cannot set up kernel '%s'", name);
}

static moec_status find_kernels(rt_cuda_model *cuda) {
  const moec_cuda_desc *desc = cuda->desc;
  int shared_bytes = 0;
  moec_status status = get_attribute(cuda, RT_CU_MAX_SHARED_BYTES_OPTIN, &shared_bytes);
  if (status != MOEC_OK)
    return status;
  cuda->kernels = calloc(desc->num_kernels ? desc->num_kernels : 1, sizeof(rt_kernel));
  if (!cuda->kernels)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate the table of kernels");
  for (uint32_t i = 0; status == MOEC_OK && i < desc->num_kernels; ++i) {
    const char *name = desc->kernels[i];
    rt_kernel *kernel = &cuda->kernels[i];
    status = rt_cu_check(&cuda->driver,
                         cuda->driver.ModuleGetFunction(&kernel->function, cuda->module, name),
                         "cannot find kernel '%s'", name);
    if (status == MOEC_OK)
      status = allow_shared_memory(cuda, kernel, name, shared_bytes);
  }
  if (status != MOEC_OK)
    return status;
  return rt_cu_check(
      &cuda->driver,
      cuda->driver.ModuleGetFunction(&cuda->nothing, cuda->module, MOEC_NOTHING_KERNEL),
      "cannot find kernel '%s'", MOEC_NOTHING_KERNEL);
}

/*===-- Opening and closing -----------------------------------------------===*/

/* Frees what there is; the context is current. */
static void free_contents(rt_cuda_model *cuda) {
  if (cuda->weights)
    (void)cuda->driver.MemFree(cuda->weights);
  if (cuda->module)
    (void)cuda->driver.ModuleUnload(cuda->module);
  free(cuda->kernels);
}

static void destroy(moec_model *model) {
  rt_cuda_model *cuda = model->on_device;
  if (cuda->context) {
    if (rt_cuda_enter(model) == MOEC_OK) {
      free_contents(cuda);
      rt_cuda_leave(model);
    }
    (void)cuda->driver.DevicePrimaryCtxRelease(cuda->device);
  }
  rt_cu_close(&cuda->driver);
  free(cuda);
  model->on_device = NULL;
  model->weights = NULL;
}

static moec_status fill(moec_model *model, rt_cuda_model *cuda, const moec_options *options) {
  moec_status status = rt_cuda_enter(model);
  if (status != MOEC_OK)
    return status;
  status = load_module(model, cuda);
  if (status == MOEC_OK)
    status = find_kernels(cuda);
  if (status == MOEC_OK)
    status = rt_upload_weights(model, cuda, options);
  rt_cuda_leave(model);
  return status;
}

static moec_status open_model(moec_model *model, const moec_options *options) {
  rt_cuda_model *cuda = calloc(1, sizeof(*cuda));
  if (!cuda)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate a model");
  model->on_device = cuda;
  cuda->device_id = options->device_id;
  moec_status status = rt_cu_open(&cuda->driver);
  if (status == MOEC_OK)
    status = find_device(cuda);
  if (status == MOEC_OK)
    status = rt_cu_check(&cuda->driver,
                         cuda->driver.DevicePrimaryCtxRetain(&cuda->context, cuda->device),
                         "cannot use CUDA device %d", cuda->device_id);
  if (status == MOEC_OK)
    status = fill(model, cuda, options);
  if (status != MOEC_OK)
    destroy(model);
  return status;
}

const moec_device moec_cuda_device = {.is_present = rt_cu_is_present,
                                      .open = open_model,
                                      .close = destroy,
                                      .enter = rt_cuda_enter,
                                      .leave = rt_cuda_leave,
                                      .create_context = rt_cuda_create_context,
                                      .destroy_context = rt_cuda_destroy_context,
                                      .begin_run = rt_cuda_begin_run,
                                      .end_run = rt_cuda_end_run,
                                      .collect_profile = rt_cuda_collect_profile,
                                      .wait = rt_cuda_wait,
                                      .grow = rt_cuda_grow,
                                      .release = rt_cuda_release};
