// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Errors of moe-run and the exit statuses that go with them.

#include "Status.h"
#include "moec/Support/OneLine.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"
#include <unistd.h>

using namespace mlir::moe::run;

char StatusError::ID;

void mlir::moe::run::exitWhenOutOfMemory() {
  llvm::install_bad_alloc_error_handler([](void *, const char *, bool) {
    llvm::errs() << "moe-run: error: out of memory\n";
    _exit(int(Status::Run));
  });
}

int mlir::moe::run::reportError(llvm::Error error) {
  int status = int(Status::Run);
  auto print = [](const llvm::ErrorInfoBase &failure) {
    llvm::errs() << "moe-run: error: " << mlir::moe::escapeControls(failure.message()) << "\n";
  };
  handleAllErrors(
      std::move(error),
      [&](const StatusError &failure) {
        status = int(failure.getStatus());
        print(failure);
      },
      print);
  return status;
}
