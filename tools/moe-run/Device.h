// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Tensors on CUDA devices, over the driver that the library has opened.

#ifndef MOEC_TOOLS_MOERUN_DEVICE_H
#define MOEC_TOOLS_MOERUN_DEVICE_H

#include "Values.h"
#include <memory>

namespace mlir::moe::run {

/// A CUDA device: its primary context, which libraries use too, and its default stream.
class Device {
public:
  static llvm::Expected<std::unique_ptr<Device>> open(int32_t id);
  ~Device();

  struct Functions;

private:
  friend class DeviceTensor;
  Device() = default;
  /// Makes an error of a driver's result that is none of success.
  static llvm::Error check(int result, const llvm::Twine &what);

  std::unique_ptr<Functions> driver;
  int32_t id = 0, handle = 0;
  void *context = nullptr;
};

/// A tensor on a device with the shape and dtype of a value.
class DeviceTensor {
public:
  static llvm::Expected<DeviceTensor> create(const Device &device, Value &value);
  DeviceTensor(DeviceTensor &&other);
  ~DeviceTensor();

  /// The elements to the device and back.
  llvm::Error upload(const Value &value);
  llvm::Error download(Value &value) const;
  DLTensor &getTensor() { return tensor; }

private:
  DeviceTensor(const Device &device, Value &value) : device(&device), tensor(value.getTensor()) {}

  const Device *device;
  DLTensor tensor;
  unsigned long long memory = 0;
};

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_DEVICE_H
