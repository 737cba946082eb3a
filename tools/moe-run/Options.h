// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The command line of moe-run.

#ifndef MOEC_TOOLS_MOERUN_OPTIONS_H
#define MOEC_TOOLS_MOERUN_OPTIONS_H

#include "llvm/Support/Error.h"
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mlir::moe::run {

struct Options {
  std::string package, weights, entry;
  /// What to run on, as in moec_options; type 0: what the library chooses.
  int32_t deviceType = 0, deviceId = 0;
  std::string output, expect, traceRouting;
  /// One, or several with traceRouting.
  std::vector<std::string> inputs;
  std::optional<uint64_t> syntheticWeights; // the seed
  uint32_t openFlags = 0;                   // of moec_options
  std::optional<double> rtol, atol;
  bool time = false, profile = false, json = false;
  int32_t threads = 0;
  int32_t repetitions = 0; // 0: until the time is known well
  /// --dim NAME=SIZE,SIZE: in the order of the command line.
  std::vector<std::pair<std::string, std::vector<int64_t>>> dims;
};

/// Prints help or the version and exits if that was asked for.
llvm::Expected<Options> parseOptions(int argc, char **argv);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_OPTIONS_H
