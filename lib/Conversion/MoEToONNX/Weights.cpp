// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Weights.h"

#include "moec/Support/NodeLocation.h"
#include "moec/Support/Unsupported.h"

using namespace mlir;
using namespace mlir::moe;

static RankedTensorType typeOf(Value value) { return cast<RankedTensorType>(value.getType()); }

//===----------------------------------------------------------------------===//
// Constants as weights
//===----------------------------------------------------------------------===//

/// What the bytes of a constant are made from; no sources when it is none.
namespace {
struct Recipe {
  SmallVector<Attribute> sources, transforms;
  std::string name;
  explicit operator bool() const { return !sources.empty(); }
};
} // namespace

static Recipe getRecipe(Value value) {
  if (auto load = value.getDefiningOp<LoadWeightOp>()) {
    auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(load, load.getWeightAttr());
    StringRef name =
        isa<NameLoc>(weight.getLoc()) ? getNodeName(weight.getLoc()) : weight.getSymName();
    return {llvm::to_vector(weight.getSources()), llvm::to_vector(weight.getTransforms()),
            name.str()};
  }
  DenseElementsAttr elements = onnx::getConstantValue(value);
  if (!elements)
    return {};
  StringRef name = value.getDefiningOp<onnx::NodeOp>().getOutputName(0);
  return {{elements}, {}, name.empty() ? "weight" : name.str()};
}

/// A new weight of the recipe, loaded at the builder's insertion point.
static Value makeWeight(GraphBuilder &b, const Recipe &recipe, RankedTensorType type) {
  Operation *at = b.builder.getInsertionBlock()->getParentOp();
  auto module = at->getParentOfType<ModuleOp>();
  // The name that it should have: see keepUsedWeights.
  Location loc = NameLoc::get(b.builder.getStringAttr(recipe.name));
  // Detached, so that the symbol table makes the name unique.
  OpBuilder detached(b.builder.getContext());
  auto weight =
      WeightOp::create(detached, loc, recipe.name, type, recipe.sources, recipe.transforms);
  StringAttr name = SymbolTable(module).insert(weight, module.getBody()->begin());
  return LoadWeightOp::create(b.builder, b.loc, type, FlatSymbolRefAttr::get(name));
}

static Value addTransform(GraphBuilder &b, Recipe recipe, Attribute transform,
                          RankedTensorType type) {
  recipe.transforms.push_back(transform);
  return makeWeight(b, recipe, type);
}

Value mlir::moe::reshapeWeight(GraphBuilder &b, Value value, ArrayRef<int64_t> shape) {
  RankedTensorType type = typeOf(value);
  if (type.getShape() == shape)
    return value;
  RankedTensorType result = type.clone(shape);
  Recipe recipe = getRecipe(value);
  if (recipe)
    return addTransform(
        b, recipe, ReshapeAttr::get(b.builder.getContext(), b.builder.getDenseI64ArrayAttr(shape)),
        result);
  Value reshaped = b.reshape(value, shape);
  reshaped.setType(result);
  return reshaped;
}

Value mlir::moe::permuteWeight(GraphBuilder &b, Value value, ArrayRef<int64_t> order) {
  RankedTensorType type = typeOf(value);
  SmallVector<int64_t> shape;
  for (int64_t dim : order)
    shape.push_back(type.getDimSize(dim));
  RankedTensorType result = type.clone(shape);
  Recipe recipe = getRecipe(value);
  if (recipe)
    return addTransform(
        b, recipe, PermuteAttr::get(b.builder.getContext(), b.builder.getDenseI64ArrayAttr(order)),
        result);
  Value permuted = b.transpose(value, order);
  permuted.setType(result);
  return permuted;
}

Value mlir::moe::unpackCodes(GraphBuilder &b, Value value, int64_t bits, int64_t axis,
                             int64_t count) {
  if (bits == 8)
    return value;
  Recipe recipe = getRecipe(value);
  if (!recipe)
    return {};
  SmallVector<int64_t> shape(typeOf(value).getShape());
  shape[axis] = count;
  auto type = RankedTensorType::get(shape, b.builder.getI8Type());
  return addTransform(b, recipe, UnpackAttr::get(b.builder.getContext(), bits, axis, count), type);
}

/// The type of a source, which says it itself unless it is a whole named tensor.
static RankedTensorType getType(Attribute source) {
  if (auto segment = dyn_cast<SegmentAttr>(source))
    return segment.getType();
  if (auto tensor = dyn_cast<TensorAttr>(source))
    return tensor.getType();
  if (auto experts = dyn_cast<ExpertsAttr>(source))
    return experts.getType();
  auto typed = dyn_cast<TypedAttr>(source);
  return typed ? dyn_cast<RankedTensorType>(typed.getType()) : RankedTensorType();
}

/// A transform of [E, …], for each half of [E, 2, …].
static Attribute liftTransform(Builder &b, Attribute transform) {
  MLIRContext *context = b.getContext();
  if (auto reshape = dyn_cast<ReshapeAttr>(transform)) {
    SmallVector<int64_t> shape(reshape.getShape().asArrayRef());
    shape.insert(shape.begin() + 1, 2);
    return ReshapeAttr::get(context, b.getDenseI64ArrayAttr(shape));
  }
  if (auto permute = dyn_cast<PermuteAttr>(transform)) {
    SmallVector<int64_t> order = {0, 1};
    for (int64_t dim : permute.getPermutation().asArrayRef().drop_front())
      order.push_back(dim + 1);
    return PermuteAttr::get(context, b.getDenseI64ArrayAttr(order));
  }
  return {};
}

/// Both recipes as one, when their sources are alike: what is done to each half is done to
/// [E, 2, …]. Null when it is more than another order.
static Recipe stackRecipes(Builder &b, const Recipe &first, const Recipe &second,
                           RankedTensorType whole) {
  Recipe result = first;
  llvm::append_range(result.sources, second.sources);
  result.name += "_" + second.name;
  if (first.transforms.empty() && second.transforms.empty())
    return result;
  if (first.transforms != second.transforms || first.sources.size() != 1 ||
      second.sources.size() != 1 || !getType(first.sources[0]) ||
      getType(first.sources[0]) != getType(second.sources[0]))
    return {};
  SmallVector<int64_t> split(getType(first.sources[0]).getShape());
  split.insert(split.begin() + 1, 2);
  auto reshape = [&](ArrayRef<int64_t> shape) {
    return ReshapeAttr::get(b.getContext(), b.getDenseI64ArrayAttr(shape));
  };
  result.transforms = {reshape(split)};
  for (Attribute transform : first.transforms) {
    result.transforms.push_back(liftTransform(b, transform));
    if (!result.transforms.back())
      return {};
  }
  result.transforms.push_back(reshape(whole.getShape()));
  return result;
}

/// The rows (dimension 1) of both, one after the other.
static Value stack(GraphBuilder &b, Value first, Value second) {
  SmallVector<int64_t> shape(typeOf(first).getShape());
  shape[1] += typeOf(second).getDimSize(1);
  RankedTensorType type = typeOf(first).clone(shape);
  Recipe recipe = getRecipe(first), other = getRecipe(second);
  if (recipe && other)
    if (Recipe both = stackRecipes(b.builder, recipe, other, type))
      return makeWeight(b, both, type);
  Value stacked = b.concat({first, second}, 1);
  stacked.setType(type);
  return stacked;
}

void mlir::moe::keepUsedWeights(ModuleOp module) {
  llvm::DenseMap<StringAttr, SmallVector<LoadWeightOp>> loads;
  module.walk([&](LoadWeightOp load) {
    if (load->use_empty())
      load.erase();
    else
      loads[load.getWeightAttr().getAttr()].push_back(load);
  });
  llvm::SmallPtrSet<Attribute, 16> inAttributes;
  module.walk([&](onnx::NodeOp node) {
    node.getNodeAttributes().walk(
        [&](FlatSymbolRefAttr ref) { inAttributes.insert(ref.getAttr()); });
  });
  SmallVector<WeightOp> made;
  for (WeightOp weight : llvm::make_early_inc_range(module.getOps<WeightOp>())) {
    bool used =
        loads.contains(weight.getSymNameAttr()) || inAttributes.contains(weight.getSymNameAttr());
    if (!used)
      weight.erase();
    else if (isa<NameLoc>(weight.getLoc()))
      made.push_back(weight);
  }
  SymbolTable symbols(module);
  for (WeightOp weight : made) {
    StringRef name = getNodeName(weight.getLoc());
    if (symbols.lookup(name))
      continue;
    for (LoadWeightOp load : loads[weight.getSymNameAttr()])
      load.setWeight(name);
    symbols.remove(weight);
    weight.setSymName(name);
    symbols.insert(weight);
  }
}

//===----------------------------------------------------------------------===//
// Banks
//===----------------------------------------------------------------------===//

FailureOr<Bank> mlir::moe::getBank(GraphBuilder &b, const IRMapping &written, Value weights,
                                   Value bias, Layout layout) {
  Bank bank;
  if (!weights)
    return bank;
  bool transposed = layout == Layout::InOut;
  bank.n = typeOf(weights).getDimSize(transposed ? 2 : 1);
  bank.k = typeOf(weights).getDimSize(transposed ? 1 : 2);
  auto get = [&](Value value) { return value ? written.lookupOrDefault(value) : Value(); };
  bank.bias = get(bias);
  auto dequantize = weights.getDefiningOp<DequantizeOp>();
  if (!dequantize) {
    bank.weights = get(weights);
    if (transposed)
      bank.weights = permuteWeight(b, bank.weights, {0, 2, 1});
    return bank;
  }
  if (transposed) {
    emitUnsupported(dequantize) << "quantised weights [E, in, out] cannot be written as ONNX nodes";
    return failure();
  }
  bank.weights = get(dequantize.getCodes());
  bank.scales = get(dequantize.getScales());
  bank.zeroPoints = get(dequantize.getZeroPoints());
  bank.bits = dequantize.getBits();
  bank.block = dequantize.getBlock();
  return bank;
}

/// Applies `change` to each tensor of a bank that has rows.
static Bank mapRows(const Bank &bank, llvm::function_ref<Value(Value)> change) {
  Bank result = bank;
  for (Value *value : {&result.weights, &result.scales, &result.zeroPoints, &result.bias})
    if (*value)
      *value = change(*value);
  return result;
}

Bank mlir::moe::stackBanks(GraphBuilder &b, const Bank &gate, const Bank &linear) {
  Bank result = gate;
  result.n += linear.n;
  std::pair<Value *, Value> parts[] = {{&result.weights, linear.weights},
                                       {&result.scales, linear.scales},
                                       {&result.zeroPoints, linear.zeroPoints},
                                       {&result.bias, linear.bias}};
  for (auto [first, second] : parts)
    if (*first)
      *first = stack(b, *first, second);
  return result;
}

Bank mlir::moe::reorderRows(GraphBuilder &b, const Bank &bank, Glu from, Glu to) {
  if (from == to)
    return bank;
  return mapRows(bank, [&](Value value) {
    SmallVector<int64_t> shape(typeOf(value).getShape()), split = shape, order;
    split[1] = from == Glu::Interleaved ? shape[1] / 2 : 2;
    split.insert(split.begin() + 2, from == Glu::Interleaved ? 2 : shape[1] / 2);
    for (int64_t i = 0, rank = split.size(); i < rank; ++i)
      order.push_back(i);
    std::swap(order[1], order[2]);
    return reshapeWeight(b, permuteWeight(b, reshapeWeight(b, value, split), order), shape);
  });
}
