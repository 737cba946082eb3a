// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Reading of com.microsoft.MoE and com.microsoft.QMoE. Source of every rule: the
// operators' schemas and CPU kernels in ONNX Runtime 1.30.

#include "ContribMoE.h"

#include "moec/Support/NodeLocation.h"
#include "moec/Support/Suggest.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/StringSwitch.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

std::string mlir::moe::describeNode(onnx::NodeOp node) {
  return describeNode(node.getLoc(), node.getOpType());
}

namespace {

/// `[8, ?, 64]`, or the type when it has no shape.
std::string shapeText(Value value) {
  std::string text;
  llvm::raw_string_ostream os(text);
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type) {
    os << value.getType();
    return text;
  }
  os << '[';
  llvm::interleaveComma(type.getShape(), os, [&](int64_t size) {
    if (ShapedType::isDynamic(size))
      os << '?';
    else
      os << size;
  });
  os << ']';
  return text;
}

std::string shapeText(ArrayRef<int64_t> shape) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << '[';
  llvm::interleaveComma(shape, os);
  os << ']';
  return text;
}

bool hasShape(Value value, ArrayRef<int64_t> shape) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getShape() == shape;
}

Type elementTypeOf(Value value) { return cast<ShapedType>(value.getType()).getElementType(); }

/// A node being read. Each step returns failure after it reported one error.
class Reader {
public:
  explicit Reader(onnx::NodeOp node) {
    moe.node = node;
    moe.quantized = node.isOp(kQMoEOp);
  }

  FailureOr<ContribMoE> read() {
    if (failed(readAttributes()) || failed(readInputs()) || failed(checkTypes()) ||
        failed(readSizes()) || failed(checkSelection()) || failed(checkMatrices()) ||
        failed(checkResult()))
      return failure();
    return moe;
  }

private:
  InFlightDiagnostic error() {
    return emitError(moe.node.getLoc()) << describeNode(moe.node) << ": ";
  }
  InFlightDiagnostic unsupported() {
    return emitUnsupported(moe.node.getLoc()) << describeNode(moe.node) << ": ";
  }

  // Attributes.
  LogicalResult readAttributes();
  LogicalResult checkAttributeNames();
  LogicalResult readActivation(StringRef kind, int64_t fusion);
  LogicalResult readQuantization();
  FailureOr<int64_t> intAttr(StringRef name, int64_t fallback);
  FailureOr<bool> flagAttr(StringRef name);
  FailureOr<StringRef> stringAttr(StringRef name, StringRef fallback);
  LogicalResult floatAttr(StringRef name, double fallback, FloatAttr &result);

  // Inputs.
  LogicalResult readInputs();
  LogicalResult refuseInputs();
  LogicalResult checkThirdMatrix();
  LogicalResult checkTypes();
  LogicalResult checkMatrixTypes(const ContribMatrix &matrix);
  LogicalResult checkModelType(StringRef what, Value value);

  // Sizes.
  LogicalResult readSizes();
  LogicalResult checkTokens();
  bool isLegacy();
  LogicalResult checkSelection();
  LogicalResult checkMatrices();
  LogicalResult checkMatrix(ContribMatrix &matrix, int64_t n, int64_t k, bool legacy);
  LogicalResult readScales(ContribMatrix &matrix);
  LogicalResult checkZeroPoints(const ContribMatrix &matrix);
  LogicalResult checkShape(const Twine &what, Value value, ArrayRef<int64_t> shape,
                           StringRef meaning);
  LogicalResult checkResult();

  bool isFused() { return moe.activation.isFused(); }
  int64_t pack() { return moe.quantized ? 8 / moe.bits : 1; }

  ContribMoE moe;
  int64_t blockSize = 0;
};

} // namespace

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

FailureOr<int64_t> Reader::intAttr(StringRef name, int64_t fallback) {
  Attribute value = moe.node.getNodeAttr(name);
  if (!value)
    return fallback;
  if (auto integer = dyn_cast<IntegerAttr>(value))
    return integer.getInt();
  return error() << "attribute " << name << " is " << value << ", expected an integer";
}

FailureOr<bool> Reader::flagAttr(StringRef name) {
  FailureOr<int64_t> value = intAttr(name, 0);
  if (failed(value))
    return failure();
  if (*value != 0 && *value != 1)
    return error() << "attribute " << name << " is " << *value << ", expected 0 or 1";
  return *value == 1;
}

FailureOr<StringRef> Reader::stringAttr(StringRef name, StringRef fallback) {
  Attribute value = moe.node.getNodeAttr(name);
  if (!value)
    return fallback;
  if (auto string = dyn_cast<StringAttr>(value))
    return string.getValue();
  return error() << "attribute " << name << " is " << value << ", expected a string";
}

/// Sets `result` to null when the attribute has its default value.
LogicalResult Reader::floatAttr(StringRef name, double fallback, FloatAttr &result) {
  result = {};
  Attribute value = moe.node.getNodeAttr(name);
  if (!value)
    return success();
  auto real = dyn_cast<FloatAttr>(value);
  if (!real || std::isnan(real.getValueAsDouble()))
    return error() << "attribute " << name << " is " << value << ", expected a number";
  if (real.getValueAsDouble() != fallback)
    result = real;
  return success();
}

LogicalResult Reader::checkAttributeNames() {
  SmallVector<StringRef> known = {"activation_type",
                                  "k",
                                  "normalize_routing_weights",
                                  "use_sparse_mixer",
                                  "swiglu_fusion",
                                  "swiglu_limit",
                                  "activation_alpha",
                                  "activation_beta"};
  // accuracy_level allows a less accurate product; ours is always the accurate one.
  if (moe.quantized)
    known.append(
        {"expert_weight_bits", "block_size", "quant_type", "weights_prepacked", "accuracy_level"});
  for (NamedAttribute attribute : moe.node.getNodeAttributes()) {
    StringRef name = attribute.getName();
    if (llvm::is_contained(known, name))
      continue;
    std::string hint = suggestName(name, known);
    return error() << "attribute '" << name << "' is not one of the operator's"
                   << (hint.empty() ? "; remove it, or re-export the model for com.microsoft "
                                      "version 1"
                                    : hint);
  }
  return success();
}

LogicalResult Reader::readAttributes() {
  if (!moe.node.getGraphs().empty())
    return error() << "attribute " << cast<StringAttr>(moe.node.getGraphs()[0]).getValue()
                   << " is a graph, expected a number or a string";
  if (failed(checkAttributeNames()))
    return failure();
  if (moe.quantized && failed(readQuantization()))
    return failure();
  FailureOr<int64_t> topK = intAttr("k", 1), fusion = intAttr("swiglu_fusion", 0);
  if (failed(topK) || failed(fusion))
    return failure();
  FailureOr<bool> normalize = flagAttr("normalize_routing_weights");
  FailureOr<bool> sparseMixer = flagAttr("use_sparse_mixer");
  if (failed(normalize) || failed(sparseMixer))
    return failure();
  FailureOr<StringRef> kind = stringAttr("activation_type", "relu");
  if (failed(kind))
    return failure();
  moe.topK = *topK;
  moe.normalize = *normalize;
  moe.sparseMixer = *sparseMixer;
  return readActivation(*kind, *fusion);
}

LogicalResult Reader::readActivation(StringRef kind, int64_t fusion) {
  // `gelu` of these operators is the tanh form.
  auto function = llvm::StringSwitch<std::optional<ActivationKind>>(kind)
                      .Case("relu", ActivationKind::Relu)
                      .Case("gelu", ActivationKind::GeluTanh)
                      .Case("silu", ActivationKind::Silu)
                      .Case("swiglu", ActivationKind::Silu)
                      .Case("identity", ActivationKind::Identity)
                      .Default(std::nullopt);
  if (!function)
    return error() << "activation_type is '" << kind
                   << "', expected relu, gelu, silu, swiglu or identity";
  if (fusion < 0 || fusion > 2)
    return error() << "swiglu_fusion is " << fusion
                   << ", expected 0 (fc1 and fc3), 1 (interleaved) or 2 (concatenated)";

  bool hasThird = bool(moe.node.getInput(moe.quantized ? 8 : 6));
  MLIRContext *context = moe.node.getContext();
  if (kind != "swiglu") {
    // The swiglu parameters mean nothing to the other activations.
    moe.activation =
        ActivationAttr::get(context, *function, hasThird ? Glu::Separate : Glu::None, {}, {}, {});
    return success();
  }

  if (fusion != 0 && hasThird)
    return error() << "swiglu_fusion is " << fusion
                   << ", so fc1 holds gate and linear part, but fc3_experts_weights is there too; "
                      "remove one of them";
  Glu glu = fusion == 1 ? Glu::Interleaved : fusion == 2 ? Glu::Concat : Glu::Separate;
  if (glu == Glu::Separate && !hasThird) {
    // Models of the time before the attribute; ONNX Runtime's CUDA provider does this.
    emitRemark(moe.node.getLoc())
        << describeNode(moe.node)
        << ": swiglu without swiglu_fusion and without fc3 is read as interleaved";
    glu = Glu::Interleaved;
  }

  FloatAttr alpha, beta, limit;
  if (failed(floatAttr("activation_alpha", 1.0, alpha)) ||
      failed(floatAttr("activation_beta", 0.0, beta)) ||
      failed(floatAttr("swiglu_limit", std::numeric_limits<double>::infinity(), limit)))
    return failure();
  if (limit && !(limit.getValueAsDouble() > 0))
    return error() << "swiglu_limit is " << limit.getValueAsDouble()
                   << ", expected a positive number; remove it for no limit";
  moe.activation = ActivationAttr::get(context, *function, glu, alpha, beta, limit);
  return success();
}

LogicalResult Reader::readQuantization() {
  FailureOr<StringRef> type = stringAttr("quant_type", "int");
  if (failed(type))
    return failure();
  static constexpr StringLiteral kFloatTypes[] = {"fp4", "nvfp4", "wfp4afp8", "fp8"};
  if (*type != "int")
    return (llvm::is_contained(kFloatTypes, *type) ? unsupported() : error())
           << "quant_type is '" << *type
           << "', expected 'int'; export the experts with 2-, 4- or 8-bit integer weights";
  FailureOr<int64_t> bits = intAttr("expert_weight_bits", 4), block = intAttr("block_size", 0),
                     prepacked = intAttr("weights_prepacked", -1);
  if (failed(bits) || failed(block) || failed(prepacked))
    return failure();
  if (*bits != 2 && *bits != 4 && *bits != 8)
    return error() << "expert_weight_bits is " << *bits << ", expected 2, 4 or 8";
  if (*block != 0 && (*block < 16 || !llvm::isPowerOf2_64(*block)))
    return error() << "block_size is " << *block
                   << ", expected a power of two of at least 16, or 0 for one scale per row";
  if (*prepacked == 1)
    return unsupported()
           << "weights_prepacked is 1: the bytes are in a device's own order, which the "
              "model does not describe; export it with weights_prepacked = 0";
  // -1, the default, leaves it open: bytes are read as raw, as on the CPU.
  if (*prepacked != 0 && *prepacked != -1)
    return error() << "weights_prepacked is " << *prepacked << ", expected 0 (raw) or -1";
  moe.bits = *bits;
  blockSize = *block;
  return success();
}

//===----------------------------------------------------------------------===//
// Inputs
//===----------------------------------------------------------------------===//

LogicalResult Reader::readInputs() {
  onnx::NodeOp node = moe.node;
  unsigned limit = moe.quantized ? 21 : 8;
  if (node.getNumInputs() > limit)
    return error() << "has " << node.getNumInputs() << " inputs, expected at most " << limit;
  if (node.getNumResults() != 1)
    return error() << "has " << node.getNumResults() << " outputs, expected 1";

  moe.input = node.getInput(0);
  moe.logits = node.getInput(1);
  moe.fc1.name = "fc1";
  moe.fc2.name = "fc2";
  moe.fc3.name = "fc3";
  unsigned position = 2, zeroPoints = 11;
  for (ContribMatrix *matrix : {&moe.fc1, &moe.fc2, &moe.fc3}) {
    matrix->weights = node.getInput(position++);
    if (moe.quantized)
      matrix->scales = node.getInput(position++);
    matrix->bias = node.getInput(position++);
    if (moe.quantized)
      matrix->zeroPoints = node.getInput(zeroPoints++);
  }
  if (moe.quantized)
    moe.routerWeights = node.getInput(14);

  std::pair<StringRef, Value> required[] = {{"input", moe.input},
                                            {"router_probs", moe.logits},
                                            {"fc1_experts_weights", moe.fc1.weights},
                                            {"fc2_experts_weights", moe.fc2.weights}};
  for (auto [name, value] : required)
    if (!value)
      return error() << "input " << name << " is missing";
  if (failed(refuseInputs()))
    return failure();
  return checkThirdMatrix();
}

/// Inputs that belong to the float quantisations.
LogicalResult Reader::refuseInputs() {
  static constexpr StringLiteral kNames[] = {"fc1_global_scale",    "fc2_global_scale",
                                             "fc1_act_scale",       "fc2_act_scale",
                                             "fc1_act_block_scale", "fc2_act_block_scale"};
  if (!moe.quantized)
    return success();
  for (auto [i, name] : llvm::enumerate(kNames))
    if (moe.node.getInput(15 + i))
      return unsupported()
             << "input " << name << " (position " << 15 + i
             << ") belongs to a float quantisation, which is not supported; export the "
                "experts with integer weights";
  return success();
}

LogicalResult Reader::checkThirdMatrix() {
  if (moe.fc3.weights)
    return success();
  std::pair<StringRef, Value> parts[] = {{"fc3_experts_bias", moe.fc3.bias},
                                         {"fc3_scales", moe.fc3.scales},
                                         {"fc3_zero_points", moe.fc3.zeroPoints}};
  for (auto [name, value] : parts)
    if (value)
      return error() << "has " << name << " but no fc3_experts_weights";
  return success();
}

LogicalResult Reader::checkModelType(StringRef what, Value value) {
  if (value && elementTypeOf(value) != moe.elementType)
    return error() << what << " is " << value.getType() << ", expected elements of type "
                   << moe.elementType << " as the input's";
  return success();
}

LogicalResult Reader::checkTypes() {
  for (Value operand : moe.node.getInputs())
    if (!isa<RankedTensorType>(operand.getType()))
      return unsupported() << "an operand is " << operand.getType()
                           << ", expected a known rank; state the shape in the model";
  moe.elementType = elementTypeOf(moe.input);
  if (!isa<Float32Type, Float16Type, BFloat16Type>(moe.elementType))
    return error() << "input is " << moe.input.getType() << ", expected f32, f16 or bf16";
  if (failed(checkModelType("router_probs", moe.logits)) ||
      failed(checkModelType("router_weights", moe.routerWeights)))
    return failure();
  for (const ContribMatrix *matrix : {&moe.fc1, &moe.fc2, &moe.fc3})
    if (matrix->weights && failed(checkMatrixTypes(*matrix)))
      return failure();
  return success();
}

LogicalResult Reader::checkMatrixTypes(const ContribMatrix &matrix) {
  std::string weights = matrix.name.str() + "_experts_weights";
  std::pair<StringRef, Value> parts[] = {{"_experts_weights", matrix.weights},
                                         {"_experts_bias", matrix.bias},
                                         {"_scales", matrix.scales},
                                         {"_zero_points", matrix.zeroPoints}};
  for (auto [name, value] : parts)
    if (value && !cast<RankedTensorType>(value.getType()).hasStaticShape())
      return unsupported() << matrix.name << name << " is " << shapeText(value)
                           << ", expected known sizes; fix them in the model or with --dim";
  if (failed(checkModelType(matrix.name.str() + "_experts_bias", matrix.bias)))
    return failure();
  if (!moe.quantized)
    return checkModelType(weights, matrix.weights);

  if (!elementTypeOf(matrix.weights).isUnsignedInteger(8))
    return error() << weights << " is " << matrix.weights.getType()
                   << ", expected packed integer codes (ui8)";
  if (!matrix.scales)
    return error() << "input " << matrix.name << "_scales is missing; integer weights need it";
  if (!isa<Float32Type, Float16Type, BFloat16Type>(elementTypeOf(matrix.scales)))
    return error() << matrix.name << "_scales is " << matrix.scales.getType()
                   << ", expected f32, f16 or bf16";
  if (matrix.zeroPoints && !elementTypeOf(matrix.zeroPoints).isUnsignedInteger(8))
    return error() << matrix.name << "_zero_points is " << matrix.zeroPoints.getType()
                   << ", expected packed integer codes (ui8)";
  return success();
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

LogicalResult Reader::checkShape(const Twine &what, Value value, ArrayRef<int64_t> shape,
                                 StringRef meaning) {
  if (!value || hasShape(value, shape))
    return success();
  return error() << what << " is " << shapeText(value) << ", expected " << shapeText(shape) << " = "
                 << meaning << " with E = " << moe.experts << ", H = " << moe.hidden
                 << ", I = " << moe.intermediate << " (E from router_probs "
                 << shapeText(moe.logits) << ", H from input " << shapeText(moe.input)
                 << ", I from fc2_experts_weights " << shapeText(moe.fc2.weights) << ")";
}

LogicalResult Reader::readSizes() {
  auto input = cast<RankedTensorType>(moe.input.getType());
  if (input.getRank() != 2 && input.getRank() != 3)
    return error() << "input is " << shapeText(moe.input)
                   << ", expected 2 dimensions [tokens, H] or 3 [batch, sequence, H]";
  moe.hidden = input.getShape().back();
  if (ShapedType::isDynamic(moe.hidden) || moe.hidden == 0)
    return unsupported()
           << "input is " << shapeText(moe.input)
           << ", expected a known last dimension H of at least 1; fix it in the model or "
              "with --dim";

  auto logits = cast<RankedTensorType>(moe.logits.getType());
  if (logits.getRank() != 2)
    return error() << "router_probs is " << shapeText(moe.logits)
                   << ", expected 2 dimensions [tokens, E], also for an input of 3";
  moe.experts = logits.getDimSize(1);
  if (ShapedType::isDynamic(moe.experts))
    return unsupported()
           << "router_probs is " << shapeText(moe.logits)
           << ", expected a known last dimension E; fix it in the model or with --dim";

  auto down = cast<RankedTensorType>(moe.fc2.weights.getType());
  int64_t codes =
      down.getRank() == 3 && down.hasStaticShape() ? down.getDimSize(1) * down.getDimSize(2) : 0;
  if (codes == 0 || codes * pack() % moe.hidden != 0)
    return error() << "fc2_experts_weights is " << shapeText(moe.fc2.weights)
                   << ", expected [E, H, I" << (pack() > 1 ? "/" + std::to_string(pack()) : "")
                   << "] with E = " << moe.experts << " (router_probs " << shapeText(moe.logits)
                   << ") and H = " << moe.hidden << " (input " << shapeText(moe.input) << ")";
  moe.intermediate = codes * pack() / moe.hidden;
  return checkTokens();
}

/// T of the input, the logits and the weights of the routing.
LogicalResult Reader::checkTokens() {
  auto input = cast<RankedTensorType>(moe.input.getType());
  int64_t tokens = 1;
  for (int64_t size : input.getShape().drop_back()) {
    bool known = !ShapedType::isDynamic(tokens) && !ShapedType::isDynamic(size);
    tokens = known ? tokens * size : ShapedType::kDynamic;
  }
  for (auto [name, value] : {std::pair<StringRef, Value>("router_probs", moe.logits),
                             std::pair<StringRef, Value>("router_weights", moe.routerWeights)}) {
    if (!value)
      continue;
    auto type = cast<RankedTensorType>(value.getType());
    bool fits = type.getRank() == 2 && type.getDimSize(1) == moe.experts &&
                succeeded(verifyCompatibleDims({tokens, type.getDimSize(0)}));
    if (!fits)
      return error() << name << " is " << shapeText(value)
                     << ", expected [tokens, E] with E = " << moe.experts << " for input "
                     << shapeText(moe.input) << " and router_probs " << shapeText(moe.logits);
  }
  return success();
}

LogicalResult Reader::checkSelection() {
  if (moe.topK < 1 || moe.topK > moe.experts)
    return error() << "k is " << moe.topK << ", expected 1 to " << moe.experts
                   << ", the number of experts in router_probs " << shapeText(moe.logits);
  if (!moe.sparseMixer)
    return success();
  if (moe.topK != 2)
    return error() << "use_sparse_mixer needs k = 2, found k = " << moe.topK;
  if (moe.routerWeights)
    return error() << "use_sparse_mixer and the input router_weights exclude each other: both "
                      "give the weights of the routing";
  return success();
}

/// Old exporters declared fc1 as [E, H, I] and fc2 as [E, I, H] for bytes that are in
/// the order of the schema all the same: another shape, no transposition.
bool Reader::isLegacy() {
  auto dim1 = [](Value value) {
    auto type = cast<RankedTensorType>(value.getType());
    return type.getRank() == 3 ? type.getDimSize(1) : ShapedType::kDynamic;
  };
  if (moe.hidden != moe.intermediate)
    return dim1(moe.fc2.weights) == moe.intermediate;
  return isFused() && dim1(moe.fc1.weights) == moe.hidden;
}

LogicalResult Reader::checkMatrices() {
  int64_t h = moe.hidden, i = moe.intermediate;
  bool legacy = isLegacy();
  if (failed(checkMatrix(moe.fc1, isFused() ? 2 * i : i, h, legacy)) ||
      failed(checkMatrix(moe.fc2, h, i, legacy)))
    return failure();
  return moe.fc3.weights ? checkMatrix(moe.fc3, i, h, legacy) : success();
}

LogicalResult Reader::checkMatrix(ContribMatrix &matrix, int64_t n, int64_t k, bool legacy) {
  matrix.n = n;
  matrix.k = k;
  bool isDown = &matrix == &moe.fc2;
  std::string rows = isDown ? "H" : &matrix == &moe.fc1 && isFused() ? "2·I" : "I";
  std::string columns = isDown ? "I" : "H";
  int64_t outer = legacy ? k : n, inner = legacy ? n : k;
  if (inner % pack())
    return error() << matrix.name << "_experts_weights packs " << pack() << " codes of " << moe.bits
                   << " bits per byte, which does not divide its K = " << inner;
  std::string meaning = "[E, " + (legacy ? columns : rows) + ", " + (legacy ? rows : columns);
  if (pack() > 1)
    meaning += "/" + std::to_string(pack());
  if (failed(checkShape(matrix.name + "_experts_weights", matrix.weights,
                        {moe.experts, outer, inner / pack()}, meaning + "]")) ||
      failed(checkShape(matrix.name + "_experts_bias", matrix.bias, {moe.experts, n},
                        "[E, " + rows + "]")))
    return failure();
  if (!moe.quantized)
    return success();
  if (failed(readScales(matrix)))
    return failure();
  return checkZeroPoints(matrix);
}

/// The scales' shape decides: [E, N] and [E, N, 1] are one scale per row, also when
/// block_size is given. Where one block is as long as a row, the zero points' shape says
/// whether they are packed along the rows or, one to a byte, along the blocks.
LogicalResult Reader::readScales(ContribMatrix &matrix) {
  std::string name = matrix.name.str() + "_scales";
  SmallVector<int64_t> oneBlock = {moe.experts, matrix.n, 1};
  if (blockSize == matrix.k && moe.bits < 8 && matrix.zeroPoints &&
      hasShape(matrix.scales, oneBlock) && hasShape(matrix.zeroPoints, oneBlock)) {
    matrix.block = blockSize;
    return success();
  }
  if (hasShape(matrix.scales, {moe.experts, matrix.n}) ||
      hasShape(matrix.scales, {moe.experts, matrix.n, 1}))
    return success();
  if (blockSize == 0)
    return error() << name << " is " << shapeText(matrix.scales) << ", expected "
                   << shapeText({moe.experts, matrix.n})
                   << " (one scale per row: block_size is not set)";
  if (matrix.k % blockSize)
    return error() << "block_size is " << blockSize << ", which does not divide K = " << matrix.k
                   << " of " << matrix.name << "_experts_weights " << shapeText(matrix.weights);
  int64_t blocks = matrix.k / blockSize;
  if (!hasShape(matrix.scales, {moe.experts, matrix.n, blocks}))
    return error() << name << " is " << shapeText(matrix.scales) << ", expected "
                   << shapeText({moe.experts, matrix.n, blocks}) << " (block_size " << blockSize
                   << ") or " << shapeText({moe.experts, matrix.n}) << " (one scale per row)";
  matrix.block = blockSize;
  return success();
}

LogicalResult Reader::checkZeroPoints(const ContribMatrix &matrix) {
  if (!matrix.zeroPoints)
    return success();
  auto packed = [&](int64_t count) { return int64_t(llvm::divideCeil(count * moe.bits, 8)); };
  SmallVector<int64_t> shape = {moe.experts};
  if (matrix.block)
    shape.append({matrix.n, packed(matrix.k / matrix.block)});
  else
    shape.push_back(packed(matrix.n));
  if (hasShape(matrix.zeroPoints, shape))
    return success();
  // One byte per row is the same in both packings.
  if (!matrix.block && moe.bits == 8 && hasShape(matrix.zeroPoints, {moe.experts, matrix.n, 1}))
    return success();
  return error() << matrix.name << "_zero_points is " << shapeText(matrix.zeroPoints)
                 << ", expected " << shapeText(shape) << " (" << moe.bits << " bits packed along "
                 << (matrix.block ? "the blocks of a row" : "the rows") << ", for " << matrix.name
                 << "_scales " << shapeText(matrix.scales) << ")";
}

LogicalResult Reader::checkResult() {
  Type declared = moe.node.getResult(0).getType();
  if (declared == moe.input.getType() ||
      tensor::CastOp::areCastCompatible(moe.input.getType(), declared))
    return success();
  return error() << "output is declared as " << declared << ", expected " << moe.input.getType()
                 << " as the input";
}

FailureOr<ContribMoE> mlir::moe::readContribMoE(onnx::NodeOp node) { return Reader(node).read(); }
