// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --emit=onnx: the model's file and the file of its weights.

#include "Compilation.h"
#include "Package.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Frontend/ONNX/Exporter.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

using namespace mlir;
using namespace mlir::moe;
namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

/// The model and the files of its weights must not be replaced by what is made of them.
static LogicalResult checkTarget(Compilation &compilation, StringRef target) {
  auto fail = [&](const Twine &what) {
    return compilation.fail(CompileStatus::Usage,
                            "'" + target + "' " + what + "; choose another -o");
  };
  if (!fs::exists(target))
    return success();
  if (!fs::is_regular_file(target))
    return fail("exists and is not a file");
  SmallVector<std::string> inputs = {compilation.options.input};
  for (WeightOp weight : compilation.module->getOps<WeightOp>())
    weight.getSources().walk([&](SegmentAttr source) {
      SmallString<128> file(compilation.options.modelFolder);
      path::append(file, source.getFile().getValue());
      if (inputs.back() != file)
        inputs.push_back(file.str().str());
    });
  for (const std::string &input : inputs)
    if (fs::equivalent(input, target))
      return fail("is a file of the model");
  return success();
}

LogicalResult mlir::moe::writeONNXModel(Compilation &compilation) {
  std::string modelPath = compilation.outputPath, dataPath = modelPath + ".data";
  std::string modelName = path::filename(modelPath).str(), dataName = modelName + ".data";
  if (failed(checkTarget(compilation, modelPath)) || failed(checkTarget(compilation, dataPath)))
    return failure();
  FailureOr<ExportedModel> model = exportONNX(*compilation.module, dataName);
  if (failed(model))
    return failure();
  auto folder = PackageFolder::createBeside(modelPath);
  if (!folder)
    return compilation.fail(CompileStatus::Output, folder.takeError());

  SmallVector<std::string> files;
  if (!model->weights.empty()) {
    files.push_back(dataName);
    bool sourceFailed;
    auto progress = [&](uint64_t done, uint64_t all) {
      return succeeded(compilation.advance(done, all));
    };
    llvm::Error error = writeExternalData(*model, compilation.options.modelFolder,
                                          folder->getPath(dataName), sourceFailed, progress);
    if (compilation.interrupted) {
      consumeError(std::move(error));
      return failure();
    }
    if (error)
      return compilation.fail(sourceFailed ? CompileStatus::BadModel : CompileStatus::Output,
                              std::move(error));
  }
  files.push_back(modelName);
  if (llvm::Error error = folder->writeFile(modelName, model->bytes))
    return compilation.fail(CompileStatus::Output, std::move(error));
  // The last chance to stop.
  if (failed(compilation.advance()))
    return failure();
  if (llvm::Error error = folder->commitFiles(files))
    return compilation.fail(CompileStatus::Output, std::move(error));
  compilation.weightsBytes = model->dataBytes;
  return success();
}
