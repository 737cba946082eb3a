// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.load_weight on buffers: a view of the mapped weights file.

#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Utils/IndexingUtils.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::bufferization;

namespace {

/// Row-major strides in elements, with the experts `expertStride` bytes apart.
FailureOr<MemRefType> getWeightType(WeightOp weight) {
  RankedTensorType tensor = weight.getTensorType();
  std::optional<int64_t> expertStride = weight.getExpertStride();
  if (!expertStride || tensor.getRank() == 0)
    return MemRefType::get(tensor.getShape(), tensor.getElementType());

  int64_t bytes = llvm::divideCeil(tensor.getElementTypeBitWidth(), 8);
  if (*expertStride % bytes != 0)
    return weight.emitOpError("expert_stride ")
           << *expertStride << " is not a multiple of the element size, " << bytes << " bytes";
  SmallVector<int64_t> strides = computeSuffixProduct(tensor.getShape());
  strides[0] = *expertStride / bytes;
  auto layout = StridedLayoutAttr::get(weight.getContext(), /*offset=*/0, strides);
  return MemRefType::get(tensor.getShape(), tensor.getElementType(), layout);
}

struct LoadWeightModel : BufferizableOpInterface::ExternalModel<LoadWeightModel, LoadWeightOp> {
  bool bufferizesToAllocation(Operation *, Value) const { return false; }

  // The file is mapped read-only.
  bool isWritable(Operation *, Value, const AnalysisState &) const { return false; }

  AliasingOpOperandList getAliasingOpOperands(Operation *, Value, const AnalysisState &) const {
    return {};
  }

  FailureOr<BufferLikeType> getBufferType(Operation *op, Value, const BufferizationOptions &,
                                          const BufferizationState &, SmallVector<Value> &) const {
    auto load = cast<LoadWeightOp>(op);
    auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(op, load.getWeightAttr());
    if (!weight)
      return failure();
    FailureOr<MemRefType> type = getWeightType(weight);
    if (failed(type))
      return failure();
    return cast<BufferLikeType>(*type);
  }

  LogicalResult bufferize(Operation *op, RewriterBase &rewriter,
                          const BufferizationOptions &options, BufferizationState &state) const {
    auto load = cast<LoadWeightOp>(op);
    auto func = op->getParentOfType<func::FuncOp>();
    Value weights = func ? getMarkedArgument(func, kWeightsAttr) : Value();
    if (!weights)
      return op->emitOpError("is not in a function with an argument marked ") << kWeightsAttr;
    FailureOr<BufferLikeType> type = bufferization::getBufferType(load.getResult(), options, state);
    if (failed(type))
      return failure();
    replaceOpWithNewBufferizedOp<WeightBufferOp>(rewriter, op, *type, weights,
                                                 load.getWeightAttr());
    return success();
  }
};

} // namespace

void moe::registerWeightBufferization(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, MoEDialect *) {
    LoadWeightOp::attachInterface<LoadWeightModel>(*context);
  });
}
