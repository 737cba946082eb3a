// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-to-llvm: the last operations of the moe dialect.

#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/Pattern.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Transforms/DialectConversion.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOLLVM
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

LLVM::GlobalOp mlir::moe::getCheckMessage(CheckOp op, OpBuilder &builder) {
  auto module = op->getParentOfType<ModuleOp>();
  auto value = builder.getStringAttr(op.getMessage() + StringRef("\0", 1));
  unsigned count = 0;
  for (auto global : module.getOps<LLVM::GlobalOp>()) {
    if (!global.getSymName().starts_with("moec_message_"))
      continue;
    if (global.getValueAttr() == value)
      return global;
    ++count;
  }
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(module.getBody());
  auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), value.size());
  return LLVM::GlobalOp::create(builder, op.getLoc(), type, /*isConstant=*/true,
                                LLVM::Linkage::Internal, ("moec_message_" + Twine(count)).str(),
                                value);
}

namespace {

struct WeightBufferLowering : ConvertOpToLLVMPattern<WeightBufferOp> {
  using ConvertOpToLLVMPattern::ConvertOpToLLVMPattern;
  LogicalResult matchAndRewrite(WeightBufferOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    auto type = dyn_cast<MemRefType>(op.getType());
    if (!type || !type.hasStaticShape())
      return rewriter.notifyMatchFailure(op, "not of static shape");
    auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(op, op.getWeightAttr());
    if (!weight || !weight.getOffset())
      return op.emitOpError("weight has no planned offset; run --plan-weights");
    Value base = adaptor.getWeights();
    Value address =
        LLVM::GEPOp::create(rewriter, op.getLoc(), base.getType(), rewriter.getI8Type(), base,
                            LLVM::ConstantOp::create(rewriter, op.getLoc(), rewriter.getI64Type(),
                                                     static_cast<int64_t>(*weight.getOffset()))
                                .getResult());
    rewriter.replaceOp(op, {MemRefDescriptor::fromStaticShape(rewriter, op.getLoc(),
                                                              *getTypeConverter(), type, address)});
    return success();
  }
};

/// Calls of runtime functions.
template <typename OpTy> struct RuntimeCall : ConvertOpToLLVMPattern<OpTy> {
  using ConvertOpToLLVMPattern<OpTy>::ConvertOpToLLVMPattern;
  using ConvertOpToLLVMPattern<OpTy>::getVoidType;

  FailureOr<LLVM::CallOp> call(OpTy op, StringRef name, ValueRange arguments, Type result,
                               ConversionPatternRewriter &rewriter) const {
    auto module = op->template getParentOfType<ModuleOp>();
    FailureOr<LLVM::LLVMFuncOp> function = LLVM::lookupOrCreateFn(
        rewriter, module, name, llvm::to_vector(arguments.getTypes()), result);
    if (failed(function))
      return rewriter.notifyMatchFailure(op, "cannot declare the runtime function");
    return LLVM::CallOp::create(rewriter, op.getLoc(), *function, arguments);
  }
};

struct NumWorkersLowering : RuntimeCall<NumWorkersOp> {
  using RuntimeCall::RuntimeCall;
  LogicalResult matchAndRewrite(NumWorkersOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    FailureOr<LLVM::CallOp> workers =
        call(op, "moec_num_workers", adaptor.getCall(), rewriter.getI32Type(), rewriter);
    if (failed(workers))
      return failure();
    rewriter.replaceOpWithNewOp<LLVM::ZExtOp>(op, getIndexType(), workers->getResult());
    return success();
  }
};

struct ProfileMarkLowering : RuntimeCall<ProfileMarkOp> {
  using RuntimeCall::RuntimeCall;
  LogicalResult matchAndRewrite(ProfileMarkOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value region = LLVM::ConstantOp::create(rewriter, op.getLoc(), rewriter.getI32Type(),
                                            static_cast<int32_t>(op.getRegion()));
    if (failed(call(op, "moec_profile_mark", {adaptor.getCall(), region}, getVoidType(), rewriter)))
      return failure();
    rewriter.eraseOp(op);
    return success();
  }
};

struct AllocateLowering : RuntimeCall<AllocateOp> {
  using RuntimeCall::RuntimeCall;
  LogicalResult matchAndRewrite(AllocateOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    FailureOr<LLVM::CallOp> memory =
        call(op, "moec_allocate", {adaptor.getCall(), adaptor.getSize()},
             adaptor.getCall().getType(), rewriter);
    if (failed(memory))
      return failure();
    Type type = getTypeConverter()->convertType(op.getType());
    auto descriptor = MemRefDescriptor::poison(rewriter, op.getLoc(), type);
    descriptor.setAllocatedPtr(rewriter, op.getLoc(), memory->getResult());
    descriptor.setAlignedPtr(rewriter, op.getLoc(), memory->getResult());
    descriptor.setConstantOffset(rewriter, op.getLoc(), 0);
    descriptor.setSize(rewriter, op.getLoc(), 0, adaptor.getSize());
    descriptor.setConstantStride(rewriter, op.getLoc(), 0, 1);
    rewriter.replaceOp(op, Value(descriptor));
    return success();
  }
};

struct ReleaseLowering : RuntimeCall<ReleaseOp> {
  using RuntimeCall::RuntimeCall;
  LogicalResult matchAndRewrite(ReleaseOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Value memory = MemRefDescriptor(adaptor.getMemory()).allocatedPtr(rewriter, op.getLoc());
    if (failed(call(op, "moec_release", {adaptor.getCall(), memory}, getVoidType(), rewriter)))
      return failure();
    rewriter.eraseOp(op);
    return success();
  }
};

struct CheckLowering : RuntimeCall<CheckOp> {
  using RuntimeCall::RuntimeCall;
  LogicalResult matchAndRewrite(CheckOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    LLVM::GlobalOp text = getCheckMessage(op, rewriter);
    Value message = LLVM::AddressOfOp::create(rewriter, op.getLoc(), text);
    StringRef function = op->hasAttr(kEndsCallAttr) ? "moec_require" : "moec_check";
    FailureOr<LLVM::CallOp> check =
        call(op, function, {adaptor.getCall(), adaptor.getCondition(), message}, getVoidType(),
             rewriter);
    if (failed(check))
      return failure();
    // C's _Bool travels zero-extended; the callee relies on it.
    auto callee =
        SymbolTable::lookupNearestSymbolFrom<LLVM::LLVMFuncOp>(op, check->getCalleeAttr());
    callee.setArgAttr(1, LLVM::LLVMDialect::getZExtAttrName(), rewriter.getUnitAttr());
    NamedAttribute zext(LLVM::LLVMDialect::getZExtAttrName(), rewriter.getUnitAttr());
    auto empty = rewriter.getDictionaryAttr({});
    check->setArgAttrsAttr(rewriter.getArrayAttr({empty, rewriter.getDictionaryAttr(zext), empty}));
    rewriter.eraseOp(op);
    return success();
  }
};

struct MoEToLLVMPass : moe::impl::MoEToLLVMBase<MoEToLLVMPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<func::FuncOp> functions(module.getOps<func::FuncOp>());
    for (func::FuncOp func : functions)
      if (func->hasAttr(kEntryAttr) && failed(makeEntryWrappers(func)))
        return signalPassFailure();
    for (func::FuncOp func : functions)
      makeInternal(func);
    eraseIdleMarks(module);
    if (failed(lowerOperations(module)))
      signalPassFailure();
  }

  /// A mark after which nothing happens before the next one.
  static void eraseIdleMarks(ModuleOp module) {
    module.walk([](ProfileMarkOp mark) {
      Operation *next = mark->getNextNode();
      while (next && !next->hasTrait<OpTrait::IsTerminator>() && isMemoryEffectFree(next))
        next = next->getNextNode();
      auto other = dyn_cast_or_null<ProfileMarkOp>(next);
      if (other && other.getCall() == mark.getCall())
        mark.erase();
    });
  }

  static void makeInternal(func::FuncOp func) {
    func->removeAttr(kEntryAttr);
    if (func.isDeclaration() || func.isPublic())
      return;
    func->setAttr("llvm.linkage",
                  LLVM::LinkageAttr::get(func.getContext(), LLVM::Linkage::Internal));
    func.removeArgAttrsAttr();
  }

  static LogicalResult lowerOperations(ModuleOp module) {
    MLIRContext *context = module.getContext();
    LLVMTypeConverter types(context);
    RewritePatternSet patterns(context);
    populateMoEToLLVMPatterns(types, patterns);
    ConversionTarget target(*context);
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    target.addIllegalDialect<MoEDialect>();
    target.addLegalOp<WeightOp>();
    return applyPartialConversion(module, target, std::move(patterns));
  }
};

} // namespace

void moe::populateMoEToLLVMPatterns(const LLVMTypeConverter &converter,
                                    RewritePatternSet &patterns) {
  patterns.add<WeightBufferLowering, NumWorkersLowering, ProfileMarkLowering, CheckLowering,
               AllocateLowering, ReleaseLowering>(converter);
}
