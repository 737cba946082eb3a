// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Runs, checks and times a compiled model.

#include "Compare.h"
#include "Measure.h"
#include "Options.h"
#include "Session.h"
#include "Status.h"
#include "llvm/Support/InitLLVM.h"

#include <csignal>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

/// Runs once with the given inputs: --output and --expect.
static Expected<Status> runOnce(Session &session, const Options &options,
                                std::vector<Value> &inputs) {
  Expected<std::vector<Value>> outputs = session.makeOutputs(inputs);
  if (!outputs)
    return outputs.takeError();
  Expected<double> time = session.run(inputs, *outputs);
  if (!time)
    return time.takeError();
  if (!options.output.empty())
    if (Error error = writeValues(options.output, *outputs))
      return std::move(error);
  if (options.expect.empty())
    return Status::Success;
  Expected<bool> isWithin = compareOutputs(options, *outputs, llvm::outs());
  if (!isWithin)
    return isWithin.takeError();
  return *isWithin ? Status::Success : Status::Differs;
}

static Expected<std::vector<Value>> readInputs(const Session &session, const Options &options) {
  Expected<SafetensorsFile> file = SafetensorsFile::open(options.input);
  if (!file)
    return withStatus(Status::Input, file.takeError());
  return session.readInputs(*file);
}

static Expected<Status> runTool(const Options &options) {
  Expected<Package> package = Package::open(options.package, options.weights);
  if (!package)
    return package.takeError();
  bool measures = options.time || options.profile;
  if (options.input.empty() && !measures) {
    package->print(llvm::outs());
    return Status::Success;
  }
  Expected<const EntryInfo *> entry = package->getEntry(options.entry);
  if (!entry)
    return entry.takeError();
  Status status = Status::Success;
  std::vector<Value> inputs;
  if (!options.input.empty()) {
    auto session = Session::create(*package, **entry, options.threads, /*profile=*/false);
    if (!session)
      return session.takeError();
    Expected<std::vector<Value>> read = readInputs(**session, options);
    if (!read)
      return read.takeError();
    inputs = std::move(*read);
    Expected<Status> result = runOnce(**session, options, inputs);
    if (!result)
      return result.takeError();
    status = *result;
  }
  if (measures)
    if (Error error = measure(*package, **entry, options, options.input.empty() ? nullptr : &inputs,
                              llvm::outs()))
      return std::move(error);
  return status;
}

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  // A limit on the size of files is an error of writing like any other.
  std::signal(SIGXFSZ, SIG_IGN);
  exitWhenOutOfMemory();
  Expected<Options> options = parseOptions(argc, argv);
  if (!options)
    return reportError(options.takeError());
  Expected<Status> status = runTool(*options);
  if (!status)
    return reportError(status.takeError());
  return int(*status);
}
