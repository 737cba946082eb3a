// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe-translate: ONNX to MLIR and back, MLIR to LLVM IR.

#include "moec/Compiler/Compiler.h"
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

/// Writes a model: what `moec --emit=onnx` does.
static LogicalResult exportModel(int argc, char **argv) {
  cl::opt<bool> write("export-onnx", cl::desc("Write an ONNX model"));
  cl::opt<std::string> input(cl::Positional, cl::Required, cl::desc("<phase.mlir>"));
  cl::opt<std::string> output("o", cl::desc("Output file (default: NAME.moec.onnx)"),
                              cl::value_desc("file"));
  cl::opt<std::string> folder("model-dir", cl::desc("Where weight files lie"),
                              cl::value_desc("folder"));
  cl::opt<std::string> weights("weights", cl::desc("Safetensors file with named weights"),
                               cl::value_desc("file"));
  cl::ParseCommandLineOptions(argc, argv, "moec: MLIR to ONNX\n");

  moe::CompileOptions options;
  options.emit = moe::Emit::ONNX;
  options.input = input;
  options.output = output;
  options.modelFolder = folder;
  options.weightsFile = weights;
  return success(moe::compile(options).status == moe::CompileStatus::Success);
}

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  for (int i = 1; i < argc; ++i) {
    StringRef flag = StringRef(argv[i]).ltrim('-');
    if (flag == "import-onnx")
      return failed(importModel(argc, argv));
    if (flag == "export-onnx")
      return failed(exportModel(argc, argv));
  }
  registerAllTranslations();
  return failed(mlirTranslateMain(
      argc, argv,
      "moec translation tool (--import-onnx --help, --export-onnx --help: ONNX models)"));
}
