// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The command line of moe-run.

#include "Options.h"
#include "Status.h"
#include "moec/Runtime/moec.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"

using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
namespace cl = llvm::cl;

namespace {
struct Flags {
  cl::OptionCategory tensors{"Tensors"};
  cl::OptionCategory measuring{"Measuring"};
  cl::OptionCategory running{"Running"};

  cl::opt<std::string> package{cl::Positional, cl::Required, cl::desc("NAME.moec"),
                               cl::cat(running)};
  cl::opt<std::string> entry{"entry", cl::desc("Entry to run (default: the first)"),
                             cl::value_desc("name"), cl::cat(running)};
  cl::opt<std::string> weights{"weights",
                               cl::desc("Weights file (default: the one in the package)"),
                               cl::value_desc("file"), cl::cat(running)};
  cl::opt<uint64_t> syntheticWeights{
      "synthetic-weights", cl::desc("Compute the weights from this seed instead of reading a file"),
      cl::value_desc("seed"), cl::cat(running)};
  cl::opt<bool> populate{"populate", cl::desc("Read and map all weights before the first run"),
                         cl::cat(running)};
  cl::opt<bool> hugePages{"huge-pages", cl::desc("Copy the weights into memory of huge pages"),
                          cl::cat(running)};
  cl::opt<std::string> device{
      "device",
      cl::desc("cpu, cuda or cuda:N (default: a CUDA device if there is one and the "
               "package has code for it)"),
      cl::value_desc("name"), cl::cat(running)};
  cl::opt<int> threads{"threads", cl::desc("Number of threads (default: the library's)"),
                       cl::value_desc("N"), cl::cat(running)};

  cl::list<std::string> inputs{
      "input",
      cl::desc("Safetensors file with the inputs by their names; several with --trace-routing"),
      cl::value_desc("file"), cl::cat(tensors)};
  cl::opt<std::string> traceRouting{
      "trace-routing",
      cl::desc("Write the experts and weights of each token to this .npz file; needs a package "
               "that was compiled with --trace-routing"),
      cl::value_desc("file"), cl::cat(tensors)};
  cl::opt<std::string> output{"output", cl::desc("Write the outputs to this file"),
                              cl::value_desc("file"), cl::cat(tensors)};
  cl::opt<std::string> expect{"expect",
                              cl::desc("Compare the outputs with the tensors of this file"),
                              cl::value_desc("file"), cl::cat(tensors)};
  cl::opt<double> rtol{"rtol",
                       cl::desc("Largest difference as a part of the largest expected "
                                "value (default: by dtype)"),
                       cl::value_desc("x"), cl::cat(tensors)};
  cl::opt<double> atol{"atol", cl::desc("Difference accepted on top of that"), cl::value_desc("x"),
                       cl::cat(tensors)};

  cl::opt<bool> time{"time", cl::desc("Time runs with random inputs"), cl::cat(measuring)};
  cl::opt<bool> profile{"profile", cl::desc("Time of each region of the model"),
                        cl::cat(measuring)};
  cl::list<std::string> dims{"dim", cl::desc("Sizes of a symbolic dimension to measure"),
                             cl::value_desc("name=1,8,512"), cl::cat(measuring)};
  cl::opt<int> repetitions{"repetitions",
                           cl::desc("Runs per measurement (default: about half a second's)"),
                           cl::value_desc("N"), cl::cat(measuring)};
  cl::opt<bool> json{"json", cl::desc("Print results as JSON"), cl::cat(measuring)};
};
} // namespace

static const char overview[] =
    "Runs, checks and times a model that moec compiled.\n"
    "Without --input, --time or --profile it prints the model's entries.\n";

static Error parseDim(StringRef text, Options &options) {
  auto [name, list] = text.split('=');
  llvm::SmallVector<StringRef> items;
  list.split(items, ',');
  std::vector<int64_t> sizes;
  for (StringRef item : items) {
    int64_t size;
    if (item.getAsInteger(10, size) || size < 0)
      return makeError(Status::CommandLine,
                       "--dim " + text + ": expected NAME=SIZE or NAME=SIZE,SIZE,...");
    sizes.push_back(size);
  }
  for (const auto &[other, _] : options.dims)
    if (other == name)
      return makeError(Status::CommandLine, "--dim " + name + " is given twice");
  options.dims.emplace_back(name.str(), std::move(sizes));
  return Error::success();
}

static Error parseDevice(StringRef text, Options &options) {
  if (text.empty())
    return Error::success();
  auto [name, number] = text.split(':');
  options.deviceType = name == "cpu" ? kDLCPU : kDLCUDA;
  bool hasNumber = text.contains(':');
  bool isValid = name == "cpu" ? !hasNumber
                               : name == "cuda" &&
                                     (!hasNumber || (!number.getAsInteger(10, options.deviceId) &&
                                                     options.deviceId >= 0));
  if (!isValid)
    return makeError(Status::CommandLine, "--device " + text + ": expected cpu, cuda or cuda:N");
  return Error::success();
}

static Error checkOptions(const Options &options) {
  bool measures = options.time || options.profile;
  auto fail = [](const llvm::Twine &message) { return makeError(Status::CommandLine, message); };
  if (options.syntheticWeights && !options.weights.empty())
    return fail("--weights and --synthetic-weights contradict each other");
  if (options.threads < 0)
    return fail("--threads is negative");
  if (options.repetitions < 0)
    return fail("--repetitions is negative");
  if (options.inputs.empty() && !options.output.empty())
    return fail("--output needs --input");
  if (options.inputs.empty() && !options.expect.empty())
    return fail("--expect needs --input");
  if (options.inputs.empty() && !options.traceRouting.empty())
    return fail("--trace-routing needs --input");
  if (options.inputs.size() > 1 && (options.traceRouting.empty() || measures ||
                                    !options.output.empty() || !options.expect.empty()))
    return fail("several --input need --trace-routing, and neither --output, --expect, --time nor "
                "--profile");
  if (options.expect.empty() && (options.rtol || options.atol))
    return fail("--rtol and --atol need --expect");
  if (!measures && !options.dims.empty())
    return fail("--dim needs --time or --profile");
  if (!measures && options.repetitions)
    return fail("--repetitions needs --time or --profile");
  if (options.json && measures && !options.expect.empty())
    return fail("--json prints the result of either --expect or of --time and "
                "--profile");
  if (options.json && !measures && options.expect.empty())
    return fail("--json needs --time, --profile or --expect");
  return Error::success();
}

Expected<Options> mlir::moe::run::parseOptions(int argc, char **argv) {
  // libLLVM registers options of its own, --threads among them.
  cl::ResetCommandLineParser();
  Flags flags;
  cl::HideUnrelatedOptions({&flags.tensors, &flags.measuring, &flags.running});
  std::string message;
  llvm::raw_string_ostream os(message);
  if (!cl::ParseCommandLineOptions(argc, argv, overview, &os)) {
    // One line, such as the unknown flag and what it may have been meant to be.
    llvm::SmallVector<StringRef> lines;
    StringRef(os.str()).rtrim().split(lines, '\n');
    for (StringRef &line : lines)
      (void)line.consume_front("moe-run: ");
    std::string text = llvm::join(lines, " ");
    // What is wrong with a value was printed already.
    return makeError(Status::CommandLine, text.empty() ? "see moe-run --help" : text);
  }
  Options options;
  options.package = flags.package;
  options.weights = flags.weights;
  options.entry = flags.entry;
  options.inputs = flags.inputs;
  options.traceRouting = flags.traceRouting;
  options.output = flags.output;
  options.expect = flags.expect;
  if (flags.syntheticWeights.getNumOccurrences())
    options.syntheticWeights = flags.syntheticWeights;
  if (flags.populate)
    options.openFlags |= MOEC_OPEN_POPULATE;
  if (flags.hugePages)
    options.openFlags |= MOEC_OPEN_HUGE_PAGES;
  if (flags.rtol.getNumOccurrences())
    options.rtol = flags.rtol;
  if (flags.atol.getNumOccurrences())
    options.atol = flags.atol;
  options.time = flags.time;
  options.profile = flags.profile;
  options.json = flags.json;
  options.threads = flags.threads;
  options.repetitions = flags.repetitions;
  if (Error error = parseDevice(flags.device, options))
    return std::move(error);
  for (const std::string &text : flags.dims)
    if (Error error = parseDim(text, options))
      return std::move(error);
  if (Error error = checkOptions(options))
    return std::move(error);
  return options;
}
