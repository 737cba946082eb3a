/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Opening of the driver, and its errors.
 */
#include "CudaDriver.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

/* The first driver with all that is used and with PTX for sm_90a: that of CUDA 12.0. */
#define MIN_VERSION 12000

static moec_status find_functions(rt_cu_driver *driver) {
#define RT_CU_FIND(member, symbol, parameters)                                                     \
  *(void **)&driver->member = dlsym(driver->library, symbol);                                      \
  if (!driver->member)                                                                             \
    return rt_fail(MOEC_ERROR_DEVICE,                                                              \
                   "the CUDA driver is too old: " LIBRARY " has no function " symbol               \
                   "; that of CUDA 12.0 or newer is needed");
  RT_CU_FUNCTIONS(RT_CU_FIND)
#undef RT_CU_FIND
  return MOEC_OK;
}

static moec_status check_version(const rt_cu_driver *driver) {
  int version = 0;
  moec_status status = rt_cu_check(driver, driver->DriverGetVersion(&version),
                                   "cannot find the version of the CUDA driver");
  if (status == MOEC_OK && version < MIN_VERSION)
    return rt_fail(MOEC_ERROR_DEVICE,
                   "the CUDA driver is too old: it is that of CUDA %d.%d, the library '%s' needs "
                   "that of CUDA %d.%d or newer",
                   version / 1000, version % 1000 / 10, moec_model_description.name,
                   MIN_VERSION / 1000, MIN_VERSION % 1000 / 10);
  return status;
}

moec_status rt_cu_open(rt_cu_driver *driver) {
  memset(driver, 0, sizeof(*driver));
  /* The driver has threads and handlers of its own: it must not be unloaded. */
  driver->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!driver->library)
    return rt_fail(MOEC_ERROR_DEVICE,
                   "the library '%s' runs on CUDA devices, but there is no CUDA driver: %s",
                   moec_model_description.name, dlerror());
  moec_status status = find_functions(driver);
  if (status == MOEC_OK)
    status = rt_cu_check(driver, driver->Init(0), "cannot initialize the CUDA driver");
  if (status == MOEC_OK)
    status = check_version(driver);
  if (status != MOEC_OK)
    rt_cu_close(driver);
  return status;
}

void rt_cu_close(rt_cu_driver *driver) {
  if (driver->library)
    dlclose(driver->library);
  driver->library = NULL;
}

bool rt_cu_is_present(void) {
  rt_cu_driver driver = {.library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)};
  if (!driver.library)
    return false;
  /* Any other failure is one of a device, which open reports. */
  *(void **)&driver.Init = dlsym(driver.library, "cuInit");
  *(void **)&driver.DeviceGetCount = dlsym(driver.library, "cuDeviceGetCount");
  rt_cu_result result = driver.Init ? driver.Init(0) : RT_CU_SUCCESS;
  int count = 1;
  if (result == RT_CU_SUCCESS && driver.DeviceGetCount)
    (void)driver.DeviceGetCount(&count);
  rt_cu_close(&driver);
  return result != RT_CU_NO_DEVICE && result != RT_CU_STUB_LIBRARY && count > 0;
}

moec_status rt_cu_check(const rt_cu_driver *driver, rt_cu_result result, const char *format, ...) {
  if (result == RT_CU_SUCCESS)
    return MOEC_OK;
  char what[512];
  va_list values;
  va_start(values, format);
  vsnprintf(what, sizeof(what), format, values);
  va_end(values);
  const char *name = NULL, *text = NULL;
  if (driver->GetErrorName(result, &name) != RT_CU_SUCCESS || !name)
    name = "unknown error";
  if (driver->GetErrorString(result, &text) != RT_CU_SUCCESS || !text)
    text = "no description";
  return rt_fail(result == RT_CU_OUT_OF_MEMORY ? MOEC_ERROR_MEMORY : MOEC_ERROR_DEVICE,
                 "%s: %s (error %d: %s)", what, name, result, text);
}
