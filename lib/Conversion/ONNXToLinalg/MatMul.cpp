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

Value lowering::multiplyAdd(ImplicitLocOpBuilder &b, ValueRange args) {
  Value lhs = toComputeType(b, args[0]), rhs = toComputeType(b, args[1]);
  return addElements(b, args[2], multiplyElements(b, lhs, rhs));
}

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
    linalg::YieldOp::create(inner, multiplyAdd(inner, args));
  };
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{f.lhs, f.rhs},
                                   ValueRange{init}, maps, iterators, body)
      .getResult(0);
}

static LogicalResult checkTypes(NodeLowering &n) {
  Type type = n.inputType(0).getElementType();
  bool isFloat = type.isF16() || type.isBF16() || type.isF32() || type.isF64();
  if (!isFloat && (!isa<IntegerType>(type) || type.getIntOrFloatBitWidth() < 32))
    return n.unsupported("a product of this element type is not supported");
  for (Value input : n.inputs())
    if (input && getElementTypeOrSelf(input.getType()) != type)
      return n.fail("the inputs differ in element type");
  return success();
}

static LogicalResult lowerMatMul(NodeLowering &n) {
  if (failed(checkTypes(n)))
    return failure();
  Factors f{n.input(0), n.input(1)};
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
  Value result = convertTensor(n, *product, n.inputType(0).getElementType());
  int64_t rank = cast<RankedTensorType>(result.getType()).getRank();
  SmallVector<int64_t> added;
  if (lhsRank == 1)
    added.push_back(rank - 2);
  if (rhsRank == 1)
    added.push_back(rank - 1);
  return n.replace(squeeze(n.b, result, added));
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
  table.push_back({"Gemm", 7, kNewestOpset, lowerGemm});
}
