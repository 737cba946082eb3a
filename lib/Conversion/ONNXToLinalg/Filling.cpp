// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Operators that repeat elements, or put others around them.

#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

//===----------------------------------------------------------------------===//
// Tile
//===----------------------------------------------------------------------===//

static LogicalResult lowerTile(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0);
  std::optional<Sizes> repeats = getScalarsAsSizes(b, n.input(1));
  if (!repeats)
    return n.unsupported("the number of repeats must be known, and at most 16");
  Sizes source = getSizes(b, data), target, spread;
  if (repeats->size() != source.size())
    return n.fail("has " + Twine(repeats->size()) + " repeats for " + Twine(source.size()) +
                  " dimensions");
  // Each dimension becomes (repeat, size), read without the repeats.
  SmallVector<AffineExpr> exprs;
  for (auto [dim, size, repeat] : llvm::enumerate(source, *repeats)) {
    if (std::optional<int64_t> known = getConstantIntValue(repeat); known && *known < 0)
      return n.fail("repeat " + Twine(*known) + " of dimension " + Twine(dim) + " is negative");
    if (!isNeverNegative(repeat)) {
      n.check(b.createOrFold<arith::CmpIOp>(arith::CmpIPredicate::sge, toValue(b, repeat),
                                            toValue(b, b.getIndexAttr(0))),
              "a repeat is negative");
      repeat = maxSizes(b, repeat, b.getIndexAttr(0));
    }
    target.push_back(mulSizes(b, repeat, size));
    if (!isSize(repeat, 1))
      spread.push_back(repeat);
    exprs.push_back(b.getAffineDimExpr(spread.size()));
    spread.push_back(size);
  }
  if (spread.size() == source.size())
    return n.replace(data);
  Value init = emptyTensor(b, spread, n.inputType(0).getElementType());
  int64_t rank = spread.size();
  SmallVector<AffineMap> maps{AffineMap::get(rank, 0, exprs, b.getContext()),
                              b.getMultiDimIdentityMap(rank)};
  SmallVector<utils::IteratorType> iterators(rank, utils::IteratorType::parallel);
  Value result = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{data},
                                           ValueRange{init}, maps, iterators,
                                           [](OpBuilder &builder, Location loc, ValueRange args) {
                                             linalg::YieldOp::create(builder, loc, args[0]);
                                           })
                     .getResult(0);
  return n.replace(reshapeTo(b, result, target));
}

void lowering::addFilling(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Tile", 6, kNewestOpset, lowerTile});
}
