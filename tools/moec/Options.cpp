// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The command line of moec.

#include "Options.h"

#include "moec/Frontend/ONNX/Importer.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/WithColor.h"

using namespace mlir::moe;
namespace cl = llvm::cl;

// libLLVM registered options of its own ("threads" among them) when it was loaded;
// moec's replace them. Initializers of one file run in order.
static const bool ownOptionsOnly = (cl::ResetCommandLineParser(), true);

static cl::OptionCategory outputs("Output"), targets("Target"), models("Model"),
    inspection("Looking inside");

static cl::opt<std::string> input(cl::Positional, cl::Required,
                                  cl::desc("model.onnx | phase.mlir"));
static cl::opt<std::string> output("o", cl::desc("Package folder (default: NAME.moec)"),
                                   cl::value_desc("NAME.moec"), cl::cat(outputs));
static cl::opt<std::string> report("report", cl::desc("Write what was found and decided as JSON"),
                                   cl::value_desc("file"), cl::cat(outputs));
static cl::opt<std::string> target("target", cl::desc("cpu"), cl::init("cpu"), cl::cat(targets));
static cl::opt<std::string> cpu("cpu", cl::init("native"), cl::cat(targets),
                                cl::desc("native, x86-64-v3, x86-64-v4, sapphirerapids, …"));
static cl::opt<unsigned> level("O", cl::Prefix, cl::init(3), cl::cat(targets),
                               cl::value_desc("0-3"),
                               cl::desc("0: reference loops; 1 to 3: CPU kernels (default: 3)"));
static cl::opt<Threads>
    threads("threads", cl::init(Threads::OpenMP), cl::cat(targets),
            cl::desc("Who runs parallel work"),
            cl::values(clEnumValN(Threads::OpenMP, "openmp", "the OpenMP runtime (default)"),
                       clEnumValN(Threads::None, "none", "the calling thread alone"),
                       clEnumValN(Threads::Custom, "custom", "a function that the program gives")));
static cl::list<std::string> dims("dim", cl::desc("Give a symbolic dimension a size"),
                                  cl::value_desc("name=size"), cl::cat(models));
static cl::list<std::string> keep("keep", cl::desc("Add an internal tensor as an output"),
                                  cl::value_desc("tensor"), cl::cat(models));
static cl::opt<std::string>
    modelFolder("model-dir", cl::value_desc("folder"), cl::cat(models),
                cl::desc("Where weight files lie (default: beside the input)"));
static cl::opt<std::string>
    compileTo("compile-to", cl::value_desc("phase"), cl::cat(inspection),
              cl::desc("Stop after a phase and write its IR to -o or stdout"));
static cl::opt<std::string>
    dumpFolder("dump-phases", cl::value_desc("folder"), cl::cat(inspection),
               cl::desc("Write the IR after each phase; each file can be compiled further"));
static cl::opt<bool> verifyEach("verify-each", cl::desc("Verify the IR after each pass"),
                                cl::cat(inspection));
static cl::opt<bool> remarks("remarks",
                             cl::desc("Print remarks, such as why a block was not raised"),
                             cl::cat(inspection));

bool mlir::moe::parseOptions(int argc, char **argv, CompileOptions &options) {
  cl::HideUnrelatedOptions({&outputs, &targets, &models, &inspection});
  cl::SetVersionPrinter([](llvm::raw_ostream &os) { os << getVersionText() << "\n"; });
  std::string phaseHelp = getPhaseHelp();
  cl::extrahelp phases(phaseHelp);
  cl::ParseCommandLineOptions(argc, argv, "moec: Mixture-of-Experts models to CPU libraries\n");
  options.input = input;
  options.output = output;
  options.reportFile = report;
  options.target = target;
  options.cpu = cpu;
  options.optLevel = level;
  options.threads = threads;
  options.keep.assign(keep.begin(), keep.end());
  options.modelFolder = modelFolder;
  options.compileTo = compileTo;
  options.dumpFolder = dumpFolder;
  options.verifyEach = verifyEach;
  options.remarks = remarks;
  for (const std::string &text : dims) {
    auto dim = parseDimOption(text);
    if (!dim) {
      llvm::WithColor::error(llvm::errs(), "moec")
          << "--dim needs name=size, got '" << text << "'\n";
      return false;
    }
    options.dims.push_back(*dim);
  }
  return true;
}
