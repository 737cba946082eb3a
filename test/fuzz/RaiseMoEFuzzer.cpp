// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Any bytes as an ONNX file: import, normalization, raising.

#include "Fuzz.h"

#include "moec/Conversion/RaiseMoE/RaiseMoE.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Dialect/ONNX/Transforms/Passes.h"
#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::fuzz;

static void checkSegments(ModuleOp module, const ModelFolder &folder) {
  module.walk([&](WeightOp weight) {
    for (Attribute source : weight.getSources())
      if (auto segment = dyn_cast<SegmentAttr>(source))
        folder.checkInside(segment.getFile().getValue());
  });
}

/// One pass of the compiler's phases; false on an error, which it must report.
static bool runPass(ModuleOp module, std::unique_ptr<Pass> pass) {
  Errors errors(*module.getContext());
  std::string name = pass->getArgument().str();
  PassManager passes(module.getContext(), ModuleOp::getOperationName());
  passes.addPass(std::move(pass));
  // An invalid result would be reported like an invalid model.
  passes.enableVerifier(false);
  bool succeeded = mlir::succeeded(passes.run(module));
  errors.check(succeeded, name);
  if (succeeded)
    require(mlir::succeeded(verify(module)), name + " made an invalid module");
  return succeeded;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static ModelFolder folder;
  // New for each input: types and attributes stay until the context goes.
  MLIRContext context(MLIRContext::Threading::DISABLED);
  context.printOpOnDiagnostic(false);

  OwningOpRef<ModuleOp> module;
  {
    Errors errors(context);
    module = importONNX(folder.write(llvm::StringRef(reinterpret_cast<const char *>(data), size)),
                        &context);
    errors.check(bool(module), "import");
    require(errors.count() <= 1, "import reports more than one error");
  }
  if (!module)
    return 0;
  checkSegments(*module, folder);
  if (!runPass(*module, createNormalizeONNXPass()) || !runPass(*module, createRaiseMoE()) ||
      !runPass(*module, createCanonicalizerPass()) || !runPass(*module, createCSEPass()))
    return 0;
  checkRoundTrip(*module);
  return 0;
}
