// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.capacity in standard operators: an entry stays when the number of entries that asked its
// expert before it, a running sum over one-hot rows, is below the capacity.

#include "Routing.h"

#include "moec/Support/Unsupported.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Entries of `groups` of consecutive tokens; sizes are int64 [1].
struct CapacityWriter {
  GraphBuilder &b;
  const Entries &entries;
  CapacityOrder order;
  /// Tokens of a group, at least 1.
  Value group;

  Value writeRoom(CapacityAttr capacity);
  Value countBefore();

private:
  Value getFactor(const CapacityTerm &term);
  Value reshape(Value value, ArrayRef<Value> sizes) {
    return b.node("Reshape", {value, b.concat(sizes, 0)});
  }
};

} // namespace

Value CapacityWriter::getFactor(const CapacityTerm &term) {
  Type f64 = b.builder.getF64Type();
  switch (term.kind) {
  case CapacityTerm::Number:
    return b.scalar(f64, term.number);
  case CapacityTerm::Tokens:
    return b.cast(group, f64);
  case CapacityTerm::Experts:
    return b.scalar(f64, double(entries.experts));
  case CapacityTerm::K:
    return b.scalar(f64, double(entries.k));
  }
  llvm_unreachable("all factors are handled");
}

static StringRef getRounding(CapacityRound round) {
  switch (round) {
  case CapacityRound::Floor:
    return "Floor";
  case CapacityRound::Ceil:
    return "Ceil";
  case CapacityRound::Nearest:
    return "Round";
  }
  llvm_unreachable("all ways of rounding are handled");
}

/// C, int64 [1]; see #moe.capacity.
Value CapacityWriter::writeRoom(CapacityAttr capacity) {
  Value room = b.cast(b.ints(1), b.builder.getF64Type());
  for (const CapacityTerm &term : capacity.getTerms())
    room = b.node(term.divides ? "Div" : "Mul", {room, getFactor(term)});
  room = b.node("Min", {room, b.scalar(b.builder.getF64Type(), CapacityAttr::kLargest)});
  room = b.cast(b.node(getRounding(capacity.getRound()), room), b.builder.getI64Type());
  room = b.node("Max",
                {b.node("Mul", {room, b.ints(capacity.getTimes())}), b.ints(capacity.getMin())});
  int64_t multiple = capacity.getMultiple();
  if (multiple == 1)
    return room;
  Value parts = b.node("Div", {b.node("Add", {room, b.ints(multiple - 1)}), b.ints(multiple)});
  return b.node("Mul", {parts, b.ints(multiple)});
}

/// How many entries ask the expert of each entry before it, int64 [T,k].
Value CapacityWriter::countBefore() {
  Type i64 = b.builder.getI64Type();
  int64_t k = entries.k, experts = entries.experts;
  Value asks = b.node("OneHot", {entries.ids, b.ints(experts), b.ints({0, 1})});
  if (entries.kept)
    asks = b.node("Mul", {asks, b.unsqueeze(b.cast(entries.kept, i64), 2)});
  Value rest = b.ints(-1), slots = b.ints(k), columns = b.ints(experts);
  bool bySlot = order == CapacityOrder::Choice && k > 1;
  Value queue = asks;
  if (bySlot)
    queue = b.transpose(reshape(queue, {rest, group, slots, columns}), {0, 2, 1, 3});
  queue = reshape(queue, {rest, b.node("Mul", {group, slots}), columns});
  Value before = b.node("CumSum", {queue, b.intScalar(1)}, b.attr("exclusive", 1));
  if (bySlot)
    before = b.transpose(reshape(before, {rest, slots, group, columns}), {0, 2, 1, 3});
  before = b.reshape(before, {-1, k, experts});
  return b.reduce("ReduceSum", b.node("Mul", {before, asks}), 2, /*keep=*/false);
}

FailureOr<Entries> RoutingWriter::writeCapacity(CapacityOp capacity) {
  auto unsupported = [&](const Twine &what) {
    emitUnsupported(capacity) << what << " cannot be written as ONNX nodes";
    return failure();
  };
  CapacityOrder order = capacity.getOrder();
  if (order != CapacityOrder::Choice && order != CapacityOrder::Token)
    return unsupported("a capacity that is filled by priority");
  if (capacity.getKept() != capacity.getRouting().getType().getK())
    return unsupported("a capacity with candidates");
  FailureOr<Entries> found = getEntries(capacity.getRouting());
  if (failed(found))
    return failure();
  GraphBuilder b(builder, capacity.getLoc());
  Value size = capacity.getGroupSize()
                   ? getSize(capacity.getGroupSize())
                   : b.node("Shape", found->ids, {b.attr("start", 0), b.attr("end", 1)});
  if (!size)
    return unsupported("the computed size of a group of tokens");
  CapacityWriter writer{b, *found, order, b.node("Max", {size, b.ints(1)})};
  Entries entries = *found;
  Value fits = b.node("Less", {writer.countBefore(), writer.writeRoom(capacity.getCapacity())});
  entries.kept = entries.kept ? b.node("And", {entries.kept, fits}) : fits;
  return entries;
}
