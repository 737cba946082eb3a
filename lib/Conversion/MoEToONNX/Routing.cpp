// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Routing.h"

#include "moec/Support/Unsupported.h"

#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;
using namespace mlir::moe;

static constexpr double kInfinity = std::numeric_limits<double>::infinity();

Type mlir::moe::getComputeType(Type elementType) {
  return elementType.isF64() ? elementType : Float32Type::get(elementType.getContext());
}

static Type elementTypeOf(Value value) {
  return cast<ShapedType>(value.getType()).getElementType();
}

//===----------------------------------------------------------------------===//
// Scores
//===----------------------------------------------------------------------===//

FailureOr<Value> mlir::moe::writeScore(GraphBuilder &b, ScoreOp score, Value logits) {
  if (score.getGroupSize()) {
    emitUnsupported(score) << "a softmax over groups of tokens cannot be written as ONNX nodes";
    return failure();
  }
  Type type = getComputeType(elementTypeOf(score.getLogits()));
  Value x = b.cast(logits, type), y;
  switch (score.getFn()) {
  case ScoreFn::Identity:
    y = x;
    break;
  case ScoreFn::Softmax:
    y = b.node("Softmax", x, b.attr("axis", score.getAxis() == Axis::Experts ? 1 : 0));
    break;
  case ScoreFn::Sigmoid:
    y = b.node("Sigmoid", x);
    break;
  case ScoreFn::SqrtSoftplus:
    y = b.node("Sqrt", b.node("Softplus", x));
    break;
  case ScoreFn::LogSigmoid:
    y = b.node("Neg", b.node("Softplus", b.node("Neg", x)));
    break;
  }
  return b.cast(y, elementTypeOf(score.getScores()));
}

//===----------------------------------------------------------------------===//
// Selection
//===----------------------------------------------------------------------===//

/// The key with the experts of dropped groups masked or 0.
Value RoutingWriter::writeGroups(GraphBuilder &b, SelectOp select, Value key) {
  Type type = getComputeType(elementTypeOf(select.getKey()));
  int64_t experts = select.getRouting().getType().getExperts(), groups = select.getNGroup();
  Value grouped = b.reshape(key, {-1, groups, experts / groups});
  Value scores = select.getGroupScore() == GroupScore::Max
                     ? b.reduce("ReduceMax", grouped, 2, /*keep=*/false)
                     : b.reduce("ReduceSum", b.topK(grouped, 2, 2).first, 2, /*keep=*/false);
  Value chosen = b.topK(scores, select.getTopkGroup(), 1).second;
  Value ones = b.filled(chosen, b.builder.getF32FloatAttr(1));
  Value none = b.filled(scores, b.builder.getF32FloatAttr(0));
  Value mask = b.node("ScatterElements", {none, chosen, ones}, b.attr("axis", 1));
  double fill = select.getGroupFill() == GroupFill::Zero ? 0 : -kInfinity;
  Value masked = b.node("Where", {b.unsqueeze(b.cast(mask, b.builder.getI1Type()), 2), grouped,
                                  b.scalar(type, fill)});
  return b.reshape(masked, {-1, experts});
}

FailureOr<Value> RoutingWriter::getKey(SelectOp select) {
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPoint(select);
  GraphBuilder b(builder, select.getLoc());
  Type type = getComputeType(elementTypeOf(select.getKey()));
  Value key = b.cast(get(select.getKey()), type);
  if (Value bias = get(select.getBias()))
    key = b.node("Add", {key, b.cast(bias, type)});
  Value lowest = b.scalar(type, -kInfinity);
  if (Value mask = get(select.getExpertMask()))
    key = b.node("Where", {mask, key, lowest});
  return select.getNGroup() > 1 ? writeGroups(b, select, key) : key;
}

/// Values before each slot: 0, κ_1, κ_1 + κ_2, …
static Value sumBefore(GraphBuilder &b, Value keys) {
  return b.node("CumSum", {keys, b.intScalar(1)}, b.attr("exclusive", 1));
}

static Value both(GraphBuilder &b, Value first, Value second) {
  return first ? b.node("And", {first, second}) : second;
}

FailureOr<Entries> RoutingWriter::writeSelect(SelectOp select) {
  GraphBuilder b(builder, select.getLoc());
  RoutingType type = select.getRouting().getType();
  SelectMode mode = select.getMode();
  auto unsupported = [&](StringRef what) {
    emitUnsupported(select) << what << " cannot be written as ONNX nodes";
    return failure();
  };
  if (mode == SelectMode::ExpertTopK)
    return unsupported("a selection of tokens by the experts");
  if (select.getTieBreak() == TieBreak::Higher)
    return unsupported("tie_break = higher");
  FailureOr<Value> key = getKey(select);
  if (failed(key))
    return failure();
  Type computeType = getComputeType(elementTypeOf(select.getKey()));

  Entries entries{{}, {}, {}, type.getExperts(), type.getK()};
  Value keys;
  if (mode == SelectMode::All) {
    SmallVector<int64_t> all = llvm::to_vector(llvm::seq<int64_t>(0, type.getExperts()));
    entries.ids = b.node("Expand", {b.ints(all), b.node("Shape", *key)});
  } else {
    std::tie(keys, entries.ids) = b.topK(*key, type.getK(), 1);
  }
  if (mode == SelectMode::TopP && select.getP()->convertToDouble() < 1)
    entries.kept = b.node(
        "Less", {sumBefore(b, keys), b.scalar(computeType, select.getP()->convertToDouble())});
  if (mode == SelectMode::Threshold)
    entries.kept =
        b.node("Greater", {keys, b.scalar(computeType, select.getTau()->convertToDouble())});
  if (Value mask = get(select.getExpertMask())) {
    Value spread = b.node("Expand", {mask, b.node("Shape", *key)});
    entries.kept = both(b, entries.kept, b.gatherElements(spread, entries.ids));
  }
  if (Value mask = get(select.getTokenMask())) {
    Value spread = b.node("Expand", {b.unsqueeze(mask, 1), b.node("Shape", entries.ids)});
    entries.kept = both(b, entries.kept, spread);
  }
  return entries;
}

/// Ids that are no expert, and those that a token named before, are no entries.
FailureOr<Entries> RoutingWriter::writeGiven(GivenOp given) {
  GraphBuilder b(builder, given.getLoc());
  RoutingType type = given.getRouting().getType();
  auto i64 = b.builder.getI64Type();
  Value ids = b.cast(get(given.getIds()), i64);
  Value legal = b.node("And", {b.node("GreaterOrEqual", {ids, b.ints(0)}),
                               b.node("Less", {ids, b.ints(type.getExperts())})});
  if (type.getK() > 1) {
    // same[t, i, j]: slots i and j name one expert; only j < i count.
    Value same = b.node("Equal", {b.unsqueeze(ids, 2), b.unsqueeze(ids, 1)});
    Value before = b.node("Trilu", {b.cast(same, i64), b.intScalar(-1)}, b.attr("upper", 0));
    Value repeated = b.reduce("ReduceMax", before, 2, /*keep=*/false);
    legal = b.node("And", {legal, b.node("Equal", {repeated, b.ints(0)})});
  }
  Value safe = b.node("Where", {legal, ids, b.ints(0)});
  return Entries{safe, {}, legal, type.getExperts(), type.getK()};
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// `values` where there is an entry, else `other`.
static Value whereKept(GraphBuilder &b, const Entries &entries, Value values, Type type,
                       double other) {
  return entries.kept ? b.node("Where", {entries.kept, values, b.scalar(type, other)}) : values;
}

/// One round per slot: 1 / Σ exp(s - M) over the values that are close to M, the largest
/// that was not yet taken. See moe.weigh.
Value RoutingWriter::writeMaskedSoftmax(GraphBuilder &b, WeighOp weigh, Value source,
                                        const Entries &entries) {
  Type type = getComputeType(elementTypeOf(weigh.getSource()));
  Value lowest = b.scalar(type, -kInfinity), zero = b.scalar(type, 0);
  Value limit = b.scalar(type, 2 * weigh.getEps().convertToDouble());
  Value left = source;
  SmallVector<Value> rounds;
  for (int64_t slot = 0; slot < entries.k; ++slot) {
    Value largest = b.reduce("ReduceMax", left, 1);
    Value distance = b.node("Sub", {largest, left});
    Value magnitude = b.node("Abs", left);
    Value bound = b.node("Mul", {limit, b.node("Max", {magnitude, largest})});
    Value close = b.node("LessOrEqual", {distance, bound});
    Value terms = b.node("Where", {close, b.node("Exp", b.node("Neg", distance)), zero});
    rounds.push_back(b.node("Reciprocal", b.reduce("ReduceSum", terms, 1)));
    Value id = b.gather(entries.ids, b.ints(slot), 1);
    Value taken = b.node("Expand", {lowest, b.node("Shape", id)});
    left = b.node("ScatterElements", {left, id, taken}, b.attr("axis", 1));
  }
  return rounds.size() == 1 ? rounds[0] : b.concat(rounds, 1);
}

/// w / d, and 0 where d is 0.
static Value divideOrZero(GraphBuilder &b, Value weights, Value divisor, Type type) {
  Value zero = b.scalar(type, 0);
  Value isZero = b.node("Equal", {divisor, zero});
  return b.node("Where", {isZero, zero, b.node("Div", {weights, divisor})});
}

Value RoutingWriter::normalize(GraphBuilder &b, WeighOp weigh, const Entries &entries,
                               Value weights) {
  Type type =
      getComputeType(weigh.getSource() ? elementTypeOf(weigh.getSource()) : b.builder.getF32Type());
  Value present = whereKept(b, entries, weights, type, 0);
  Value epsilon = b.scalar(type, weigh.getNormEps().convertToDouble());
  switch (weigh.getNorm()) {
  case WeighNorm::None:
    return weights;
  case WeighNorm::Sum: {
    Value sum = b.reduce("ReduceSum", present, 1);
    if (!weigh.getNormEps().isZero())
      sum = b.node("Add", {sum, epsilon});
    return divideOrZero(b, weights, sum, type);
  }
  case WeighNorm::Clamp:
    return b.node("Div", {weights, b.node("Max", {b.reduce("ReduceSum", present, 1), epsilon})});
  case WeighNorm::PNorm: {
    double p = weigh.getNormP()->convertToDouble();
    Value powers = b.node("Pow", {b.node("Abs", present), b.scalar(type, p)});
    Value norm = b.node("Pow", {b.reduce("ReduceSum", powers, 1), b.scalar(type, 1 / p)});
    return divideOrZero(b, weights, norm, type);
  }
  case WeighNorm::Count: {
    Value ones = b.cast(b.filled(weights, b.builder.getF32FloatAttr(1)), type);
    Value count = b.reduce("ReduceSum", whereKept(b, entries, ones, type, 0), 1);
    return b.node("Div", {weights, b.node("Max", {count, b.scalar(type, 1)})});
  }
  }
  llvm_unreachable("unknown normalisation");
}

FailureOr<Entries> RoutingWriter::writeWeigh(WeighOp weigh) {
  FailureOr<Entries> found = getEntries(weigh.getRouting());
  if (failed(found))
    return failure();
  GraphBuilder b(builder, weigh.getLoc());
  Entries entries = *found;
  Value weights = entries.weights;
  Type type = b.builder.getF32Type();
  if (Value source = get(weigh.getSource())) {
    type = getComputeType(elementTypeOf(weigh.getSource()));
    source = b.cast(source, type);
    if (Value bias = get(weigh.getBias()))
      source = b.node("Add", {source, b.cast(bias, type)});
    weights = b.gatherElements(source, entries.ids);
    switch (weigh.getFn()) {
    case WeighFn::None:
      break;
    case WeighFn::Softmax:
      weights =
          b.node("Softmax", whereKept(b, entries, weights, type, -kInfinity), b.attr("axis", 1));
      break;
    case WeighFn::Sigmoid:
      weights = b.node("Sigmoid", weights);
      break;
    case WeighFn::MaskedSoftmax:
      weights = writeMaskedSoftmax(b, weigh, source, entries);
      break;
    }
  }
  weights = normalize(b, weigh, entries, weights);
  if (double scale = weigh.getScale().convertToDouble(); scale != 1)
    weights = b.node("Mul", {weights, b.scalar(type, scale)});
  if (Value scales = get(weigh.getExpertScale()))
    weights = b.node("Mul", {weights, b.gather(b.cast(scales, type), entries.ids, 0)});
  entries.weights = weights;
  return entries;
}

FailureOr<Entries> RoutingWriter::writeFilter(FilterOp filter) {
  if (filter.getRandom()) {
    emitUnsupported(filter) << "a random choice cannot be written as ONNX nodes; "
                               "--moe-inference removes it";
    return failure();
  }
  FailureOr<Entries> found = getEntries(filter.getRouting());
  if (failed(found))
    return failure();
  GraphBuilder b(builder, filter.getLoc());
  Entries entries = *found;
  SmallVector<bool> first(entries.k);
  for (int64_t slot = 0; slot < entries.k; ++slot)
    first[slot] = slot < int64_t(filter.getFromSlot());
  auto type = RankedTensorType::get(entries.k, b.builder.getI1Type());
  Value stays = b.constant(DenseElementsAttr::get(type, first));
  Value threshold = b.scalar(b.builder.getF32Type(), filter.getThreshold().convertToDouble());
  Value above = b.node("Greater", {b.cast(entries.weights, b.builder.getF32Type()), threshold});
  entries.kept = both(b, entries.kept, b.node("Or", {stays, above}));
  return entries;
}

//===----------------------------------------------------------------------===//
// Any routing
//===----------------------------------------------------------------------===//

FailureOr<Entries> RoutingWriter::write(Operation *op) {
  return llvm::TypeSwitch<Operation *, FailureOr<Entries>>(op)
      .Case([&](SelectOp op) { return writeSelect(op); })
      .Case([&](GivenOp op) { return writeGiven(op); })
      .Case([&](WeighOp op) { return writeWeigh(op); })
      .Case([&](FilterOp op) { return writeFilter(op); })
      .Case([&](CapacityOp op) { return writeCapacity(op); })
      .Default([&](Operation *op) {
        emitUnsupported(op) << op->getName() << " cannot be written as ONNX nodes";
        return failure();
      });
}

FailureOr<Entries> RoutingWriter::getEntries(Value routing) {
  auto it = cache.find(routing);
  if (it != cache.end())
    return it->second;
  Operation *op = routing.getDefiningOp();
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPoint(op);
  FailureOr<Entries> entries = write(op);
  if (succeeded(entries))
    cache[routing] = *entries;
  return entries;
}

//===----------------------------------------------------------------------===//
// Softmax over the k largest
//===----------------------------------------------------------------------===//

/// So small that a sum of the k largest of at most some thousand probabilities is the
/// same in f32.
static constexpr double kNegligible = 1e-12;

/// The logits of a softmax over the experts; `value` itself is returned in `logits`
/// when it is no score.
static bool isSoftmax(Value value, Value &logits) {
  auto score = value.getDefiningOp<ScoreOp>();
  logits = score ? score.getLogits() : value;
  return score && score.getFn() == ScoreFn::Softmax && score.getAxis() == Axis::Experts;
}

std::optional<SoftmaxRouting> mlir::moe::matchSoftmaxRouting(Value routing, std::string &reason) {
  auto weigh = routing.getDefiningOp<WeighOp>();
  auto select = weigh ? weigh.getRouting().getDefiningOp<SelectOp>() : SelectOp();
  auto fail = [&](StringRef why) {
    reason = why.str();
    return std::nullopt;
  };
  if (!select || !weigh.getSource())
    return fail("the routing is not a selection whose weights come from scores");
  bool plain = select.getMode() == SelectMode::TopK && select.getNGroup() == 1 &&
               !select.getBias() && !select.getTokenMask() && !select.getExpertMask();
  if (!plain)
    return fail("the selection has another mode than the k largest, or a bias, groups or masks");
  if (weigh.getBias() || weigh.getExpertScale())
    return fail("the weights have a bias or a scale per expert");
  Value keyLogits, sourceLogits;
  bool keyIsSoftmax = isSoftmax(select.getKey(), keyLogits);
  bool sourceIsSoftmax = isSoftmax(weigh.getSource(), sourceLogits);
  // A softmax keeps the order.
  if (!keyIsSoftmax)
    keyLogits = select.getKey();
  if (!sourceIsSoftmax)
    sourceLogits = weigh.getSource();
  if (keyLogits != sourceLogits)
    return fail("experts are selected by another tensor than the one their weights come from");
  SoftmaxRouting result{keyLogits, int64_t(select.getK()), false,
                        weigh.getScale().convertToDouble()};
  bool sums =
      weigh.getNorm() == WeighNorm::Sum && weigh.getNormEps().convertToDouble() < kNegligible;
  bool none = weigh.getNorm() == WeighNorm::None;
  if (!sums && !none)
    return fail("the weights are normalised in another way than by their sum");
  if (!sourceIsSoftmax && weigh.getFn() == WeighFn::Softmax) {
    result.normalized = true;
    return result;
  }
  if (!sourceIsSoftmax || weigh.getFn() != WeighFn::None)
    return fail("the weights are no softmax");
  result.normalized = sums;
  return result;
}
