// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What moec finds on this machine: `moec doctor`.

#ifndef MOEC_COMPILER_DOCTOR_H
#define MOEC_COMPILER_DOCTOR_H

#include "llvm/Support/raw_ostream.h"
#include <string>
#include <vector>

namespace mlir::moe {

/// One thing that was looked at.
struct Finding {
  enum Kind {
    /// Needed, and there.
    Good,
    /// Good to know.
    Fact,
    /// Needed and missing: a compilation with default options would not work.
    Problem
  };
  Kind kind = Fact;
  std::string name, text;
};

/// Looks at versions, runtime, linker, libraries, OpenMP, CPU, memory and CUDA, and
/// compiles, opens and runs a small model in a temporary folder.
std::vector<Finding> examineMachine();

/// A line for each finding.
void printFindings(llvm::raw_ostream &os, const std::vector<Finding> &findings);

} // namespace mlir::moe

#endif // MOEC_COMPILER_DOCTOR_H
