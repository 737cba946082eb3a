// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe-opt: runs passes on a .mlir or .onnx file.

#include "moec/Frontend/ONNX/Importer.h"
#include "moec/InitAll.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/ToolOutputFile.h"

using namespace mlir;

/// Runs the passes of the command line on an ONNX model.
static LogicalResult optimizeModel(StringRef inputName, StringRef outputName,
                                   DialectRegistry &registry) {
  std::unique_ptr<llvm::MemoryBuffer> text = moe::importONNXAsText(inputName, registry);
  if (!text)
    return failure();
  std::string error;
  std::unique_ptr<llvm::ToolOutputFile> output = openOutputFile(outputName, &error);
  if (!output) {
    llvm::errs() << error << "\n";
    return failure();
  }
  if (failed(MlirOptMain(output->os(), std::move(text), registry,
                         MlirOptMainConfig::createFromCLOptions())))
    return failure();
  output->keep();
  return success();
}

int main(int argc, char **argv) {
  llvm::InitLLVM initialize(argc, argv);
  registerAllPasses();
  moe::registerAllPasses();
  DialectRegistry registry;
  registerAllDialects(registry);
  registerAllExtensions(registry);
  moe::registerAllDialects(registry);
  auto [inputName, outputName] =
      registerAndParseCLIOptions(argc, argv, "moec pass driver (.mlir or .onnx)\n", registry);
  if (moe::isONNXFileName(inputName))
    return asMainReturnCode(optimizeModel(inputName, outputName, registry));
  return asMainReturnCode(MlirOptMain(argc, argv, inputName, outputName, registry));
}
