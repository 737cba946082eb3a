// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe-translate: ONNX to MLIR, MLIR to LLVM IR.

#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/IR/AsmState.h"
#include "mlir/InitAllTranslations.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Tools/mlir-translate/MlirTranslateMain.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/ToolOutputFile.h"

using namespace mlir;
namespace cl = llvm::cl;

/// Imports a model. Not one of the registered translations, since those are given
/// a buffer with the whole file, and a model may be larger than the memory.
static LogicalResult importModel(int argc, char **argv) {
  cl::opt<bool> import("import-onnx", cl::desc("Import an ONNX model"));
  cl::opt<std::string> input(cl::Positional, cl::Required, cl::desc("<model.onnx>"));
  cl::opt<std::string> output("o", cl::desc("Output file"), cl::init("-"), cl::value_desc("file"));
  cl::list<std::string> dims("dim", cl::desc("Size of a symbolic dimension"),
                             cl::value_desc("name=size"));
  cl::list<std::string> keep("keep", cl::desc("Value to add as an output"), cl::value_desc("name"));
  registerAsmPrinterCLOptions();
  cl::ParseCommandLineOptions(argc, argv, "moec: ONNX to MLIR\n");

  moe::ImportOptions options;
  options.keep = keep;
  for (const std::string &text : dims) {
    auto dim = moe::parseDimOption(text);
    if (!dim) {
      llvm::errs() << "--dim=" << text << ": expected name=size\n";
      return failure();
    }
    options.dims.push_back(*dim);
  }
  MLIRContext context;
  context.printOpOnDiagnostic(false);
  llvm::SourceMgr sources;
  SourceMgrDiagnosticHandler handler(sources, &context);
  OwningOpRef<ModuleOp> module = moe::importONNX(input, &context, options);
  if (!module)
    return failure();
  std::string error;
  std::unique_ptr<llvm::ToolOutputFile> file = openOutputFile(output, &error);
  if (!file) {
    llvm::errs() << error << "\n";
    return failure();
  }
  module->print(file->os());
  file->keep();
  return success();
}

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  for (int i = 1; i < argc; ++i)
    if (StringRef(argv[i]).ltrim('-') == "import-onnx")
      return failed(importModel(argc, argv));
  registerAllTranslations();
  return failed(
      mlirTranslateMain(argc, argv, "moec translation tool (--import-onnx --help: ONNX models)"));
}
