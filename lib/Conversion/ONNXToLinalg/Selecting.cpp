// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators whose results have a size that depends on elements.

#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// True unless an element is 0.
static Value isNotZero(ImplicitLocOpBuilder &b, Value element) {
  return castElement(b, toComputeType(b, element), element.getType(), b.getI1Type());
}

/// The numbers of the rows that isSelected(row) holds for, of 0 … count-1, as an i64 vector
/// of the room for all, and how many they are.
static std::pair<Value, OpFoldResult>
selectRows(ImplicitLocOpBuilder &b, OpFoldResult count,
           function_ref<Value(ImplicitLocOpBuilder &, Value)> isSelected) {
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  Value room = emptyTensor(b, count, b.getI64Type());
  auto loop = scf::ForOp::create(b, zero, toValue(b, count), one, ValueRange{room, zero});
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value row = loop.getInductionVar(), found = loop.getRegionIterArg(1);
  // Rows that are not selected are overwritten by the next one, or lie behind the end.
  Value number = arith::IndexCastOp::create(b, b.getI64Type(), row);
  Value rows = tensor::InsertOp::create(b, number, loop.getRegionIterArg(0), found);
  Value more = arith::AddIOp::create(b, found, one);
  Value next = arith::SelectOp::create(b, isSelected(b, row), more, found);
  scf::YieldOp::create(b, ValueRange{rows, next});
  return {loop.getResult(0), OpFoldResult(loop.getResult(1))};
}

static LogicalResult lowerNonZero(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  Sizes sizes = getSizes(b, data);
  int64_t rank = sizes.size();
  Value flat = reshapeTo(b, data, productOf(b, sizes));
  Value places;
  OpFoldResult count;
  std::tie(places, count) =
      selectRows(b, productOf(b, sizes), [&](ImplicitLocOpBuilder &b, Value row) {
        return isNotZero(b, tensor::ExtractOp::create(b, flat, row));
      });
  // A scalar has no coordinates; coordinate d of a place is place / stride(d) mod size(d).
  SmallVector<Value> strides(rank);
  for (int64_t dim = 0; dim < rank; ++dim)
    strides[dim] = toValue(b, productOf(b, ArrayRef(sizes).drop_front(dim + 1)));
  auto coordinate = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    Value place = tensor::ExtractOp::create(b, places, at[1]);
    place = arith::IndexCastOp::create(b, b.getIndexType(), place);
    Value result;
    for (int64_t dim = rank - 1; dim >= 0; --dim) {
      Value own = arith::DivUIOp::create(b, place, strides[dim]);
      if (dim > 0)
        own = arith::RemUIOp::create(b, own, toValue(b, sizes[dim]));
      if (!result) {
        result = own;
        continue;
      }
      Value isHere = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, at[0],
                                           arith::ConstantIndexOp::create(b, dim));
      result = arith::SelectOp::create(b, isHere, own, result);
    }
    return arith::IndexCastOp::create(b, b.getI64Type(), result);
  };
  if (rank == 0)
    return n.replace(emptyTensor(b, {b.getIndexAttr(0), count}, b.getI64Type()));
  return n.replace(generateTensor(b, {b.getIndexAttr(rank), count}, b.getI64Type(), coordinate));
}

static LogicalResult lowerCompress(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0), condition = n.input(1);
  if (n.inputType(1).getRank() != 1 || !n.inputType(1).getElementType().isInteger(1))
    return n.fail("its condition must be a vector of bool");
  int64_t axis = 0;
  if (n.node.hasNodeAttr("axis")) {
    FailureOr<int64_t> given = n.axis("axis", 0, n.inputType(0).getRank());
    if (failed(given))
      return failure();
    axis = *given;
  } else {
    data = reshapeTo(b, data, productOf(b, getSizes(b, data)));
  }
  OpFoldResult count = getSize(b, condition, 0);
  if (failed(limitSize(n, count, getSize(b, data, axis),
                       "the condition is longer than the dimension")))
    return failure();
  Value rows;
  OpFoldResult found;
  std::tie(rows, found) = selectRows(b, count, [&](ImplicitLocOpBuilder &b, Value row) -> Value {
    return tensor::ExtractOp::create(b, condition, row);
  });
  Sizes sizes = getSizes(b, data);
  sizes[axis] = found;
  auto element = [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
    SmallVector<Value> place(at);
    Value row = tensor::ExtractOp::create(b, rows, at[axis]);
    place[axis] = arith::IndexCastOp::create(b, b.getIndexType(), row);
    return tensor::ExtractOp::create(b, data, place);
  };
  return n.replace(generateTensor(b, sizes, n.inputType(0).getElementType(), element));
}

void lowering::addSelecting(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"NonZero", 9, kNewestOpset, lowerNonZero});
  table.push_back({"Compress", 9, kNewestOpset, lowerCompress});
}
