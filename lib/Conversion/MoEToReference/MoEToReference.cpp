// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-to-reference: the pass, and what its patterns share.

#include "moec/Conversion/MoEToReference/MoEToReference.h"

#include "Patterns.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Func/Transforms/FuncConversions.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOREFERENCEPASS
#include "moec/Conversion/MoEToReference/MoEToReference.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

//===----------------------------------------------------------------------===//
// What patterns share
//===----------------------------------------------------------------------===//

Routing reference::routingOf(Value original, ValueRange converted) {
  auto type = cast<RoutingType>(original.getType());
  return {converted[0], type.getWeighted() ? converted[1] : Value(), type.getExperts(),
          type.getK()};
}

Value reference::castTo(ReferenceBuilder &b, Value tensor, Type type) {
  return tensor.getType() == type ? tensor : tensor::CastOp::create(b, type, tensor).getResult();
}

SmallVector<Value> reference::valuesOf(ReferenceBuilder &b, const Routing &routing) {
  auto typeOf = [&](Type element) {
    return RankedTensorType::get({ShapedType::kDynamic, routing.experts}, element);
  };
  SmallVector<Value> values = {castTo(b, routing.slots, typeOf(b.getI32Type()))};
  if (routing.weights)
    values.push_back(castTo(b, routing.weights, typeOf(b.getF32Type())));
  return values;
}

void reference::replaceTensor(ConversionPatternRewriter &rewriter, ReferenceBuilder &b,
                              Operation *op, Value value) {
  b.setInsertionPoint(op);
  rewriter.replaceOp(op, castTo(b, value, op->getResult(0).getType()));
}

void reference::replaceRouting(ConversionPatternRewriter &rewriter, ReferenceBuilder &b,
                               Operation *op, const Routing &routing) {
  rewriter.replaceOpWithMultiple(op, {valuesOf(b, routing)});
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct MoEToReferencePass : moe::impl::MoEToReferencePassBase<MoEToReferencePass> {
  void runOnOperation() override {
    MLIRContext *context = &getContext();
    TypeConverter converter;
    addReferenceTypeConversions(converter);
    RewritePatternSet patterns(context);
    populateMoEToReferencePatterns(converter, patterns);

    ConversionTarget target(*context);
    target.addIllegalOp<LogitsOp, ScoreOp, SelectOp, GivenOp, EntriesOp, WeighOp, FilterOp,
                        CapacityOp, ComposeOp, TreeSelectOp, BlendOp, RemapOp, GatingOp, DispatchOp,
                        GroupedMatmulOp, LinearOp, ActivateOp, ExpertFFNOp, CombineOp, ExpertsOp,
                        SharedOp, DequantizeOp, AuxOp, BiasUpdateOp>();
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    // Routings that cross functions and structured control flow.
    populateFunctionOpInterfaceTypeConversionPattern<func::FuncOp>(patterns, converter);
    populateReturnOpTypeConversionPattern(patterns, converter);
    populateCallOpTypeConversionPattern(patterns, converter);
    scf::populateSCFStructuralTypeConversionsAndLegality(converter, patterns, target);
    target.addDynamicallyLegalOp<func::FuncOp>([&](func::FuncOp func) {
      return converter.isSignatureLegal(func.getFunctionType()) &&
             converter.isLegal(&func.getBody());
    });
    target.addDynamicallyLegalOp<func::ReturnOp, func::CallOp>(
        [&](Operation *op) { return converter.isLegal(op); });

    ConversionConfig config;
    config.allowPatternRollback = false;
    if (failed(applyPartialConversion(getOperation(), target, std::move(patterns), config)))
      signalPassFailure();
  }
};

} // namespace

void moe::addReferenceTypeConversions(TypeConverter &converter) {
  converter.addConversion([](Type type) { return type; });
  converter.addConversion([](RoutingType type, SmallVectorImpl<Type> &types) {
    int64_t shape[] = {ShapedType::kDynamic, type.getExperts()};
    types.push_back(RankedTensorType::get(shape, IntegerType::get(type.getContext(), 32)));
    if (type.getWeighted())
      types.push_back(RankedTensorType::get(shape, Float32Type::get(type.getContext())));
    return success();
  });
}

void moe::populateMoEToReferencePatterns(const TypeConverter &converter,
                                         RewritePatternSet &patterns) {
  populateRoutingPatterns(converter, patterns);
  populateExpertPatterns(converter, patterns);
  populateAuxiliaryPatterns(converter, patterns);
  populateRecordPatterns(converter, patterns);
}
