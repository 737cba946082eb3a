// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// An entry of a package with a context to run it in.

#ifndef MOEC_TOOLS_MOERUN_SESSION_H
#define MOEC_TOOLS_MOERUN_SESSION_H

#include "Device.h"
#include "Package.h"
#include "llvm/Support/ThreadPool.h"
#include <map>

namespace mlir::moe::run {

using DimensionValues = std::map<std::string, int64_t>;

class Session {
public:
  /// threads 0: the library's default.
  static llvm::Expected<std::unique_ptr<Session>>
  create(const Package &package, const EntryInfo &entry, int32_t threads, bool profile);
  ~Session();

  const EntryInfo &getEntry() const { return entry; }
  int32_t getNumWorkers() const { return library.num_workers(context); }

  /// The entry's inputs from a file, checked against its description.
  llvm::Expected<std::vector<Value>> readInputs(const SafetensorsFile &file) const;
  /// Inputs without values for these dimensions.
  llvm::Expected<std::vector<Value>> makeInputs(const DimensionValues &dims) const;
  /// Outputs for these inputs, without values.
  llvm::Expected<std::vector<Value>> makeOutputs(std::vector<Value> &inputs);
  /// Runs once and returns the time in milliseconds; on a device without the copies, but to the
  /// end of its work.
  llvm::Expected<double> run(std::vector<Value> &inputs, std::vector<Value> &outputs);

  void resetProfile() { library.profile_reset(context); }
  std::vector<moec_region_time> getProfile() const;

private:
  Session(const Package &package, const EntryInfo &entry)
      : library(package.getLibrary()), entry(entry) {}
  llvm::Error createContext(const Package &package, int32_t threads, bool profile);
  std::vector<DLTensor *> getTensors(std::vector<Value> &values) const;
  llvm::Expected<double> runTensors(llvm::ArrayRef<DLTensor *> in, llvm::ArrayRef<DLTensor *> out);
  llvm::Expected<double> runOnDevice(std::vector<Value> &inputs, std::vector<Value> &outputs);

  const moec_library &library;
  const EntryInfo &entry;
  DLDevice place = {kDLCPU, 0};
  /// Null: the CPU.
  std::unique_ptr<Device> device;
  moec_context *context = nullptr;
  /// For libraries that leave threads to the program.
  std::unique_ptr<llvm::DefaultThreadPool> pool;
};

/// The dimensions that inputs of these shapes stand for.
DimensionValues inferDimensions(const EntryInfo &entry, llvm::ArrayRef<Value> inputs);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_SESSION_H
