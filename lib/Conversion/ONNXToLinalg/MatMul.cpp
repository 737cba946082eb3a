// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Matrix products.

#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// Operands of a product, both of rank 2 or more; the last two dimensions are [M,K]
/// and [K,N], or [K,M] and [N,K] when transposed.
struct Factors {
  Value lhs, rhs;
  bool transposeLhs = false, transposeRhs = false;

  int64_t lhsRank() { return cast<RankedTensorType>(lhs.getType()).getRank(); }
  int64_t rhsRank() { return cast<RankedTensorType>(rhs.getType()).getRank(); }
  int64_t lhsM() { return lhsRank() - (transposeLhs ? 1 : 2); }
  int64_t lhsK() { return lhsRank() - (transposeLhs ? 2 : 1); }
  int64_t rhsK() { return rhsRank() - (transposeRhs ? 1 : 2); }
  int64_t rhsN() { return rhsRank() - (transposeRhs ? 2 : 1); }
};

/// Batch dimensions of an operand as expressions of the loops; the operand is
/// materialized where its size is only known to broadcast at run time.
static SmallVector<AffineExpr> getBatchExprs(NodeLowering &n, Value &operand,
                                             ArrayRef<OpFoldResult> batch) {
  ImplicitLocOpBuilder &b = n.b;
  Sizes own = getSizes(b, operand);
  ArrayRef<OpFoldResult> matrix = ArrayRef(own).take_back(2);
  int64_t rank = own.size() - 2, offset = batch.size() - rank;
  bool proven = llvm::all_of(llvm::seq<int64_t>(0, rank), [&](int64_t dim) {
    return isSize(own[dim], 1) || isSameSize(own[dim], batch[offset + dim]);
  });
  if (!proven) {
    Sizes target(batch.take_back(rank));
    llvm::append_range(target, matrix);
    operand = broadcastTo(n, operand, target);
    own = target;
  }
  SmallVector<AffineExpr> exprs;
  for (int64_t dim = 0; dim < rank; ++dim)
    exprs.push_back(isSize(own[dim], 1) ? b.getAffineConstantExpr(0)
                                        : b.getAffineDimExpr(offset + dim));
  return exprs;
}

/// The product in the type that elements are computed in.
static FailureOr<Value> multiply(NodeLowering &n, Factors f) {
  ImplicitLocOpBuilder &b = n.b;
  if (failed(unifyDim(n, f.lhs, f.lhsK(), f.rhs, f.rhsK(), "the inner sizes differ")))
    return failure();
  Sizes lhs = getSizes(b, f.lhs), rhs = getSizes(b, f.rhs);
  OpFoldResult m = lhs[f.lhsM()], columns = rhs[f.rhsN()];
  FailureOr<Sizes> batch = broadcastSizes(n, {Sizes(ArrayRef<OpFoldResult>(lhs).drop_back(2)),
                                              Sizes(ArrayRef<OpFoldResult>(rhs).drop_back(2))});
  if (failed(batch))
    return failure();
  SmallVector<AffineExpr> lhsExprs = getBatchExprs(n, f.lhs, *batch);
  SmallVector<AffineExpr> rhsExprs = getBatchExprs(n, f.rhs, *batch);

  // Loops run in this order: the innermost one walks along rows in memory.
  int64_t rank = batch->size();
  bool reduceLast = f.transposeRhs || isSize(columns, 1);
  AffineExpr dimM = b.getAffineDimExpr(rank);
  AffineExpr dimK = b.getAffineDimExpr(rank + (reduceLast ? 2 : 1));
  AffineExpr dimN = b.getAffineDimExpr(rank + (reduceLast ? 1 : 2));
  SmallVector<utils::IteratorType> iterators(rank + 3, utils::IteratorType::parallel);
  iterators[rank + (reduceLast ? 2 : 1)] = utils::IteratorType::reduction;

  auto append = [](SmallVector<AffineExpr> &exprs, AffineExpr first, AffineExpr second, bool swap) {
    exprs.push_back(swap ? second : first);
    exprs.push_back(swap ? first : second);
  };
  append(lhsExprs, dimM, dimK, f.transposeLhs);
  append(rhsExprs, dimK, dimN, f.transposeRhs);
  SmallVector<AffineExpr> resultExprs;
  for (int64_t dim = 0; dim < rank; ++dim)
    resultExprs.push_back(b.getAffineDimExpr(dim));
  append(resultExprs, dimM, dimN, false);
  SmallVector<AffineMap> maps;
  for (auto &exprs : {lhsExprs, rhsExprs, resultExprs})
    maps.push_back(AffineMap::get(rank + 3, 0, exprs, b.getContext()));

  Sizes sizes(*batch);
  sizes.push_back(m);
  sizes.push_back(columns);
  Type type = getComputeType(getElementTypeOrSelf(f.lhs.getType()));
  Value init = filledTensor(b, sizes, type, 0);
  auto body = [](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value product =
        multiplyElements(inner, toComputeType(inner, args[0]), toComputeType(inner, args[1]));
    linalg::YieldOp::create(inner, addElements(inner, args[2], product));
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{f.lhs, f.rhs},
                                   ValueRange{init}, maps, iterators, body)
      .getResult(0);
}

static LogicalResult checkTypes(NodeLowering &n) {
  Type type = n.inputType(0).getElementType();
  if (!isArithmeticFloat(type) && (!isa<IntegerType>(type) || type.getIntOrFloatBitWidth() < 32))
    return n.unsupported("a product of this element type is not supported");
  for (Value input : n.inputs())
    if (input && getElementTypeOrSelf(input.getType()) != type)
      return n.fail("the inputs differ in element type");
  return success();
}

/// The product of tensors of any rank but 0, in the type that elements are computed in.
static FailureOr<Value> multiplyTensors(NodeLowering &n, Value lhs, Value rhs) {
  Factors f{lhs, rhs};
  int64_t lhsRank = f.lhsRank(), rhsRank = f.rhsRank();
  if (lhsRank == 0 || rhsRank == 0)
    return n.fail("an input is a scalar");
  if (lhsRank == 1)
    f.lhs = unsqueeze(n.b, f.lhs, 0);
  if (rhsRank == 1)
    f.rhs = unsqueeze(n.b, f.rhs, 1);
  FailureOr<Value> product = multiply(n, f);
  if (failed(product))
    return failure();
  int64_t rank = cast<RankedTensorType>(product->getType()).getRank();
  SmallVector<int64_t> added;
  if (lhsRank == 1)
    added.push_back(rank - 2);
  if (rhsRank == 1)
    added.push_back(rank - 1);
  return squeeze(n.b, *product, added);
}

static LogicalResult lowerMatMul(NodeLowering &n) {
  if (failed(checkTypes(n)))
    return failure();
  FailureOr<Value> product = multiplyTensors(n, n.input(0), n.input(1));
  if (failed(product))
    return failure();
  return n.replace(convertTensor(n, *product, n.inputType(0).getElementType()));
}

/// Integers of 8 bits as such of 32, less their zero points: one, or one for each row of
/// the left factor or column of the right one.
static FailureOr<Value> widen(NodeLowering &n, unsigned position) {
  Type type = n.inputType(position).getElementType(), wide = n.b.getI32Type();
  if (!isa<IntegerType>(type) || type.getIntOrFloatBitWidth() != 8)
    return n.fail("the inputs must be int8 or uint8 tensors");
  Value numbers = convertTensor(n, n.input(position), wide), zero = n.input(2 + position);
  if (!zero)
    return numbers;
  if (getElementTypeOrSelf(zero.getType()) != type)
    return n.fail("a zero point differs in element type from its factor");
  bool isOfRows = position == 0 && n.inputType(0).getRank() > 1 && n.inputType(2).getRank() == 1;
  if (isOfRows)
    zero = unsqueeze(n.b, zero, 1);
  return mapElements(n, {numbers, convertTensor(n, zero, wide)}, wide,
                     [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
                       return arith::SubIOp::create(b, x[0], x[1]);
                     });
}

static LogicalResult lowerMatMulInteger(NodeLowering &n) {
  FailureOr<Value> lhs = widen(n, 0), rhs = widen(n, 1);
  if (failed(lhs) || failed(rhs))
    return failure();
  FailureOr<Value> product = multiplyTensors(n, *lhs, *rhs);
  return failed(product) ? failure() : n.replace(*product);
}

/// alpha * MatMul with operands transposed on their last two dimensions.
static LogicalResult lowerFusedMatMul(NodeLowering &n) {
  if (failed(checkTypes(n)))
    return failure();
  if (n.node.getIntAttr("transBatchA", 0) || n.node.getIntAttr("transBatchB", 0))
    return n.unsupported("transBatchA and transBatchB");
  Factors f{n.input(0), n.input(1), n.node.getIntAttr("transA", 0) != 0,
            n.node.getIntAttr("transB", 0) != 0};
  if (f.lhsRank() < 2 || f.rhsRank() < 2)
    return n.unsupported("inputs of rank less than 2");
  FailureOr<Value> product = multiply(n, f);
  if (failed(product))
    return failure();
  Value alpha =
      constantOf(n.b, getElementTypeOrSelf(product->getType()), n.node.getFloatAttr("alpha", 1));
  Type type = n.inputType(0).getElementType();
  return n.replace(
      *mapElements(n, *product, type, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        return multiplyElements(b, x[0], alpha);
      }));
}

//===----------------------------------------------------------------------===//
// MatMulNBits
//===----------------------------------------------------------------------===//

namespace {
/// Weights [N, K] of few bits, packed low bits first: [N, blocks, bytes of a block].
struct PackedWeights {
  int64_t rows, columns, bits, blockSize;
  int64_t getNumBlocks() const { return llvm::divideCeil(columns, blockSize); }
  int64_t getBytesPerRow(int64_t count) const { return llvm::divideCeil(count * bits, 8); }
};
} // namespace

static FailureOr<PackedWeights> getPackedWeights(NodeLowering &n) {
  PackedWeights w{n.node.getIntAttr("N", 0), n.node.getIntAttr("K", 0),
                  n.node.getIntAttr("bits", 4), n.node.getIntAttr("block_size", 0)};
  if (w.rows <= 0 || w.columns <= 0)
    return n.fail("N and K must be positive");
  if (w.bits != 2 && w.bits != 4 && w.bits != 8)
    return n.unsupported("weights of " + Twine(w.bits) + " bits");
  if (w.blockSize < 16 || !llvm::isPowerOf2_64(w.blockSize))
    return n.fail("block_size " + Twine(w.blockSize) + " is no power of 2 from 16 on");
  if (n.node.getIntAttr("weight_prepacked", 0))
    return n.unsupported("prepacked weights");
  if (n.input(4))
    return n.unsupported("g_idx");
  return w;
}

/// `tensor`, whose sizes must be `sizes`, as [N, the rest in one].
static FailureOr<Value> flattenWeights(NodeLowering &n, unsigned position, int64_t rows,
                                       int64_t perRow) {
  Value tensor = n.input(position);
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.hasStaticShape() || type.getNumElements() != rows * perRow)
    return n.fail("input " + Twine(position) + " must have " + Twine(rows * perRow) + " elements");
  return reshapeTo(n.b, tensor, {n.b.getIndexAttr(rows), n.b.getIndexAttr(perRow)});
}

/// The number of `bits` bits at `column` of a row of packed ones.
static Value unpackElement(ImplicitLocOpBuilder &b, Value packed, Value row, Value column,
                           int64_t bits) {
  Value perByte = arith::ConstantIndexOp::create(b, 8 / bits);
  Value byteIndex = b.createOrFold<arith::DivUIOp>(column, perByte);
  Value place = b.createOrFold<arith::RemUIOp>(column, perByte);
  Value element = tensor::ExtractOp::create(b, packed, ValueRange{row, byteIndex});
  Value byte = toComputeType(b, element);
  Type type = byte.getType();
  Value shift = arith::MulIOp::create(b, arith::IndexCastOp::create(b, type, place),
                                      constantOf(b, type, bits));
  Value shifted = arith::ShRUIOp::create(b, byte, shift);
  return arith::AndIOp::create(b, shifted, constantOf(b, type, (1 << bits) - 1));
}

/// (weight - zero point) * scale, [N, K].
static FailureOr<Value> dequantize(NodeLowering &n, const PackedWeights &w) {
  int64_t blocks = w.getNumBlocks();
  FailureOr<Value> packed = flattenWeights(n, 1, w.rows, blocks * w.getBytesPerRow(w.blockSize));
  FailureOr<Value> scales = flattenWeights(n, 2, w.rows, blocks);
  if (failed(packed) || failed(scales))
    return failure();
  Type type = n.inputType(0).getElementType(), compute = getComputeType(type);
  bool hasPoints = n.input(3) != nullptr,
       isPacked = hasPoints && n.inputType(3).getElementType().isUnsignedInteger(8);
  FailureOr<Value> points = Value();
  if (hasPoints)
    points = flattenWeights(n, 3, w.rows, isPacked ? w.getBytesPerRow(blocks) : blocks);
  if (failed(points))
    return failure();
  if (!n.inputType(1).getElementType().isUnsignedInteger(8))
    return n.fail("the weights must be uint8");
  for (unsigned position : {2u, 3u})
    if (n.input(position) && !(position == 3 && isPacked) &&
        !isa<FloatType>(n.inputType(position).getElementType()))
      return n.fail("input " + Twine(position) + " must be a floating-point tensor");

  auto toFloat = [&](ImplicitLocOpBuilder &b, Value number) -> Value {
    return arith::UIToFPOp::create(b, compute, number);
  };
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    Value size = arith::ConstantIndexOp::create(b, w.blockSize);
    Value block = b.createOrFold<arith::DivUIOp>(at[1], size);
    Value weight = toFloat(b, unpackElement(b, *packed, at[0], at[1], w.bits));
    auto read = [&](Value tensor) {
      Value number = tensor::ExtractOp::create(b, tensor, ValueRange{at[0], block});
      return castElement(b, toComputeType(b, number), number.getType(), compute);
    };
    Value point = constantOf(b, compute, 1 << (w.bits - 1));
    if (hasPoints)
      point =
          isPacked ? toFloat(b, unpackElement(b, *points, at[0], block, w.bits)) : read(*points);
    Value centred = arith::SubFOp::create(b, weight, point);
    return arith::MulFOp::create(b, centred, read(*scales));
  };
  Sizes sizes = {n.b.getIndexAttr(w.rows), n.b.getIndexAttr(w.columns)};
  return generateTensor(n.b, sizes, compute, element);
}

/// A * weights^T + bias, whose weights are written out in full.
static LogicalResult lowerMatMulNBits(NodeLowering &n) {
  Type type = n.inputType(0).getElementType();
  if (!isa<FloatType>(type))
    return n.fail("A must be a floating-point tensor");
  FailureOr<PackedWeights> packed = getPackedWeights(n);
  if (failed(packed))
    return failure();
  FailureOr<Value> weights = dequantize(n, *packed);
  if (failed(weights))
    return failure();
  int64_t rank = n.inputType(0).getRank();
  if (rank < 1)
    return n.fail("A is a scalar");
  Factors f{n.input(0), *weights, /*transposeLhs=*/false, /*transposeRhs=*/true};
  if (rank == 1)
    f.lhs = unsqueeze(n.b, f.lhs, 0);
  FailureOr<Value> product = multiply(n, f);
  if (failed(product))
    return failure();
  SmallVector<Value> operands = {*product};
  if (Value bias = n.input(5))
    operands.push_back(bias);
  FailureOr<Value> result =
      mapElements(n, operands, type, [](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        return x.size() == 1 ? x[0] : addElements(b, x[0], x[1]);
      });
  if (failed(result))
    return failure();
  return n.replace(rank == 1 ? squeeze(n.b, *result, 0) : *result);
}

/// Reports unless C broadcasts to [M,N] and not the other way round.
static LogicalResult checkGemmBias(NodeLowering &n, Value bias, Value product) {
  auto type = cast<RankedTensorType>(bias.getType());
  if (type.getRank() > 2)
    return n.fail("C has rank " + Twine(type.getRank()));
  Sizes sizes = getSizes(n.b, product), own = getSizes(n.b, bias);
  for (auto [size, target] : llvm::zip(llvm::reverse(own), llvm::reverse(sizes)))
    if (!isSize(size, 1) && isSize(target, 1) && getConstantIntValue(size))
      return n.fail("C does not broadcast to the product");
  return success();
}

static LogicalResult lowerGemm(NodeLowering &n) {
  if (failed(checkTypes(n)))
    return failure();
  Factors f{n.input(0), n.input(1), n.node.getIntAttr("transA", 0) != 0,
            n.node.getIntAttr("transB", 0) != 0};
  if (f.lhsRank() != 2 || f.rhsRank() != 2)
    return n.fail("A and B must be matrices");
  FailureOr<Value> product = multiply(n, f);
  if (failed(product))
    return failure();

  double alpha = n.node.getFloatAttr("alpha", 1), beta = n.node.getFloatAttr("beta", 1);
  Type type = n.inputType(0).getElementType();
  Value bias = beta == 0 ? Value() : n.input(2);
  if (bias && failed(checkGemmBias(n, bias, *product)))
    return failure();
  if (!bias && alpha == 1 && type == getElementTypeOrSelf(product->getType()))
    return n.replace(*product);

  SmallVector<Value> operands{*product};
  if (bias)
    operands.push_back(bias);
  auto scale = [](ImplicitLocOpBuilder &b, Value value, double factor) -> Value {
    if (factor == 1)
      return value;
    if (isa<FloatType>(value.getType()))
      return arith::MulFOp::create(b, value, constantOf(b, value.getType(), factor));
    Value scaled = arith::MulFOp::create(b, arith::SIToFPOp::create(b, b.getF64Type(), value),
                                         constantOf(b, b.getF64Type(), factor));
    return arith::FPToSIOp::create(b, value.getType(), scaled);
  };
  FailureOr<Value> result =
      mapElements(n, operands, type, [&](ImplicitLocOpBuilder &b, ValueRange x) -> Value {
        Value scaled = scale(b, x[0], alpha);
        if (x.size() == 1)
          return scaled;
        Value added = scale(b, x[1], beta);
        if (isa<FloatType>(scaled.getType()))
          return arith::AddFOp::create(b, scaled, added);
        return arith::AddIOp::create(b, scaled, added);
      });
  if (failed(result))
    return failure();
  return n.replace(*result);
}

void lowering::addMatMul(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"MatMul", 1, kNewestOpset, lowerMatMul});
  table.push_back({"MatMulInteger", 10, kNewestOpset, lowerMatMulInteger});
  table.push_back({"Gemm", 7, kNewestOpset, lowerGemm});
  table.push_back({"com.microsoft.FusedMatMul", 1, 1, lowerFusedMatMul});
  table.push_back({"com.microsoft.MatMulNBits", 1, 1, lowerMatMulNBits});
}
