// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --parallel-to-runtime: outlines parallel loops.

#include "moec/Conversion/ParallelToRuntime/ParallelToRuntime.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/FunctionCallUtils.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/RegionUtils.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PARALLELTORUNTIME
#include "moec/Conversion/ParallelToRuntime/ParallelToRuntime.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

LogicalResult checkLoop(scf::ParallelOp loop) {
  if (loop.getNumLoops() != 1)
    return loop.emitOpError("has more than one dimension: not supported");
  if (loop.getNumResults() != 0)
    return loop.emitOpError("has reductions: not supported");
  auto func = loop->getParentOfType<func::FuncOp>();
  if (!func || !getMarkedArgument(func, kCallAttr))
    return loop.emitOpError("is in a function without an argument marked ") << kCallAttr;
  return success();
}

/// An inner parallel loop runs within its worker.
void makeSequential(scf::ParallelOp loop) {
  OpBuilder builder(loop);
  SmallVector<Value> ivs;
  for (auto [lower, upper, step] :
       llvm::zip(loop.getLowerBound(), loop.getUpperBound(), loop.getStep())) {
    auto sequential = scf::ForOp::create(builder, loop.getLoc(), lower, upper, step);
    ivs.push_back(sequential.getInductionVar());
    builder.setInsertionPointToStart(sequential.getBody());
  }
  IRMapping mapping;
  mapping.map(loop.getInductionVars(), ivs);
  for (Operation &op : loop.getBody()->without_terminator())
    builder.clone(op, mapping);
  loop.erase();
}

/// What of a memref a worker is told: the pointer and whatever its type does not say.
class MemRefParts {
public:
  /// Without sizes where only loads and stores follow, which need none.
  MemRefParts(MemRefType type, bool withSizes) : type(type), withSizes(withSizes) {
    legal = succeeded(type.getStridesAndOffset(strides, offset));
  }
  /// Of strided memrefs only.
  explicit operator bool() const { return legal; }

  void appendTypes(SmallVectorImpl<Type> &types) {
    MLIRContext *context = type.getContext();
    types.push_back(LLVM::LLVMPointerType::get(context));
    unsigned dynamic = ShapedType::isDynamic(offset) +
                       llvm::count_if(strides, ShapedType::isDynamic) +
                       (withSizes ? type.getNumDynamicDims() : 0);
    types.append(dynamic, IntegerType::get(context, 64));
  }

  /// The parts of a descriptor.
  void appendValues(OpBuilder &builder, Location loc, Value descriptor,
                    SmallVectorImpl<Value> &values) {
    MemRefDescriptor source(descriptor);
    values.push_back(source.alignedPtr(builder, loc));
    if (ShapedType::isDynamic(offset))
      values.push_back(source.offset(builder, loc));
    for (int64_t i = 0; i < type.getRank(); ++i) {
      if (withSizes && type.isDynamicDim(i))
        values.push_back(source.size(builder, loc, i));
      if (ShapedType::isDynamic(strides[i]))
        values.push_back(source.stride(builder, loc, i));
    }
  }

  /// A descriptor made of the parts, which it takes from the front of `values`.
  Value build(OpBuilder &builder, Location loc, Type descriptorType, ArrayRef<Value> &values) {
    auto take = [&] {
      Value value = values.front();
      values = values.drop_front();
      return value;
    };
    MemRefDescriptor result = MemRefDescriptor::poison(builder, loc, descriptorType);
    Value data = take();
    result.setAllocatedPtr(builder, loc, data);
    result.setAlignedPtr(builder, loc, data);
    if (ShapedType::isDynamic(offset))
      result.setOffset(builder, loc, take());
    else
      result.setConstantOffset(builder, loc, offset);
    for (int64_t i = 0; i < type.getRank(); ++i) {
      if (withSizes && type.isDynamicDim(i))
        result.setSize(builder, loc, i, take());
      else if (!type.isDynamicDim(i))
        result.setConstantSize(builder, loc, i, type.getDimSize(i));
      if (ShapedType::isDynamic(strides[i]))
        result.setStride(builder, loc, i, take());
      else
        result.setConstantStride(builder, loc, i, strides[i]);
    }
    return result;
  }

private:
  MemRefType type;
  bool withSizes;
  SmallVector<int64_t> strides;
  int64_t offset = 0;
  bool legal;
};

/// Whether something in `region` asks for more of a memref than its elements.
bool needsSizes(Value memref, Region &region) {
  return llvm::any_of(memref.getUsers(), [&](Operation *user) {
    return region.isAncestor(user->getParentRegion()) &&
           !isa<memref::LoadOp, memref::StoreOp, vector::LoadOp, vector::StoreOp>(user);
  });
}

class Outliner {
public:
  Outliner(ModuleOp module, SymbolTable &symbols)
      : module(module), symbols(symbols), types(module.getContext()),
        pointer(LLVM::LLVMPointerType::get(module.getContext())) {}

  LogicalResult outline(scf::ParallelOp loop) {
    loc = loop.getLoc();
    collectCaptures(loop);
    for (Value capture : captures)
      if (!types.convertType(capture.getType()))
        return loop.emitOpError("uses a value of type ")
               << capture.getType() << ", which cannot be passed to a worker";
    func::FuncOp body = makeBody(loop);
    FailureOr<LLVM::LLVMFuncOp> hook = getHook(loop);
    if (failed(hook))
      return failure();
    makeCall(loop, body, *hook);
    return success();
  }

private:
  /// Constants are cloned, everything else used from outside is captured. The
  /// bounds come first, since the body computes its iteration from them.
  void collectCaptures(scf::ParallelOp loop) {
    llvm::SetVector<Value> used;
    used.insert(loop.getLowerBound().front());
    used.insert(loop.getStep().front());
    getUsedValuesDefinedAbove(loop.getRegion(), used);
    captures.clear();
    constants.clear();
    sized.clear();
    for (Value value : used) {
      if (matchPattern(value, m_Constant()))
        constants.push_back(value);
      else
        captures.push_back(value);
    }
    SmallVector<Type> fields;
    for (Value capture : captures) {
      if (needsSizes(capture, loop.getRegion()))
        sized.insert(capture);
      if (auto parts = getParts(capture))
        parts->appendTypes(fields);
      else
        fields.push_back(types.convertType(capture.getType()));
    }
    contextType = LLVM::LLVMStructType::getLiteral(module.getContext(), fields);
  }

  /// The parts of a captured value, if it is a strided memref.
  std::optional<MemRefParts> getParts(Value capture) {
    auto type = dyn_cast<MemRefType>(capture.getType());
    if (!type)
      return std::nullopt;
    MemRefParts parts(type, sized.contains(capture));
    return parts ? std::optional(parts) : std::nullopt;
  }

  Value cast(OpBuilder &builder, Value value, Type type) {
    if (value.getType() == type)
      return value;
    return UnrealizedConversionCastOp::create(builder, loc, type, value).getResult(0);
  }

  Value getField(OpBuilder &builder, Value context, int32_t field) {
    return LLVM::GEPOp::create(builder, loc, pointer, contextType, context,
                               ArrayRef<LLVM::GEPArg>{0, field});
  }

  func::FuncOp makeBody(scf::ParallelOp loop) {
    auto parent = loop->getParentOfType<func::FuncOp>();
    OpBuilder builder(module.getContext());
    auto type = builder.getFunctionType({pointer, builder.getI64Type(), builder.getI32Type()}, {});
    auto body = func::FuncOp::create(builder, loc, (parent.getName() + "_body").str(), type);
    body.setPrivate();
    symbols.insert(body, std::next(parent->getIterator()));

    builder.setInsertionPointToStart(body.addEntryBlock());
    IRMapping mapping;
    for (Value constant : constants)
      builder.clone(*constant.getDefiningOp(), mapping);
    SmallVector<Value> fields;
    for (auto [i, type] : llvm::enumerate(contextType.getBody()))
      fields.push_back(
          LLVM::LoadOp::create(builder, loc, type, getField(builder, body.getArgument(0), i)));
    ArrayRef<Value> rest = fields;
    for (Value capture : captures) {
      Value value = rest.front();
      if (auto parts = getParts(capture))
        value = parts->build(builder, loc, types.convertType(capture.getType()), rest);
      else
        rest = rest.drop_front();
      mapping.map(capture, cast(builder, value, capture.getType()));
    }
    Type index = builder.getIndexType();
    Value task = arith::IndexCastOp::create(builder, loc, index, body.getArgument(1));
    Value worker = arith::IndexCastUIOp::create(builder, loc, index, body.getArgument(2));
    Value distance =
        arith::MulIOp::create(builder, loc, task, mapping.lookup(loop.getStep().front()));
    mapping.map(loop.getInductionVars().front(),
                arith::AddIOp::create(builder, loc, mapping.lookup(loop.getLowerBound().front()),
                                      distance));
    for (Operation &op : loop.getBody()->without_terminator())
      builder.clone(op, mapping);
    func::ReturnOp::create(builder, loc);
    body.walk([&](WorkerIdOp op) {
      op.replaceAllUsesWith(worker);
      op.erase();
    });
    return body;
  }

  FailureOr<LLVM::LLVMFuncOp> getHook(Operation *loop) {
    OpBuilder builder = OpBuilder::atBlockBegin(module.getBody());
    Type none = LLVM::LLVMVoidType::get(module.getContext());
    FailureOr<LLVM::LLVMFuncOp> hook =
        LLVM::lookupOrCreateFn(builder, module, "moec_parallel_for",
                               {pointer, builder.getI64Type(), pointer, pointer}, none);
    if (failed(hook))
      return loop->emitOpError("cannot declare moec_parallel_for");
    return hook;
  }

  /// ceil((upper - lower) / step), at least 0.
  Value getNumTasks(OpBuilder &builder, scf::ParallelOp loop) {
    Value range = arith::SubIOp::create(builder, loc, loop.getUpperBound().front(),
                                        loop.getLowerBound().front());
    Value zero = arith::ConstantIndexOp::create(builder, loc, 0);
    range = arith::MaxSIOp::create(builder, loc, range, zero);
    Value tasks = arith::CeilDivUIOp::create(builder, loc, range, loop.getStep().front());
    return arith::IndexCastOp::create(builder, loc, builder.getI64Type(), tasks);
  }

  void makeCall(scf::ParallelOp loop, func::FuncOp body, LLVM::LLVMFuncOp hook) {
    auto parent = loop->getParentOfType<func::FuncOp>();
    OpBuilder builder = OpBuilder::atBlockBegin(&parent.getBody().front());
    Value one = LLVM::ConstantOp::create(builder, loc, builder.getI64Type(), 1);
    Value context = LLVM::AllocaOp::create(builder, loc, pointer, contextType, one);
    builder.setInsertionPoint(loop);
    SmallVector<Value> fields;
    for (Value capture : captures) {
      Value value = cast(builder, capture, types.convertType(capture.getType()));
      if (auto parts = getParts(capture))
        parts->appendValues(builder, loc, value, fields);
      else
        fields.push_back(value);
    }
    for (auto [i, field] : llvm::enumerate(fields))
      LLVM::StoreOp::create(builder, loc, field, getField(builder, context, i));
    Value function = func::ConstantOp::create(builder, loc, body.getFunctionType(),
                                              FlatSymbolRefAttr::get(body.getNameAttr()));
    LLVM::CallOp::create(builder, loc, hook,
                         ValueRange{getMarkedArgument(parent, kCallAttr),
                                    getNumTasks(builder, loop), cast(builder, function, pointer),
                                    context});
    loop.erase();
  }

  ModuleOp module;
  SymbolTable &symbols;
  LLVMTypeConverter types;
  Type pointer;

  // Of the loop at hand.
  Location loc = UnknownLoc::get(module.getContext());
  SmallVector<Value> captures, constants;
  DenseSet<Value> sized; ///< Captured memrefs whose sizes the body needs.
  LLVM::LLVMStructType contextType;
};

struct ParallelToRuntimePass : moe::impl::ParallelToRuntimeBase<ParallelToRuntimePass> {
  void runOnOperation() override {
    SmallVector<scf::ParallelOp> inner, outer;
    // Post-order: innermost first, so that no inner loop outlives its parent.
    getOperation().walk([&](scf::ParallelOp loop) {
      (loop->getParentOfType<scf::ParallelOp>() ? inner : outer).push_back(loop);
    });
    for (scf::ParallelOp loop : inner) {
      if (loop.getNumResults() != 0) {
        loop.emitOpError("has reductions: not supported");
        return signalPassFailure();
      }
      makeSequential(loop);
    }
    SymbolTable symbols(getOperation());
    Outliner outliner(getOperation(), symbols);
    for (scf::ParallelOp loop : outer)
      if (failed(checkLoop(loop)) || failed(outliner.outline(loop)))
        return signalPassFailure();
    WalkResult rest = getOperation().walk([](WorkerIdOp op) {
      op.emitOpError("is not in a parallel loop");
      return WalkResult::interrupt();
    });
    if (rest.wasInterrupted())
      signalPassFailure();
  }
};

} // namespace
