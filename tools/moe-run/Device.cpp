// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Tensors on CUDA devices.

#include "Device.h"
#include "Status.h"
#include <dlfcn.h>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

/// What is used of the driver API (https://docs.nvidia.com/cuda/cuda-driver-api).
struct Device::Functions {
  int (*deviceGet)(int32_t *device, int ordinal);
  int (*retain)(void **context, int32_t device);
  int (*release)(int32_t device);
  int (*push)(void *context);
  int (*pop)(void **context);
  int (*allocate)(unsigned long long *memory, size_t bytes);
  int (*free)(unsigned long long memory);
  int (*copyIn)(unsigned long long to, const void *from, size_t bytes);
  int (*copyOut)(void *to, unsigned long long from, size_t bytes);
};

/// The library has opened the same driver before.
static Error findFunctions(Device::Functions &driver) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library)
    return makeError(Status::Package, llvm::Twine("there is no CUDA driver: ") + dlerror());
  const std::pair<void *, const char *> functions[] = {
      {&driver.deviceGet, "cuDeviceGet"},
      {&driver.retain, "cuDevicePrimaryCtxRetain"},
      {&driver.release, "cuDevicePrimaryCtxRelease_v2"},
      {&driver.push, "cuCtxPushCurrent_v2"},
      {&driver.pop, "cuCtxPopCurrent_v2"},
      {&driver.allocate, "cuMemAlloc_v2"},
      {&driver.free, "cuMemFree_v2"},
      {&driver.copyIn, "cuMemcpyHtoD_v2"},
      {&driver.copyOut, "cuMemcpyDtoH_v2"},
  };
  for (auto [slot, name] : functions) {
    void *function = dlsym(library, name);
    if (!function)
      return makeError(Status::Package, llvm::Twine("the CUDA driver has no function ") + name);
    *static_cast<void **>(slot) = function;
  }
  return Error::success();
}

Error Device::check(int result, const llvm::Twine &what) {
  if (result == 0)
    return Error::success();
  return makeError(Status::Run, what + " failed: CUDA error " + llvm::Twine(result));
}

Expected<std::unique_ptr<Device>> Device::open(int32_t id) {
  std::unique_ptr<Device> device(new Device());
  device->id = id;
  device->driver = std::make_unique<Functions>();
  Functions &driver = *device->driver;
  if (Error error = findFunctions(driver))
    return std::move(error);
  if (Error error = check(driver.deviceGet(&device->handle, id), "choosing the device"))
    return std::move(error);
  if (Error error = check(driver.retain(&device->context, device->handle), "using the device"))
    return std::move(error);
  if (Error error = check(driver.push(device->context), "using the device")) {
    driver.release(device->handle);
    device->context = nullptr;
    return std::move(error);
  }
  return std::move(device);
}

Device::~Device() {
  if (!context)
    return;
  driver->pop(&context);
  driver->release(handle);
}

Expected<DeviceTensor> DeviceTensor::create(const Device &device, Value &value) {
  DeviceTensor tensor(device, value);
  size_t bytes = value.getBytes().size();
  if (bytes)
    if (Error error = Device::check(device.driver->allocate(&tensor.memory, bytes),
                                    "allocating " + llvm::Twine(bytes) + " bytes on the device"))
      return std::move(error);
  tensor.tensor.data = reinterpret_cast<void *>(tensor.memory);
  tensor.tensor.device = {kDLCUDA, device.id};
  return std::move(tensor);
}

DeviceTensor::DeviceTensor(DeviceTensor &&other)
    : device(other.device), tensor(other.tensor), memory(std::exchange(other.memory, 0)) {}

DeviceTensor::~DeviceTensor() {
  if (memory)
    device->driver->free(memory);
}

Error DeviceTensor::upload(const Value &value) {
  if (!memory)
    return Error::success();
  return Device::check(
      device->driver->copyIn(memory, value.getBytes().data(), value.getBytes().size()),
      "copying to the device");
}

Error DeviceTensor::download(Value &value) const {
  if (!memory)
    return Error::success();
  llvm::MutableArrayRef<char> bytes = value.getBytes();
  return Device::check(device->driver->copyOut(bytes.data(), memory, bytes.size()),
                       "copying from the device");
}
