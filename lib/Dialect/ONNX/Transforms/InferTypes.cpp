// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "InferTypes.h"

#include "moec/Dialect/ONNX/IR/Einsum.h"
#include "moec/Dialect/ONNX/IR/ElementType.h"
#include "moec/Support/NodeLocation.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

static constexpr int64_t kDynamic = ShapedType::kDynamic;
using Shape = SmallVector<int64_t>;

namespace {
/// What is known of one result: nothing about the elements when `element` is
/// null, nothing about the shape when it is nullopt.
struct Inferred {
  Type element;
  std::optional<Shape> shape;
};

/// A node whose results are inferred.
class Inference {
public:
  Inference(NodeOp node, const ShapeValues &shapes)
      : node(node), shapes(shapes), results(node.getNumResults()) {}

  NodeOp node;
  const ShapeValues &shapes;
  SmallVector<Inferred> results;

  /// Sets result `index` when there is one.
  void set(unsigned index, Type element, std::optional<Shape> shape) {
    if (index < results.size())
      results[index] = {element, std::move(shape)};
  }

  /// Element type of an input; null when absent or unknown.
  Type element(unsigned position) {
    Value input = node.getInput(position);
    if (!input)
      return {};
    Type type = cast<TensorType>(input.getType()).getElementType();
    return isa<UnknownType>(type) ? Type() : type;
  }
  /// Element type of the first input that has one.
  Type commonElement() {
    for (unsigned i = 0, e = node.getNumInputs(); i < e; ++i)
      if (Type type = element(i))
        return type;
    return {};
  }
  std::optional<Shape> shape(unsigned position) {
    Value input = node.getInput(position);
    auto type = input ? dyn_cast<RankedTensorType>(input.getType()) : RankedTensorType();
    return type ? std::optional(Shape(type.getShape())) : std::nullopt;
  }
  std::optional<SmallVector<int64_t>> ints(unsigned position) {
    Value input = node.getInput(position);
    return input ? shapes.getKnown(input) : std::nullopt;
  }
  std::optional<ShapeElements> partialInts(unsigned position) {
    Value input = node.getInput(position);
    return input ? shapes.get(input) : std::nullopt;
  }
  Type i64() { return IntegerType::get(node.getContext(), 64); }
  Type i1() { return IntegerType::get(node.getContext(), 1); }

  InFlightDiagnostic fail() {
    return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
  }
  /// `axis` counted from the front of `rank` dimensions.
  FailureOr<int64_t> checkAxis(int64_t axis, int64_t rank) {
    if (axis < -rank || axis >= rank)
      return fail() << "axis " << axis << " is out of range for rank " << rank;
    return axis < 0 ? axis + rank : axis;
  }
};

using InferFn = LogicalResult (*)(Inference &);
} // namespace

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

static std::string print(ArrayRef<int64_t> shape) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << '[';
  llvm::interleaveComma(shape, stream, [&](int64_t dim) {
    if (dim == kDynamic)
      stream << '?';
    else
      stream << dim;
  });
  stream << ']';
  return text;
}

/// One dimension of two broadcast together; nullopt when they do not go
/// together. A dynamic one beside a size other than 1 must be that size, or 1.
static std::optional<int64_t> broadcastDim(int64_t a, int64_t b) {
  if (a == 1)
    return b;
  if (b == 1 || a == b)
    return a;
  if (a == kDynamic)
    return b;
  if (b == kDynamic)
    return a;
  return std::nullopt;
}

static std::optional<Shape> broadcast(ArrayRef<int64_t> a, ArrayRef<int64_t> b) {
  if (a.size() < b.size())
    std::swap(a, b);
  Shape result(a);
  size_t offset = a.size() - b.size();
  for (size_t i = 0; i < b.size(); ++i) {
    std::optional<int64_t> dim = broadcastDim(a[offset + i], b[i]);
    if (!dim)
      return std::nullopt;
    result[offset + i] = *dim;
  }
  return result;
}

std::optional<SmallVector<int64_t>>
mlir::moe::onnx::broadcastShapes(NodeOp node, ArrayRef<Value> inputs, bool &failed) {
  std::optional<Shape> result = Shape();
  for (Value input : inputs) {
    auto type = dyn_cast<RankedTensorType>(input.getType());
    if (!type)
      return std::nullopt;
    std::optional<Shape> next = broadcast(*result, type.getShape());
    if (!next) {
      failed = true;
      mlir::emitError(node.getLoc())
          << describeNode(node.getLoc(), node.getOpType()) << ": shapes " << print(*result)
          << " and " << print(type.getShape()) << " do not broadcast";
      return std::nullopt;
    }
    result = next;
  }
  return result;
}

/// Product of the sizes; kDynamic when one is dynamic or it overflows.
static int64_t product(ArrayRef<int64_t> shape) {
  int64_t result = 1;
  for (int64_t dim : shape)
    if (dim == kDynamic || llvm::MulOverflow(result, dim, result))
      return kDynamic;
  return result;
}

/// A shape given by elements of a tensor; unknown or negative ones are dynamic.
static Shape toShape(const ShapeElements &elements) {
  Shape shape;
  for (std::optional<int64_t> element : elements)
    shape.push_back(element && *element >= 0 ? *element : kDynamic);
  return shape;
}

//===----------------------------------------------------------------------===//
// Element-wise
//===----------------------------------------------------------------------===//

static LogicalResult inferSameAsInput(Inference &in) {
  in.set(0, in.element(0), in.shape(0));
  return success();
}

/// All inputs broadcast; the elements are those of the inputs.
static LogicalResult inferBroadcast(Inference &in) {
  bool failed = false;
  SmallVector<Value> inputs(in.node.getInputs());
  std::optional<Shape> shape = broadcastShapes(in.node, inputs, failed);
  in.set(0, in.commonElement(), shape);
  return failure(failed);
}

static LogicalResult inferComparison(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  in.set(0, in.i1(), in.results[0].shape);
  return success();
}

/// Pow has the element type of its base.
static LogicalResult inferPow(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  in.set(0, in.element(0), in.results[0].shape);
  return success();
}

static LogicalResult inferPredicate(Inference &in) {
  in.set(0, in.i1(), in.shape(0));
  return success();
}

static LogicalResult inferWhere(Inference &in) {
  if (failed(inferBroadcast(in)))
    return failure();
  Type element = in.element(1) ? in.element(1) : in.element(2);
  in.set(0, element, in.results[0].shape);
  return success();
}

static LogicalResult inferCast(Inference &in) {
  in.set(0, onnx::getElementType(in.node.getIntAttr("to", 0), in.node.getContext()), in.shape(0));
  return success();
}

static LogicalResult inferCastLike(Inference &in) {
  in.set(0, in.element(1), in.shape(0));
  return success();
}

/// The first result is like the first input, the second a mask.
static LogicalResult inferDropout(Inference &in) {
  in.set(0, in.element(0), in.shape(0));
  in.set(1, in.i1(), in.shape(0));
  return success();
}

/// The result has the shape of the input and the element type of input `typed`; the
/// statistics have normalized dimensions of size 1 and the type that `stash_type` says.
static LogicalResult inferNormalization(Inference &in, unsigned typed) {
  std::optional<Shape> shape = in.shape(0);
  in.set(0, in.element(typed), shape);
  if (!shape)
    return success();
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), shape->size());
  if (failed(axis))
    return failure();
  std::fill(shape->begin() + *axis, shape->end(), 1);
  Type stash = onnx::getElementType(in.node.getIntAttr("stash_type", 1), in.node.getContext());
  for (unsigned i = 1; i < in.results.size(); ++i)
    in.set(i, stash, shape);
  return success();
}

static LogicalResult inferLayerNormalization(Inference &in) { return inferNormalization(in, 0); }

static LogicalResult inferRMSNormalization(Inference &in) { return inferNormalization(in, 1); }

//===----------------------------------------------------------------------===//
// Convolution
//===----------------------------------------------------------------------===//

/// Size of the result of a convolution along one dimension of size `size`; kDynamic when
/// it is not known, or not valid, which the lowering reports.
static int64_t getConvolvedSize(NodeOp node, size_t i, size_t rank, int64_t size, int64_t kernel) {
  auto get = [&](StringRef name, size_t index, int64_t defaultValue) {
    std::optional<ArrayRef<int64_t>> values = node.getIntsAttr(name);
    return values && index < values->size() ? (*values)[index] : defaultValue;
  };
  StringRef mode = node.getStringAttr("auto_pad", "NOTSET");
  int64_t stride = get("strides", i, 1);
  if (size == kDynamic || kernel == kDynamic || stride < 1)
    return kDynamic;
  if (mode.starts_with("SAME"))
    return llvm::divideCeil(size, stride);
  int64_t reach = (kernel - 1) * get("dilations", i, 1) + 1;
  if (mode == "NOTSET")
    size += get("pads", i, 0) + get("pads", rank + i, 0);
  return size < reach ? kDynamic : (size - reach) / stride + 1;
}

static LogicalResult inferConv(Inference &in) {
  std::optional<Shape> data = in.shape(0), filters = in.shape(1), result;
  if (data && filters && data->size() == filters->size() && data->size() > 2) {
    result = Shape{data->front(), filters->front()};
    size_t rank = data->size() - 2;
    for (size_t i = 0; i < rank; ++i)
      result->push_back(getConvolvedSize(in.node, i, rank, (*data)[2 + i], (*filters)[2 + i]));
  }
  in.set(0, in.commonElement(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

/// Type that `output_dtype` says; null when it says none.
static Type getOutputType(Inference &in) {
  return onnx::getElementType(in.node.getIntAttr("output_dtype", 0), in.node.getContext());
}

static LogicalResult inferQuantizeLinear(Inference &in) {
  Type type = getOutputType(in);
  if (!type)
    type = in.node.getInput(2) ? in.element(2)
                               : IntegerType::get(in.node.getContext(), 8, IntegerType::Unsigned);
  in.set(0, type, in.shape(0));
  return success();
}

static LogicalResult inferDequantizeLinear(Inference &in) {
  Type type = getOutputType(in);
  in.set(0, type ? type : in.element(1), in.shape(0));
  return success();
}

static LogicalResult inferDynamicQuantizeLinear(Inference &in) {
  MLIRContext *context = in.node.getContext();
  Type whole = IntegerType::get(context, 8, IntegerType::Unsigned);
  in.set(0, whole, in.shape(0));
  in.set(1, Float32Type::get(context), Shape());
  in.set(2, whole, Shape());
  return success();
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

static LogicalResult inferMatMul(Inference &in) {
  Type element = in.commonElement();
  std::optional<Shape> a = in.shape(0), b = in.shape(1);
  in.set(0, element, std::nullopt);
  if (!a || !b)
    return success();
  if (a->empty() || b->empty())
    return in.fail() << "operands of rank 0 have no matrix product";
  Shape left = *a, right = *b;
  bool isRow = left.size() == 1, isColumn = right.size() == 1;
  if (isRow)
    left.insert(left.begin(), 1);
  if (isColumn)
    right.push_back(1);
  int64_t k = left.back(), otherK = right[right.size() - 2];
  if (k != kDynamic && otherK != kDynamic && k != otherK)
    return in.fail() << "inner dimensions of " << print(*a) << " and " << print(*b) << " differ";
  std::optional<Shape> batch = broadcast(ArrayRef(left).drop_back(2), ArrayRef(right).drop_back(2));
  if (!batch)
    return in.fail() << "batch dimensions of " << print(*a) << " and " << print(*b)
                     << " do not broadcast";
  if (!isRow)
    batch->push_back(left[left.size() - 2]);
  if (!isColumn)
    batch->push_back(right.back());
  in.set(0, element, batch);
  return success();
}

/// MatMul of operands that may be transposed on their last two dimensions.
static LogicalResult inferFusedMatMul(Inference &in) {
  std::optional<Shape> result;
  std::optional<Shape> a = in.shape(0), b = in.shape(1);
  if (a && b && a->size() >= 2 && b->size() >= 2) {
    if (in.node.getIntAttr("transA", 0))
      std::swap(a->back(), (*a)[a->size() - 2]);
    if (in.node.getIntAttr("transB", 0))
      std::swap(b->back(), (*b)[b->size() - 2]);
    result = broadcast(ArrayRef(*a).drop_back(2), ArrayRef(*b).drop_back(2));
    if (!result)
      return in.fail() << "batch dimensions do not broadcast";
    result->push_back((*a)[a->size() - 2]);
    result->push_back(b->back());
  }
  in.set(0, in.commonElement(), result);
  return success();
}

static LogicalResult inferMatMulNBits(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape && !shape->empty())
    shape->back() = in.node.getIntAttr("N", kDynamic);
  in.set(0, in.element(0), shape);
  return success();
}

static LogicalResult inferMatMulInteger(Inference &in) {
  if (failed(inferMatMul(in)))
    return failure();
  in.set(0, IntegerType::get(in.node.getContext(), 32), in.results[0].shape);
  return success();
}

static LogicalResult inferGemm(Inference &in) {
  std::optional<Shape> a = in.shape(0), b = in.shape(1), c = in.shape(2);
  Shape result(2, kDynamic);
  if ((a && a->size() != 2) || (b && b->size() != 2))
    return in.fail() << "operands must have rank 2, got " << (a ? print(*a) : "?") << " and "
                     << (b ? print(*b) : "?");
  if (a && in.node.getIntAttr("transA", 0))
    std::swap((*a)[0], (*a)[1]);
  if (b && in.node.getIntAttr("transB", 0))
    std::swap((*b)[0], (*b)[1]);
  if (a && b && (*a)[1] != kDynamic && (*b)[0] != kDynamic && (*a)[1] != (*b)[0])
    return in.fail() << "inner dimensions " << (*a)[1] << " and " << (*b)[0] << " differ";
  if (a)
    result[0] = (*a)[0];
  if (b)
    result[1] = (*b)[1];
  if (c) {
    std::optional<Shape> sum = broadcast(result, *c);
    if (!sum || sum->size() != 2)
      return in.fail() << "C of shape " << print(*c) << " does not broadcast to " << print(result);
  }
  in.set(0, in.commonElement(), result);
  return success();
}

static LogicalResult inferEinsum(Inference &in) {
  in.set(0, in.commonElement(), std::nullopt);
  SmallVector<Shape> shapes;
  SmallVector<int64_t> ranks;
  for (unsigned i = 0, e = in.node.getNumInputs(); i < e; ++i) {
    std::optional<Shape> shape = in.shape(i);
    if (!shape)
      return success();
    ranks.push_back(shape->size());
    shapes.push_back(*shape);
  }
  auto labels = parseEinsum(in.node.getStringAttr("equation", ""), ranks);
  if (!labels)
    return in.fail() << llvm::toString(labels.takeError());
  Shape sizes(labels->numLabels, 1);
  for (auto [i, operand] : llvm::enumerate(labels->operands))
    for (auto [label, dim] : llvm::zip(operand, shapes[i])) {
      std::optional<int64_t> size = broadcastDim(sizes[label], dim);
      if (!size)
        return in.fail() << "sizes " << sizes[label] << " and " << dim << " of shape "
                         << print(shapes[i]) << " do not go together in the equation";
      sizes[label] = *size;
    }
  Shape result;
  for (int64_t label : labels->result)
    result.push_back(sizes[label]);
  in.set(0, in.commonElement(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// Shapes as values
//===----------------------------------------------------------------------===//

static LogicalResult inferConstant(Inference &in) {
  if (DenseElementsAttr value = in.node.getTensorAttr("value"))
    in.set(0, value.getElementType(), Shape(value.getType().getShape()));
  return success();
}

static LogicalResult inferShape(Inference &in) {
  Shape result = {kDynamic};
  if (std::optional<Shape> shape = in.shape(0)) {
    int64_t rank = shape->size();
    auto clampAxis = [&](int64_t axis) {
      return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank);
    };
    int64_t start = clampAxis(in.node.getIntAttr("start", 0));
    int64_t end = clampAxis(in.node.getIntAttr("end", rank));
    result[0] = std::max<int64_t>(end - start, 0);
  }
  in.set(0, in.i64(), result);
  return success();
}

static LogicalResult inferSize(Inference &in) {
  in.set(0, in.i64(), Shape());
  return success();
}

static LogicalResult inferConstantOfShape(Inference &in) {
  DenseElementsAttr value = in.node.getTensorAttr("value");
  Type element = value ? value.getElementType() : Float32Type::get(in.node.getContext());
  if (value && value.getNumElements() != 1)
    return in.fail() << "value has " << value.getNumElements() << " elements, expected 1";
  std::optional<ShapeElements> shape = in.partialInts(0);
  in.set(0, element, shape ? std::optional(toShape(*shape)) : std::nullopt);
  return success();
}

static LogicalResult inferRange(Inference &in) {
  Shape shape = {kDynamic};
  std::optional<SmallVector<int64_t>> start = in.ints(0), limit = in.ints(1), delta = in.ints(2);
  int64_t distance;
  // -distance must exist too, for a step of -1.
  bool isKnown =
      start && limit && delta && start->size() == 1 && limit->size() == 1 && delta->size() == 1 &&
      !llvm::SubOverflow(limit->front(), start->front(), distance) && distance != INT64_MIN;
  if (isKnown && delta->front() == 0)
    return in.fail() << "the step must not be 0";
  if (isKnown && delta->front() != INT64_MIN) {
    int64_t step = delta->front();
    bool isEmpty = (distance > 0) != (step > 0) || distance == 0;
    shape[0] = isEmpty ? 0 : distance / step + (distance % step != 0 ? 1 : 0);
  }
  in.set(0, in.commonElement(), shape);
  return success();
}

static LogicalResult inferExpand(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> target = in.partialInts(1);
  std::optional<Shape> result;
  if (shape && target) {
    result = broadcast(*shape, toShape(*target));
    if (!result)
      return in.fail() << "shape " << print(*shape) << " does not broadcast to "
                       << print(toShape(*target));
  }
  in.set(0, in.element(0), result);
  return success();
}

static LogicalResult inferTile(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> repeats = in.partialInts(1);
  if (shape && repeats && repeats->size() != shape->size())
    return in.fail() << "needs " << shape->size() << " repeats, got " << repeats->size();
  for (size_t i = 0; shape && i < shape->size(); ++i) {
    std::optional<int64_t> repeat = repeats ? (*repeats)[i] : std::nullopt;
    int64_t &dim = (*shape)[i];
    if (repeat && *repeat < 0)
      return in.fail() << "repeat " << *repeat << " of dimension " << i << " is negative";
    if (!repeat || dim == kDynamic || llvm::MulOverflow(dim, *repeat, dim))
      dim = kDynamic;
  }
  in.set(0, in.element(0), shape);
  return success();
}

//===----------------------------------------------------------------------===//
// Other shapes of the same elements
//===----------------------------------------------------------------------===//

/// Fills in the one dimension of `result` that is open from the number of
/// elements. `copied` dimensions are equal on both sides and cancel.
static LogicalResult fillReshape(Inference &in, ArrayRef<int64_t> input, Shape &result,
                                 ArrayRef<bool> copied) {
  int64_t left = 1, right = 1;
  std::optional<size_t> open;
  auto isCopied = [&](size_t i) { return i < copied.size() && copied[i]; };
  for (auto [i, dim] : llvm::enumerate(input))
    if (!isCopied(i) && (dim == kDynamic || llvm::MulOverflow(left, dim, left)))
      return success();
  for (auto [i, dim] : llvm::enumerate(result)) {
    if (isCopied(i))
      continue;
    if (dim == kDynamic && open)
      return success();
    if (dim == kDynamic)
      open = i;
    else if (llvm::MulOverflow(right, dim, right))
      return success();
  }
  // A copied dimension may be 0, and then the rest may be anything.
  bool isStatic = product(input) != kDynamic;
  if (!open) {
    if (left != right && isStatic && product(input) != product(result))
      return in.fail() << "cannot reshape " << print(input) << " to " << print(result);
    return success();
  }
  if (right == 0)
    return success();
  if (left % right != 0) {
    if (isStatic && product(input) != 0)
      return in.fail() << "cannot reshape " << print(input) << " to " << print(result);
    return success();
  }
  result[*open] = left / right;
  return success();
}

static LogicalResult inferReshape(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<ShapeElements> target = in.partialInts(1);
  if (!target)
    return success();
  std::optional<Shape> input = in.shape(0);
  bool allowZero = in.node.getIntAttr("allowzero", 0);
  Shape result = toShape(*target);
  SmallVector<bool> copied(result.size(), false);
  unsigned numOpen = 0;
  for (auto [i, dim] : llvm::enumerate(*target)) {
    if (!dim)
      continue;
    if (*dim < -1)
      return in.fail() << "dimension " << *dim << " of the shape is invalid";
    numOpen += *dim == -1;
    if (*dim != 0 || allowZero)
      continue;
    // 0 copies the dimension of the input.
    if (input && i >= input->size())
      return in.fail() << "dimension " << i << " of the shape is copied from " << print(*input)
                       << ", which has none";
    copied[i] = true;
    result[i] = input ? (*input)[i] : kDynamic;
  }
  if (numOpen > 1)
    return in.fail() << "more than one dimension of the shape is -1";
  bool hasZero = allowZero && llvm::is_contained(result, 0);
  if (input && !hasZero && failed(fillReshape(in, *input, result, copied)))
    return failure();
  in.set(0, element, result);
  return success();
}

static LogicalResult inferFlatten(Inference &in) {
  Shape result(2, kDynamic);
  if (std::optional<Shape> shape = in.shape(0)) {
    int64_t rank = shape->size(), axis = in.node.getIntAttr("axis", 1);
    if (axis < -rank || axis > rank)
      return in.fail() << "axis " << axis << " is out of range for rank " << rank;
    axis = axis < 0 ? axis + rank : axis;
    result = {product(ArrayRef(*shape).take_front(axis)),
              product(ArrayRef(*shape).drop_front(axis))};
  }
  in.set(0, in.element(0), result);
  return success();
}

static LogicalResult inferTranspose(Inference &in) {
  std::optional<Shape> shape = in.shape(0), result;
  if (shape) {
    result = Shape(llvm::reverse(*shape));
    if (std::optional<ArrayRef<int64_t>> perm = in.node.getIntsAttr("perm")) {
      int64_t rank = shape->size();
      SmallVector<bool> seen(rank, false);
      bool valid = int64_t(perm->size()) == rank;
      for (int64_t axis : *perm) {
        valid &= axis >= 0 && axis < rank && !seen[axis];
        if (!valid)
          break;
        seen[axis] = true;
      }
      if (!valid)
        return in.fail() << "perm " << print(*perm) << " is not a permutation of " << rank
                         << " dimensions";
      for (int64_t i = 0; i < rank; ++i)
        (*result)[i] = (*shape)[(*perm)[i]];
    }
  }
  in.set(0, in.element(0), result);
  return success();
}

/// Axes of the constant input `position` counted from the front of `rank`
/// dimensions; nullopt when it is not constant.
static FailureOr<std::optional<SmallVector<int64_t>>> getAxes(Inference &in, unsigned position,
                                                              int64_t rank) {
  std::optional<SmallVector<int64_t>> axes = in.ints(position);
  if (!axes)
    return std::optional<SmallVector<int64_t>>();
  for (int64_t &axis : *axes) {
    FailureOr<int64_t> checked = in.checkAxis(axis, rank);
    if (failed(checked))
      return failure();
    axis = *checked;
  }
  llvm::sort(*axes);
  if (std::adjacent_find(axes->begin(), axes->end()) != axes->end())
    return in.fail() << "axis is given twice";
  return axes;
}

static LogicalResult inferSqueeze(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return success();
  FailureOr<std::optional<SmallVector<int64_t>>> axes = getAxes(in, 1, shape->size());
  if (failed(axes))
    return failure();
  Shape result;
  if (!*axes) {
    // Without axes all dimensions of size 1 go, which a dynamic one may be.
    if (in.node.getInput(1) || llvm::is_contained(*shape, kDynamic))
      return success();
    llvm::copy_if(*shape, std::back_inserter(result), [](int64_t dim) { return dim != 1; });
    in.set(0, element, result);
    return success();
  }
  for (auto [i, dim] : llvm::enumerate(*shape)) {
    if (!llvm::is_contained(**axes, int64_t(i)))
      result.push_back(dim);
    else if (dim != 1 && dim != kDynamic)
      return in.fail() << "dimension " << i << " of " << print(*shape) << " is not 1";
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferUnsqueeze(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> shape = in.shape(0);
  std::optional<SmallVector<int64_t>> stated = in.ints(1);
  if (!shape || !stated)
    return success();
  FailureOr<std::optional<SmallVector<int64_t>>> axes =
      getAxes(in, 1, shape->size() + stated->size());
  if (failed(axes))
    return failure();
  Shape result = *shape;
  for (int64_t axis : **axes)
    result.insert(result.begin() + axis, 1);
  in.set(0, element, result);
  return success();
}

static LogicalResult inferConcat(Inference &in) {
  Type element = in.commonElement();
  in.set(0, element, std::nullopt);
  std::optional<Shape> result;
  for (unsigned i = 0, e = in.node.getNumInputs(); i < e; ++i) {
    std::optional<Shape> shape = in.shape(i);
    if (!shape)
      return success();
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
    if (failed(axis))
      return failure();
    if (!result) {
      result = shape;
      continue;
    }
    if (result->size() != shape->size())
      return in.fail() << "inputs have ranks " << result->size() << " and " << shape->size();
    for (size_t d = 0; d < shape->size(); ++d) {
      int64_t &left = (*result)[d], right = (*shape)[d];
      if (int64_t(d) == *axis) {
        if (left == kDynamic || right == kDynamic || llvm::AddOverflow(left, right, left))
          left = kDynamic;
        continue;
      }
      if (left != kDynamic && right != kDynamic && left != right)
        return in.fail() << "inputs of shapes " << print(*result) << " and " << print(*shape)
                         << " differ in dimension " << d;
      left = left == kDynamic ? right : left;
    }
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferSplit(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  std::optional<ShapeElements> sizes = in.partialInts(1);
  unsigned parts = in.node.getNumResults();
  if (sizes && sizes->size() != parts)
    return in.fail() << "has " << parts << " outputs but " << sizes->size() << " sizes";
  if (sizes && llvm::any_of(*sizes, [](std::optional<int64_t> size) { return size && *size < 0; }))
    return in.fail() << "a size is negative";
  FailureOr<int64_t> axis = 0;
  if (shape)
    axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
  if (failed(axis))
    return failure();
  for (unsigned i = 0; i < parts; ++i) {
    std::optional<Shape> part = shape;
    if (part) {
      int64_t whole = (*shape)[*axis];
      // Without sizes the parts are equal, the last one smaller if need be.
      int64_t chunk = whole == kDynamic ? kDynamic : int64_t(llvm::divideCeil(whole, parts));
      if (sizes)
        (*part)[*axis] = (*sizes)[i].value_or(kDynamic);
      else if (whole == kDynamic)
        (*part)[*axis] = kDynamic;
      else
        (*part)[*axis] = std::clamp<int64_t>(whole - chunk * i, 0, chunk);
    }
    in.set(i, in.element(0), part);
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Indexing
//===----------------------------------------------------------------------===//

static LogicalResult inferGather(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> data = in.shape(0), indices = in.shape(1);
  if (!data || !indices)
    return success();
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), data->size());
  if (failed(axis))
    return failure();
  Shape result(ArrayRef(*data).take_front(*axis));
  result.append(*indices);
  result.append(data->begin() + *axis + 1, data->end());
  in.set(0, element, result);
  return success();
}

static LogicalResult inferGatherElements(Inference &in) {
  in.set(0, in.element(0), in.shape(1));
  return success();
}

static LogicalResult inferGatherND(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> data = in.shape(0), indices = in.shape(1);
  int64_t batch = in.node.getIntAttr("batch_dims", 0);
  if (!data || !indices || indices->empty() || indices->back() == kDynamic)
    return success();
  int64_t depth = indices->back();
  int64_t rank = data->size();
  if (batch < 0 || batch > rank || depth < 1 || depth > rank - batch)
    return in.fail() << "indices of shape " << print(*indices) << " do not fit data of shape "
                     << print(*data);
  Shape result(ArrayRef(*indices).drop_back());
  result.append(data->begin() + batch + depth, data->end());
  in.set(0, element, result);
  return success();
}

static LogicalResult inferSlice(Inference &in) {
  Type element = in.element(0);
  in.set(0, element, std::nullopt);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return success();
  std::optional<ShapeElements> starts = in.partialInts(1), ends = in.partialInts(2);
  std::optional<SmallVector<int64_t>> axes = in.ints(3);
  if (!in.node.getInput(3) && starts)
    axes = llvm::to_vector(llvm::seq<int64_t>(0, starts->size()));
  Shape result = *shape;
  if (!axes) {
    in.set(0, element, Shape(shape->size(), kDynamic));
    return success();
  }
  std::optional<SmallVector<int64_t>> steps = in.ints(4);
  for (auto [i, stated] : llvm::enumerate(*axes)) {
    FailureOr<int64_t> axis = in.checkAxis(stated, shape->size());
    if (failed(axis))
      return failure();
    int64_t size = (*shape)[*axis], &out = result[*axis];
    out = kDynamic;
    std::optional<int64_t> step = 1;
    if (in.node.getInput(4))
      step = steps && i < steps->size() ? std::optional((*steps)[i]) : std::nullopt;
    bool known = starts && ends && i < starts->size() && i < ends->size() && (*starts)[i] &&
                 (*ends)[i] && step;
    if (!known)
      continue;
    if (*step == 0)
      return in.fail() << "a step of Slice must not be 0";
    int64_t start = *(*starts)[i], end = *(*ends)[i];
    if (size == kDynamic)
      continue;
    if (size == 0) {
      out = 0;
      continue;
    }
    start = start < 0 ? start + size : start;
    end = end < 0 ? std::max<int64_t>(end, -size - 1) + size : end;
    if (*step > 0) {
      start = std::clamp<int64_t>(start, 0, size);
      end = std::clamp<int64_t>(end, 0, size);
    } else {
      start = std::clamp<int64_t>(start, 0, size - 1);
      end = std::clamp<int64_t>(end, -1, size - 1);
    }
    int64_t span = *step > 0 ? end - start : start - end;
    uint64_t stride = *step > 0 ? uint64_t(*step) : -uint64_t(*step);
    out = span <= 0 ? 0 : int64_t(llvm::divideCeil(uint64_t(span), stride));
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferTopK(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape) {
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), shape->size());
    if (failed(axis))
      return failure();
    std::optional<SmallVector<int64_t>> k = in.ints(1);
    (*shape)[*axis] = k && k->size() == 1 && k->front() >= 0 ? k->front() : kDynamic;
  }
  in.set(0, in.element(0), shape);
  in.set(1, in.i64(), shape);
  return success();
}

static LogicalResult inferOneHot(Inference &in) {
  std::optional<Shape> shape = in.shape(0);
  if (shape) {
    int64_t rank = shape->size() + 1;
    FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", -1), rank);
    if (failed(axis))
      return failure();
    std::optional<SmallVector<int64_t>> depth = in.ints(1);
    if (depth && depth->size() == 1 && depth->front() < 0)
      return in.fail() << "depth " << depth->front() << " is negative";
    shape->insert(shape->begin() + *axis, depth && depth->size() == 1 ? depth->front() : kDynamic);
  }
  in.set(0, in.element(2), shape);
  return success();
}

static LogicalResult inferNonZero(Inference &in) {
  Shape result(2, kDynamic);
  if (std::optional<Shape> shape = in.shape(0))
    result[0] = shape->size();
  in.set(0, in.i64(), result);
  return success();
}

//===----------------------------------------------------------------------===//
// Reductions
//===----------------------------------------------------------------------===//

static LogicalResult setReduced(Inference &in, Type element, std::optional<ArrayRef<int64_t>> axes,
                                bool keep) {
  std::optional<Shape> shape = in.shape(0);
  if (!shape || !axes) {
    // Which dimensions go is unknown, but with keepdims not how many stay.
    std::optional<Shape> open;
    if (shape && keep)
      open = Shape(shape->size(), kDynamic);
    in.set(0, element, open);
    return success();
  }
  Shape result;
  for (auto [i, dim] : llvm::enumerate(*shape)) {
    if (!llvm::is_contained(*axes, int64_t(i)))
      result.push_back(dim);
    else if (keep)
      result.push_back(1);
  }
  in.set(0, element, result);
  return success();
}

static LogicalResult inferReduce(Inference &in) {
  bool keep = in.node.getIntAttr("keepdims", 1);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return setReduced(in, in.element(0), std::nullopt, keep);
  FailureOr<std::optional<SmallVector<int64_t>>> axes = getAxes(in, 1, shape->size());
  if (failed(axes))
    return failure();
  bool isEmpty = !in.node.getInput(1) || (*axes && (*axes)->empty());
  if (isEmpty && in.node.getIntAttr("noop_with_empty_axes", 0)) {
    in.set(0, in.element(0), shape);
    return success();
  }
  if (isEmpty)
    *axes = llvm::to_vector(llvm::seq<int64_t>(0, shape->size()));
  if (!*axes)
    return setReduced(in, in.element(0), std::nullopt, keep);
  return setReduced(in, in.element(0), ArrayRef(**axes), keep);
}

static LogicalResult inferArgReduce(Inference &in) {
  bool keep = in.node.getIntAttr("keepdims", 1);
  std::optional<Shape> shape = in.shape(0);
  if (!shape)
    return setReduced(in, in.i64(), std::nullopt, keep);
  FailureOr<int64_t> axis = in.checkAxis(in.node.getIntAttr("axis", 0), shape->size());
  if (failed(axis))
    return failure();
  return setReduced(in, in.i64(), ArrayRef(*axis), keep);
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

/// [batch, heads, rows, size] of queries, keys or values; a size is dynamic when unknown.
static std::optional<Shape> getHeads(Inference &in, unsigned position, StringRef attribute) {
  std::optional<Shape> shape = in.shape(position);
  if (!shape || shape->size() == 4)
    return shape;
  int64_t heads = in.node.getIntAttr(attribute, 0);
  if (shape->size() != 3 || heads <= 0)
    return std::nullopt;
  int64_t all = shape->back();
  return Shape{(*shape)[0], heads, (*shape)[1], all == kDynamic ? kDynamic : all / heads};
}

static LogicalResult inferAttention(Inference &in) {
  Type element = in.element(0);
  std::optional<Shape> query = getHeads(in, 0, "q_num_heads");
  std::optional<Shape> key = getHeads(in, 1, "kv_num_heads");
  std::optional<Shape> value = getHeads(in, 2, "kv_num_heads");
  for (auto [position, present] : {std::pair<unsigned, std::optional<Shape> *>(4, &key),
                                   std::pair<unsigned, std::optional<Shape> *>(5, &value)}) {
    if (!*present || !in.node.getInput(position))
      continue;
    std::optional<Shape> past = in.shape(position);
    int64_t &rows = (**present)[2];
    if (!past || past->size() != 4 || (*past)[2] == kDynamic || rows == kDynamic)
      rows = kDynamic;
    else
      rows += (*past)[2];
  }
  std::optional<Shape> result;
  std::optional<Shape> stated = in.shape(0);
  if (query && value && stated->size() == 4)
    result = Shape{(*query)[0], (*query)[1], (*query)[2], (*value)[3]};
  if (query && value && stated->size() == 3) {
    int64_t size = (*value)[3];
    result = Shape{(*query)[0], (*query)[2], size == kDynamic ? kDynamic : size * (*query)[1]};
  }
  in.set(0, element, result);
  in.set(1, in.element(1), key);
  in.set(2, in.element(2), value);
  std::optional<Shape> scores;
  if (query && key)
    scores = Shape{(*query)[0], (*query)[1], (*query)[2], (*key)[2]};
  in.set(3, element, scores);
  return success();
}

//===----------------------------------------------------------------------===//
// Table
//===----------------------------------------------------------------------===//

static const llvm::StringMap<InferFn> &getTable() {
  static const llvm::StringMap<InferFn> table = [] {
    llvm::StringMap<InferFn> map;
    for (StringRef op : {"Abs",
                         "Acos",
                         "Acosh",
                         "Asin",
                         "Asinh",
                         "Atan",
                         "Atanh",
                         "BitwiseNot",
                         "Ceil",
                         "Celu",
                         "Clip",
                         "Cos",
                         "Cosh",
                         "CumSum",
                         "Elu",
                         "Erf",
                         "Exp",
                         "Floor",
                         "Gelu",
                         "HardSigmoid",
                         "HardSwish",
                         "Hardmax",
                         "Identity",
                         "LeakyRelu",
                         "Log",
                         "LogSoftmax",
                         "Mish",
                         "Neg",
                         "Not",
                         "Reciprocal",
                         "Relu",
                         "RotaryEmbedding",
                         "Round",
                         "ScatterElements",
                         "ScatterND",
                         "Selu",
                         "Sigmoid",
                         "Sign",
                         "Sin",
                         "Sinh",
                         "Softmax",
                         "Softplus",
                         "Shrink",
                         "Softsign",
                         "Sqrt",
                         "SwiGLU",
                         "Swish",
                         "Tan",
                         "Tanh",
                         "ThresholdedRelu",
                         "Trilu",
                         "com.microsoft.MoE",
                         "com.microsoft.QMoE",
                         "com.microsoft.BiasGelu",
                         "com.microsoft.QuickGelu",
                         "com.microsoft.Gelu",
                         "com.microsoft.FastGelu"})
      map[op] = inferSameAsInput;
    for (StringRef op : {"Add", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Max",
                         "Mean", "Min", "Mod", "Mul", "PRelu", "Sub", "Sum"})
      map[op] = inferBroadcast;
    for (StringRef op :
         {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"})
      map[op] = inferComparison;
    for (StringRef op : {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                         "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"})
      map[op] = inferReduce;
    map["Attention"] = inferAttention;
    map["com.microsoft.FusedMatMul"] = inferFusedMatMul;
    map["com.microsoft.MatMulNBits"] = inferMatMulNBits;
    map["ArgMax"] = map["ArgMin"] = inferArgReduce;
    map["Cast"] = inferCast;
    map["CastLike"] = inferCastLike;
    map["Concat"] = inferConcat;
    map["Constant"] = inferConstant;
    map["ConstantOfShape"] = inferConstantOfShape;
    map["Conv"] = inferConv;
    map["DequantizeLinear"] = map["com.microsoft.DequantizeLinear"] = inferDequantizeLinear;
    map["Dropout"] = inferDropout;
    map["DynamicQuantizeLinear"] = inferDynamicQuantizeLinear;
    map["Einsum"] = inferEinsum;
    map["Expand"] = inferExpand;
    map["Flatten"] = inferFlatten;
    map["Gather"] = inferGather;
    map["GatherElements"] = inferGatherElements;
    map["GatherND"] = inferGatherND;
    map["Gemm"] = inferGemm;
    map["IsInf"] = map["IsNaN"] = inferPredicate;
    map["LayerNormalization"] = inferLayerNormalization;
    map["MatMul"] = inferMatMul;
    map["MatMulInteger"] = inferMatMulInteger;
    map["NonZero"] = inferNonZero;
    map["OneHot"] = inferOneHot;
    map["Pow"] = inferPow;
    map["QuantizeLinear"] = map["com.microsoft.QuantizeLinear"] = inferQuantizeLinear;
    map["RMSNormalization"] = map["SimplifiedLayerNormalization"] =
        map["com.microsoft.SimplifiedLayerNormalization"] = inferRMSNormalization;
    map["Range"] = inferRange;
    map["Reshape"] = inferReshape;
    map["Shape"] = inferShape;
    map["Size"] = inferSize;
    map["Slice"] = inferSlice;
    map["Split"] = inferSplit;
    map["Squeeze"] = inferSqueeze;
    map["Tile"] = inferTile;
    map["TopK"] = inferTopK;
    map["Transpose"] = inferTranspose;
    map["Unsqueeze"] = inferUnsqueeze;
    map["Where"] = inferWhere;
    return map;
  }();
  return table;
}

TensorType mlir::moe::onnx::mergeTypes(TensorType strong, TensorType weak, bool &conflict) {
  Type element = strong.getElementType(), other = weak.getElementType();
  if (isa<UnknownType>(element))
    element = other;
  else if (!isa<UnknownType>(other) && element != other)
    conflict = true;
  auto strongShape = dyn_cast<RankedTensorType>(strong);
  auto weakShape = dyn_cast<RankedTensorType>(weak);
  if (!strongShape && !weakShape)
    return UnrankedTensorType::get(element);
  if (!strongShape || !weakShape)
    return RankedTensorType::get((strongShape ? strongShape : weakShape).getShape(), element);
  Shape shape(strongShape.getShape());
  if (strongShape.getRank() != weakShape.getRank()) {
    conflict = true;
    return RankedTensorType::get(shape, element);
  }
  for (auto [dim, hint] : llvm::zip(shape, weakShape.getShape())) {
    if (dim == kDynamic)
      dim = hint;
    else if (hint != kDynamic && hint != dim)
      conflict = true;
  }
  return RankedTensorType::get(shape, element);
}

/// True when only ops whose operand types are free read the results: in a phase
/// after lowering others do, and types stay as they are.
static bool hasFreeTypes(NodeOp node) {
  return llvm::all_of(node->getUsers(), [](Operation *user) {
    return isa<NodeOp, YieldOp>(user) || user->hasTrait<OpTrait::ReturnLike>();
  });
}

LogicalResult mlir::moe::onnx::inferTypes(NodeOp node, const ShapeValues &shapes) {
  auto infer = getTable().find(node.getOpType());
  if (infer == getTable().end() || !hasFreeTypes(node))
    return success();
  Inference inference(node, shapes);
  if (failed(infer->second(inference)))
    return failure();
  for (auto [index, result] : llvm::enumerate(inference.results)) {
    Value value = node.getResult(index);
    auto stated = cast<TensorType>(value.getType());
    Type element = result.element ? result.element : Type(UnknownType::get(node.getContext()));
    TensorType found = UnrankedTensorType::get(element);
    if (result.shape)
      found = RankedTensorType::get(*result.shape, element);
    bool conflict = false;
    TensorType merged = mergeTypes(found, stated, conflict);
    if (conflict)
      mlir::emitWarning(node.getLoc())
          << describeNode(node.getLoc(), node.getOpType()) << ": the model states " << stated
          << " for output '" << node.getOutputName(index) << "', but it is " << found;
    value.setType(merged);
  }
  return success();
}
