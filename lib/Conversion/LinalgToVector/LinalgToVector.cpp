// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/LinalgToVector/LinalgToVector.h"

#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Target/CPU/CostModel.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/ADT/TypeSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_LINALGTOVECTOR
#include "moec/Conversion/LinalgToVector/LinalgToVector.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using cpu::CostModel;

//===----------------------------------------------------------------------===//
// What can become vectors
//===----------------------------------------------------------------------===//

namespace {
/// How the innermost loop moves an operand.
enum class Access { None, Contiguous, Strided };
} // namespace

static Access getAccess(linalg::GenericOp op, OpOperand &operand) {
  AffineMap map = op.getMatchingIndexingMap(&operand);
  unsigned innermost = op.getNumLoops() - 1;
  for (AffineExpr expr : map.getResults())
    if (!isa<AffineDimExpr, AffineConstantExpr>(expr))
      return Access::Strided;
  if (!map.isFunctionOfDim(innermost))
    return Access::None;
  for (AffineExpr expr : map.getResults().drop_back())
    if (expr.isFunctionOfDim(innermost))
      return Access::Strided;
  auto type = cast<MemRefType>(operand.get().getType());
  return type.isLastDimUnitStride() ? Access::Contiguous : Access::Strided;
}

/// Bools have a byte each in memory, but a bit each in a vector.
static bool isVectorElement(Type type) {
  return isa<FloatType, IntegerType>(type) && type.getIntOrFloatBitWidth() >= 8;
}

/// Functions that vectors have an instruction or a good approximation in f32 for.
static bool hasVectorForm(Operation &op) {
  if (!isa_and_present<math::MathDialect>(op.getDialect()))
    return true;
  if (isa<math::SqrtOp, math::AbsFOp, math::FmaOp, math::FloorOp, math::CeilOp>(op))
    return true;
  return isa<math::ExpOp, math::TanhOp, math::ErfOp>(op) && op.getResult(0).getType().isF32();
}

static bool isBodyOp(Operation &op) {
  auto isScalar = [](Type type) { return isa<FloatType, IntegerType>(type); };
  if (op.getNumOperands() == 0)
    return isa<arith::ConstantOp>(op);
  return OpTrait::hasElementwiseMappableTraits(&op) && isMemoryEffectFree(&op) &&
         op.getNumResults() == 1 && llvm::all_of(op.getOperandTypes(), isScalar) &&
         isScalar(op.getResult(0).getType()) && hasVectorForm(op);
}

/// The kind of `acc ∘ element` when it may be computed in any order.
static std::optional<vector::CombiningKind> getKind(Operation *combiner) {
  using vector::CombiningKind;
  if (auto add = dyn_cast<arith::AddFOp>(combiner))
    return bitEnumContainsAny(add.getFastmath(), arith::FastMathFlags::reassoc)
               ? std::optional(CombiningKind::ADD)
               : std::nullopt;
  return llvm::TypeSwitch<Operation *, std::optional<CombiningKind>>(combiner)
      .Case([](arith::AddIOp) { return CombiningKind::ADD; })
      .Case([](arith::MaximumFOp) { return CombiningKind::MAXIMUMF; })
      .Case([](arith::MinimumFOp) { return CombiningKind::MINIMUMF; })
      .Case([](arith::MaxSIOp) { return CombiningKind::MAXSI; })
      .Case([](arith::MinSIOp) { return CombiningKind::MINSI; })
      .Default([](Operation *) { return std::nullopt; });
}

static bool isReduction(linalg::GenericOp op) {
  return op.getIteratorTypesArray().back() == utils::IteratorType::reduction;
}

/// The operation that adds an element to the only result of a reduction; null unless
/// it is the only one that reads the result so far.
static Operation *getCombiner(linalg::GenericOp op) {
  if (op.getNumDpsInits() != 1)
    return nullptr;
  BlockArgument acc = op.getRegionOutputArgs().front();
  Operation *combiner = op.getBody()->getTerminator()->getOperand(0).getDefiningOp();
  if (!combiner || combiner->getBlock() != op.getBody() || !combiner->getResult(0).hasOneUse() ||
      !acc.hasOneUse() || *acc.user_begin() != combiner || !getKind(combiner))
    return nullptr;
  return combiner;
}

static bool canVectorize(linalg::GenericOp op) {
  if (!op.hasPureBufferSemantics() || op.getNumLoops() == 0)
    return false;
  bool anyContiguous = false;
  for (OpOperand &operand : op->getOpOperands()) {
    if (!isa<MemRefType>(operand.get().getType()))
      continue;
    Access access = getAccess(op, operand);
    bool isResult = op.isDpsInit(&operand);
    if (access == Access::Strided || (isResult && (access == Access::None) != isReduction(op)))
      return false;
    Type element = getElementTypeOrSelf(operand.get().getType());
    if (access == Access::Contiguous && !isVectorElement(element))
      return false;
    anyContiguous |= access == Access::Contiguous;
  }
  return anyContiguous && llvm::all_of(op.getBody()->without_terminator(), isBodyOp) &&
         (!isReduction(op) || getCombiner(op));
}

/// Whether the loops of `op` read and write each element of its only result once: all of
/// its reductions take place in registers.
static bool visitsResultsOnce(linalg::GenericOp op) {
  auto iterators = op.getIteratorTypesArray();
  AffineMap map = op.getMatchingIndexingMap(&op.getDpsInitsMutable()[0]);
  if (op.getNumDpsInits() != 1 || !map.isProjectedPermutation() ||
      map.getNumResults() != op.getNumParallelLoops())
    return false;
  if (isReduction(op))
    return op.getNumReductionLoops() == 1;
  auto isParallel = [](utils::IteratorType type) { return type == utils::IteratorType::parallel; };
  auto middle = ArrayRef(iterators).drop_back().drop_while(isParallel);
  return isParallel(iterators.front()) && !middle.empty() && llvm::none_of(middle, isParallel);
}

/// The value that a loop nest just before `op` gives to all results of `op`, which are
/// sums (or the like) that start there; null when there is none. `fill` is that nest.
static Value findStart(linalg::GenericOp op, linalg::GenericOp &fill) {
  if (!visitsResultsOnce(op) || llvm::is_contained(op.getDpsInputs(), op.getDpsInits()[0]))
    return Value();
  Operation *before = op->getPrevNode();
  while (before && (isMemoryEffectFree(before) || isa<memref::AllocOp>(before)))
    before = before->getPrevNode();
  fill = dyn_cast_or_null<linalg::GenericOp>(before);
  if (!fill || fill.getNumDpsInits() != 1 || fill.getDpsInits()[0] != op.getDpsInits()[0] ||
      fill.getNumLoops() != fill.getNumParallelLoops() ||
      !fill.getMatchingIndexingMap(&fill.getDpsInitsMutable()[0]).isIdentity())
    return Value();
  Value value = fill.getBody()->getTerminator()->getOperand(0);
  if (auto argument = dyn_cast<BlockArgument>(value);
      argument && argument.getOwner() == fill.getBody())
    value = fill.getMatchingOpOperand(argument)->get();
  bool isOutside = value.getParentBlock() != fill.getBody() && !isa<MemRefType>(value.getType());
  return isOutside ? value : Value();
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

namespace {

/// Makes the loops of one operation.
class Vectorizer {
public:
  /// `start`, if not null, is what all results are before.
  Vectorizer(linalg::GenericOp op, int64_t lanes, bool parallel, Value start)
      : b(op.getLoc(), op), op(op), lanes(lanes), machine{lanes}, parallel(parallel), start(start) {
  }

  void run();

private:
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, value); }
  Value add(Value x, Value y) { return b.createOrFold<arith::AddIOp>(x, y); }
  Value sub(Value x, Value y) { return b.createOrFold<arith::SubIOp>(x, y); }
  Value mul(Value x, Value y) { return b.createOrFold<arith::MulIOp>(x, y); }
  Value min(Value x, Value y) { return b.createOrFold<arith::MinSIOp>(x, y); }
  Value product(ArrayRef<Value> sizes);
  Value perTask(int64_t rows);

  void forEachTask(Value count, Value perTask, function_ref<void(Value, Value)> body);
  void forLoop(Value from, Value to, function_ref<void(Value)> body);
  SmallVector<Value> delinearize(Value number, ArrayRef<Value> sizes);
  void middleLoops(unsigned loop);

  bool accumulates();
  void forEachRowBlock();
  void accumulateRows(int64_t rows);
  void accumulate(int64_t rows, int64_t vectors, Value position);
  SmallVector<Value> sumUp(unsigned loop, int64_t rows, int64_t vectors, Value position,
                           ValueRange accs);

  SmallVector<Value> indicesOf(OpOperand &operand, Value innermost);
  void innermostLoop(Value from, Value to);
  void computeInvariants();
  void elementwiseLoops(Value from, Value middle, Value to);
  void reductionLoops(Value from, Value middle, Value to);

  Type typeOf(Type element, bool isVector);
  Value mapped(IRMapping &values, Value value, bool isVector);
  void evaluate(IRMapping &values, Value position, bool isVector, ArrayRef<Value> accs);

  ImplicitLocOpBuilder b;
  linalg::GenericOp op;
  int64_t lanes;
  CostModel machine;
  bool parallel;
  Value start;
  SmallVector<Value> sizes, ivs;
  /// Leading loops that are parallel, without the innermost one.
  unsigned numOuter = 0;
  /// Scalars that do not depend on the innermost loop, and vectors of them.
  IRMapping scalars, splats;
};

} // namespace

Value Vectorizer::product(ArrayRef<Value> sizes) {
  Value result = index(1);
  for (Value size : sizes)
    result = mul(result, size);
  return result;
}

/// body(first, last) for the tasks of `count` things.
void Vectorizer::forEachTask(Value count, Value perTask, function_ref<void(Value, Value)> body) {
  Value tasks = arith::CeilDivUIOp::create(b, count, perTask);
  OpBuilder::InsertionGuard guard(b);
  Value task;
  if (parallel) {
    auto loop =
        scf::ParallelOp::create(b, ValueRange{index(0)}, ValueRange{tasks}, ValueRange{index(1)});
    b.setInsertionPoint(loop.getBody()->getTerminator());
    task = loop.getInductionVars().front();
  } else {
    auto loop = scf::ForOp::create(b, index(0), tasks, index(1));
    b.setInsertionPointToStart(loop.getBody());
    task = loop.getInductionVar();
  }
  Value first = mul(task, perTask);
  body(first, min(add(first, perTask), count));
}

void Vectorizer::forLoop(Value from, Value to, function_ref<void(Value)> body) {
  auto loop = scf::ForOp::create(b, from, to, index(1));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  body(loop.getInductionVar());
}

SmallVector<Value> Vectorizer::delinearize(Value number, ArrayRef<Value> sizes) {
  SmallVector<Value> indices(sizes.size());
  for (size_t i = sizes.size(); i-- > 1;) {
    indices[i] = b.createOrFold<arith::RemUIOp>(number, sizes[i]);
    number = b.createOrFold<arith::DivUIOp>(number, sizes[i]);
  }
  indices[0] = number;
  return indices;
}

void Vectorizer::run() {
  for (Range range : cast<linalg::LinalgOp>(*op).createLoopRanges(b, op.getLoc()))
    sizes.push_back(getValueOrCreateConstantIndexOp(b, op.getLoc(), range.size));
  ivs.resize(sizes.size());
  auto iterators = op.getIteratorTypesArray();
  while (numOuter + 1 < sizes.size() && iterators[numOuter] == utils::IteratorType::parallel)
    ++numOuter;
  Value work = index(machine.taskEvaluations());
  if (sizes.size() == 1 && !isReduction(op))
    return forEachTask(sizes[0], work, [&](Value from, Value to) { innermostLoop(from, to); });
  if (numOuter == 0)
    return middleLoops(0);
  if (accumulates())
    return forEachRowBlock();
  ArrayRef<Value> outer = ArrayRef(sizes).take_front(numOuter);
  forEachTask(product(outer), perTask(1), [&](Value first, Value last) {
    forLoop(first, last, [&](Value number) {
      llvm::copy(delinearize(number, outer), ivs.begin());
      middleLoops(numOuter);
    });
  });
}

/// How often `rows` runs of all loops but the outer ones fit into a task.
Value Vectorizer::perTask(int64_t rows) {
  Value each = mul(product(ArrayRef(sizes).drop_front(numOuter)), index(rows));
  each = b.createOrFold<arith::MaxSIOp>(each, index(1));
  return b.createOrFold<arith::CeilDivUIOp>(index(machine.taskEvaluations()), each);
}

/// Sequential loops from `loop` to the innermost one.
void Vectorizer::middleLoops(unsigned loop) {
  if (loop + 1 == sizes.size())
    return innermostLoop(index(0), sizes[loop]);
  forLoop(index(0), sizes[loop], [&](Value iv) {
    ivs[loop] = iv;
    middleLoops(loop + 1);
  });
}

//===----------------------------------------------------------------------===//
// Sums over outer loops
//===----------------------------------------------------------------------===//

/// Whether all loops between the outer ones and the innermost one are reductions, as in a
/// matrix product: then results stay in registers until they are complete.
bool Vectorizer::accumulates() {
  auto iterators = op.getIteratorTypesArray();
  auto middle = ArrayRef(iterators).drop_front(numOuter).drop_back();
  return !isReduction(op) && op.getNumDpsInits() == 1 && !middle.empty() &&
         llvm::all_of(middle, [](utils::IteratorType iterator) {
           return iterator == utils::IteratorType::reduction;
         });
}

void Vectorizer::forEachRowBlock() {
  Value rows = sizes[numOuter - 1], atOnce = index(machine.rowsAtOnce());
  SmallVector<Value> outer(ArrayRef(sizes).take_front(numOuter));
  outer.back() = b.createOrFold<arith::CeilDivUIOp>(rows, atOnce);
  forEachTask(product(outer), perTask(machine.rowsAtOnce()), [&](Value first, Value last) {
    forLoop(first, last, [&](Value number) {
      llvm::copy(delinearize(number, outer), ivs.begin());
      Value firstRow = mul(ivs[numOuter - 1], atOnce), end = add(firstRow, atOnce);
      Value isWhole = arith::CmpIOp::create(b, arith::CmpIPredicate::sle, end, rows);
      auto branch = scf::IfOp::create(b, isWhole, /*withElseRegion=*/true);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      ivs[numOuter - 1] = firstRow;
      accumulateRows(machine.rowsAtOnce());
      b.setInsertionPointToStart(branch.elseBlock());
      forLoop(firstRow, rows, [&](Value row) {
        ivs[numOuter - 1] = row;
        accumulateRows(1);
      });
    });
  });
}

/// All columns of `rows` rows of the result.
void Vectorizer::accumulateRows(int64_t rows) {
  Value done = index(0), columns = sizes.back();
  for (int64_t vectors : {rows == 1 ? CostModel::kSingleRowVectors : CostModel::kRowVectors,
                          int64_t(1), int64_t(0)}) {
    Value step = index(vectors == 0 ? 1 : vectors * lanes);
    Value count = b.createOrFold<arith::DivUIOp>(sub(columns, done), step);
    Value end = add(done, mul(count, step));
    auto loop = scf::ForOp::create(b, done, end, step);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    accumulate(rows, vectors, loop.getInductionVar());
    done = end;
  }
}

/// The results at `position` of `rows` rows: `vectors` vectors each, one element when
/// that is 0.
void Vectorizer::accumulate(int64_t rows, int64_t vectors, Value position) {
  OpOperand &result = op.getDpsInitsMutable()[0];
  auto type = dyn_cast<VectorType>(
      typeOf(getElementTypeOrSelf(result.get().getType()), /*isVector=*/vectors > 0));
  Value firstRow = ivs[numOuter - 1];
  auto forEach = [&](function_ref<void(ArrayRef<Value>)> body) {
    for (int64_t r = 0; r < rows; ++r) {
      ivs[numOuter - 1] = add(firstRow, index(r));
      for (int64_t v = 0; v < std::max<int64_t>(vectors, 1); ++v)
        body(indicesOf(result, add(position, index(v * lanes))));
    }
    ivs[numOuter - 1] = firstRow;
  };
  SmallVector<Value> accs;
  forEach([&](ArrayRef<Value> at) {
    if (start)
      accs.push_back(type ? vector::BroadcastOp::create(b, type, start).getResult() : start);
    else
      accs.push_back(type ? vector::LoadOp::create(b, type, result.get(), at).getResult()
                          : memref::LoadOp::create(b, result.get(), at).getResult());
  });
  accs = sumUp(numOuter, rows, vectors, position, accs);
  auto *next = accs.begin();
  forEach([&](ArrayRef<Value> at) {
    if (type)
      vector::StoreOp::create(b, *next++, result.get(), at);
    else
      memref::StoreOp::create(b, *next++, result.get(), at);
  });
}

/// The reduction loops from `loop` on; returns the results so far.
SmallVector<Value> Vectorizer::sumUp(unsigned loop, int64_t rows, int64_t vectors, Value position,
                                     ValueRange accs) {
  if (loop + 1 < sizes.size()) {
    auto reduction = scf::ForOp::create(b, index(0), sizes[loop], index(1), accs);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(reduction.getBody());
    ivs[loop] = reduction.getInductionVar();
    scf::YieldOp::create(b,
                         sumUp(loop + 1, rows, vectors, position, reduction.getRegionIterArgs()));
    return SmallVector<Value>(reduction.getResults());
  }
  Value yielded = op.getBody()->getTerminator()->getOperand(0), firstRow = ivs[numOuter - 1];
  SmallVector<Value> sums;
  for (int64_t r = 0; r < rows; ++r) {
    ivs[numOuter - 1] = add(firstRow, index(r));
    computeInvariants();
    for (int64_t v = 0; v < std::max<int64_t>(vectors, 1); ++v) {
      IRMapping values;
      evaluate(values, add(position, index(v * lanes)), vectors > 0, accs[sums.size()]);
      sums.push_back(mapped(values, yielded, vectors > 0));
    }
  }
  ivs[numOuter - 1] = firstRow;
  return sums;
}

//===----------------------------------------------------------------------===//
// The innermost loop
//===----------------------------------------------------------------------===//

SmallVector<Value> Vectorizer::indicesOf(OpOperand &operand, Value innermost) {
  SmallVector<Value> indices;
  for (AffineExpr expr : op.getMatchingIndexingMap(&operand).getResults()) {
    if (auto constant = dyn_cast<AffineConstantExpr>(expr)) {
      indices.push_back(index(constant.getValue()));
      continue;
    }
    unsigned loop = cast<AffineDimExpr>(expr).getPosition();
    indices.push_back(loop + 1 == sizes.size() ? innermost : ivs[loop]);
  }
  return indices;
}

/// Operands that the innermost loop leaves alone, and all that is computed of them
/// only.
void Vectorizer::computeInvariants() {
  scalars.clear();
  splats.clear();
  for (OpOperand &operand : op->getOpOperands()) {
    BlockArgument argument = op.getMatchingBlockArgument(&operand);
    if (!isa<MemRefType>(operand.get().getType()))
      scalars.map(argument, operand.get());
    else if (getAccess(op, operand) == Access::None && !op.isDpsInit(&operand))
      scalars.map(argument, memref::LoadOp::create(b, operand.get(), indicesOf(operand, Value())));
  }
  auto isKnown = [&](Value value) {
    return scalars.contains(value) || value.getParentBlock() != op.getBody();
  };
  for (Operation &inner : op.getBody()->without_terminator())
    if (llvm::all_of(inner.getOperands(), isKnown))
      b.clone(inner, scalars);
}

void Vectorizer::innermostLoop(Value from, Value to) {
  computeInvariants();
  Value whole = b.createOrFold<arith::DivUIOp>(sub(to, from), index(lanes));
  Value middle = add(from, mul(whole, index(lanes)));
  if (isReduction(op))
    return reductionLoops(from, middle, to);
  elementwiseLoops(from, middle, to);
}

Type Vectorizer::typeOf(Type element, bool isVector) {
  return isVector ? Type(VectorType::get(lanes, element)) : element;
}

/// What stands for `value` of the body in the loop. Splats are made in the loop over
/// vectors, the only one that asks for them; LLVM moves them out.
Value Vectorizer::mapped(IRMapping &values, Value value, bool isVector) {
  if (values.contains(value))
    return values.lookup(value);
  Value scalar = scalars.lookupOrDefault(value);
  if (!isVector)
    return scalar;
  if (!splats.contains(value))
    splats.map(value, vector::BroadcastOp::create(b, typeOf(scalar.getType(), true), scalar));
  return splats.lookup(value);
}

/// The body at `position` of the innermost loop: loads, computes and, unless this is a
/// reduction, stores. `accs` are the results so far of a reduction.
void Vectorizer::evaluate(IRMapping &values, Value position, bool isVector, ArrayRef<Value> accs) {
  for (OpOperand &operand : op->getOpOperands()) {
    BlockArgument argument = op.getMatchingBlockArgument(&operand);
    if (op.isDpsInit(&operand) && !accs.empty()) {
      values.map(argument, accs.front());
      continue;
    }
    if (scalars.contains(argument) || argument.use_empty())
      continue;
    SmallVector<Value> indices = indicesOf(operand, position);
    Type element = argument.getType();
    values.map(argument, isVector
                             ? vector::LoadOp::create(b, cast<VectorType>(typeOf(element, true)),
                                                      operand.get(), indices)
                                   .getResult()
                             : memref::LoadOp::create(b, operand.get(), indices).getResult());
  }
  for (Operation &inner : op.getBody()->without_terminator()) {
    if (scalars.contains(inner.getResult(0)))
      continue;
    for (Value operand : inner.getOperands())
      values.map(operand, mapped(values, operand, isVector));
    Operation *made = b.clone(inner, values);
    Value result = made->getResult(0);
    result.setType(typeOf(result.getType(), isVector));
  }
  if (!accs.empty())
    return;
  auto yields = op.getBody()->getTerminator()->getOperands();
  for (auto [operand, yielded] : llvm::zip(op.getDpsInitsMutable(), yields)) {
    Value value = mapped(values, yielded, isVector);
    SmallVector<Value> indices = indicesOf(operand, position);
    if (isVector)
      vector::StoreOp::create(b, value, operand.get(), indices);
    else
      memref::StoreOp::create(b, value, operand.get(), indices);
  }
}

void Vectorizer::elementwiseLoops(Value from, Value middle, Value to) {
  auto vectors = scf::ForOp::create(b, from, middle, index(lanes));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(vectors.getBody());
    IRMapping values;
    evaluate(values, vectors.getInductionVar(), /*isVector=*/true, {});
  }
  forLoop(middle, to, [&](Value position) {
    IRMapping values;
    evaluate(values, position, /*isVector=*/false, {});
  });
}

void Vectorizer::reductionLoops(Value from, Value middle, Value to) {
  OpOperand &result = op.getDpsInitsMutable()[0];
  Operation *combiner = getCombiner(op);
  vector::CombiningKind kind = *getKind(combiner);
  Type element = getElementTypeOrSelf(result.get().getType());
  auto loop = [&](Value first, Value last, bool isVector, Value init) {
    Value step = index(isVector ? lanes : 1);
    auto loop = scf::ForOp::create(b, first, last, step, ValueRange{init});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    IRMapping values;
    evaluate(values, loop.getInductionVar(), isVector, loop.getRegionIterArgs()[0]);
    scf::YieldOp::create(b, values.lookup(combiner->getResult(0)));
    return loop.getResult(0);
  };
  SmallVector<Value> indices = indicesOf(result, Value());
  Value before = start ? start : memref::LoadOp::create(b, result.get(), indices).getResult();
  auto type = cast<VectorType>(typeOf(element, true));
  // Every lane starts at what was there before, or at nothing.
  Value init = kind == vector::CombiningKind::ADD
                   ? arith::ConstantOp::create(b, b.getZeroAttr(type)).getResult()
                   : vector::BroadcastOp::create(b, type, before).getResult();
  Value sums = loop(from, middle, /*isVector=*/true, init);
  auto flags = isa<FloatType>(element) && kind == vector::CombiningKind::ADD
                   ? arith::FastMathFlags::reassoc
                   : arith::FastMathFlags::none;
  Value sum = vector::ReductionOp::create(b, kind, sums, before, flags);
  sum = loop(middle, to, /*isVector=*/false, sum);
  memref::StoreOp::create(b, sum, result.get(), indices);
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

/// Loops over contiguous memory alone as one.
static linalg::GenericOp flatten(linalg::GenericOp op) {
  unsigned rank = op.getNumLoops();
  auto isWhole = [&](OpOperand &operand) {
    auto type = dyn_cast<MemRefType>(operand.get().getType());
    return !type ||
           (type.getLayout().isIdentity() && op.getMatchingIndexingMap(&operand).isIdentity());
  };
  if (rank < 2 || op.getNumParallelLoops() != rank || !llvm::all_of(op->getOpOperands(), isWhole))
    return op;
  ImplicitLocOpBuilder b(op.getLoc(), op);
  ReassociationIndices all = llvm::to_vector<2>(llvm::seq<int64_t>(0, rank));
  SmallVector<AffineMap> maps;
  SmallVector<Value> operands;
  for (OpOperand &operand : op->getOpOperands()) {
    bool isMemory = isa<MemRefType>(operand.get().getType());
    maps.push_back(isMemory ? b.getMultiDimIdentityMap(1) : AffineMap::get(1, 0, b.getContext()));
    operands.push_back(isMemory ? memref::CollapseShapeOp::create(
                                      b, operand.get(), ArrayRef<ReassociationIndices>(all))
                                      .getResult()
                                : operand.get());
  }
  size_t numInputs = op.getNumDpsInputs();
  auto flat = linalg::GenericOp::create(b, ArrayRef(operands).take_front(numInputs),
                                        ArrayRef(operands).drop_front(numInputs), maps,
                                        utils::IteratorType::parallel);
  flat.getRegion().takeBody(op.getRegion());
  op.erase();
  return flat;
}

namespace {
struct LinalgToVectorPass : moe::impl::LinalgToVectorBase<LinalgToVectorPass> {
  using LinalgToVectorBase::LinalgToVectorBase;

  void runOnOperation() override {
    SmallVector<linalg::GenericOp> ops;
    getOperation().walk([&](linalg::GenericOp op) {
      if (canVectorize(op))
        ops.push_back(op);
    });
    DenseMap<Operation *, Value> starts;
    DenseSet<Operation *> fills;
    for (linalg::GenericOp op : ops) {
      linalg::GenericOp fill;
      if (Value start = findStart(op, fill)) {
        starts[op] = start;
        fills.insert(fill);
      }
    }
    for (linalg::GenericOp op : ops) {
      if (fills.contains(op))
        continue;
      bool parallel = getMarkedArgument(getOperation(), kCallAttr) != nullptr;
      Value start = starts.lookup(op);
      op = flatten(op);
      Vectorizer(op, vectorBits / 32, parallel, start).run();
      op.erase();
      ++numVectorized;
    }
    for (Operation *fill : fills)
      fill->erase();
  }
};
} // namespace
