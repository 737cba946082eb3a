// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What moec writes to stderr: messages, and a line of progress on a terminal.

#ifndef MOEC_TOOLS_MOEC_TERMINAL_H
#define MOEC_TOOLS_MOEC_TERMINAL_H

#include "moec/Compiler/Compiler.h"

#include <chrono>

namespace mlir::moe {

class Terminal {
public:
  explicit Terminal(const CompileOptions &options);
  ~Terminal() { clear(); }

  void print(const CompileDiagnostic &diagnostic);
  /// An error of the command line.
  void printError(const llvm::Twine &message);

  /// Shows the running phase, or a bar while the weights are written; see
  /// CompileOptions::progress. Compilations that end at once show nothing.
  void showProgress(llvm::StringRef phase, uint64_t done, uint64_t all);
  /// Takes the line of progress away.
  void clear();

private:
  using Clock = std::chrono::steady_clock;

  bool colors, animated;
  bool shown = false;
  Clock::time_point start = Clock::now(), last;
};

} // namespace mlir::moe

#endif // MOEC_TOOLS_MOEC_TERMINAL_H
