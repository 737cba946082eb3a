// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Weights that are computed instead of read.

#ifndef MOEC_TOOLS_MOERUN_SYNTHETICWEIGHTS_H
#define MOEC_TOOLS_MOERUN_SYNTHETICWEIGHTS_H

#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"
#include <string>

namespace mlir::moe::run {

/// A weights file in memory for the package that has this NAME.json, which goes when
/// it is destroyed.
///
/// Element i of a tensor, in the order of its bytes in the file, comes from
///   h = mix(mix(seed ^ fnv1a(name)) + i)
/// with the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014) as `mix` and FNV-1a with 64 bits as `fnv1a`. A float is
///   (2 * (h >> 40) / 2^24 - 1) / sqrt(size of the last dimension)
/// computed in float and rounded to nearest even; an integer has the low bits of h; a bool is its
/// lowest bit. What lies between tensors is zero.
class SyntheticWeights {
public:
  static llvm::Expected<SyntheticWeights> create(const llvm::json::Object &info, uint64_t seed);
  SyntheticWeights(SyntheticWeights &&other) : file(std::exchange(other.file, -1)) {}
  ~SyntheticWeights();

  /// What to open as the weights file; empty when the model has no weights.
  std::string getPath() const;

private:
  explicit SyntheticWeights(int file) : file(file) {}

  int file;
};

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_SYNTHETICWEIGHTS_H
