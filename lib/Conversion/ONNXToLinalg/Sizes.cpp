// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Sizes.h"

#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/LoopLikeInterface.h"

#include "moec/Dialect/ONNX/IR/ControlFlow.h"

#include <map>
#include <numeric>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Where a size comes from
//===----------------------------------------------------------------------===//

/// A size that an op states, with the size of an intermediate tensor replaced by
/// what that is made of.
static OpFoldResult trace(ImplicitLocOpBuilder &b, OpFoldResult size) {
  auto value = dyn_cast<Value>(size);
  if (!value)
    return size;
  if (std::optional<int64_t> constant = getConstantIntValue(value))
    return b.getIndexAttr(*constant);
  auto dim = value.getDefiningOp<tensor::DimOp>();
  if (!dim || !dim.getConstantIndex() || !isa<RankedTensorType>(dim.getSource().getType()))
    return size;
  return getSize(b, dim.getSource(), *dim.getConstantIndex());
}

static OpFoldResult getSizeOfResult(ImplicitLocOpBuilder &b, OpResult result, int64_t dim) {
  Operation *op = result.getOwner();
  if (auto cast = dyn_cast<tensor::CastOp>(op))
    if (isa<RankedTensorType>(cast.getSource().getType()))
      return getSize(b, cast.getSource(), dim);
  if (auto empty = dyn_cast<tensor::EmptyOp>(op))
    return trace(b, empty.getMixedSizes()[dim]);
  if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
    return getSize(b, insert.getDest(), dim);
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op))
    if (slice.getSourceType().getRank() == slice.getType().getRank())
      return trace(b, slice.getMixedSizes()[dim]);
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
    return trace(b, expand.getMixedOutputShape()[dim]);
  if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    Sizes sizes;
    SmallVector<ReassociationIndices> groups = collapse.getReassociationIndices();
    for (int64_t source : groups[dim])
      sizes.push_back(getSize(b, collapse.getSrc(), source));
    return productOf(b, sizes);
  }
  if (auto fromBuffer = dyn_cast<bufferization::ToTensorOp>(op))
    if (auto alloc = fromBuffer.getBuffer().getDefiningOp<memref::AllocOp>())
      return trace(b, alloc.getMixedSizes()[dim]);
  if (auto insert = dyn_cast<tensor::InsertOp>(op))
    return getSize(b, insert.getDest(), dim);
  if (auto loop = dyn_cast<scf::ForOp>(op))
    return getSize(b, loop.getTiedLoopInit(result)->get(), dim);
  if (auto styled = dyn_cast<DestinationStyleOpInterface>(op))
    return getSize(b, styled.getTiedOpOperand(result)->get(), dim);
  if (auto reify = dyn_cast<ReifyRankedShapedTypeOpInterface>(op)) {
    ReifiedRankedShapedTypeDims shapes;
    if (succeeded(reify.reifyResultShapes(b, shapes)))
      return trace(b, shapes[result.getResultNumber()][dim]);
  }
  return tensor::DimOp::create(b, result, dim).getResult();
}

/// Text that the model gives for dimension `dim` of an argument; "" for none.
static StringRef getSymbol(func::FuncOp func, unsigned argument, int64_t dim) {
  auto dims = func.getArgAttrOfType<ArrayAttr>(argument, onnx::kDimsAttr);
  if (!dims || dim >= static_cast<int64_t>(dims.size()))
    return "";
  return cast<StringAttr>(dims[dim]).getValue();
}

static StringRef getSymbol(Value tensor, int64_t dim) {
  auto argument = dyn_cast<BlockArgument>(tensor);
  if (!argument || !argument.getOwner()->isEntryBlock())
    return "";
  auto func = dyn_cast_or_null<func::FuncOp>(argument.getOwner()->getParentOp());
  return func ? getSymbol(func, argument.getArgNumber(), dim) : "";
}

/// The first dimension of an argument that has this symbol; null when there is none.
static OpFoldResult findSymbol(ImplicitLocOpBuilder &b, func::FuncOp func, StringRef symbol) {
  for (BlockArgument argument : func.getArguments()) {
    auto type = dyn_cast<RankedTensorType>(argument.getType());
    for (int64_t dim = 0; type && dim < type.getRank(); ++dim)
      if (type.isDynamicDim(dim) && getSymbol(func, argument.getArgNumber(), dim) == symbol)
        return tensor::DimOp::create(b, argument, dim).getResult();
  }
  return {};
}

OpFoldResult lowering::getStatedSize(ImplicitLocOpBuilder &b, BlockArgument argument, int64_t dim) {
  StringRef text = getSymbol(argument, dim);
  if (!text.contains('+') && !text.contains('*'))
    return {};
  auto func = cast<func::FuncOp>(argument.getOwner()->getParentOp());
  SmallVector<StringRef> terms, factors;
  text.split(terms, '+');
  OpFoldResult sum = b.getIndexAttr(0);
  for (StringRef term : terms) {
    OpFoldResult product = b.getIndexAttr(1);
    factors.clear();
    term.split(factors, '*');
    for (StringRef factor : factors) {
      int64_t number;
      bool isNumber = !factor.trim().getAsInteger(10, number);
      OpFoldResult size =
          isNumber ? OpFoldResult(b.getIndexAttr(number)) : findSymbol(b, func, factor.trim());
      if (!size)
        return {};
      product = mulSizes(b, product, size);
    }
    sum = addSizes(b, sum, product);
  }
  return sum;
}

/// The size of an argument of the body of a Loop or Scan: carried values keep those of the
/// first ones, and rows have those of their tensor. Null for another argument.
static OpFoldResult getSizeOfGraphArgument(ImplicitLocOpBuilder &b, BlockArgument argument,
                                           int64_t dim) {
  auto node = dyn_cast_or_null<onnx::NodeOp>(argument.getOwner()->getParentOp());
  if (!node || !argument.getOwner()->isEntryBlock())
    return {};
  unsigned number = argument.getArgNumber();
  Value input = node.getInput(number);
  auto type = input ? dyn_cast<RankedTensorType>(input.getType()) : RankedTensorType();
  if (!type || node.isOp("If"))
    return {};
  std::optional<int64_t> axis = onnx::getSlicedAxis(node, number, type.getRank());
  return getSize(b, input, axis && dim >= *axis ? dim + 1 : dim);
}

OpFoldResult lowering::getSize(ImplicitLocOpBuilder &b, Value tensor, int64_t dim) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(dim))
    return b.getIndexAttr(type.getDimSize(dim));
  if (auto result = dyn_cast<OpResult>(tensor))
    return getSizeOfResult(b, result, dim);
  if (OpFoldResult stated = getStatedSize(b, cast<BlockArgument>(tensor), dim))
    return stated;
  if (OpFoldResult size = getSizeOfGraphArgument(b, cast<BlockArgument>(tensor), dim))
    return size;
  return tensor::DimOp::create(b, tensor, dim).getResult();
}

Sizes lowering::getSizes(ImplicitLocOpBuilder &b, Value tensor) {
  Sizes sizes;
  for (int64_t dim = 0, rank = cast<RankedTensorType>(tensor.getType()).getRank(); dim < rank;
       ++dim)
    sizes.push_back(getSize(b, tensor, dim));
  return sizes;
}

//===----------------------------------------------------------------------===//
// Equality
//===----------------------------------------------------------------------===//

static Value stripIndexCasts(Value value) {
  while (auto cast = value.getDefiningOp<arith::IndexCastOp>())
    value = cast.getIn();
  return value;
}

namespace {
/// Numbers that are equal for sizes that are equal in every run. A size is visited once,
/// however often others are made of it.
class SizeNumbers {
public:
  unsigned get(OpFoldResult size) {
    if (std::optional<int64_t> constant = getConstantIntValue(size))
      return number({kConstant, static_cast<uintptr_t>(*constant)});
    Value value = stripIndexCasts(cast<Value>(size));
    if (std::optional<int64_t> constant = getConstantIntValue(value))
      return number({kConstant, static_cast<uintptr_t>(*constant)});
    if (auto it = values.find(value); it != values.end())
      return it->second;
    unsigned result = number(describe(value));
    values[value] = result;
    return result;
  }

private:
  using Key = std::vector<uintptr_t>;
  enum Kind : uintptr_t { kConstant, kSymbol, kDim, kOp, kOther };

  static uintptr_t toWord(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer); }

  unsigned number(const Key &key) { return numbers.try_emplace(key, numbers.size()).first->second; }

  Key describe(Value value) {
    Operation *op = value.getDefiningOp();
    if (auto dim = dyn_cast_or_null<tensor::DimOp>(op); dim && dim.getConstantIndex()) {
      StringRef symbol = getSymbol(dim.getSource(), *dim.getConstantIndex());
      if (!symbol.empty())
        return {kSymbol, toWord(StringAttr::get(op->getContext(), symbol).getAsOpaquePointer())};
      return {kDim, toWord(dim.getSource().getAsOpaquePointer()),
              static_cast<uintptr_t>(*dim.getConstantIndex())};
    }
    if (!op || !isa<arith::ArithDialect>(op->getDialect()) || op->getNumResults() != 1)
      return {kOther, toWord(value.getAsOpaquePointer())};
    Key key = {kOp, toWord(op->getName().getAsOpaquePointer()),
               toWord(op->getAttrDictionary().getAsOpaquePointer())};
    size_t first = key.size();
    for (Value operand : op->getOperands())
      key.push_back(get(operand));
    if (op->hasTrait<OpTrait::IsCommutative>())
      std::sort(key.begin() + first, key.end());
    return key;
  }

  llvm::DenseMap<Value, unsigned> values;
  std::map<Key, unsigned> numbers;
};
} // namespace

bool lowering::isSameSize(OpFoldResult lhs, OpFoldResult rhs) {
  if (lhs == rhs)
    return true;
  std::optional<int64_t> left = getConstantIntValue(lhs), right = getConstantIntValue(rhs);
  if (left || right)
    return left == right;
  SizeNumbers numbers;
  return numbers.get(lhs) == numbers.get(rhs);
}

bool lowering::isSize(OpFoldResult size, int64_t value) {
  return getConstantIntValue(size) == value;
}

static bool isNeverNegative(OpFoldResult size, llvm::DenseMap<Value, bool> &known) {
  if (std::optional<int64_t> constant = getConstantIntValue(size))
    return *constant >= 0;
  Value value = stripIndexCasts(cast<Value>(size));
  if (auto it = known.find(value); it != known.end())
    return it->second;
  Operation *op = value.getDefiningOp();
  auto check = [&](unsigned operand) { return isNeverNegative(op->getOperand(operand), known); };
  bool result = isa_and_nonnull<tensor::DimOp>(op);
  if (isa_and_nonnull<arith::AddIOp, arith::MulIOp, arith::DivSIOp, arith::MinSIOp>(op))
    result = check(0) && check(1);
  else if (isa_and_nonnull<arith::MaxSIOp>(op))
    result = check(0) || check(1);
  else if (isa_and_nonnull<arith::SelectOp>(op))
    result = check(1) && check(2);
  known[value] = result;
  return result;
}

bool lowering::isNeverNegative(OpFoldResult size) {
  llvm::DenseMap<Value, bool> known;
  return ::isNeverNegative(size, known);
}

bool lowering::dependsOnData(OpFoldResult size) {
  SmallVector<Value> worklist;
  if (auto value = dyn_cast<Value>(size))
    worklist.push_back(value);
  llvm::SmallPtrSet<Operation *, 16> seen;
  while (!worklist.empty()) {
    Operation *op = worklist.pop_back_val().getDefiningOp();
    if (!op || isa<tensor::DimOp>(op) || !seen.insert(op).second)
      continue;
    if (!isa<arith::ArithDialect>(op->getDialect()))
      return true;
    llvm::append_range(worklist, op->getOperands());
  }
  return false;
}

namespace {
/// A product of a known number and other factors.
struct Factors {
  SizeNumbers &numbers;
  int64_t constant = 1;
  SmallVector<std::pair<unsigned, OpFoldResult>> others;

  void add(OpFoldResult size) {
    if (std::optional<int64_t> value = getConstantIntValue(size)) {
      constant *= *value;
      return;
    }
    Value value = stripIndexCasts(cast<Value>(size));
    if (auto product = value.getDefiningOp<arith::MulIOp>()) {
      add(product.getLhs());
      add(product.getRhs());
      return;
    }
    if (std::optional<int64_t> known = getConstantIntValue(value))
      constant *= *known;
    else
      others.emplace_back(numbers.get(value), OpFoldResult(value));
  }

  Factors(SizeNumbers &numbers, ArrayRef<OpFoldResult> sizes) : numbers(numbers) {
    for (OpFoldResult size : sizes)
      add(size);
  }

  /// Removes one factor with this key.
  bool remove(unsigned key) {
    auto found = llvm::find_if(others, [&](auto &factor) { return factor.first == key; });
    if (found == others.end())
      return false;
    others.erase(found);
    return true;
  }
};
} // namespace

bool lowering::isFactorOf(OpFoldResult size, ArrayRef<OpFoldResult> sizes) {
  SizeNumbers numbers;
  Factors product(numbers, sizes), factor(numbers, size);
  return factor.constant != 0 &&
         llvm::all_of(factor.others, [&](auto &other) { return product.remove(other.first); });
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

Value lowering::toValue(ImplicitLocOpBuilder &b, OpFoldResult size) {
  return getValueOrCreateConstantIndexOp(b, b.getLoc(), size);
}

template <typename OpTy>
static OpFoldResult fold(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  return getAsOpFoldResult(b.createOrFold<OpTy>(toValue(b, lhs), toValue(b, rhs)));
}

OpFoldResult lowering::addSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  return fold<arith::AddIOp>(b, lhs, rhs);
}

OpFoldResult lowering::subSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  if (isSameSize(lhs, rhs))
    return b.getIndexAttr(0);
  return fold<arith::SubIOp>(b, lhs, rhs);
}

OpFoldResult lowering::mulSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  return fold<arith::MulIOp>(b, lhs, rhs);
}

OpFoldResult lowering::minSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  return isSameSize(lhs, rhs) ? lhs : fold<arith::MinSIOp>(b, lhs, rhs);
}

OpFoldResult lowering::maxSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  if (isSameSize(lhs, rhs) || (isSize(rhs, 0) && isNeverNegative(lhs)))
    return lhs;
  return fold<arith::MaxSIOp>(b, lhs, rhs);
}

OpFoldResult lowering::productOf(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes) {
  OpFoldResult product = b.getIndexAttr(1);
  for (OpFoldResult size : sizes)
    product = mulSizes(b, product, size);
  return product;
}

OpFoldResult lowering::quotientOf(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> numerator,
                                  ArrayRef<OpFoldResult> denominator) {
  SizeNumbers numbers;
  Factors above(numbers, numerator), below(numbers, denominator);
  SmallVector<std::pair<unsigned, OpFoldResult>> rest;
  for (auto &factor : below.others)
    if (!above.remove(factor.first))
      rest.push_back(factor);
  int64_t common = std::gcd(above.constant, below.constant);
  if (common == 0)
    return b.getIndexAttr(0);

  auto product = [&](int64_t constant, auto &others) {
    Sizes sizes;
    for (auto &factor : others)
      sizes.push_back(toIndex(b, cast<Value>(factor.second)));
    sizes.push_back(b.getIndexAttr(constant));
    return productOf(b, sizes);
  };
  OpFoldResult top = product(above.constant / common, above.others);
  OpFoldResult bottom = product(below.constant / common, rest);
  if (isSize(bottom, 0))
    return b.getIndexAttr(0);
  if (getConstantIntValue(bottom))
    return fold<arith::DivSIOp>(b, top, bottom);
  // A zero here means that there are no elements: any quotient is right but a trap.
  Value isZero = equalSizes(b, bottom, b.getIndexAttr(0));
  Value safe =
      b.createOrFold<arith::SelectOp>(isZero, toValue(b, b.getIndexAttr(1)), toValue(b, bottom));
  return fold<arith::DivSIOp>(b, top, safe);
}

OpFoldResult lowering::floorDivSize(ImplicitLocOpBuilder &b, OpFoldResult size, int64_t divisor) {
  return divisor == 1 ? size : fold<arith::DivSIOp>(b, size, b.getIndexAttr(divisor));
}

OpFoldResult lowering::ceilDivSize(ImplicitLocOpBuilder &b, OpFoldResult size, int64_t divisor) {
  return floorDivSize(b, addSizes(b, size, b.getIndexAttr(divisor - 1)), divisor);
}

Value lowering::equalSizes(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  return b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::eq, toValue(b, lhs), toValue(b, rhs));
}

OpFoldResult lowering::toIndex(ImplicitLocOpBuilder &b, Value integer) {
  if (std::optional<int64_t> constant = getConstantIntValue(integer))
    return b.getIndexAttr(*constant);
  if (integer.getType().isIndex())
    return integer;
  if (auto cast = integer.getDefiningOp<arith::IndexCastOp>())
    return cast.getIn();
  return getAsOpFoldResult(b.createOrFold<arith::IndexCastOp>(b.getIndexType(), integer));
}

Value lowering::fromIndex(ImplicitLocOpBuilder &b, OpFoldResult size, Type type) {
  if (std::optional<int64_t> constant = getConstantIntValue(size))
    return arith::ConstantOp::create(b, b.getIntegerAttr(type, *constant));
  return b.createOrFold<arith::IndexCastOp>(type, toValue(b, size));
}

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

RankedTensorType lowering::getTensorType(ArrayRef<OpFoldResult> sizes, Type elementType) {
  SmallVector<int64_t> shape;
  for (OpFoldResult size : sizes)
    shape.push_back(getConstantIntValue(size).value_or(ShapedType::kDynamic));
  return RankedTensorType::get(shape, elementType);
}

Value lowering::castTo(ImplicitLocOpBuilder &b, Value tensor, RankedTensorType type) {
  if (tensor.getType() == type)
    return tensor;
  return tensor::CastOp::create(b, type, tensor);
}

Value lowering::refineType(ImplicitLocOpBuilder &b, Value tensor) {
  return castTo(b, tensor,
                getTensorType(getSizes(b, tensor), getElementTypeOrSelf(tensor.getType())));
}
