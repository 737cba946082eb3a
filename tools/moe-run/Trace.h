// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// --trace-routing: the routings of a package's blocks over runs.

#ifndef MOEC_TOOLS_MOERUN_TRACE_H
#define MOEC_TOOLS_MOERUN_TRACE_H

#include "Package.h"
#include <map>

namespace mlir::moe::run {

/// The rows of all runs, one run after the other.
class RoutingTrace {
public:
  /// Refuses a package that was compiled without --trace-routing.
  static llvm::Expected<RoutingTrace> create(const Package &package);

  /// Adds the routings among the outputs of a run.
  void add(llvm::ArrayRef<Value> outputs);
  /// Writes NAME.expert_ids and NAME.weights of each block. The file appears when it is
  /// complete.
  llvm::Error write(llvm::StringRef path) const;

private:
  struct Rows {
    const ElementType *type = nullptr;
    int64_t count = 0, columns = 0;
    std::vector<char> bytes;
  };
  /// By the names of outputs.
  std::map<std::string, Rows> arrays;
};

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_TRACE_H
