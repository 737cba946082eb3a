// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// A compiled package: its library, and what its description says.

#ifndef MOEC_TOOLS_MOERUN_PACKAGE_H
#define MOEC_TOOLS_MOERUN_PACKAGE_H

#include "Options.h"
#include "SyntheticWeights.h"
#include "Values.h"
#include <optional>

namespace mlir::moe::run {

/// A dimension: a size, or a name that stands for it.
struct Dimension {
  int64_t size = -1; // -1: symbolic
  std::string symbol;
};

struct TensorInfo {
  std::string name;
  const ElementType *type = nullptr;
  std::vector<Dimension> dims;
};

struct EntryInfo {
  std::string name;
  std::vector<TensorInfo> inputs, outputs;

  /// Names in the dimensions of the inputs, in order of appearance.
  std::vector<std::string> getSymbols() const;
};

struct RegionInfo {
  std::string name, op;
};

class Package {
public:
  /// Opens options.package: NAME.moec or a library in it.
  static llvm::Expected<Package> open(const Options &options);
  Package(Package &&other);
  ~Package();

  const moec_library &getLibrary() const { return *library; }
  moec_model *getModel() const { return model; }
  /// Where its tensors are.
  DLDevice getDevice() const { return library->device(model); }
  llvm::ArrayRef<RegionInfo> getRegions() const { return regions; }
  /// Names of the blocks whose routings are outputs; nullopt when none were asked for.
  const std::optional<std::vector<std::string>> &getTraced() const { return traced; }
  /// The entry of that name; the first one if it is empty.
  llvm::Expected<const EntryInfo *> getEntry(llvm::StringRef name) const;
  /// Entries with their inputs and outputs, for people.
  void print(llvm::raw_ostream &os) const;

private:
  Package() = default;
  llvm::Error load(llvm::StringRef path);
  llvm::Error readInfo();
  llvm::Error openModel(const std::string &weights, const Options &options);
  llvm::Expected<SyntheticWeights> makeWeights(uint64_t seed) const;

  /// Path of the library.
  std::string file;
  const moec_library *library = nullptr;
  moec_model *model = nullptr;
  std::vector<EntryInfo> entries;
  std::vector<RegionInfo> regions;
  std::optional<std::vector<std::string>> traced;
};

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_PACKAGE_H
