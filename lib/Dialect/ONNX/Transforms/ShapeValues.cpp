// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "ShapeValues.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe::onnx;

using Element = std::optional<int64_t>;

/// Number of elements of a small integer tensor of static shape; nullopt for others.
static std::optional<int64_t> getLength(Value value) {
  auto type = value ? dyn_cast<RankedTensorType>(value.getType()) : RankedTensorType();
  if (!type || !type.hasStaticShape() || !isa<IntegerType>(type.getElementType()))
    return std::nullopt;
  for (int64_t size : type.getShape())
    if (size > kMaxShapeElements)
      return std::nullopt;
  if (type.getRank() > 2 || type.getNumElements() > kMaxShapeElements)
    return std::nullopt;
  return type.getNumElements();
}

static bool isVector(Value value) {
  auto type = value ? dyn_cast<RankedTensorType>(value.getType()) : RankedTensorType();
  return type && type.getRank() <= 1;
}

std::optional<ShapeElements> ShapeValues::get(Value value) const {
  std::optional<int64_t> length = getLength(value);
  if (!length)
    return std::nullopt;
  if (auto it = known.find(value); it != known.end())
    return it->second;
  if (std::optional<SmallVector<int64_t>> constant = getConstantInts(value))
    return ShapeElements(constant->begin(), constant->end());
  return ShapeElements(*length, std::nullopt);
}

std::optional<SmallVector<int64_t>> ShapeValues::getKnown(Value value) const {
  std::optional<ShapeElements> elements = get(value);
  if (!elements || llvm::is_contained(*elements, std::nullopt))
    return std::nullopt;
  SmallVector<int64_t> result;
  for (Element element : *elements)
    result.push_back(*element);
  return result;
}

void ShapeValues::visit(NodeOp node) {
  if (node.getNumResults() != 1 || !getLength(node.getResult(0)))
    return;
  std::optional<ShapeElements> elements = evaluate(node);
  // Wrong shapes are inference's to report, not to follow.
  if (elements && int64_t(elements->size()) == *getLength(node.getResult(0)))
    known[node.getResult(0)] = std::move(*elements);
}

/// Element `i` of a tensor that broadcasts.
static Element at(const ShapeElements &elements, size_t i) {
  return elements[elements.size() == 1 ? 0 : i];
}

std::optional<ShapeElements> ShapeValues::evaluate(NodeOp node) const {
  if (!node.getDomain().empty())
    return std::nullopt;
  StringRef op = node.getOpType();
  Value input = node.getInput(0);
  if (op == "Shape" || op == "Size") {
    auto type = input ? dyn_cast<RankedTensorType>(input.getType()) : RankedTensorType();
    if (!type)
      return std::nullopt;
    if (op == "Size")
      return type.hasStaticShape() ? std::optional(ShapeElements({Element(type.getNumElements())}))
                                   : std::nullopt;
    int64_t rank = type.getRank();
    auto clampAxis = [&](int64_t axis) {
      return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank);
    };
    int64_t start = clampAxis(node.getIntAttr("start", 0));
    int64_t end = clampAxis(node.getIntAttr("end", rank));
    ShapeElements elements;
    for (int64_t i = start; i < end; ++i)
      elements.push_back(type.isDynamicDim(i) ? Element() : Element(type.getDimSize(i)));
    return elements;
  }
  if (op == "Squeeze" || op == "Unsqueeze" || op == "Reshape" || op == "Flatten")
    return get(input);
  if (op == "OneHot")
    return evaluateOneHot(node);
  if (llvm::all_of(node.getInputs(), isVector))
    return evaluateVectors(node);
  // With as many elements as the result an operand is not repeated.
  return op.starts_with("Reduce") ? std::nullopt : evaluateElementWise(node);
}

std::optional<ShapeElements> ShapeValues::evaluateVectors(NodeOp node) const {
  StringRef op = node.getOpType();
  Value input = node.getInput(0);
  if (op == "Transpose")
    return get(input);
  if (op == "Gather")
    return evaluateGather(node);
  if (op == "Slice")
    return evaluateSlice(node);
  if (op == "Concat")
    return evaluateConcat(node);
  if (op == "Range")
    return evaluateRange(node);
  if (op == "Expand") {
    std::optional<ShapeElements> elements = get(input);
    if (!elements || elements->size() != 1)
      return elements;
    return ShapeElements(*getLength(node.getResult(0)), elements->front());
  }
  if (op == "ConstantOfShape") {
    int64_t fill = 0;
    if (DenseElementsAttr value = node.getTensorAttr("value"))
      fill = (*value.getValues<APInt>().begin()).getSExtValue();
    return ShapeElements(*getLength(node.getResult(0)), Element(fill));
  }
  if (op.starts_with("Reduce"))
    return evaluateReduction(node);
  return evaluateElementWise(node);
}

/// Along the last axis of a vector of indices.
std::optional<ShapeElements> ShapeValues::evaluateOneHot(NodeOp node) const {
  std::optional<SmallVector<int64_t>> indices = getKnown(node.getInput(0));
  std::optional<SmallVector<int64_t>> depth = getKnown(node.getInput(1));
  std::optional<ShapeElements> values = get(node.getInput(2));
  int64_t rank = cast<RankedTensorType>(node.getResult(0).getType()).getRank();
  int64_t axis = node.getIntAttr("axis", -1);
  bool isLast = axis == -1 || axis == rank - 1;
  if (!indices || !depth || !values || depth->size() != 1 || values->size() != 2 || !isLast)
    return std::nullopt;
  ShapeElements result;
  for (int64_t index : *indices)
    for (int64_t i = 0; i < depth->front(); ++i)
      result.push_back((*values)[index == i || index + depth->front() == i]);
  return result;
}

std::optional<ShapeElements> ShapeValues::evaluateGather(NodeOp node) const {
  std::optional<ShapeElements> data = get(node.getInput(0));
  std::optional<ShapeElements> indices = get(node.getInput(1));
  if (!data || !indices)
    return std::nullopt;
  ShapeElements result;
  for (Element index : *indices) {
    if (!index) {
      result.push_back(std::nullopt);
      continue;
    }
    int64_t position = *index < 0 ? *index + int64_t(data->size()) : *index;
    if (position < 0 || position >= int64_t(data->size()))
      return std::nullopt;
    result.push_back((*data)[position]);
  }
  return result;
}

std::optional<ShapeElements> ShapeValues::evaluateSlice(NodeOp node) const {
  std::optional<ShapeElements> data = get(node.getInput(0));
  std::optional<SmallVector<int64_t>> start = getKnown(node.getInput(1));
  std::optional<SmallVector<int64_t>> end = getKnown(node.getInput(2));
  if (!data || !start || !end || start->size() != 1 || end->size() != 1)
    return std::nullopt;
  int64_t step = 1, size = data->size();
  if (node.getInput(4)) {
    std::optional<SmallVector<int64_t>> steps = getKnown(node.getInput(4));
    if (!steps || steps->size() != 1 || steps->front() <= 0)
      return std::nullopt;
    step = steps->front();
  }
  auto clampIndex = [&](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
  };
  ShapeElements result;
  int64_t last = clampIndex(end->front());
  for (int64_t i = clampIndex(start->front()); i < last; i += std::min(step, size))
    result.push_back((*data)[i]);
  return result;
}

std::optional<ShapeElements> ShapeValues::evaluateConcat(NodeOp node) const {
  ShapeElements result;
  for (Value input : node.getInputs()) {
    std::optional<ShapeElements> part = get(input);
    if (!part)
      return std::nullopt;
    result.append(*part);
  }
  return result;
}

std::optional<ShapeElements> ShapeValues::evaluateRange(NodeOp node) const {
  std::optional<SmallVector<int64_t>> start = getKnown(node.getInput(0));
  std::optional<SmallVector<int64_t>> delta = getKnown(node.getInput(2));
  std::optional<int64_t> length = getLength(node.getResult(0));
  if (!start || !delta || start->size() != 1 || delta->size() != 1)
    return std::nullopt;
  ShapeElements result;
  int64_t value = start->front();
  for (int64_t i = 0; i < *length; ++i) {
    result.push_back(value);
    if (llvm::AddOverflow(value, delta->front(), value))
      return std::nullopt;
  }
  return result;
}

/// The value as an element of integer type `type`; nullopt when it does not fit
/// (what ONNX then computes is left to run time).
static Element fit(Element value, Type type) {
  auto integer = cast<IntegerType>(type);
  unsigned width = integer.getWidth();
  if (!value || width >= 64)
    return value;
  bool isUnsigned = integer.isUnsigned() || width == 1;
  bool fits =
      isUnsigned ? *value >= 0 && llvm::isUIntN(width, *value) : llvm::isIntN(width, *value);
  return fits ? value : std::nullopt;
}

static Element compute(StringRef op, int64_t a, int64_t b) {
  int64_t result;
  if (op == "Add")
    return llvm::AddOverflow(a, b, result) ? Element() : Element(result);
  if (op == "Sub")
    return llvm::SubOverflow(a, b, result) ? Element() : Element(result);
  if (op == "Mul")
    return llvm::MulOverflow(a, b, result) ? Element() : Element(result);
  // Division truncates, for negative values too.
  if (op == "Div")
    return b == 0 || (a == INT64_MIN && b == -1) ? Element() : Element(a / b);
  // Mod has the sign of the divisor.
  if (op == "Mod") {
    if (b == 0 || b == -1)
      return std::nullopt;
    int64_t rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
  }
  if (op == "Min")
    return std::min(a, b);
  if (op == "Max")
    return std::max(a, b);
  if (op == "Equal")
    return a == b;
  if (op == "Less")
    return a < b;
  if (op == "LessOrEqual")
    return a <= b;
  if (op == "Greater")
    return a > b;
  if (op == "GreaterOrEqual")
    return a >= b;
  if (op == "And")
    return a && b;
  if (op == "Or")
    return a || b;
  return std::nullopt;
}

std::optional<ShapeElements> ShapeValues::evaluateElementWise(NodeOp node) const {
  StringRef op = node.getOpType();
  static const StringRef kBinary[] = {"Add",  "Sub",         "Mul",     "Div",
                                      "Mod",  "Min",         "Max",     "Equal",
                                      "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
                                      "And",  "Or"};
  bool isBinary = llvm::is_contained(kBinary, op) && node.getNumInputs() == 2;
  bool isUnary = op == "Neg" || op == "Abs" || op == "Not" || op == "Cast";
  if (!isBinary && !isUnary && op != "Where")
    return std::nullopt;
  if (op == "Mod" && node.getIntAttr("fmod", 0) != 0)
    return std::nullopt;
  SmallVector<ShapeElements> inputs;
  size_t length = *getLength(node.getResult(0));
  for (Value input : node.getInputs()) {
    std::optional<ShapeElements> elements = get(input);
    if (!elements || (elements->size() != 1 && elements->size() != length))
      return std::nullopt;
    inputs.push_back(std::move(*elements));
  }
  Type type = cast<ShapedType>(node.getResult(0).getType()).getElementType();
  auto evaluateAt = [&](size_t i) -> Element {
    Element a = at(inputs[0], i);
    if (op == "Where" && inputs.size() == 3)
      return a ? at(inputs[*a ? 1 : 2], i) : std::nullopt;
    if (isBinary) {
      Element b = at(inputs[1], i);
      return a && b ? compute(op, *a, *b) : std::nullopt;
    }
    if (!a || *a == INT64_MIN)
      return std::nullopt;
    if (op == "Neg")
      return -*a;
    if (op == "Abs")
      return std::abs(*a);
    bool toBool = op == "Not" || type.isInteger(1);
    return toBool ? (op == "Not" ? !*a : *a != 0) : *a;
  };
  ShapeElements result;
  for (size_t i = 0; i < length; ++i)
    result.push_back(fit(evaluateAt(i), type));
  return result;
}

std::optional<ShapeElements> ShapeValues::evaluateReduction(NodeOp node) const {
  StringRef op = llvm::StringSwitch<StringRef>(node.getOpType())
                     .Case("ReduceSum", "Add")
                     .Case("ReduceProd", "Mul")
                     .Case("ReduceMin", "Min")
                     .Case("ReduceMax", "Max")
                     .Default("");
  std::optional<SmallVector<int64_t>> data = getKnown(node.getInput(0));
  if (op.empty() || !data || data->empty())
    return std::nullopt;
  Element result = data->front();
  for (int64_t value : ArrayRef(*data).drop_front())
    result = result ? compute(op, *result, value) : std::nullopt;
  return ShapeElements({result});
}
