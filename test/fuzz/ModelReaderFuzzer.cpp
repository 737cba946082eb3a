// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Any bytes as an ONNX file: wire format and model reader.

#include "Fuzz.h"

#include "moec/Frontend/ONNX/ModelReader.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::fuzz;

/// Payloads of every size are cut out: all lie inside the data.
static void checkSlimModel(llvm::StringRef data) {
  llvm::Expected<SlimModel> slim = makeSlimModel(data, /*threshold=*/8);
  if (!slim) {
    llvm::consumeError(slim.takeError());
    return;
  }
  for (const PayloadRange &range : slim->payloads)
    require(range.offset <= data.size() && range.length <= data.size() - range.offset,
            "a payload lies outside of the file");
}

namespace {
class Checker {
public:
  Checker(const Model &model, const ModelFolder &folder, MLIRContext &context)
      : model(model), folder(folder), context(context) {}

  void check(const ModelGraph &graph) {
    for (const ModelTensor &tensor : graph.initializers)
      check(tensor);
    for (const ModelSparseTensor &tensor : graph.sparseInitializers)
      check(tensor);
    for (const ModelNode &node : graph.nodes)
      check(node);
  }
  void check(const ModelNode &node) {
    for (const ModelAttribute &attribute : node.attributes)
      check(attribute);
  }
  void check(const ModelAttribute &attribute) {
    for (const ModelTensor &tensor : attribute.tensors)
      check(tensor);
    for (const ModelSparseTensor &tensor : attribute.sparse)
      check(tensor);
    if (attribute.graph)
      check(*attribute.graph);
  }

private:
  void check(const ModelSparseTensor &tensor) {
    check(tensor.values);
    check(tensor.indices);
  }
  /// Elements can be loaded, are as many as was promised, and are not from
  /// outside of the folder.
  void check(const ModelTensor &tensor) {
    if (!tensor.file.empty())
      folder.checkInside(tensor.file);
    if (tensor.getNumBytes() > (1 << 20))
      return;
    FailureOr<std::string> bytes = loadTensor(model, tensor, &context);
    require(succeeded(bytes) && bytes->size() == tensor.getNumBytes(),
            "tensor '" + tensor.name + "' cannot be loaded");
  }

  const Model &model;
  const ModelFolder &folder;
  MLIRContext &context;
};
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static ModelFolder folder;
  llvm::StringRef bytes(reinterpret_cast<const char *>(data), size);
  checkSlimModel(bytes);

  MLIRContext context(MLIRContext::Threading::DISABLED);
  Errors errors(context);
  FailureOr<Model> model = readModel(folder.write(bytes), &context);
  errors.check(succeeded(model), "reading");
  require(errors.count() <= 1, "the reader reports more than one error");
  if (failed(model))
    return 0;
  Checker checker(*model, folder, context);
  checker.check(model->graph);
  for (const ModelFunction &function : model->functions) {
    for (const ModelNode &node : function.nodes)
      checker.check(node);
    for (const ModelAttribute &attribute : function.defaults)
      checker.check(attribute);
  }
  return 0;
}
