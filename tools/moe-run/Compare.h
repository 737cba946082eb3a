// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Comparison of outputs with expected values.

#ifndef MOEC_TOOLS_MOERUN_COMPARE_H
#define MOEC_TOOLS_MOERUN_COMPARE_H

#include "Options.h"
#include "Values.h"

namespace mlir::moe::run {

/// Compares each output that the file has, prints the differences, and returns
/// whether all are within the tolerance:
///   max |output - expected| <= atol + rtol * max |expected|
/// NaN and infinities must be in the same places.
llvm::Expected<bool> compareOutputs(const Options &options, llvm::ArrayRef<Value> outputs,
                                    llvm::raw_ostream &os);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_COMPARE_H
