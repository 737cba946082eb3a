// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moec: compiles an ONNX model to a package. Exit statuses: see CompileStatus.

#include "Options.h"
#include "Progress.h"

#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/Signals.h"
#include "llvm/Support/WithColor.h"

#include <csignal>

using namespace mlir::moe;

static volatile std::sig_atomic_t interrupted = 0;

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  // A limit on the size of files is an error of writing like any other.
  std::signal(SIGXFSZ, SIG_IGN);
  CompileOptions options;
  auto request = parseCommandLine(llvm::ArrayRef(argv, argc).drop_front(), options);
  if (!request) {
    llvm::WithColor::error(llvm::errs(), "moec") << llvm::toString(request.takeError()) << "\n";
    return int(CompileStatus::Usage);
  }
  if (*request == Request::Help)
    printHelp(llvm::outs());
  if (*request == Request::Version)
    llvm::outs() << getVersionText() << "\n";
  if (*request != Request::Compile)
    return int(CompileStatus::Success);

  // The first SIGINT or SIGTERM ends the compilation in order, a second at once.
  llvm::sys::SetInterruptFunction([] { interrupted = 1; });
  ProgressBar bar;
  options.progress = [&](llvm::StringRef, uint64_t done, uint64_t all) {
    bar.update(done, all);
    return !interrupted;
  };
  CompileResult result = compile(options);
  if (result.status == CompileStatus::Interrupted)
    llvm::WithColor::error(llvm::errs(), "moec") << "interrupted\n";
  if (!result.summary.empty())
    llvm::outs() << result.summary << "\n";
  return int(result.status);
}
