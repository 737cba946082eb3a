// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Any ids, masks and weights as a routing.

#include "Routing.h"

#include "NodeBuilder.h"

#include "mlir/IR/TypeUtilities.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// The node that chooses by position along the last dimension: TopK (result 1) or ArgMax;
/// null when it is another.
static NodeOp getChooser(Value ids) {
  NodeOp node = getNode(ids, "TopK");
  if (!node || ids != node.getResult(1))
    node = getNode(ids, "ArgMax");
  return node && isAlongLastDim(node) ? node : NodeOp();
}

/// The tensor of ids and whether those of a token are distinct.
static LogicalResult readIds(int64_t experts, Value ids, Routing &routing, Refusal &refusal) {
  Value root = stripReshapesAndCasts(ids);
  if (NodeOp chooser = getChooser(root)) {
    if (getLastDim(chooser.getInput(0)) != experts)
      return refusal.refuse(root, "chooses among " + Twine(getLastDim(chooser.getInput(0))) +
                                      " positions, expected the number of experts, " +
                                      Twine(experts));
    routing.k = chooser.isOp("ArgMax") ? 1 : getLastDim(root);
    routing.distinct = true;
  } else if (NodeOp concat = getNode(root, "Concat")) {
    if (!isAlongLastDim(concat))
      return refusal.refuse(root, "joins ids, expected along the last dimension");
    routing.k = getLastDim(root);
    Routing part;
    for (Value input : concat.getInputs())
      if (failed(readIds(experts, input, part, refusal)))
        return failure();
  } else {
    NodeOp gather = getNode(root, "Gather");
    Value table = gather && gather.getIntAttr("axis", 0) == 0 ? gather.getInput(0) : root;
    std::optional<SmallVector<int64_t>> known = onnx::getConstantInts(table);
    auto isExpert = [&](int64_t id) { return 0 <= id && id < experts; };
    if (!known || !llvm::all_of(*known, isExpert))
      return refusal.refuse(root, "yields ids that are not known to lie in 0 ... " +
                                      Twine(experts - 1) + ", expected TopK, ArgMax or a table");
    routing.k = getLastDim(root);
  }
  if (ShapedType::isDynamic(routing.k) || routing.k < 1)
    return refusal.refuse(root, "yields an unknown number of experts per token");
  routing.ids = root;
  return success();
}

/// One weight per slot.
static LogicalResult readWeights(Value weights, Routing &routing, Refusal &refusal) {
  routing.weights = weights;
  if (!weights)
    return success();
  if (!isa<FloatType>(getElementTypeOrSelf(weights.getType())))
    return refusal.refuse(weights, "yields weights that are no floating-point numbers");
  // [T·k] and [T, k, 1] are right, [T, 1] would repeat one weight for all slots.
  Value root = stripReshapes(weights);
  int64_t last = getLastDim(root);
  if (routing.k > 1 && !ShapedType::isDynamic(last) && last % routing.k != 0)
    return refusal.refuse(root, "yields weights of " + Twine(last) + " slots, expected " +
                                    Twine(routing.k));
  return success();
}

FailureOr<Routing> mlir::moe::matchRouting(int64_t experts, Value ids, Value weights,
                                           Refusal &refusal) {
  Routing routing;
  routing.experts = experts;
  if (failed(readIds(experts, ids, routing, refusal)) ||
      failed(readWeights(weights, routing, refusal)))
    return failure();
  return routing;
}

/// The numbers 0 … count - 1 along the last dimension.
static bool isRange(Value value, int64_t count) {
  value = stripReshapesAndCasts(value);
  if (std::optional<SmallVector<int64_t>> known = onnx::getConstantInts(value))
    return llvm::equal(*known, llvm::seq<int64_t>(0, count));
  NodeOp range = getNode(value, "Range");
  return range && getSplat(range.getInput(0)) == 0.0 &&
         getSplat(range.getInput(1)) == double(count) && getSplat(range.getInput(2)) == 1.0;
}

/// True when `value` is `ids` with a last dimension of size 1, or a scalar for each.
static bool endsInOne(Value value) { return getLastDim(value) == 1; }

Value mlir::moe::getOneHotIds(Value mask, int64_t experts) {
  auto isNumeric = [](Value value) {
    return isa<IntegerType, FloatType>(getElementTypeOrSelf(value.getType()));
  };
  // 0 and 1 stay what they are in any type.
  while (true) {
    mask = stripReshapes(mask);
    NodeOp cast = getNode(mask, "Cast");
    if (!cast || !isNumeric(cast.getInput(0)))
      break;
    mask = cast.getInput(0);
  }
  auto type = dyn_cast<RankedTensorType>(mask.getType());
  if (!type || type.getRank() == 0 || type.getShape().back() != experts)
    return {};
  if (NodeOp oneHot = getNode(mask, "OneHot")) {
    int64_t axis = oneHot.getIntAttr("axis", -1);
    Value values = oneHot.getInput(2);
    DenseElementsAttr offOn = onnx::getConstantValue(values);
    auto isOffOn = [&] {
      if (!offOn || offOn.getNumElements() != 2)
        return false;
      if (isa<FloatType>(offOn.getElementType())) {
        auto numbers = offOn.getValues<APFloat>();
        return numbers[0].isZero() && numbers[1].isExactlyValue(1.0);
      }
      auto numbers = offOn.getValues<APInt>();
      return numbers[0].isZero() && numbers[1].isOne();
    };
    bool lastAxis = axis == -1 || axis == type.getRank() - 1;
    return lastAxis && isOffOn() ? oneHot.getInput(0) : Value();
  }
  NodeOp equal = getNode(mask, "Equal");
  if (!equal)
    return {};
  for (int i : {0, 1})
    if (endsInOne(equal.getInput(i)) && getLastDim(equal.getInput(1 - i)) == experts &&
        isRange(equal.getInput(1 - i), experts))
      return equal.getInput(i);
  return {};
}

FailureOr<Routing> mlir::moe::matchMaskedRouting(int64_t experts, int64_t k, Value mask,
                                                 Value weights, Refusal &refusal) {
  if (Value ids = getOneHotIds(mask, getLastDim(mask))) {
    FailureOr<Routing> routing = matchRouting(experts, ids, weights, refusal);
    if (succeeded(routing) && routing->k != k)
      return refusal.refuse(ids, "yields " + Twine(routing->k) + " experts per token, expected " +
                                     Twine(k));
    return routing;
  }
  if (!isa<IntegerType, FloatType>(getElementTypeOrSelf(mask.getType())))
    return refusal.refuse(mask, "yields a mask of no numbers");
  if (getLastDim(mask) != experts)
    return refusal.refuse(mask, "yields a mask of " + Twine(getLastDim(mask)) +
                                    " experts, expected " + Twine(experts));
  Routing routing;
  routing.experts = experts;
  routing.k = k;
  routing.mask = mask;
  if (failed(readWeights(weights, routing, refusal)))
    return failure();
  return routing;
}

/// `weights` scattered by `ids` along the last dimension into zeros, or into -inf before a
/// sigmoid.
static bool matchScatter(Value dense, int64_t experts, Routing &found, bool &adds) {
  dense = stripReshapesAndCasts(dense);
  NodeOp sigmoid = getNode(dense, "Sigmoid");
  if (sigmoid)
    dense = stripReshapesAndCasts(sigmoid.getInput(0));
  NodeOp scatter = getNode(dense, "ScatterElements");
  std::optional<double> base = scatter ? getSplat(scatter.getInput(0)) : std::nullopt;
  if (!base || !(sigmoid ? isLowest(*base) : *base == 0))
    return false;
  auto type = dyn_cast<RankedTensorType>(scatter.getInput(0).getType());
  StringRef reduction = scatter.getStringAttr("reduction", "none");
  if (!type || type.getRank() < 2 || type.getShape().back() != experts ||
      scatter.getIntAttr("axis", 0) != type.getRank() - 1 ||
      (reduction != "none" && (sigmoid || reduction != "add")))
    return false;
  found.ids = scatter.getInput(1);
  found.weights = scatter.getInput(2);
  found.isSigmoid = bool(sigmoid);
  adds = reduction == "add";
  return true;
}

FailureOr<Routing> mlir::moe::matchDenseRouting(int64_t experts, Value weights, Refusal &refusal) {
  Routing found;
  bool adds = false;
  if (matchScatter(weights, experts, found, adds)) {
    Refusal ignored;
    FailureOr<Routing> routing = matchRouting(experts, found.ids, found.weights, ignored);
    // Without distinct ids, which of two weights stays is not known.
    if (succeeded(routing) && (adds || routing->distinct)) {
      routing->isSigmoid = found.isSigmoid;
      return routing;
    }
  }
  Routing routing;
  routing.experts = experts;
  routing.k = experts;
  if (failed(readWeights(weights, routing, refusal)))
    return failure();
  return routing;
}

//===----------------------------------------------------------------------===//
// Building
//===----------------------------------------------------------------------===//

namespace {

struct RoutingBuilder : NodeBuilder {
  const Routing &routing;

  RoutingBuilder(RewriterBase &rewriter, Location loc, const Routing &routing)
      : NodeBuilder(rewriter, loc), routing(routing) {}

  static Type weightTypeOf(Value weights) { return getElementTypeOrSelf(weights.getType()); }
  Type weightType() { return weightTypeOf(routing.weights); }

  /// Weights by token and expert, summed where a token names an expert twice.
  Value scatter(Value ids) {
    Value weights = reshape(routing.weights, {routing.k});
    if (routing.isSigmoid)
      weights = node("Sigmoid", weights.getType(), {weights}, 13);
    auto type =
        cast<RankedTensorType>(ids.getType()).clone({getRows(ids), routing.experts}, weightType());
    StringRef reduction = routing.distinct ? "none" : "add";
    return node("ScatterElements", type, {splat(0, type, ids), ids, weights}, 18,
                {intAttr("axis", 1), stringAttr("reduction", reduction)});
  }

  Value build() {
    if (routing.placement)
      return buildFromPlacement(*routing.placement);
    if (routing.ids)
      return buildFromIds();
    return buildFromMask();
  }

  Value buildFromIds() {
    Value ids = castTo(reshape(routing.ids, {routing.k}), rewriter.getI64Type());
    auto type = RoutingType::get(rewriter.getContext(), routing.experts, routing.k, false);
    Value given = GivenOp::create(rewriter, loc, type, ids);
    return weigh(given, [&] { return scatter(ids); });
  }

  /// Columns [T, 1] side by side.
  Value join(ArrayRef<Value> columns) {
    if (columns.size() == 1)
      return columns[0];
    auto type = cast<RankedTensorType>(columns[0].getType());
    return node("Concat", type.clone({getRows(columns[0]), int64_t(columns.size())}), columns, 13,
                {intAttr("axis", 1)});
  }

  /// The weight of one choice, [T, 1].
  Value weightOf(const Placement::Choice &choice, Value ids) {
    if (choice.weight)
      return reshape(choice.weight, {1});
    if (!choice.gates)
      return splat(1, cast<RankedTensorType>(ids.getType()).clone(rewriter.getF32Type()), ids);
    Value gates = reshape(choice.gates, {routing.experts});
    auto type = cast<RankedTensorType>(gates.getType());
    return node("GatherElements", type.clone({getRows(ids), 1}), {gates, ids}, 13,
                {intAttr("axis", 1)});
  }

  /// Weights [T, k] divided by their sum.
  Value normalize(Value weights, const Placement &placement) {
    Value sum = reduce("ReduceSum", weights, 1);
    Type type = weightTypeOf(weights);
    if (placement.norm == WeighNorm::Clamp)
      sum = node("Clip", sum.getType(), {sum, constant(placement.normEps, type)}, 13);
    else if (placement.normEps != 0)
      sum = node("Add", sum.getType(), {sum, constant(placement.normEps, type)}, 14);
    return node("Div", weights.getType(), {weights, reshape(sum, {1})}, 14);
  }

  Value buildFromPlacement(const Placement &placement) {
    SmallVector<Value> ids, weights;
    for (const Placement::Choice &choice : placement.choices) {
      ids.push_back(castTo(reshape(choice.ids, {1}), rewriter.getI64Type()));
      if (!placement.isUnweighted())
        weights.push_back(weightOf(choice, ids.back()));
    }
    Routing all;
    all.experts = routing.experts;
    all.k = placement.getK();
    all.ids = join(ids);
    all.distinct = true;
    if (!weights.empty())
      all.weights = join(weights);
    bool isNormalized = placement.norm != WeighNorm::None;
    if (isNormalized && !placement.normalizesKept)
      all.weights = normalize(all.weights, placement);
    Value kept = buildCapacity(rewriter, loc, buildRouting(rewriter, loc, all), placement.capacity);
    if (!placement.normalizesKept)
      return kept;
    return WeighOp::create(rewriter, loc, kept, Value(), WeighFn::None, placement.norm,
                           /*eps=*/0.0, placement.normEps);
  }

  /// All experts, restricted by a mask.
  Value buildFromMask() {
    int64_t experts = routing.experts;
    Value mask, source;
    if (!routing.mask) {
      source = reshape(routing.weights, {experts});
      mask = castTo(source, rewriter.getI1Type());
    } else {
      std::tie(mask, source) = sumSlots();
    }
    Value key = source ? source : castTo(mask, rewriter.getF32Type());
    auto selected = SelectOp::create(rewriter, loc, key, Value(), SelectMode::All, experts);
    selected.getExpertMaskMutable().assign(mask);
    return weigh(selected, [&] { return source; });
  }

  /// The mask and the weights over all slots, [T, E] each.
  std::pair<Value, Value> sumSlots() {
    int64_t experts = routing.experts, k = routing.k;
    bool hasWeights = bool(routing.weights);
    if (k == 1) {
      Value mask = castTo(reshape(routing.mask, {experts}), rewriter.getI1Type());
      return {mask, hasWeights ? spread(reshape(routing.weights, {1}), {1, experts}) : Value()};
    }
    Value mask = castTo(reshape(routing.mask, {k, experts}), rewriter.getI1Type());
    Value any =
        castTo(reduce("ReduceMax", castTo(mask, rewriter.getI32Type()), 1), rewriter.getI1Type());
    if (!hasWeights)
      return {any, Value()};
    Value weights = reshape(routing.weights, {k, 1});
    auto type = cast<RankedTensorType>(mask.getType()).clone(weightType());
    Value kept = node("Where", type, {mask, weights, constant(0.0, weightType())}, 16);
    return {any, reduce("ReduceSum", kept, 1)};
  }

  Value weigh(Value selected, function_ref<Value()> source) {
    if (!routing.weights)
      return selected;
    return WeighOp::create(rewriter, loc, selected, source(), WeighFn::None, WeighNorm::None);
  }
};

} // namespace

Value mlir::moe::buildCapacity(RewriterBase &rewriter, Location loc, Value routing,
                               CapacityAttr capacity, Value groupSize) {
  return CapacityOp::create(rewriter, loc, routing.getType(), routing, /*priority=*/Value(),
                            groupSize, capacity, CapacityOrder::Choice, /*keep=*/IntegerAttr());
}

Value mlir::moe::buildRouting(RewriterBase &rewriter, Location loc, const Routing &routing) {
  return RoutingBuilder(rewriter, loc, routing).build();
}
