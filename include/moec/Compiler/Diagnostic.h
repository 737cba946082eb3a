// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the compiler has to say about a model, as data.

#ifndef MOEC_COMPILER_DIAGNOSTIC_H
#define MOEC_COMPILER_DIAGNOSTIC_H

#include "llvm/Support/raw_ostream.h"
#include <cstdint>
#include <string>
#include <vector>

namespace mlir::moe {

/// The numbers are those of moec-c.
enum class Severity { Error = 0, Warning = 1, Remark = 2, Note = 3 };

struct CompileDiagnostic {
  Severity severity = Severity::Error;
  std::string message;
  /// The model or MLIR file; empty when the message is not about a file.
  std::string file;
  /// The index of the node in the ONNX graph (column 1), or the place in the MLIR
  /// text. Both 0: the file as a whole.
  int64_t line = 0, column = 0;
  /// Name and operator ("MatMul", "com.microsoft.MoE") of the ONNX node; empty when
  /// the message is not about one.
  std::string node, op;
  /// More about it; their severity is Note.
  std::vector<CompileDiagnostic> notes;
};

/// Whether messages on stderr have colours: Auto if it is a terminal that knows them
/// and the environment variable NO_COLOR is not set (https://no-color.org).
enum class ColorMode { Auto, Always, Never };
bool hasColors(ColorMode mode);

/// Prints `file:line:column: error: message`, then the notes, a line each.
void printDiagnostic(llvm::raw_ostream &os, const CompileDiagnostic &diagnostic,
                     bool colors = false);

} // namespace mlir::moe

#endif // MOEC_COMPILER_DIAGNOSTIC_H
