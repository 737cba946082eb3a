// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/MoEToONNX/MoEToONNX.h"

#include "Experts.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/TypeSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOONNX
#include "moec/Conversion/MoEToONNX/MoEToONNX.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Writes one function. Old ops stay until all are written, so that what an op was
/// made for can still be seen.
class Writer {
public:
  Writer(func::FuncOp function, StringRef category)
      : function(function), category(category), builder(function.getContext()),
        routings(builder, written, [this](Value size) { return getSize(size); }) {}

  LogicalResult run();
  unsigned numContrib = 0, numStandard = 0;

private:
  LogicalResult write(Operation *op);
  Value writeTensor(Operation *op);
  FailureOr<Value> writeLogits(LogitsOp op);
  FailureOr<Value> writeBlock(ExpertsOp op);
  FailureOr<Value> writeCounts(AuxOp op);
  LogicalResult writeEntries(EntriesOp op);
  void replace(Value result, Value other);
  Value writeReshape(Operation *op, llvm::function_ref<Value(int64_t)> getSizeOf);
  Value getProduct(Value tensor, ArrayRef<int64_t> dims);
  Value getSize(OpFoldResult size);
  Value get(Value value) const { return written.lookupOrDefault(value); }
  void replaceAll();

  func::FuncOp function;
  StringRef category;
  OpBuilder builder;
  IRMapping written;
  RoutingWriter routings;
  SmallVector<Operation *> old;
};

} // namespace

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

/// A size as int64 [1].
Value Writer::getSize(OpFoldResult size) {
  if (auto attribute = dyn_cast<Attribute>(size)) {
    GraphBuilder b(builder, builder.getInsertionPoint()->getLoc());
    return b.ints(cast<IntegerAttr>(attribute).getInt());
  }
  Value value = cast<Value>(size);
  IntegerAttr constant;
  if (matchPattern(value, m_Constant(&constant)))
    return getSize(constant);
  Operation *op = value.getDefiningOp();
  GraphBuilder b(builder, op ? op->getLoc() : value.getLoc());
  if (auto dim = value.getDefiningOp<tensor::DimOp>())
    if (std::optional<int64_t> index = dim.getConstantIndex())
      return b.node("Shape", get(dim.getSource()),
                    {b.attr("start", *index), b.attr("end", *index + 1)});
  auto binary = [&](StringRef opType) {
    return b.node(opType, {getSize(op->getOperand(0)), getSize(op->getOperand(1))});
  };
  if (isa_and_nonnull<arith::AddIOp>(op))
    return binary("Add");
  if (isa_and_nonnull<arith::SubIOp>(op))
    return binary("Sub");
  if (isa_and_nonnull<arith::MulIOp>(op))
    return binary("Mul");
  // Sizes are not negative, so all divisions are the same.
  if (isa_and_nonnull<arith::DivUIOp, arith::DivSIOp, arith::FloorDivSIOp>(op))
    return binary("Div");
  return {};
}

/// The size of a group of dimensions that became one.
Value Writer::getProduct(Value tensor, ArrayRef<int64_t> dims) {
  GraphBuilder b(builder, builder.getInsertionPoint()->getLoc());
  Value product;
  for (int64_t dim : dims) {
    Value size = b.node("Shape", tensor, {b.attr("start", dim), b.attr("end", dim + 1)});
    product = product ? b.node("Mul", {product, size}) : size;
  }
  return product ? product : b.ints(1);
}

/// A Reshape; null when a size is not understood. One dynamic size is left to the operator.
Value Writer::writeReshape(Operation *op, llvm::function_ref<Value(int64_t)> getSizeOf) {
  GraphBuilder b(builder, op->getLoc());
  Value input = get(op->getOperand(0));
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  if (type.getNumDynamicDims() <= 1) {
    SmallVector<int64_t> shape(type.getShape());
    std::replace(shape.begin(), shape.end(), ShapedType::kDynamic, int64_t(-1));
    return b.reshape(input, shape);
  }
  SmallVector<Value> sizes;
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    sizes.push_back(getSizeOf(dim));
    if (!sizes.back())
      return {};
  }
  // A size of 0 is 0.
  return b.node("Reshape", {input, b.concat(sizes, 0)}, b.attr("allowzero", 1));
}

Value Writer::writeTensor(Operation *op) {
  if (auto cast = dyn_cast<tensor::CastOp>(op))
    return get(cast.getSource());
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
    SmallVector<OpFoldResult> sizes = expand.getMixedOutputShape();
    return writeReshape(op, [&](int64_t dim) { return getSize(sizes[dim]); });
  }
  auto collapse = dyn_cast<tensor::CollapseShapeOp>(op);
  if (!collapse)
    return {};
  SmallVector<ReassociationIndices> groups = collapse.getReassociationIndices();
  return writeReshape(op,
                      [&](int64_t dim) { return getProduct(get(collapse.getSrc()), groups[dim]); });
}

//===----------------------------------------------------------------------===//
// MoE operations
//===----------------------------------------------------------------------===//

FailureOr<Value> Writer::writeLogits(LogitsOp op) {
  GraphBuilder b(builder, op.getLoc());
  Value weight = get(op.getWeight());
  if (op.getLayout() == Layout::OutIn)
    weight = b.transpose(weight, {1, 0});
  Value logits = b.node("MatMul", {get(op.getX()), weight});
  if (op.getBias())
    logits = b.node("Add", {logits, get(op.getBias())});
  Type type = cast<ShapedType>(op.getLogits().getType()).getElementType();
  if (op.getSoftcap()) {
    Value cap = b.scalar(type, op.getSoftcap()->convertToDouble());
    logits = b.node("Mul", {b.node("Tanh", b.node("Div", {logits, cap})), cap});
  }
  if (op.getNoise())
    logits = b.node("Add", {logits, get(op.getNoise())});
  return logits;
}

FailureOr<Value> Writer::writeBlock(ExpertsOp op) {
  std::string reason;
  FailureOr<Value> node = writeContribNode(builder, written, routings, op, reason);
  if (failed(node))
    return failure();
  ++(*node ? numContrib : numStandard);
  if (*node)
    return node;
  remark::missed(op.getLoc(), remark::RemarkOpts::name("standard-operators").category(category))
      << remark::reason("written as standard operators: {0}", reason);
  return writeExperts(builder, written, routings, op);
}

/// The number of each expert's entries; other auxiliary outputs have no counterpart.
FailureOr<Value> Writer::writeCounts(AuxOp op) {
  if (op.getKind() != AuxKind::TokensPerExpert)
    return Value();
  FailureOr<Entries> entries = routings.getEntries(op.getRouting());
  if (failed(entries))
    return failure();
  GraphBuilder b(builder, op.getLoc());
  SmallVector<int64_t> all = llvm::to_vector(llvm::seq<int64_t>(0, entries->experts));
  Value chosen = b.node("Equal", {b.unsqueeze(entries->ids, {2}), b.ints(all)});
  if (entries->kept)
    chosen = b.node("And", {chosen, b.unsqueeze(entries->kept, {2})});
  Value ones = b.cast(chosen, builder.getI64Type());
  return b.reduce("ReduceSum", b.reduce("ReduceSum", ones, 1, false), 0, false);
}

LogicalResult Writer::writeEntries(EntriesOp op) {
  FailureOr<Entries> entries = routings.getEntries(op.getRouting());
  if (failed(entries))
    return failure();
  GraphBuilder b(builder, op.getLoc());
  Value ids = entries->ids, weights = entries->weights;
  if (entries->kept) {
    ids = b.node("Where", {entries->kept, ids, b.ints(-1)});
    if (weights)
      weights = b.node("Where", {entries->kept, b.cast(weights, builder.getF32Type()),
                                 b.scalar(builder.getF32Type(), 0)});
  }
  replace(op.getIds(), b.cast(ids, builder.getI32Type()));
  if (op.getWeights())
    replace(op.getWeights(), b.cast(weights, builder.getF32Type()));
  old.push_back(op);
  return success();
}

//===----------------------------------------------------------------------===//
// The walk
//===----------------------------------------------------------------------===//

/// Ops that disappear: they are read where their results are used, or check what
/// operators check themselves.
static bool isReadByUsers(Operation *op) {
  return isa<SelectOp, GivenOp, WeighOp, FilterOp, CapacityOp, DequantizeOp, CheckOp, CurrentCallOp,
             tensor::DimOp>(op) ||
         isa_and_nonnull<arith::ArithDialect>(op->getDialect());
}

/// The type is known again where a node takes the place of an op.
void Writer::replace(Value result, Value other) {
  if (other.getDefiningOp<onnx::NodeOp>() && !result.getDefiningOp<tensor::CastOp>())
    other.setType(result.getType());
  written.map(result, other);
}

LogicalResult Writer::write(Operation *op) {
  builder.setInsertionPoint(op);
  if (auto entries = dyn_cast<EntriesOp>(op))
    return writeEntries(entries);
  if (isReadByUsers(op)) {
    old.push_back(op);
    return success();
  }
  auto result = llvm::TypeSwitch<Operation *, FailureOr<Value>>(op)
                    .Case([&](LogitsOp op) { return writeLogits(op); })
                    .Case([&](ScoreOp op) {
                      GraphBuilder b(builder, op.getLoc());
                      return writeScore(b, op, get(op.getLogits()));
                    })
                    .Case([&](ExpertsOp op) { return writeBlock(op); })
                    .Case([&](AuxOp op) { return writeCounts(op); })
                    .Case([&](SharedOp op) { return writeShared(builder, written, op); })
                    .Default([&](Operation *op) -> FailureOr<Value> { return writeTensor(op); });
  if (failed(result))
    return failure();
  if (!*result)
    return emitUnsupported(op) << op->getName() << " cannot be written as ONNX nodes";
  replace(op->getResult(0), *result);
  old.push_back(op);
  return success();
}

void Writer::replaceAll() {
  for (Operation *op : old)
    for (Value result : op->getResults())
      if (Value other = written.lookupOrNull(result))
        result.replaceAllUsesWith(other);
  for (Operation *op : old)
    op->dropAllReferences();
  for (Operation *op : old)
    op->erase();
  auto ret = cast<func::ReturnOp>(function.getBody().back().getTerminator());
  function.setFunctionType(
      builder.getFunctionType(function.getArgumentTypes(), ret.getOperandTypes()));
}

LogicalResult Writer::run() {
  SmallVector<Operation *> ops;
  function.getBody().walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (!isa<onnx::NodeOp, onnx::YieldOp, LoadWeightOp, func::ReturnOp>(op))
      ops.push_back(op);
  });
  bool failed = false;
  for (Operation *op : ops)
    failed |= mlir::failed(write(op));
  if (!failed)
    replaceAll();
  return success(!failed);
}

namespace {
struct MoEToONNX : moe::impl::MoEToONNXBase<MoEToONNX> {
  void runOnOperation() override {
    bool failed = false;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (function.isExternal())
        continue;
      Writer writer(function, getArgument());
      failed |= mlir::failed(writer.run());
      numContrib += writer.numContrib;
      numStandard += writer.numStandard;
    }
    if (failed)
      return signalPassFailure();
    keepUsedWeights(getOperation());
  }
};
} // namespace
