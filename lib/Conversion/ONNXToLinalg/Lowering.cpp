// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Lowering.h"

#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// Integer tensors up to this many elements are computed as scalars.
static constexpr int64_t kMaxScalars = 16;

//===----------------------------------------------------------------------===//
// NodeLowering
//===----------------------------------------------------------------------===//

Value NodeLowering::input(unsigned position) {
  Value value = node.getInput(position);
  while (value) {
    auto cast = value.getDefiningOp<tensor::CastOp>();
    if (!cast || !isa<RankedTensorType>(cast.getSource().getType()) ||
        !tensor::preservesStaticInformation(value.getType(), cast.getSource().getType()))
      break;
    value = cast.getSource();
  }
  return value;
}

SmallVector<Value> NodeLowering::inputs() {
  SmallVector<Value> values;
  for (unsigned i = 0, e = node.getNumInputs(); i < e; ++i)
    values.push_back(input(i));
  return values;
}

std::string NodeLowering::describe() { return describeNode(node.getLoc(), node.getOpType()); }

LogicalResult NodeLowering::fail(const Twine &reason) {
  return emitError(node.getLoc()) << describe() << ": " << reason;
}

LogicalResult NodeLowering::unsupported(const Twine &reason) {
  return emitUnsupported(node.getLoc()) << describe() << ": " << reason;
}

void NodeLowering::check(Value condition, const Twine &message) {
  if (matchPattern(condition, m_One()))
    return;
  auto check = CheckOp::create(b, condition, describe() + ": " + message);
  // Those of sizes outside of sub-graphs are evaluated before anything else is. Others are
  // met on the way, where what follows may rely on them.
  if (isa_and_nonnull<onnx::NodeOp>(b.getBlock()->getParentOp()))
    check->setAttr(kEndsCallAttr, b.getUnitAttr());
}

FailureOr<int64_t> NodeLowering::axis(StringRef name, int64_t defaultValue, int64_t rank,
                                      bool end) {
  int64_t value = node.getIntAttr(name, defaultValue);
  int64_t axis = value < 0 ? value + rank : value;
  if (axis < 0 || axis >= rank + end)
    return fail(name + " " + Twine(value) + " is out of range for rank " + Twine(rank));
  return axis;
}

FailureOr<SmallVector<int64_t>> NodeLowering::axesInput(unsigned position, int64_t rank) {
  Value tensor = input(position);
  if (!tensor)
    return SmallVector<int64_t>();
  std::optional<SmallVector<int64_t>> axes = lowering::getConstantInts(tensor);
  if (!axes)
    return unsupported("the axes must be constants");
  for (int64_t &axis : *axes) {
    int64_t given = axis;
    axis += axis < 0 ? rank : 0;
    if (axis < 0 || axis >= rank)
      return fail("axis " + Twine(given) + " is out of range for rank " + Twine(rank));
  }
  llvm::sort(*axes);
  if (std::adjacent_find(axes->begin(), axes->end()) != axes->end())
    return fail("an axis is given twice");
  return *axes;
}

FailureOr<OpFoldResult> NodeLowering::scalarInput(unsigned position, StringRef name) {
  Value tensor = input(position);
  if (!tensor)
    return fail(name + " is missing");
  auto type = cast<RankedTensorType>(tensor.getType());
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    OpFoldResult size = getSize(b, tensor, dim);
    if (failed(agreeOnSize(*this, size, b.getIndexAttr(1), name + " is not a single number")))
      return failure();
  }
  if (std::optional<SmallVector<Value>> scalars = getScalars(b, tensor))
    return toIndex(b, scalars->front());
  SmallVector<Value> zeros(type.getRank(), arith::ConstantIndexOp::create(b, 0));
  Value element = toComputeType(b, tensor::ExtractOp::create(b, tensor, zeros));
  return toIndex(b, castElement(b, element, type.getElementType(), b.getI64Type()));
}

/// The type that shows what both the computation and the model know. Null when they
/// contradict each other.
static RankedTensorType mergeTypes(RankedTensorType computed, RankedTensorType declared) {
  if (computed.getElementType() != declared.getElementType() ||
      computed.getRank() != declared.getRank())
    return {};
  SmallVector<int64_t> shape;
  for (auto [lhs, rhs] : llvm::zip(computed.getShape(), declared.getShape())) {
    if (!ShapedType::isDynamic(lhs) && !ShapedType::isDynamic(rhs) && lhs != rhs)
      return {};
    shape.push_back(ShapedType::isDynamic(lhs) ? rhs : lhs);
  }
  return RankedTensorType::get(shape, computed.getElementType());
}

/// As much of `tensor` as `type` has room for, the rest zeros.
static Value fitInto(ImplicitLocOpBuilder &b, Value tensor, RankedTensorType type) {
  Sizes from = getSizes(b, tensor), to;
  for (auto [dim, size] : llvm::enumerate(from)) {
    to.push_back(type.isDynamicDim(dim) ? size : b.getIndexAttr(type.getDimSize(dim)));
    tensor = takeFirst(b, tensor, dim, minSizes(b, size, to.back()));
  }
  Value room = filledTensor(b, to, type.getElementType(), 0);
  if (llvm::is_contained(type.getShape(), 0))
    return room;
  Sizes sizes = getSizes(b, tensor), offsets(to.size(), b.getIndexAttr(0)),
        strides(to.size(), b.getIndexAttr(1));
  return tensor::InsertSliceOp::create(b, tensor, room, offsets, sizes, strides);
}

FailureOr<Value> NodeLowering::castToStated(Value value, RankedTensorType stated, StringRef name) {
  bool ofData = false;
  for (auto [dim, expected] : llvm::enumerate(stated.getShape())) {
    OpFoldResult size = getSize(b, value, dim);
    if (ShapedType::isDynamic(expected) || isSize(size, expected))
      continue;
    std::string what = ("dimension " + Twine(dim) + " of output '" + name + "' ").str();
    if (std::optional<int64_t> known = getConstantIntValue(size))
      return fail(what + "is " + Twine(*known) + ", but the model states " + Twine(expected));
    ofData |= dependsOnData(size);
    check(equalSizes(b, size, b.getIndexAttr(expected)),
          what + "is not " + Twine(expected) + ", as the model states");
  }
  // Nothing runs after a check of sizes alone fails; after others all goes on, and memory of the
  // stated size is not that of the computed one.
  return ofData ? fitInto(b, value, stated) : castTo(b, value, stated);
}

/// Sizes of `from` that others ask for, computed from what makes `to`, which no later
/// cast changes.
static void traceSizes(ImplicitLocOpBuilder &b, Value from, Value to) {
  for (Operation *user : llvm::make_early_inc_range(from.getUsers())) {
    auto dim = dyn_cast<tensor::DimOp>(user);
    if (!dim || !dim.getConstantIndex())
      continue;
    dim.replaceAllUsesWith(toValue(b, getSize(b, to, *dim.getConstantIndex())));
    dim.erase();
  }
}

LogicalResult NodeLowering::replace(ValueRange values) {
  if (values.size() != node.getNumResults())
    return unsupported("has " + Twine(node.getNumResults()) + " outputs where " +
                       Twine(values.size()) + " are computed");
  for (auto [index, computed] : llvm::enumerate(values)) {
    Value result = node.getResult(index), value = computed;
    if (!value && result.use_empty())
      continue;
    if (!value)
      return unsupported("output " + Twine(index) + " is not supported");
    if (auto declared = dyn_cast<RankedTensorType>(result.getType())) {
      RankedTensorType merged = mergeTypes(cast<RankedTensorType>(value.getType()), declared);
      if (!merged) {
        std::string text;
        llvm::raw_string_ostream(text)
            << "computes " << value.getType() << " where the model declares " << declared;
        return fail(text);
      }
      FailureOr<Value> fitting = castToStated(value, merged, node.getOutputName(index));
      if (failed(fitting))
        return failure();
      traceSizes(b, result, value);
      value = *fitting;
    }
    // Other nodes take any type; the rest keeps the declared one.
    result.replaceUsesWithIf(value,
                             [](OpOperand &use) { return isa<onnx::NodeOp>(use.getOwner()); });
    if (result.use_empty())
      continue;
    if (value.getType() != result.getType())
      value = tensor::CastOp::create(b, result.getType(), value);
    result.replaceAllUsesWith(value);
  }
  node.erase();
  return success();
}

//===----------------------------------------------------------------------===//
// Elements
//===----------------------------------------------------------------------===//

Type lowering::getComputeType(Type elementType) {
  if (elementType.isF16() || elementType.isBF16())
    return Float32Type::get(elementType.getContext());
  if (elementType.isUnsignedInteger())
    return IntegerType::get(elementType.getContext(), elementType.getIntOrFloatBitWidth());
  return elementType;
}

std::string lowering::toString(Type type) {
  if (!type)
    return "an unknown type";
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

/// arith has no unsigned types; the cast goes away with the types in the lowering to
/// LLVM.
static Value reinterpret(ImplicitLocOpBuilder &b, Value value, Type type) {
  return UnrealizedConversionCastOp::create(b, type, value).getResult(0);
}

Value lowering::toComputeType(ImplicitLocOpBuilder &b, Value element) {
  Type type = getComputeType(element.getType());
  if (type == element.getType())
    return element;
  if (isa<FloatType>(type))
    return b.createOrFold<arith::ExtFOp>(type, element);
  return reinterpret(b, element, type);
}

Value lowering::fromComputeType(ImplicitLocOpBuilder &b, Value value, Type elementType) {
  if (value.getType() == elementType)
    return value;
  if (isa<FloatType>(elementType))
    return b.createOrFold<arith::TruncFOp>(elementType, value);
  return reinterpret(b, value, elementType);
}

Value lowering::constantOf(ImplicitLocOpBuilder &b, Type type, double value) {
  if (isa<FloatType>(type))
    return arith::ConstantOp::create(b, b.getFloatAttr(type, value));
  return arith::ConstantOp::create(b, b.getIntegerAttr(type, static_cast<int64_t>(value)));
}

static constexpr auto kFreeOrder = arith::FastMathFlags::reassoc | arith::FastMathFlags::contract;

Value lowering::addElements(ImplicitLocOpBuilder &b, Value lhs, Value rhs) {
  if (isa<FloatType>(lhs.getType()))
    return arith::AddFOp::create(b, lhs, rhs, kFreeOrder);
  return arith::AddIOp::create(b, lhs, rhs);
}

Value lowering::multiplyElements(ImplicitLocOpBuilder &b, Value lhs, Value rhs) {
  if (isa<FloatType>(lhs.getType()))
    return arith::MulFOp::create(b, lhs, rhs, kFreeOrder);
  return arith::MulIOp::create(b, lhs, rhs);
}

static Value castFromFloat(ImplicitLocOpBuilder &b, Value value, Type to) {
  Type type = getComputeType(to);
  if (to.isInteger(1))
    return b.createOrFold<arith::CmpFOp>(arith::CmpFPredicate::UNE, value,
                                         constantOf(b, value.getType(), 0));
  if (to.isUnsignedInteger(64))
    return b.createOrFold<arith::FPToUIOp>(type, value);
  // Narrow integers wrap around, as they do in NumPy.
  if (type.getIntOrFloatBitWidth() < 32) {
    Value wide = b.createOrFold<arith::FPToSIOp>(b.getI32Type(), value);
    return b.createOrFold<arith::TruncIOp>(type, wide);
  }
  if (to.isUnsignedInteger()) {
    Value wide = b.createOrFold<arith::FPToSIOp>(b.getI64Type(), value);
    return b.createOrFold<arith::TruncIOp>(type, wide);
  }
  return b.createOrFold<arith::FPToSIOp>(type, value);
}

static Value castFromInteger(ImplicitLocOpBuilder &b, Value value, bool isUnsigned, Type to) {
  Type type = getComputeType(to);
  if (isa<FloatType>(type)) {
    if (isUnsigned)
      return b.createOrFold<arith::UIToFPOp>(type, value);
    return b.createOrFold<arith::SIToFPOp>(type, value);
  }
  if (to.isInteger(1))
    return b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, value,
                                         constantOf(b, value.getType(), 0));
  unsigned from = value.getType().getIntOrFloatBitWidth(), width = type.getIntOrFloatBitWidth();
  if (width < from)
    return b.createOrFold<arith::TruncIOp>(type, value);
  if (width == from)
    return value;
  if (isUnsigned)
    return b.createOrFold<arith::ExtUIOp>(type, value);
  return b.createOrFold<arith::ExtSIOp>(type, value);
}

Value lowering::castElement(ImplicitLocOpBuilder &b, Value value, Type from, Type to) {
  if (from == to)
    return value;
  if (!isa<FloatType>(from))
    return castFromInteger(b, value, isUnsignedElement(from), to);
  if (!isa<FloatType>(to))
    return castFromFloat(b, value, to);
  Type type = getComputeType(to);
  unsigned have = value.getType().getIntOrFloatBitWidth(), want = type.getIntOrFloatBitWidth();
  if (have < want)
    return b.createOrFold<arith::ExtFOp>(type, value);
  if (have == want)
    return value;
  return b.createOrFold<arith::TruncFOp>(type, value);
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

DenseElementsAttr lowering::getConstant(Value tensor) {
  if (!tensor)
    return {};
  while (auto cast = tensor.getDefiningOp<tensor::CastOp>())
    tensor = cast.getSource();
  DenseElementsAttr elements;
  if (matchPattern(tensor, m_Constant(&elements)))
    return elements;
  return onnx::getConstantValue(tensor);
}

/// The tensor with the same elements in the same order that `tensor` is another shape of.
static Value stripReshapes(Value tensor) {
  while (Operation *op = tensor.getDefiningOp()) {
    if (!isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp>(op))
      break;
    tensor = op->getOperand(0);
  }
  return tensor;
}

std::optional<SmallVector<int64_t>> lowering::getConstantInts(Value tensor) {
  SmallVector<int64_t> result;
  tensor = stripReshapes(tensor);
  if (auto scalars = tensor.getDefiningOp<tensor::FromElementsOp>()) {
    for (Value element : scalars.getElements()) {
      std::optional<int64_t> constant = getConstantIntValue(element);
      if (!constant)
        return std::nullopt;
      result.push_back(*constant);
    }
    return result;
  }
  DenseElementsAttr elements = getConstant(tensor);
  if (!elements || !isa<IntegerType>(elements.getElementType()))
    return std::nullopt;
  bool zeroExtend = isUnsignedElement(elements.getElementType());
  for (APInt element : elements.getValues<APInt>())
    result.push_back(zeroExtend ? static_cast<int64_t>(element.getZExtValue())
                                : element.getSExtValue());
  return result;
}

std::optional<SmallVector<Value>> lowering::getScalars(ImplicitLocOpBuilder &b, Value tensor) {
  auto type = dyn_cast<RankedTensorType>(tensor.getType());
  if (!type || type.getRank() > 1 || !type.hasStaticShape() ||
      type.getNumElements() > kMaxScalars || !type.getElementType().isSignlessInteger())
    return std::nullopt;
  SmallVector<Value> scalars;
  Value source = stripReshapes(tensor);
  if (auto elements = source.getDefiningOp<tensor::FromElementsOp>()) {
    llvm::append_range(scalars, elements.getElements());
    return scalars;
  }
  if (DenseElementsAttr elements = getConstant(source)) {
    for (auto element : elements.getValues<IntegerAttr>())
      scalars.push_back(arith::ConstantOp::create(b, element));
    return scalars;
  }
  for (int64_t i = 0, e = type.getNumElements(); i < e; ++i) {
    SmallVector<Value, 1> indices;
    if (type.getRank() == 1)
      indices.push_back(arith::ConstantIndexOp::create(b, i));
    scalars.push_back(tensor::ExtractOp::create(b, tensor, indices));
  }
  return scalars;
}

Value lowering::fromScalars(ImplicitLocOpBuilder &b, ArrayRef<Value> scalars,
                            RankedTensorType type) {
  return tensor::FromElementsOp::create(b, type, scalars);
}

std::optional<Sizes> lowering::getScalarsAsSizes(ImplicitLocOpBuilder &b, Value tensor) {
  std::optional<SmallVector<Value>> scalars = getScalars(b, tensor);
  if (!scalars)
    return std::nullopt;
  Sizes sizes;
  for (Value scalar : *scalars)
    sizes.push_back(toIndex(b, scalar));
  return sizes;
}

//===----------------------------------------------------------------------===//
// Broadcasting
//===----------------------------------------------------------------------===//

Value lowering::emptyTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes,
                            Type elementType) {
  return tensor::EmptyOp::create(b, sizes, elementType);
}

Value lowering::filledTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes,
                             Type elementType, double value) {
  Value element =
      fromComputeType(b, constantOf(b, getComputeType(elementType), value), elementType);
  return linalg::FillOp::create(b, element, emptyTensor(b, sizes, elementType)).getResult(0);
}

/// Size `operand` has at dimension `dim` of a result of rank `rank`, null when it has
/// no such dimension.
static OpFoldResult sizeAt(const Sizes &operand, int64_t dim, int64_t rank) {
  int64_t own = dim - (rank - static_cast<int64_t>(operand.size()));
  return own < 0 ? OpFoldResult() : operand[own];
}

/// Common size of `lhs` and `rhs`, of which neither is known to be 1. Sizes that do
/// not agree give the smaller one, so that no access is out of bounds; the caller
/// checks.
static OpFoldResult broadcastUnproven(ImplicitLocOpBuilder &b, OpFoldResult lhs, OpFoldResult rhs) {
  if (getConstantIntValue(lhs))
    return lhs;
  if (getConstantIntValue(rhs))
    return rhs;
  Value smaller = toValue(b, minSizes(b, lhs, rhs));
  Value isLhsOne = equalSizes(b, lhs, b.getIndexAttr(1));
  Value isRhsOne = equalSizes(b, rhs, b.getIndexAttr(1));
  Value keepLhs = arith::SelectOp::create(b, isRhsOne, toValue(b, lhs), smaller);
  return arith::SelectOp::create(b, isLhsOne, toValue(b, rhs), keepLhs).getResult();
}

FailureOr<Sizes> lowering::broadcastSizes(NodeLowering &n, ArrayRef<Sizes> operands) {
  ImplicitLocOpBuilder &b = n.b;
  int64_t rank = 0;
  for (const Sizes &operand : operands)
    rank = std::max<int64_t>(rank, operand.size());
  Sizes result(rank, b.getIndexAttr(1));
  for (int64_t dim = 0; dim < rank; ++dim) {
    SmallVector<OpFoldResult> unproven;
    for (const Sizes &operand : operands) {
      OpFoldResult size = sizeAt(operand, dim, rank);
      if (!size || isSize(size, 1) || isSameSize(size, result[dim]))
        continue;
      if (isSize(result[dim], 1)) {
        result[dim] = size;
        continue;
      }
      if (getConstantIntValue(size) && getConstantIntValue(result[dim]))
        return n.fail("sizes " + Twine(*getConstantIntValue(result[dim])) + " and " +
                      Twine(*getConstantIntValue(size)) + " cannot be broadcast to one another");
      unproven.push_back(size);
      unproven.push_back(result[dim]);
      result[dim] = broadcastUnproven(b, result[dim], size);
    }
    for (OpFoldResult size : unproven) {
      if (isSameSize(size, result[dim]))
        continue;
      Value ok = arith::OrIOp::create(b, equalSizes(b, size, result[dim]),
                                      equalSizes(b, size, b.getIndexAttr(1)));
      n.check(ok, "the sizes of dimension " + Twine(dim) + " cannot be broadcast to one another");
    }
  }
  return result;
}

namespace {
/// How an operand is read at an index of the broadcast result.
struct OperandAccess {
  /// Set when every dimension is known to be 1 or that of the result.
  AffineMap map;
  /// Else, per dimension of the operand: a factor (0 or 1) for the result's index.
  SmallVector<Value> steps;
};
} // namespace

static OperandAccess getAccess(ImplicitLocOpBuilder &b, Value operand,
                               ArrayRef<OpFoldResult> sizes) {
  Sizes own = getSizes(b, operand);
  int64_t offset = sizes.size() - own.size();
  SmallVector<AffineExpr> exprs;
  for (auto [dim, size] : llvm::enumerate(own)) {
    if (isSize(size, 1))
      exprs.push_back(b.getAffineConstantExpr(0));
    else if (isSameSize(size, sizes[offset + dim]))
      exprs.push_back(b.getAffineDimExpr(offset + dim));
  }
  OperandAccess access;
  if (exprs.size() == own.size()) {
    access.map = AffineMap::get(sizes.size(), 0, exprs, b.getContext());
    return access;
  }
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  for (auto [dim, size] : llvm::enumerate(own)) {
    OpFoldResult target = sizes[offset + dim];
    // With a known result anything but that size is read as 1: never out of bounds.
    Value moves =
        getConstantIntValue(target)
            ? equalSizes(b, size, target)
            : b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::ne, toValue(b, size), one);
    access.steps.push_back(b.createOrFold<arith::SelectOp>(moves, one, zero));
  }
  return access;
}

/// The element of `operand` at the current index of the surrounding linalg.generic.
static Value readElement(ImplicitLocOpBuilder &b, Value operand, ArrayRef<Value> steps,
                         int64_t rank) {
  SmallVector<Value> indices;
  int64_t offset = rank - steps.size();
  for (auto [dim, step] : llvm::enumerate(steps)) {
    Value index = linalg::IndexOp::create(b, offset + dim);
    indices.push_back(b.createOrFold<arith::MulIOp>(index, step));
  }
  return tensor::ExtractOp::create(b, operand, indices);
}

/// Applies `fn` to operands at the indices of a result of size `sizes`.
static Value buildElementWise(ImplicitLocOpBuilder &b, ArrayRef<Value> operands,
                              ArrayRef<OpFoldResult> sizes, Type elementType, ElementFn fn) {
  int64_t rank = sizes.size();
  SmallVector<OperandAccess> accesses;
  SmallVector<Value> inputs;
  SmallVector<AffineMap> maps;
  for (Value operand : operands) {
    accesses.push_back(getAccess(b, operand, sizes));
    DenseElementsAttr constant = getConstant(operand);
    if ((constant && constant.isSplat()) || !accesses.back().map)
      continue;
    inputs.push_back(operand);
    maps.push_back(accesses.back().map);
  }
  maps.push_back(b.getMultiDimIdentityMap(rank));
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  Value init = emptyTensor(b, sizes, elementType);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange blockArgs) {
    ImplicitLocOpBuilder inner(loc, builder);
    SmallVector<Value> elements;
    unsigned next = 0;
    for (auto [operand, access] : llvm::zip(operands, accesses)) {
      DenseElementsAttr constant = getConstant(operand);
      Value element;
      if (constant && constant.isSplat()) {
        Type type = constant.getElementType();
        Attribute value = constant.getSplatValue<Attribute>();
        if (auto integer = dyn_cast<IntegerAttr>(value))
          value = IntegerAttr::get(getComputeType(type), integer.getValue());
        element = arith::ConstantOp::create(inner, cast<TypedAttr>(value));
      } else if (access.map) {
        element = blockArgs[next++];
      } else {
        element = readElement(inner, operand, access.steps, rank);
      }
      elements.push_back(toComputeType(inner, element));
    }
    Value result = fromComputeType(inner, fn(inner, elements), elementType);
    linalg::YieldOp::create(inner, result);
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, inputs, ValueRange{init}, maps,
                                   iterators, body)
      .getResult(0);
}

/// The scalar way for small integer tensors; null when it does not apply.
static Value mapScalars(ImplicitLocOpBuilder &b, ArrayRef<Value> operands,
                        ArrayRef<OpFoldResult> sizes, Type elementType, ElementFn fn) {
  RankedTensorType type = getTensorType(sizes, elementType);
  if (type.getRank() > 1 || !type.hasStaticShape() || type.getNumElements() > kMaxScalars ||
      !elementType.isSignlessInteger())
    return {};
  SmallVector<SmallVector<Value>> scalars;
  for (Value operand : operands) {
    std::optional<SmallVector<Value>> elements = getScalars(b, operand);
    if (!elements)
      return {};
    scalars.push_back(*elements);
  }
  SmallVector<Value> results;
  for (int64_t i = 0, e = type.getNumElements(); i < e; ++i) {
    SmallVector<Value> elements;
    for (auto &operand : scalars)
      elements.push_back(operand[operand.size() == 1 ? 0 : i]);
    results.push_back(fn(b, elements));
  }
  return fromScalars(b, results, type);
}

FailureOr<Value> lowering::mapElements(NodeLowering &n, ArrayRef<Value> operands,
                                       Type resultElementType, ElementFn fn) {
  SmallVector<Sizes> operandSizes;
  for (Value operand : operands)
    operandSizes.push_back(getSizes(n.b, operand));
  FailureOr<Sizes> sizes = broadcastSizes(n, operandSizes);
  if (failed(sizes))
    return failure();
  if (Value result = mapScalars(n.b, operands, *sizes, resultElementType, fn))
    return result;
  return buildElementWise(n.b, operands, *sizes, resultElementType, fn);
}

Value lowering::broadcastTo(NodeLowering &n, Value tensor, ArrayRef<OpFoldResult> sizes) {
  Type elementType = getElementTypeOrSelf(tensor.getType());
  auto same = [](ImplicitLocOpBuilder &, ValueRange elements) { return elements[0]; };
  if (Value result = mapScalars(n.b, tensor, sizes, elementType, same))
    return result;
  return buildElementWise(n.b, tensor, sizes, elementType, same);
}

Value lowering::convertTensor(NodeLowering &n, Value tensor, Type elementType) {
  Type from = getElementTypeOrSelf(tensor.getType());
  if (from == elementType)
    return tensor;
  return *mapElements(n, tensor, elementType, [&](ImplicitLocOpBuilder &b, ValueRange elements) {
    return castElement(b, elements[0], from, elementType);
  });
}

Value lowering::generateTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes,
                               Type elementType,
                               function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> fn) {
  int64_t rank = sizes.size();
  Value init = emptyTensor(b, sizes, elementType);
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange) {
    ImplicitLocOpBuilder inner(loc, builder);
    SmallVector<Value> indices;
    for (int64_t dim = 0; dim < rank; ++dim)
      indices.push_back(linalg::IndexOp::create(inner, dim));
    linalg::YieldOp::create(inner, fn(inner, indices));
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{}, ValueRange{init},
                                   b.getMultiDimIdentityMap(rank), iterators, body)
      .getResult(0);
}

Value lowering::loopOver(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Value init,
                         function_ref<Value(ImplicitLocOpBuilder &, ValueRange, Value)> step) {
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  SmallVector<Value> indices, bounds;
  for (OpFoldResult size : sizes)
    bounds.push_back(toValue(b, size));
  OpBuilder::InsertionGuard guard(b);
  SmallVector<scf::ForOp> loops;
  Value carried = init;
  for (Value bound : bounds) {
    auto loop = scf::ForOp::create(b, zero, bound, one, carried);
    loops.push_back(loop);
    indices.push_back(loop.getInductionVar());
    carried = loop.getRegionIterArg(0);
    b.setInsertionPointToStart(loop.getBody());
  }
  carried = step(b, indices, carried);
  for (scf::ForOp loop : llvm::reverse(loops)) {
    b.setInsertionPointToEnd(loop.getBody());
    scf::YieldOp::create(b, carried);
    carried = loop.getResult(0);
  }
  return carried;
}

//===----------------------------------------------------------------------===//
// Reshaping
//===----------------------------------------------------------------------===//

/// Merges dimensions [begin, end) of `tensor` into one.
static Value collapseDims(ImplicitLocOpBuilder &b, Value tensor, int64_t begin, int64_t end) {
  auto type = cast<RankedTensorType>(tensor.getType());
  SmallVector<ReassociationIndices> groups;
  SmallVector<int64_t> shape;
  int64_t product = 1;
  for (int64_t dim = 0; dim < type.getRank(); ++dim) {
    if (dim <= begin || dim >= end)
      groups.emplace_back();
    groups.back().push_back(dim);
    if (dim < begin || dim >= end) {
      shape.push_back(type.getDimSize(dim));
      continue;
    }
    bool dynamic = type.isDynamicDim(dim) || ShapedType::isDynamic(product);
    product = dynamic ? ShapedType::kDynamic : product * type.getDimSize(dim);
    if (dim == end - 1)
      shape.push_back(product);
  }
  return tensor::CollapseShapeOp::create(b, RankedTensorType::get(shape, type.getElementType()),
                                         tensor, groups);
}

/// Splits dimension `dim` of `tensor` into the `count` sizes of `sizes` from `dim` on.
static Value expandDim(ImplicitLocOpBuilder &b, Value tensor, int64_t dim, int64_t count,
                       ArrayRef<OpFoldResult> sizes) {
  Type elementType = getElementTypeOrSelf(tensor.getType());
  // A group of the expanded type is dynamic exactly if the dimension is.
  RankedTensorType expanded = getTensorType(sizes, elementType);
  ArrayRef<int64_t> group = expanded.getShape().slice(dim, count);
  SmallVector<int64_t> shape(cast<RankedTensorType>(tensor.getType()).getShape());
  shape[dim] = 1;
  for (int64_t size : group)
    shape[dim] = ShapedType::isDynamic(size) || ShapedType::isDynamic(shape[dim])
                     ? ShapedType::kDynamic
                     : shape[dim] * size;
  tensor = castTo(b, tensor, RankedTensorType::get(shape, elementType));
  SmallVector<ReassociationIndices> groups;
  for (int64_t i = 0, e = sizes.size(); i < e; ++i) {
    if (i <= dim || i >= dim + count)
      groups.emplace_back();
    groups.back().push_back(i);
  }
  return tensor::ExpandShapeOp::create(b, expanded, tensor, groups, sizes);
}

/// From or to rank 0: one element.
static Value reshapeScalar(ImplicitLocOpBuilder &b, Value tensor, int64_t rank) {
  auto type = cast<RankedTensorType>(tensor.getType());
  Type elementType = type.getElementType();
  if (type.getRank() == 0) {
    Sizes ones(rank, b.getIndexAttr(1));
    return tensor::ExpandShapeOp::create(b, getTensorType(ones, elementType), tensor,
                                         ArrayRef<ReassociationIndices>(), ones);
  }
  SmallVector<int64_t> ones(type.getRank(), 1);
  tensor = castTo(b, tensor, RankedTensorType::get(ones, elementType));
  return tensor::CollapseShapeOp::create(b, RankedTensorType::get({}, elementType), tensor,
                                         ArrayRef<ReassociationIndices>());
}

Value lowering::reshapeTo(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<OpFoldResult> target) {
  tensor = refineType(b, tensor);
  Sizes source = getSizes(b, tensor);
  int64_t from = source.size(), to = target.size();
  if (from == 0 && to == 0)
    return tensor;
  // Without elements the other sizes need not have anything in common.
  if (llvm::any_of(target, [](OpFoldResult size) { return isSize(size, 0); }))
    return emptyTensor(b, target, getElementTypeOrSelf(tensor.getType()));
  if (from == 0 || to == 0)
    return reshapeScalar(b, tensor, to);

  // Leading and trailing dimensions that stay; what is between them is merged and split.
  int64_t begin = 0, end = 0;
  int64_t common = std::min(from, to);
  while (begin < common && isSameSize(source[begin], target[begin]))
    ++begin;
  while (begin + end < common && isSameSize(source[from - 1 - end], target[to - 1 - end]))
    ++end;
  if (begin == from && begin == to)
    return tensor;
  // Neither side may have nothing to merge or split.
  if (begin + end == common && end > 0)
    --end;
  else if (begin + end == common)
    --begin;
  int64_t merged = from - begin - end, split = to - begin - end;
  if (merged > 1)
    tensor = collapseDims(b, tensor, begin, from - end);
  if (split > 1) {
    Sizes sizes = getSizes(b, tensor);
    Sizes result(sizes.begin(), sizes.begin() + begin);
    llvm::append_range(result, target.slice(begin, split));
    result.append(sizes.begin() + begin + 1, sizes.end());
    return expandDim(b, tensor, begin, split, result);
  }
  SmallVector<int64_t> shape(cast<RankedTensorType>(tensor.getType()).getShape());
  if (std::optional<int64_t> known = getConstantIntValue(target[begin]))
    shape[begin] = *known;
  return castTo(b, tensor, RankedTensorType::get(shape, getElementTypeOrSelf(tensor.getType())));
}

Value lowering::unsqueeze(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes) {
  if (axes.empty())
    return tensor;
  Sizes sizes = getSizes(b, tensor);
  for (int64_t axis : axes)
    sizes.insert(sizes.begin() + axis, b.getIndexAttr(1));
  int64_t rank = sizes.size();
  if (rank == static_cast<int64_t>(axes.size()))
    return reshapeScalar(b, tensor, rank);
  tensor = refineType(b, tensor);
  // New dimensions join the kept one before them, leading ones the first.
  SmallVector<ReassociationIndices> groups(1);
  bool hasKept = false;
  for (int64_t dim = 0; dim < rank; ++dim) {
    bool isNew = llvm::is_contained(axes, dim);
    if (!isNew && hasKept)
      groups.emplace_back();
    hasKept |= !isNew;
    groups.back().push_back(dim);
  }
  return tensor::ExpandShapeOp::create(
      b, getTensorType(sizes, getElementTypeOrSelf(tensor.getType())), tensor, groups, sizes);
}

Value lowering::squeeze(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes) {
  if (axes.empty())
    return tensor;
  tensor = refineType(b, tensor);
  auto type = cast<RankedTensorType>(tensor.getType());
  int64_t rank = type.getRank();
  if (rank == static_cast<int64_t>(axes.size()))
    return reshapeScalar(b, tensor, 0);
  SmallVector<int64_t> shape(type.getShape()), result;
  for (int64_t axis : axes)
    shape[axis] = 1;
  tensor = castTo(b, tensor, RankedTensorType::get(shape, type.getElementType()));
  SmallVector<ReassociationIndices> groups(1);
  bool hasKept = false;
  for (int64_t dim = 0; dim < rank; ++dim) {
    bool isGone = llvm::is_contained(axes, dim);
    if (!isGone && hasKept)
      groups.emplace_back();
    hasKept |= !isGone;
    groups.back().push_back(dim);
    if (!isGone)
      result.push_back(shape[dim]);
  }
  return tensor::CollapseShapeOp::create(b, RankedTensorType::get(result, type.getElementType()),
                                         tensor, groups);
}

Value lowering::takeFirst(ImplicitLocOpBuilder &b, Value tensor, int64_t dim, OpFoldResult size) {
  Sizes sizes = getSizes(b, tensor);
  if (isSameSize(sizes[dim], size))
    return tensor;
  sizes[dim] = size;
  Sizes offsets(sizes.size(), b.getIndexAttr(0)), strides(sizes.size(), b.getIndexAttr(1));
  return tensor::ExtractSliceOp::create(b, tensor, offsets, sizes, strides);
}

LogicalResult lowering::agreeOnSize(NodeLowering &n, OpFoldResult &size, OpFoldResult other,
                                    const Twine &message) {
  if (isSameSize(size, other))
    return success();
  if (getConstantIntValue(size) && getConstantIntValue(other))
    return n.fail(message + " (" + Twine(*getConstantIntValue(size)) + " and " +
                  Twine(*getConstantIntValue(other)) + ")");
  n.check(equalSizes(n.b, size, other), message);
  size = minSizes(n.b, size, other);
  return success();
}

LogicalResult lowering::limitSize(NodeLowering &n, OpFoldResult &size, OpFoldResult limit,
                                  const Twine &message) {
  std::optional<int64_t> known = getConstantIntValue(size), most = getConstantIntValue(limit);
  if (isSameSize(size, limit) || (known && most && *known <= *most))
    return success();
  if (known && most)
    return n.fail(message + " (" + Twine(*known) + " and " + Twine(*most) + ")");
  n.check(n.b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sle, toValue(n.b, size),
                                          toValue(n.b, limit)),
          message);
  size = minSizes(n.b, size, limit);
  return success();
}

LogicalResult lowering::unifyDim(NodeLowering &n, Value &lhs, int64_t lhsDim, Value &rhs,
                                 int64_t rhsDim, const Twine &message) {
  OpFoldResult left = getSize(n.b, lhs, lhsDim), right = getSize(n.b, rhs, rhsDim);
  if (isSameSize(left, right))
    return success();
  if (getConstantIntValue(left) && getConstantIntValue(right))
    return n.fail(message + " (" + Twine(*getConstantIntValue(left)) + " and " +
                  Twine(*getConstantIntValue(right)) + ")");
  n.check(equalSizes(n.b, left, right), message);
  OpFoldResult common = minSizes(n.b, left, right);
  lhs = takeFirst(n.b, lhs, lhsDim, common);
  rhs = takeFirst(n.b, rhs, rhsDim, common);
  return success();
}
