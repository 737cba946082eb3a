// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators about the order of elements along an axis.

#include "Lowering.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/SymbolTable.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

namespace {
/// Which elements come first.
struct Order {
  bool falling;
  bool nanFirst;
  bool isUnsigned;

  /// True when `lhs` comes before `rhs`, both in a compute type; false when they are equal.
  Value isAhead(ImplicitLocOpBuilder &b, Value lhs, Value rhs) const {
    if (!isa<FloatType>(lhs.getType())) {
      using P = arith::CmpIPredicate;
      P predicate = falling ? (isUnsigned ? P::ugt : P::sgt) : (isUnsigned ? P::ult : P::slt);
      return arith::CmpIOp::create(b, predicate, lhs, rhs);
    }
    // Unordered comparisons are true when one is NaN, and then the other must not be.
    using P = arith::CmpFPredicate;
    Value compared = arith::CmpFOp::create(b, falling ? P::UGT : P::ULT, lhs, rhs);
    Value other = nanFirst ? rhs : lhs;
    Value isNumber = arith::CmpFOp::create(b, P::ORD, other, other);
    return arith::AndIOp::create(b, compared, isNumber);
  }
};
} // namespace

//===----------------------------------------------------------------------===//
// TopK
//===----------------------------------------------------------------------===//

namespace {

/// Generates the private function that selects along the middle dimension:
/// data [outer, n, inner], values [outer, k, inner], indices i64 [outer, k, inner], with
/// k ≤ n. One for each element type and direction, whatever the sizes. The first k elements of a
/// line become a heap, in the memory of the results, whose root comes last; each further element
/// that comes before the root takes its place. Sorting the heap puts the lines in order. O(n log
/// k), without other memory.
class TopKKernel {
public:
  TopKKernel(Location loc, OpBuilder &builder, Type elementType, bool largest)
      : b(loc, builder), elementType(elementType), largest(largest) {}

  static func::FuncOp getOrCreate(NodeLowering &n, Type elementType, bool largest);

private:
  /// A value and its index along the axis.
  struct Entry {
    Value value, index;
  };

  void build(Block::BlockArgListType arguments);
  void buildLine();
  /// Puts `entry` into the heap of `size` entries at `hole` or, moving others up, below.
  void sink(Value hole, Value size, Entry entry);
  /// Whether `lhs` comes before `rhs`.
  Value comesBefore(Entry lhs, Entry rhs);

  Entry read(Value position) {
    Value place[] = {outer, position, inner};
    return {load(values, place), memref::LoadOp::create(b, indices, place)};
  }
  void write(Entry entry, Value position) {
    Value place[] = {outer, position, inner};
    Value value = fromComputeType(b, entry.value, elementType);
    memref::StoreOp::create(b, value, values, place);
    memref::StoreOp::create(b, entry.index, indices, place);
  }
  Entry readData(Value position) {
    Value index = arith::IndexCastOp::create(b, b.getI64Type(), position);
    return {load(data, {outer, position, inner}), index};
  }

  Value load(Value memory, ValueRange place) {
    return toComputeType(b, memref::LoadOp::create(b, memory, place));
  }
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, value); }
  Value compare(arith::CmpIPredicate predicate, Value lhs, Value rhs) {
    return arith::CmpIOp::create(b, predicate, lhs, rhs);
  }
  Value add(Value lhs, Value rhs) { return arith::AddIOp::create(b, lhs, rhs); }
  Value sub(Value lhs, Value rhs) { return arith::SubIOp::create(b, lhs, rhs); }
  void loop(Value from, Value to, function_ref<void(Value)> body) {
    auto loop = scf::ForOp::create(b, from, to, index(1));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar());
  }
  void ifThen(Value condition, function_ref<void()> body) {
    auto branch = scf::IfOp::create(b, condition);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    body();
  }

  ImplicitLocOpBuilder b;
  Type elementType;
  bool largest;
  // Of the kernel, and of the line at hand.
  Value data, values, indices, n, k;
  Value outer, inner;
};

} // namespace

func::FuncOp TopKKernel::getOrCreate(NodeLowering &n, Type elementType, bool largest) {
  auto module = n.node->getParentOfType<ModuleOp>();
  std::string name = largest ? "moec_topk_largest_" : "moec_topk_smallest_";
  llvm::raw_string_ostream(name) << elementType;
  if (auto kernel = module.lookupSymbol<func::FuncOp>(name))
    return kernel;
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  SmallVector<int64_t> shape(3, ShapedType::kDynamic);
  Type memory = MemRefType::get(shape, elementType);
  Type indexMemory = MemRefType::get(shape, builder.getI64Type());
  Location loc = builder.getUnknownLoc();
  auto kernel = func::FuncOp::create(builder, loc, name,
                                     builder.getFunctionType({memory, memory, indexMemory}, {}));
  kernel.setPrivate();
  builder.setInsertionPointToStart(kernel.addEntryBlock());
  TopKKernel(loc, builder, elementType, largest).build(kernel.getArguments());
  return kernel;
}

void TopKKernel::build(Block::BlockArgListType arguments) {
  data = arguments[0], values = arguments[1], indices = arguments[2];
  Value numOuter = memref::DimOp::create(b, data, 0), numInner = memref::DimOp::create(b, data, 2);
  n = memref::DimOp::create(b, data, 1), k = memref::DimOp::create(b, values, 1);
  Value zero = index(0);
  ifThen(compare(arith::CmpIPredicate::sgt, k, zero), [&] {
    loop(zero, numOuter, [&](Value i) {
      loop(zero, numInner, [&](Value j) {
        outer = i, inner = j;
        buildLine();
      });
    });
  });
  func::ReturnOp::create(b);
}

void TopKKernel::buildLine() {
  Value zero = index(0), one = index(1);
  loop(zero, k, [&](Value i) { write(readData(i), i); });
  // From the last entry that has others below it to the root.
  Value half = arith::ShRUIOp::create(b, k, one);
  loop(zero, half, [&](Value i) {
    Value position = sub(sub(half, i), one);
    sink(position, k, read(position));
  });
  loop(k, n, [&](Value i) {
    Entry next = readData(i);
    ifThen(comesBefore(next, read(zero)), [&] { sink(zero, k, next); });
  });
  // The root goes behind what is left of the heap.
  loop(one, k, [&](Value i) {
    Value last = sub(k, i);
    Entry root = read(zero), moved = read(last);
    write(root, last);
    sink(zero, last, moved);
  });
}

void TopKKernel::sink(Value hole, Value size, Entry entry) {
  auto loop = scf::WhileOp::create(
      b, TypeRange{b.getIndexType(), b.getIndexType()}, ValueRange{hole},
      [](OpBuilder &, Location, ValueRange) {}, [](OpBuilder &, Location, ValueRange) {});
  OpBuilder::InsertionGuard guard(b);
  // Before: the later one of the two below the hole, while it comes after the entry.
  b.setInsertionPointToStart(loop.getBeforeBody());
  Value current = loop.getBeforeArguments()[0];
  Value left = add(add(current, current), index(1));
  Value hasLeft = compare(arith::CmpIPredicate::slt, left, size);
  auto below = scf::IfOp::create(b, TypeRange{b.getIndexType(), b.getI1Type()}, hasLeft,
                                 /*withElseRegion=*/true);
  b.setInsertionPointToStart(below.thenBlock());
  Value right = add(left, index(1));
  Value hasRight = compare(arith::CmpIPredicate::slt, right, size);
  // Reading the left one twice is harmless.
  Value other = arith::SelectOp::create(b, hasRight, right, left);
  Value isOtherLater = comesBefore(read(left), read(other));
  Value later = arith::SelectOp::create(b, isOtherLater, other, left);
  scf::YieldOp::create(b, ValueRange{later, comesBefore(entry, read(later))});
  b.setInsertionPointToStart(below.elseBlock());
  scf::YieldOp::create(b, ValueRange{left, hasLeft});
  b.setInsertionPointAfter(below);
  scf::ConditionOp::create(b, below.getResult(1), ValueRange{current, below.getResult(0)});
  // After: that one moves up.
  b.setInsertionPointToStart(loop.getAfterBody());
  Value from = loop.getAfterArguments()[1];
  write(read(from), loop.getAfterArguments()[0]);
  scf::YieldOp::create(b, from);
  b.setInsertionPointAfter(loop);
  write(entry, loop.getResult(0));
}

Value TopKKernel::comesBefore(Entry lhs, Entry rhs) {
  // NaN is larger than every number.
  Order order{/*falling=*/largest, /*nanFirst=*/largest, isUnsignedElement(elementType)};
  Value isBetter = order.isAhead(b, lhs.value, rhs.value);
  Value isWorse = order.isAhead(b, rhs.value, lhs.value);
  Value isEarlier = compare(arith::CmpIPredicate::slt, lhs.index, rhs.index);
  Value none = arith::ConstantOp::create(b, b.getBoolAttr(false));
  Value onTie = arith::SelectOp::create(b, isWorse, none, isEarlier);
  return arith::OrIOp::create(b, isBetter, onTie);
}

/// Memory of a result [outer, k, inner].
static Value allocate(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Type elementType) {
  RankedTensorType type = getTensorType(sizes, elementType);
  SmallVector<Value> dynamicSizes;
  for (OpFoldResult size : sizes)
    if (!getConstantIntValue(size))
      dynamicSizes.push_back(toValue(b, size));
  return memref::AllocOp::create(b, MemRefType::get(type.getShape(), elementType), dynamicSizes,
                                 b.getI64IntegerAttr(64));
}

static Value toTensor(ImplicitLocOpBuilder &b, Value memory) {
  auto type = cast<MemRefType>(memory.getType());
  return bufferization::ToTensorOp::create(
      b, RankedTensorType::get(type.getShape(), type.getElementType()), memory,
      /*restrict=*/true, /*writable=*/true);
}

static LogicalResult lowerTopK(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Type declared = n.inputType(0).getElementType();
  FailureOr<int64_t> axis = n.axis("axis", -1, n.inputType(0).getRank());
  FailureOr<OpFoldResult> k = n.scalarInput(1, "k");
  if (failed(axis) || failed(k))
    return failure();
  // Narrow floats are exact in the type that they are compared in.
  Type elementType = isa<FloatType>(declared) ? getComputeType(declared) : declared;
  Value data = convertTensor(n, n.input(0), elementType);
  Sizes sizes = getSizes(b, data);
  if (failed(limitSize(n, *k, sizes[*axis], "k is larger than the size of the dimension")))
    return failure();
  if (std::optional<int64_t> known = getConstantIntValue(*k); known && *known < 0)
    return n.fail("k is negative");
  if (!isNeverNegative(*k)) {
    n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, *k),
                                          toValue(b, b.getIndexAttr(0))),
            "k is negative");
    k = maxSizes(b, *k, b.getIndexAttr(0));
  }

  ArrayRef<OpFoldResult> all(sizes);
  OpFoldResult outer = productOf(b, all.take_front(*axis));
  OpFoldResult inner = productOf(b, all.drop_front(*axis + 1));
  Value lines = reshapeTo(b, data, {outer, sizes[*axis], inner});
  auto linesType = cast<RankedTensorType>(lines.getType());
  Value from = bufferization::ToBufferOp::create(
      b, MemRefType::get(linesType.getShape(), elementType), lines, /*read_only=*/true);
  Value values = allocate(b, {outer, *k, inner}, elementType);
  Value indices = allocate(b, {outer, *k, inner}, b.getI64Type());
  bool largest = n.node.getIntAttr("largest", 1) != 0;
  func::FuncOp kernel = TopKKernel::getOrCreate(n, elementType, largest);
  SmallVector<Value> arguments{from, values, indices};
  for (auto [argument, expected] : llvm::zip(arguments, kernel.getArgumentTypes()))
    if (argument.getType() != expected)
      argument = memref::CastOp::create(b, expected, argument);
  func::CallOp::create(b, kernel, arguments);

  sizes[*axis] = *k;
  Value selected = reshapeTo(b, toTensor(b, values), sizes);
  return n.replace(
      {convertTensor(n, selected, declared), reshapeTo(b, toTensor(b, indices), sizes)});
}

//===----------------------------------------------------------------------===//
// ArgMax, ArgMin
//===----------------------------------------------------------------------===//

template <bool isMax> static LogicalResult lowerArg(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  Type elementType = type.getElementType(), compute = getComputeType(elementType);
  int64_t rank = type.getRank();
  FailureOr<int64_t> axis = n.axis("axis", 0, rank);
  if (failed(axis))
    return failure();
  Sizes sizes = getSizes(b, data), kept = sizes;
  if (isSize(sizes[*axis], 0))
    return n.fail("dimension " + Twine(*axis) + " has no elements");
  if (!getConstantIntValue(sizes[*axis]))
    n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, toValue(b, sizes[*axis]),
                                          toValue(b, b.getIndexAttr(0))),
            "dimension " + Twine(*axis) + " has no elements");
  kept.erase(kept.begin() + *axis);
  // As in NumPy, NaN is both the largest and the smallest.
  Order order{/*falling=*/isMax, /*nanFirst=*/true, isUnsignedElement(elementType)};
  bool selectLast = n.node.getIntAttr("select_last_index", 0) != 0;

  SmallVector<AffineExpr> exprs;
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  iterators[*axis] = utils::IteratorType::reduction;
  for (int64_t dim = 0; dim < rank; ++dim)
    if (dim != *axis)
      exprs.push_back(b.getAffineDimExpr(dim));
  AffineMap reduced = AffineMap::get(rank, 0, exprs, b.getContext());
  SmallVector<AffineMap> maps{b.getMultiDimIdentityMap(rank), reduced, reduced};
  SmallVector<Value> inits{filledTensor(b, kept, compute, 0),
                           filledTensor(b, kept, b.getI64Type(), 0)};
  auto body = [&](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value element = toComputeType(inner, args[0]), best = args[1];
    Value position = linalg::IndexOp::create(inner, *axis);
    Value isFirst = arith::CmpIOp::create(inner, arith::CmpIPredicate::eq, position,
                                          arith::ConstantIndexOp::create(inner, 0));
    Value takes = order.isAhead(inner, element, best);
    if (selectLast) {
      Value yes = arith::ConstantOp::create(inner, inner.getBoolAttr(true));
      takes = arith::XOrIOp::create(inner, order.isAhead(inner, best, element), yes);
    }
    takes = arith::OrIOp::create(inner, takes, isFirst);
    Value index = arith::IndexCastOp::create(inner, inner.getI64Type(), position);
    linalg::YieldOp::create(inner,
                            ValueRange{arith::SelectOp::create(inner, takes, element, best),
                                       arith::SelectOp::create(inner, takes, index, args[2])});
  };
  Value result = linalg::GenericOp::create(b, ValueRange(inits).getTypes(), ValueRange{data}, inits,
                                           maps, iterators, body)
                     .getResult(1);
  return n.replace(n.node.getIntAttr("keepdims", 1) ? unsqueeze(b, result, *axis) : result);
}

//===----------------------------------------------------------------------===//
// CumSum
//===----------------------------------------------------------------------===//

static LogicalResult lowerCumSum(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  RankedTensorType type = n.inputType(0);
  Type elementType = type.getElementType(), compute = getComputeType(elementType);
  FailureOr<SmallVector<int64_t>> axes = n.axesInput(1, type.getRank());
  if (failed(axes))
    return failure();
  if (axes->size() != 1)
    return n.fail("has " + Twine(axes->size()) + " axes, expected 1");
  if (elementType.isInteger(1))
    return n.unsupported("a sum of bool is not supported");
  int64_t axis = axes->front();
  bool isReverse = n.node.getIntAttr("reverse", 0) != 0;
  bool isExclusive = n.node.getIntAttr("exclusive", 0) != 0;

  Sizes sizes = getSizes(b, data), others = sizes;
  others.erase(others.begin() + axis);
  Value count = toValue(b, sizes[axis]);
  auto sumLine = [&](ImplicitLocOpBuilder &b, ValueRange at, Value result) {
    Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
    auto loop =
        scf::ForOp::create(b, zero, count, one, ValueRange{result, constantOf(b, compute, 0)});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value position = loop.getInductionVar();
    if (isReverse)
      position = arith::SubIOp::create(b, arith::SubIOp::create(b, count, one), position);
    SmallVector<Value> place(at);
    place.insert(place.begin() + axis, position);
    Value before = loop.getRegionIterArg(1);
    Value element = toComputeType(b, tensor::ExtractOp::create(b, data, place));
    Value sum = isa<FloatType>(compute) ? Value(arith::AddFOp::create(b, before, element))
                                        : Value(arith::AddIOp::create(b, before, element));
    Value written = fromComputeType(b, isExclusive ? before : sum, elementType);
    Value updated = tensor::InsertOp::create(b, written, loop.getRegionIterArg(0), place);
    scf::YieldOp::create(b, ValueRange{updated, sum});
    return loop.getResult(0);
  };
  return n.replace(loopOver(b, others, emptyTensor(b, sizes, elementType), sumLine));
}

void lowering::addOrdering(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"TopK", 10, kNewestOpset, lowerTopK});
  table.push_back({"ArgMax", 11, kNewestOpset, lowerArg<true>});
  table.push_back({"ArgMin", 11, kNewestOpset, lowerArg<false>});
  table.push_back({"CumSum", 11, kNewestOpset, lowerCumSum});
}
