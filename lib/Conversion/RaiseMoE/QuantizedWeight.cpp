// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "QuantizedWeight.h"

#include "mlir/IR/TypeUtilities.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

bool QuantizedWeight::isLike(const QuantizedWeight &other) const {
  return n == other.n && k == other.k && bits == other.bits && block == other.block &&
         storedBits == other.storedBits && zeroPoint == other.zeroPoint &&
         isSigned == other.isSigned && isInOut == other.isInOut &&
         bool(zeroPoints) == bool(other.zeroPoints) && scales.getType() == other.scales.getType();
}

SmallVector<int64_t> QuantizedWeight::getScaleShape() const {
  return block ? SmallVector<int64_t>{n, k / block} : SmallVector<int64_t>{n};
}

SmallVector<int64_t> QuantizedWeight::getZeroPointShape() const {
  SmallVector<int64_t> shape = getScaleShape();
  shape.back() = llvm::divideCeil(shape.back() * bits, 8);
  return shape;
}

static NodeOp getDequantize(Value value) {
  NodeOp node = getNode(value, "DequantizeLinear");
  return node ? node : getNode(value, "com.microsoft.DequantizeLinear");
}

static NodeOp getMatMulNBits(const Node *product) {
  auto node = dyn_cast<NodeOp>(product->at);
  return node && node.isOp("com.microsoft.MatMulNBits") ? node : NodeOp();
}

bool mlir::moe::isQuantized(const Node *product) {
  return getMatMulNBits(product) || getDequantize(product->view->src);
}

static int64_t countElements(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.hasStaticShape() ? type.getNumElements() : -1;
}

/// What `moe.dequantize` asks of blocks.
static bool isBlock(int64_t block, int64_t k) {
  return block >= 16 && llvm::isPowerOf2_64(block) && k % block == 0;
}

/// Codes [N, blocks, bytes], packed as those of QMoE.
static FailureOr<QuantizedWeight> readMatMulNBits(NodeOp node, Refusal &refusal) {
  Value result = node.getResult(0);
  QuantizedWeight weight;
  weight.codes = node.getInput(1);
  weight.scales = node.getInput(2);
  weight.zeroPoints = node.getInput(3);
  weight.n = node.getIntAttr("N", 0);
  weight.k = node.getIntAttr("K", 0);
  weight.bits = weight.storedBits = node.getIntAttr("bits", 4);
  weight.block = node.getIntAttr("block_size", 0);
  if (node.getInput(4))
    return refusal.refuse(result, "has an order of blocks (g_idx), expected none");
  if ((weight.bits != 2 && weight.bits != 4 && weight.bits != 8) ||
      !isBlock(weight.block, weight.k))
    return refusal.refuse(result, "has codes of " + Twine(weight.bits) + " bits in blocks of " +
                                      Twine(weight.block) +
                                      ", expected 2, 4 or 8 bits and blocks that divide K");
  int64_t blocks = weight.n * (weight.k / weight.block);
  bool areBytes =
      !weight.zeroPoints || getElementTypeOrSelf(weight.zeroPoints.getType()).isUnsignedInteger(8);
  if (countElements(weight.codes) != weight.n * weight.k * weight.bits / 8 ||
      countElements(weight.scales) != blocks || !areBytes)
    return refusal.refuse(result, "has codes, scales or zero points of another form than K, N, "
                                  "bits and block_size say");
  return weight;
}

/// DequantizeLinear along the rows, or in blocks along the columns.
static FailureOr<QuantizedWeight> readDequantize(NodeOp node, Layout layout, Refusal &refusal) {
  Value result = node.getResult(0);
  auto type = dyn_cast<RankedTensorType>(node.getInput(0).getType());
  auto element = type ? dyn_cast<IntegerType>(type.getElementType()) : IntegerType();
  bool isMatrix = element && type.hasStaticShape() && type.getRank() >= 2 && type.getRank() <= 3;
  unsigned bits = element ? element.getWidth() : 0;
  if (!isMatrix || (bits != 2 && bits != 4 && bits != 8))
    return refusal.refuse(result, "yields the experts' weights, expected of 2, 4 or 8 bits");

  QuantizedWeight weight;
  weight.codes = node.getInput(0);
  weight.scales = node.getInput(1);
  weight.zeroPoints = node.getInput(2);
  weight.bits = weight.storedBits = bits;
  weight.isSigned = !element.isUnsigned();
  weight.isInOut = layout == Layout::InOut;
  int64_t rank = type.getRank();
  int64_t inAxis = weight.isInOut ? rank - 2 : rank - 1,
          outAxis = weight.isInOut ? rank - 1 : rank - 2;
  weight.n = type.getDimSize(outAxis);
  weight.k = type.getDimSize(inAxis);
  int64_t axis = node.getIntAttr("axis", 1), block = node.getIntAttr("block_size", 0);
  axis = axis < 0 ? axis + rank : axis;
  int64_t experts = rank == 3 ? type.getDimSize(0) : 1;
  int64_t scales = countElements(weight.scales);
  bool isByRow = block == 0 && axis == outAxis && rank == 2 && scales == weight.n;
  bool isBlocked = block > 0 && axis == inAxis && weight.k % block == 0 &&
                   scales == experts * weight.n * (weight.k / block);
  if (!isByRow && !(isBlocked && (block == weight.k || isBlock(block, weight.k))))
    return refusal.refuse(result, "yields the experts' weights, expected one scale for each row, "
                                  "or for blocks of a power of two columns that divide them");
  weight.block = isBlocked && block != weight.k ? block : 0;
  // Packed along K, or where blocks begin in the middle of a byte: one code per byte.
  int64_t zeroPoints = ShapedType::getNumElements(weight.getScaleShape());
  bool isPacked = !weight.isInOut && weight.k * bits % 8 == 0 &&
                  (!weight.zeroPoints || weight.getScaleShape().back() * bits % 8 == 0);
  if (!isPacked) {
    if (weight.n * weight.k * bits % 8 != 0 || (weight.zeroPoints && zeroPoints * bits % 8 != 0))
      return refusal.refuse(result, "yields the experts' weights, expected that the codes of each "
                                    "expert fill whole bytes");
    weight.bits = 8;
  }
  // The middle needs no tensor.
  int64_t middle = 1 << (bits - 1);
  std::optional<double> same = weight.zeroPoints ? getSplat(weight.zeroPoints) : 0.0;
  if (!same)
    return weight;
  weight.zeroPoints = Value();
  int64_t zeroPoint = int64_t(*same) + (weight.isSigned ? middle : 0);
  if (weight.isUnpacked())
    weight.zeroPoint = 128 + zeroPoint;
  else if (zeroPoint == middle || bits == 8)
    weight.zeroPoint = zeroPoint == middle ? std::nullopt : std::optional(zeroPoint);
  else
    return refusal.refuse(result, "yields the experts' weights from codes of " + Twine(bits) +
                                      " bits with one zero point that is not their middle");
  return weight;
}

FailureOr<QuantizedWeight> mlir::moe::readQuantizedWeight(const Node *product, Layout layout,
                                                          Refusal &refusal) {
  if (NodeOp node = getMatMulNBits(product))
    return readMatMulNBits(node, refusal);
  return readDequantize(getDequantize(product->view->src), layout, refusal);
}
