// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moec: compiles an ONNX model to a package. Exit statuses: see CompileStatus.

#include "Options.h"
#include "Progress.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"

#include <csignal>

using namespace mlir::moe;

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  // A limit on the size of files is an error of writing like any other.
  std::signal(SIGXFSZ, SIG_IGN);
  CompileOptions options;
  if (!parseOptions(argc, argv, options))
    return int(CompileStatus::Usage);
  static int anchor;
  options.runtimeFolder = getRuntimeFolder(llvm::sys::fs::getMainExecutable(argv[0], &anchor));
  ProgressBar bar;
  options.progress = [&](uint64_t done, uint64_t all) { bar.update(done, all); };
  CompileResult result = compile(options);
  if (!result.summary.empty())
    llvm::outs() << result.summary << "\n";
  return int(result.status);
}
