// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Running of entries.

#include "Session.h"
#include "Status.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVectorExtras.h"
#include <atomic>
#include <chrono>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

/// moec_parallel_for_fn on a thread pool.
static void runOnPool(void *data, int64_t n, moec_task_fn body, void *ctx) {
  auto &pool = *static_cast<llvm::DefaultThreadPool *>(data);
  std::atomic<int64_t> next{0};
  for (unsigned worker = 0; worker < pool.getMaxConcurrency(); ++worker)
    pool.async([&next, n, body, ctx, worker] {
      for (int64_t task = next++; task < n; task = next++)
        body(ctx, task, int32_t(worker));
    });
  pool.wait();
}

Error Session::createContext(const Package &package, int32_t threads, bool profile) {
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  options.num_workers = threads;
  options.flags = profile ? MOEC_CONTEXT_PROFILE : 0;
  moec_status status = library.context_create(package.getModel(), &options, &context);
  if (status == MOEC_ERROR_PARALLEL) {
    pool = std::make_unique<llvm::DefaultThreadPool>(llvm::hardware_concurrency(unsigned(threads)));
    options.num_workers = int32_t(pool->getMaxConcurrency());
    options.parallel_for = runOnPool;
    options.pool = pool.get();
    status = library.context_create(package.getModel(), &options, &context);
  }
  if (status != MOEC_OK)
    return makeError(Status::Run, library.last_error());
  return Error::success();
}

Expected<std::unique_ptr<Session>> Session::create(const Package &package, const EntryInfo &entry,
                                                   int32_t threads, bool profile) {
  std::unique_ptr<Session> session(new Session(package, entry));
  session->place = package.getDevice();
  if (session->place.device_type != kDLCPU) {
    auto device = Device::open(session->place.device_id);
    if (!device)
      return device.takeError();
    session->device = std::move(*device);
  }
  if (Error error = session->createContext(package, threads, profile))
    return std::move(error);
  return std::move(session);
}

Session::~Session() { library.context_destroy(context); }

/// The library checks shapes; the type decides what the bytes mean, so it is
/// checked here.
static Expected<Value> readInput(const SafetensorsFile &file, const TensorInfo &info) {
  const SafetensorsTensor *tensor = file.find(info.name);
  if (!tensor)
    return makeError(Status::Input, "the input file has no tensor '" + info.name + "'");
  if (tensor->type != info.type->file)
    return makeError(Status::Input, "input '" + info.name + "' has dtype " +
                                        stringifySafetensorsType(tensor->type) +
                                        " in the input file, expected " +
                                        stringifySafetensorsType(info.type->file));
  return Value(file, *tensor);
}

Expected<std::vector<Value>> Session::readInputs(const SafetensorsFile &file) const {
  std::vector<Value> values;
  for (const TensorInfo &info : entry.inputs) {
    Expected<Value> value = readInput(file, info);
    if (!value)
      return value.takeError();
    values.push_back(std::move(*value));
  }
  return std::move(values);
}

static Expected<int64_t> getSize(const TensorInfo &input, const Dimension &dim,
                                 const DimensionValues &dims) {
  if (dim.size >= 0)
    return dim.size;
  auto it = dims.find(dim.symbol);
  if (it != dims.end())
    return it->second;
  if (dim.symbol.empty())
    return makeError(Status::Input,
                     "a dimension of input '" + input.name + "' has no name: give --input");
  return makeError(Status::Input, "dimension '" + dim.symbol + "' of input '" + input.name +
                                      "' is not given: use --dim " + dim.symbol +
                                      "=SIZE or --input");
}

/// No more bytes than can be addressed; the rest is up to the allocator.
static bool isAllocatable(llvm::ArrayRef<int64_t> shape, unsigned width) {
  const int64_t limit = int64_t(1) << 40;
  int64_t bytes = width;
  for (int64_t size : shape)
    if (llvm::MulOverflow(bytes, std::max<int64_t>(size, 1), bytes) || bytes > limit)
      return false;
  return true;
}

static Expected<Value> makeInput(const TensorInfo &info, const DimensionValues &dims) {
  llvm::SmallVector<int64_t, 4> shape;
  for (const Dimension &dim : info.dims) {
    Expected<int64_t> size = getSize(info, dim, dims);
    if (!size)
      return size.takeError();
    shape.push_back(*size);
  }
  if (!isAllocatable(shape, info.type->getNumBytes()))
    return makeError(Status::Input,
                     "input '" + info.name + "' of shape " + formatShape(shape) + " is too large");
  return Value(info.name, info.type, shape);
}

Expected<std::vector<Value>> Session::makeInputs(const DimensionValues &dims) const {
  std::vector<Value> values;
  for (const TensorInfo &info : entry.inputs) {
    Expected<Value> value = makeInput(info, dims);
    if (!value)
      return value.takeError();
    values.push_back(std::move(*value));
  }
  return std::move(values);
}

/// Only described: on a device the elements are elsewhere.
std::vector<DLTensor *> Session::getTensors(std::vector<Value> &values) const {
  std::vector<DLTensor *> tensors;
  for (Value &value : values) {
    tensors.push_back(&value.getTensor());
    tensors.back()->device = place;
  }
  return tensors;
}

/// Wrong tensors are the input's fault, the rest is the run's.
static Error makeRunError(moec_status status, const moec_library &library) {
  return makeError(status == MOEC_ERROR_TENSOR ? Status::Input : Status::Run, library.last_error());
}

Expected<std::vector<Value>> Session::makeOutputs(std::vector<Value> &inputs) {
  std::vector<DLTensor *> in = getTensors(inputs), out;
  std::vector<DLTensor> described(entry.outputs.size());
  for (DLTensor &tensor : described)
    out.push_back(&tensor);
  moec_status status = library.output_shapes(context, entry.name.c_str(), in.data(),
                                             int32_t(in.size()), out.data(), int32_t(out.size()));
  if (status != MOEC_OK)
    return makeRunError(status, library);
  std::vector<Value> values;
  for (const auto &[info, tensor] : llvm::zip_equal(entry.outputs, described))
    values.emplace_back(info.name, info.type,
                        llvm::ArrayRef<int64_t>(tensor.shape, size_t(tensor.ndim)));
  return std::move(values);
}

Expected<double> Session::run(std::vector<Value> &inputs, std::vector<Value> &outputs) {
  if (device)
    return runOnDevice(inputs, outputs);
  return runTensors(getTensors(inputs), getTensors(outputs));
}

static Expected<std::vector<DeviceTensor>> makeDeviceTensors(const Device &device,
                                                             std::vector<Value> &values) {
  std::vector<DeviceTensor> tensors;
  for (Value &value : values) {
    Expected<DeviceTensor> tensor = DeviceTensor::create(device, value);
    if (!tensor)
      return tensor.takeError();
    tensors.push_back(std::move(*tensor));
  }
  return std::move(tensors);
}

Expected<double> Session::runOnDevice(std::vector<Value> &inputs, std::vector<Value> &outputs) {
  auto in = makeDeviceTensors(*device, inputs), out = makeDeviceTensors(*device, outputs);
  if (!in || !out)
    return llvm::joinErrors(in.takeError(), out.takeError());
  for (auto [tensor, value] : llvm::zip_equal(*in, inputs))
    if (Error error = tensor.upload(value))
      return std::move(error);
  auto getAddress = [](DeviceTensor &tensor) { return &tensor.getTensor(); };
  Expected<double> time =
      runTensors(llvm::map_to_vector(*in, getAddress), llvm::map_to_vector(*out, getAddress));
  if (!time)
    return time.takeError();
  for (auto [tensor, value] : llvm::zip_equal(*out, outputs))
    if (Error error = tensor.download(value))
      return std::move(error);
  return time;
}

Expected<double> Session::runTensors(llvm::ArrayRef<DLTensor *> in,
                                     llvm::ArrayRef<DLTensor *> out) {
  auto begin = std::chrono::steady_clock::now();
  moec_status status = library.run(context, entry.name.c_str(), in.data(), int32_t(in.size()),
                                   out.data(), int32_t(out.size()));
  if (status == MOEC_OK)
    status = library.wait(context);
  std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  if (status != MOEC_OK)
    return makeRunError(status, library);
  return time.count();
}

std::vector<moec_region_time> Session::getProfile() const {
  std::vector<moec_region_time> times(size_t(library.profile(context, nullptr, 0)));
  library.profile(context, times.data(), int32_t(times.size()));
  return times;
}

DimensionValues mlir::moe::run::inferDimensions(const EntryInfo &entry,
                                                llvm::ArrayRef<Value> inputs) {
  DimensionValues values;
  for (const auto &[info, input] : llvm::zip_equal(entry.inputs, inputs))
    for (const auto &[dim, size] : llvm::zip(info.dims, input.getShape()))
      if (!dim.symbol.empty())
        values.emplace(dim.symbol, size);
  return values;
}
