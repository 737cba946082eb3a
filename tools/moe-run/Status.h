// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Errors of moe-run and the exit statuses that go with them.

#ifndef MOEC_TOOLS_MOERUN_STATUS_H
#define MOEC_TOOLS_MOERUN_STATUS_H

#include "llvm/ADT/Twine.h"
#include "llvm/Support/Error.h"

namespace mlir::moe::run {

/// Exit statuses, as documented in docs/tools/moe-run.md.
enum class Status {
  Success = 0,
  Differs = 1,     // an output is beyond the tolerance
  CommandLine = 2, // flags that are unknown, wrong or contradictory
  Package = 3,     // the package cannot be opened on this machine
  Input = 4,       // a tensor is missing or wrong, a dimension is not given
  Run = 5,         // the library reported a failure
  Output = 6,      // the output file cannot be written
};

class StatusError : public llvm::ErrorInfo<StatusError> {
public:
  static char ID;

  StatusError(Status status, const llvm::Twine &message) : status(status), message(message.str()) {}

  Status getStatus() const { return status; }
  void log(llvm::raw_ostream &os) const override { os << message; }
  std::error_code convertToErrorCode() const override { return llvm::inconvertibleErrorCode(); }

private:
  Status status;
  std::string message;
};

inline llvm::Error makeError(Status status, const llvm::Twine &message) {
  return llvm::make_error<StatusError>(status, message);
}

/// The same message with a status.
inline llvm::Error withStatus(Status status, llvm::Error error) {
  return error ? makeError(status, toString(std::move(error))) : llvm::Error::success();
}

/// From now on a failed allocation ends the program with an error: a --dim can ask
/// for any size.
void exitWhenOutOfMemory();

/// Prints the error and returns the exit status that goes with it.
int reportError(llvm::Error error);

} // namespace mlir::moe::run

#endif // MOEC_TOOLS_MOERUN_STATUS_H
