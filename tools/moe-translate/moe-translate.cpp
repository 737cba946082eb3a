// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe-translate: ONNX to MLIR, MLIR to LLVM IR.

#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/InitAllTranslations.h"
#include "mlir/Tools/mlir-translate/MlirTranslateMain.h"
#include "mlir/Tools/mlir-translate/Translation.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/SourceMgr.h"

using namespace mlir;

static llvm::cl::list<std::string>
    dims("dim", llvm::cl::desc("Size of a symbolic dimension (--import-onnx)"),
         llvm::cl::value_desc("name=size"));
static llvm::cl::list<std::string>
    keep("keep", llvm::cl::desc("Value to add as an output (--import-onnx)"),
         llvm::cl::value_desc("name"));

static OwningOpRef<Operation *> importModel(llvm::SourceMgr &sources,
                                            MLIRContext *context) {
  // The file is mapped anew by name: external data is looked up beside it.
  StringRef path = sources.getMemoryBuffer(sources.getMainFileID())
                       ->getBufferIdentifier();
  moe::ImportOptions options;
  options.keep = keep;
  for (const std::string &text : dims) {
    auto dim = moe::parseDimOption(text);
    if (!dim) {
      emitError(UnknownLoc::get(context))
          << "--dim=" << text << ": expected name=size";
      return {};
    }
    options.dims.push_back(*dim);
  }
  if (path == "<stdin>") {
    emitError(UnknownLoc::get(context)) << "--import-onnx needs a file name";
    return {};
  }
  return moe::importONNX(path, context, options);
}

int main(int argc, char **argv) {
  registerAllTranslations();
  TranslateToMLIRRegistration import(
      "import-onnx", "import an ONNX model",
      [](llvm::SourceMgr &sources, MLIRContext *context) {
        return importModel(sources, context);
      });
  return failed(mlirTranslateMain(argc, argv, "moec translation tool"));
}
