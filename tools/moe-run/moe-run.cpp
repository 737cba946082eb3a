// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Runs, checks and times a compiled model.

#include "Compare.h"
#include "Measure.h"
#include "Options.h"
#include "Session.h"
#include "Status.h"
#include "Trace.h"
#include "llvm/Support/InitLLVM.h"

#include <csignal>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

/// Runs once with the given inputs: --output, --expect and, when not null, `trace`.
static Expected<Status> runOnce(Session &session, const Options &options,
                                std::vector<Value> &inputs, RoutingTrace *trace) {
  Expected<std::vector<Value>> outputs = session.makeOutputs(inputs);
  if (!outputs)
    return outputs.takeError();
  Expected<double> time = session.run(inputs, *outputs);
  if (!time)
    return time.takeError();
  if (trace)
    trace->add(*outputs);
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

static Expected<std::vector<Value>> readInputs(const Session &session, const std::string &path) {
  Expected<SafetensorsFile> file = SafetensorsFile::open(path);
  if (!file)
    return withStatus(Status::Input, file.takeError());
  return session.readInputs(*file);
}

/// Runs with each file of inputs; `inputs` are then those of the last one.
static Expected<Status> runAll(const Package &package, const EntryInfo &entry,
                               const Options &options, std::vector<Value> &inputs) {
  std::optional<RoutingTrace> trace;
  if (!options.traceRouting.empty()) {
    Expected<RoutingTrace> created = RoutingTrace::create(package);
    if (!created)
      return created.takeError();
    trace = std::move(*created);
  }
  auto session = Session::create(package, entry, options.threads, /*profile=*/false);
  if (!session)
    return session.takeError();
  Status status = Status::Success;
  for (const std::string &path : options.inputs) {
    Expected<std::vector<Value>> read = readInputs(**session, path);
    if (!read)
      return read.takeError();
    inputs = std::move(*read);
    Expected<Status> result = runOnce(**session, options, inputs, trace ? &*trace : nullptr);
    if (!result)
      return result.takeError();
    status = *result;
  }
  if (trace)
    if (Error error = trace->write(options.traceRouting))
      return std::move(error);
  return status;
}

static Expected<Status> runTool(const Options &options) {
  Expected<Package> package = Package::open(options);
  if (!package)
    return package.takeError();
  bool measures = options.time || options.profile;
  if (options.inputs.empty() && !measures) {
    package->print(llvm::outs());
    return Status::Success;
  }
  Expected<const EntryInfo *> entry = package->getEntry(options.entry);
  if (!entry)
    return entry.takeError();
  Status status = Status::Success;
  std::vector<Value> inputs;
  if (!options.inputs.empty()) {
    Expected<Status> result = runAll(*package, **entry, options, inputs);
    if (!result)
      return result.takeError();
    status = *result;
  }
  if (measures)
    if (Error error = measure(*package, **entry, options,
                              options.inputs.empty() ? nullptr : &inputs, llvm::outs()))
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
