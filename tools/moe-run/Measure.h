// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Times of runs and of the regions of a model.

#ifndef MOEC_TOOLS_MOERUN_MEASURE_H
#define MOEC_TOOLS_MOERUN_MEASURE_H

#include "Options.h"
#include "Session.h"

namespace mlir::moe::run {

/// Measures every combination of the sizes that --dim gives, with new random
/// inputs for each run, and prints a table or JSON. `given`: the inputs of
/// --input or null; they give the dimensions without --dim, and their integers
/// are used instead of random ones where the shapes agree.
llvm::Error measure(const Package &package, const EntryInfo &entry, const Options &options,
                    const std::vector<Value> *given, llvm::raw_ostream &os);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_MEASURE_H
