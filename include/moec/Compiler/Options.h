// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The options of a compilation by name: one table for the command line, moec-c,
// Python, completion and documentation.

#ifndef MOEC_COMPILER_OPTIONS_H
#define MOEC_COMPILER_OPTIONS_H

#include "moec/Compiler/Compiler.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>
#include <vector>

namespace mlir::moe {

struct OptionChoice {
  std::string value, help;
};

struct OptionDescription {
  /// As on a command line, without dashes.
  llvm::StringRef name;
  /// What its value is, such as "name=size"; empty for a flag, whose values are
  /// "" or "true" and "false".
  llvm::StringRef valueName;
  /// Heading in help texts.
  llvm::StringRef category;
  llvm::StringRef help;
  /// Stores the value, which is one of the choices where these are closed. False
  /// when it does not have the form that `valueName` says.
  bool (*apply)(CompileOptions &options, llvm::StringRef value);
  /// May be given several times; each adds a value.
  bool repeatable = false;
  /// The value may follow a dash and the name at once: -O3.
  bool joined = false;
  /// Values that are possible; any is when there are none.
  std::vector<OptionChoice> choices = {};
  /// The choices are only the usual ones; the compilation checks others.
  bool openChoices = false;

  bool isFlag() const { return valueName.empty(); }
  /// "-O", "--cpu".
  std::string getSpelling() const;
};

/// All options, those of a category together.
llvm::ArrayRef<OptionDescription> getOptions();

/// The option of that name; null when there is none.
const OptionDescription *findOption(llvm::StringRef name);

/// Sets an option. The error says which name or value is wrong, what is expected,
/// and the nearest known one.
llvm::Error setOption(CompileOptions &options, llvm::StringRef name, llvm::StringRef value);

/// Fails when the option has closed choices and `value` is none of them.
llvm::Error checkChoice(llvm::StringRef name, llvm::StringRef value);

} // namespace mlir::moe

#endif // MOEC_COMPILER_OPTIONS_H
