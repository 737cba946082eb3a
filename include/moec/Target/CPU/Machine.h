// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What code is generated for: an x86-64 CPU described by its features.

#ifndef MOEC_TARGET_CPU_MACHINE_H
#define MOEC_TARGET_CPU_MACHINE_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <cstdint>
#include <string>
#include <vector>

namespace mlir::moe {

struct Machine {
  /// As given to --cpu: "native", "x86-64-v3", "sapphirerapids", …
  std::string name;
  /// CPU whose instruction costs LLVM assumes. Never the host's name, which is
  /// wrong on some virtual machines; derived from the features for "native".
  std::string tuneCPU;
  /// LLVM names of all features beyond x86-64 that the code may use, sorted. A
  /// library refuses to open on a CPU without them.
  std::vector<std::string> features;

  /// Width of a vector register in bits: 128, 256 or 512.
  int64_t vectorBits = 128;
  /// Vector registers that an instruction can name: 16, or 32 with AVX-512.
  int64_t numVectorRegisters = 16;
  bool hasFMA = false;
  /// float16 to float32 conversion.
  bool hasF16C = false;
  /// F, BW, CD, DQ and VL together.
  bool hasAVX512 = false;
  /// Conversions to bfloat16 and its dot products.
  bool hasAVX512BF16 = false;
  bool hasAVX512FP16 = false;
  /// Dot products of 8-bit integers on 512-bit registers.
  bool hasAVX512VNNI = false;
  /// The same on 256-bit registers without AVX-512.
  bool hasAVXVNNI = false;
  bool hasAMXBF16 = false;
  bool hasAMXInt8 = false;
  /// Data caches of one core in bytes.
  int64_t l1Bytes = 32 << 10;
  int64_t l2Bytes = 1 << 20;

  /// The machine of that name: `native` (what CPUID reports of this one), or an
  /// x86-64 CPU that LLVM knows. The error suggests the nearest known name.
  static llvm::Expected<Machine> get(llvm::StringRef name);
  /// The machines of a comma list of such names, in that order; "multi" stands for
  /// x86-64-v3,x86-64-v4,sapphirerapids. "l1=48K" and "l2=2M" after a name replace the sizes of its
  /// caches. Fails where
  /// a level would never be chosen, because a later one needs no feature that it lacks.
  static llvm::Expected<std::vector<Machine>> getLevels(llvm::StringRef names);
  /// A machine with exactly these features and what they imply.
  static Machine fromFeatures(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> features);

  bool hasFeature(llvm::StringRef feature) const;
  /// "+avx,+avx2,…", LLVM's "target-features".
  std::string getFeatureString() const;
};

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_MACHINE_H
