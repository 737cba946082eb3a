// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the lowerings of ONNX nodes share.

#ifndef MOEC_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H
#define MOEC_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H

#include "Sizes.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"

#include "moec/Dialect/ONNX/IR/ONNX.h"

namespace mlir::moe::lowering {

/// One node while it is lowered.
class NodeLowering {
public:
  explicit NodeLowering(onnx::NodeOp node, int64_t vectorBits = 0)
      : b(node.getLoc(), node), node(node), vectorBits(vectorBits) {}

  ImplicitLocOpBuilder b;
  onnx::NodeOp node;
  /// Width of a vector register that kernels may use; 0 for no kernels.
  int64_t vectorBits;

  /// Input at an ONNX position, casts to less static types removed; null when absent.
  Value input(unsigned position);
  RankedTensorType inputType(unsigned position) {
    return cast<RankedTensorType>(input(position).getType());
  }
  /// All inputs, null where absent.
  SmallVector<Value> inputs();

  /// Element type of the result as the model declares it.
  Type resultElementType() {
    return cast<ShapedType>(node.getResult(0).getType()).getElementType();
  }

  /// Replaces the results of the node and erases it. A result that nothing reads may be null.
  LogicalResult replace(ValueRange values);

  /// Reports what is wrong with the node.
  LogicalResult fail(const Twine &reason);
  /// Reports what of a valid node cannot be lowered.
  LogicalResult unsupported(const Twine &reason);

  /// Start of a message: "node 'view_1' (Reshape)".
  std::string describe();

  /// Makes the call fail with "<node>: message" unless `condition` holds.
  void check(Value condition, const Twine &message);

  /// Attribute `name` counted from the front of `rank` dimensions; `end` allows
  /// `rank` itself. Reports an error when out of range.
  FailureOr<int64_t> axis(StringRef name, int64_t defaultValue, int64_t rank, bool end = false);

  /// Constant axes at input `position`, counted from the front, sorted. An absent
  /// input gives none.
  FailureOr<SmallVector<int64_t>> axesInput(unsigned position, int64_t rank);

  /// The only element of input `position` as a size; `name` is for errors.
  FailureOr<OpFoldResult> scalarInput(unsigned position, StringRef name);

private:
  /// `value`, computed for the result `name`, as `stated`. The call fails when it has
  /// other sizes.
  FailureOr<Value> castToStated(Value value, RankedTensorType stated, StringRef name);
};

using LoweringFn = LogicalResult (*)(NodeLowering &);

/// A lowering for the operator sets `since` … `until` of its domain.
struct LoweringEntry {
  StringRef opType;
  int64_t since;
  int64_t until;
  LoweringFn lower;
};

/// The newest operator set of ai.onnx whose operators are known here.
inline constexpr int64_t kNewestOpset = 28;

/// Rows of the table, by family.
void addElementWise(SmallVectorImpl<LoweringEntry> &table);
void addMatMul(SmallVectorImpl<LoweringEntry> &table);
void addReductions(SmallVectorImpl<LoweringEntry> &table);
void addShape(SmallVectorImpl<LoweringEntry> &table);
void addIndexing(SmallVectorImpl<LoweringEntry> &table);
void addAttention(SmallVectorImpl<LoweringEntry> &table);
void addEinsum(SmallVectorImpl<LoweringEntry> &table);
void addNormalization(SmallVectorImpl<LoweringEntry> &table);
void addQuantization(SmallVectorImpl<LoweringEntry> &table);
void addConvolution(SmallVectorImpl<LoweringEntry> &table);
void addGathering(SmallVectorImpl<LoweringEntry> &table);
void addScattering(SmallVectorImpl<LoweringEntry> &table);
void addOrdering(SmallVectorImpl<LoweringEntry> &table);
void addFilling(SmallVectorImpl<LoweringEntry> &table);
void addSelecting(SmallVectorImpl<LoweringEntry> &table);
void addControlFlow(SmallVectorImpl<LoweringEntry> &table);

/// Lowers the nodes of one block in their order; fails when one of them does, after all.
LogicalResult lowerNodes(ArrayRef<onnx::NodeOp> nodes, int64_t vectorBits);

//===----------------------------------------------------------------------===//
// Elements
//===----------------------------------------------------------------------===//

/// Type that elements are computed in: f32 for f16 and bf16, signless for unsigned.
Type getComputeType(Type elementType);
/// Between an element and its compute type, exact or rounded to nearest even.
Value toComputeType(ImplicitLocOpBuilder &b, Value element);
Value fromComputeType(ImplicitLocOpBuilder &b, Value value, Type elementType);
/// ONNX `Cast` of `value`, in the compute type of `from`, to that of `to`.
Value castElement(ImplicitLocOpBuilder &b, Value value, Type from, Type to);
/// A number as a constant of a compute type.
Value constantOf(ImplicitLocOpBuilder &b, Type type, double value);
/// Sum and product of two elements in their compute type. The order of a sum of floating-
/// point numbers is free, and a product in it need not be rounded.
Value addElements(ImplicitLocOpBuilder &b, Value lhs, Value rhs);
Value multiplyElements(ImplicitLocOpBuilder &b, Value lhs, Value rhs);
/// True for a floating-point type that is computed with: 16, 32 or 64 bits.
inline bool isArithmeticFloat(Type type) {
  return type.isF16() || type.isBF16() || type.isF32() || type.isF64();
}
/// A type as text, for messages.
std::string toString(Type type);
/// The larger or the smaller of two numbers of a compute type; NaN when one is.
Value extreme(ImplicitLocOpBuilder &b, Value lhs, Value rhs, bool isUnsigned, bool isMax);
/// True for an unsigned integer or bool.
inline bool isUnsignedElement(Type type) { return type.isUnsignedInteger() || type.isInteger(1); }

//===----------------------------------------------------------------------===//
// Scalars: small integer tensors
//===----------------------------------------------------------------------===//

/// Elements of a small integer tensor of rank 0 or 1 as scalars; nullopt for others.
std::optional<SmallVector<Value>> getScalars(ImplicitLocOpBuilder &b, Value tensor);
Value fromScalars(ImplicitLocOpBuilder &b, ArrayRef<Value> scalars, RankedTensorType type);
/// Sizes from the scalars of a rank-1 tensor.
std::optional<Sizes> getScalarsAsSizes(ImplicitLocOpBuilder &b, Value tensor);
/// Elements of a constant integer tensor, whatever op holds it.
std::optional<SmallVector<int64_t>> getConstantInts(Value tensor);
/// The elements of a constant tensor, whatever op holds it; null for others.
DenseElementsAttr getConstant(Value tensor);

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

/// Computes one element, arguments and result in their compute types.
using ElementFn = function_ref<Value(ImplicitLocOpBuilder &, ValueRange)>;

Value emptyTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Type elementType);
/// A tensor filled with a number.
Value filledTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Type elementType,
                   double value);

/// Common size of operands by multidirectional broadcasting, one size list each. Sizes
/// not known to agree are checked at run time. Fails with an error when they disagree.
FailureOr<Sizes> broadcastSizes(NodeLowering &n, ArrayRef<Sizes> operands);

/// Applies `fn` element by element to operands that broadcast to one another.
FailureOr<Value> mapElements(NodeLowering &n, ArrayRef<Value> operands, Type resultElementType,
                             ElementFn fn);

/// Combines an accumulator and an element, both in the compute type.
using CombineFn = function_ref<Value(ImplicitLocOpBuilder &, Value acc, Value element)>;

/// `tensor` reduced over the sorted `axes`, which go away; the result has the type of
/// `start`, the compute type of the elements.
Value reduce(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes, Value start,
             CombineFn combine);

/// `tensor` broadcast to `sizes`, which `broadcastSizes` gave.
Value broadcastTo(NodeLowering &n, Value tensor, ArrayRef<OpFoldResult> sizes);

/// Elements of `tensor` converted to another type.
Value convertTensor(NodeLowering &n, Value tensor, Type elementType);

/// A tensor of `sizes` whose elements `fn` computes from their indices; `fn` returns an
/// element of `elementType`.
Value generateTensor(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Type elementType,
                     function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> fn);

/// Carries `init` through step(indices, value so far) for all indices below `sizes`, in
/// row-major order. The steps keep its sizes.
Value loopOver(ImplicitLocOpBuilder &b, ArrayRef<OpFoldResult> sizes, Value init,
               function_ref<Value(ImplicitLocOpBuilder &, ValueRange, Value)> step);

/// The same elements in row-major order with other sizes; the products agree.
Value reshapeTo(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<OpFoldResult> sizes);

/// Adds dimensions of size 1 at the sorted positions `axes` of the result.
Value unsqueeze(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes);
/// Removes the sorted dimensions `axes`, all of size 1.
Value squeeze(ImplicitLocOpBuilder &b, Value tensor, ArrayRef<int64_t> axes);

/// The first `size` slices along `dim`; nothing to do when that is all of them.
Value takeFirst(ImplicitLocOpBuilder &b, Value tensor, int64_t dim, OpFoldResult size);

/// Makes `size` one that is never larger than `other` (or `limit`): an error when they
/// are known to differ (or it to be larger), else a run-time check and the smaller one.
LogicalResult agreeOnSize(NodeLowering &n, OpFoldResult &size, OpFoldResult other,
                          const Twine &message);
LogicalResult limitSize(NodeLowering &n, OpFoldResult &size, OpFoldResult limit,
                        const Twine &message);

/// Makes dimension `lhsDim` of `lhs` and `rhsDim` of `rhs` agree: an error when they
/// cannot, a run-time check (and a cut to the smaller) when they need not.
LogicalResult unifyDim(NodeLowering &n, Value &lhs, int64_t lhsDim, Value &rhs, int64_t rhsDim,
                       const Twine &message);

//===----------------------------------------------------------------------===//
// Normalization
//===----------------------------------------------------------------------===//

struct NormalizeOptions {
  /// The first normalized dimension.
  int64_t axis;
  /// Whether the mean is subtracted (LayerNormalization), or not (RMSNormalization).
  bool center;
  double epsilon;
  Type resultType;
};

struct Normalized {
  Value result;
  /// Of the compute type, with normalized dimensions of size 1; null unless centered.
  Value mean;
  /// 1 / sqrt(mean square + epsilon), likewise.
  Value inverse;
};

/// Normalizes `data`, then multiplies by `scale` and adds `bias`, which broadcast and may
/// be null. All are floating-point tensors.
FailureOr<Normalized> normalize(NodeLowering &n, Value data, Value scale, Value bias,
                                const NormalizeOptions &options);

} // namespace mlir::moe::lowering

#endif // MOEC_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H
