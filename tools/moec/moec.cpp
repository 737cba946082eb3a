// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moec: compiles an ONNX model to a package. Exit statuses: see CompileStatus.

#include "Commands.h"
#include "Options.h"
#include "Terminal.h"

#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/Signals.h"

#include <csignal>

using namespace mlir::moe;

static volatile std::sig_atomic_t interrupted = 0;

static CompileStatus runCommand(const Command &command, Words words) {
  std::string error;
  CompileStatus status = command.run(words, error);
  if (!error.empty())
    Terminal({}).printError(error);
  return status;
}

static CompileStatus runCompiler(CompileOptions options) {
  // The first SIGINT or SIGTERM ends the compilation in order, a second at once.
  llvm::sys::SetInterruptFunction([] { interrupted = 1; });
  Terminal terminal(options);
  options.onDiagnostic = [&](const CompileDiagnostic &diagnostic) { terminal.print(diagnostic); };
  options.progress = [&](llvm::StringRef phase, uint64_t done, uint64_t all) {
    terminal.showProgress(phase, done, all);
    return !interrupted;
  };
  CompileResult result = compile(options);
  terminal.clear();
  if (result.status == CompileStatus::Interrupted)
    terminal.printError("interrupted");
  if (!result.summary.empty())
    llvm::outs() << result.summary << "\n";
  return result.status;
}

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  // A limit on the size of files is an error of writing like any other.
  std::signal(SIGXFSZ, SIG_IGN);
  Words words = Words(argv, argc).drop_front();
  if (const Command *command = words.empty() ? nullptr : findCommand(words.front()))
    return int(runCommand(*command, words.drop_front()));
  CompileOptions options;
  auto request = parseCommandLine(words, options);
  if (!request) {
    Terminal(options).printError(llvm::toString(request.takeError()));
    return int(CompileStatus::Usage);
  }
  if (*request == Request::Help)
    printHelp(llvm::outs());
  if (*request == Request::Version)
    llvm::outs() << getVersionText() << "\n";
  if (*request != Request::Compile)
    return int(CompileStatus::Success);
  return int(runCompiler(std::move(options)));
}
