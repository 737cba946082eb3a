// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention and fused normalizations of com.microsoft as standard operators.
// Source: the operator schemas of ONNX Runtime 1.31.

#include "Normalizer.h"

#include "moec/Support/NodeLocation.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

static InFlightDiagnostic fail(NodeOp node) {
  return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

static RankedTensorType getType(Value value) {
  return value ? dyn_cast<RankedTensorType>(value.getType()) : RankedTensorType();
}

namespace {
constexpr int64_t kInt64 = 7, kBool = 9;

/// Creates nodes until one of them fails.
class Chain {
public:
  explicit Chain(Normalizer &normalizer) : normalizer(normalizer), b(normalizer.builder) {}

  Value create(StringRef opType, ArrayRef<Value> inputs, int64_t version,
               ArrayRef<NamedAttribute> attributes = {}) {
    if (!ok)
      return {};
    FailureOr<Value> result = normalizer.create(opType, inputs, version, attributes);
    ok = succeeded(result);
    return ok ? *result : Value();
  }

  NamedAttribute attr(StringRef name, int64_t value) {
    return b.getNamedAttr(name, b.getI64IntegerAttr(value));
  }
  Value reshape(Value input, ArrayRef<int64_t> shape) {
    return create("Reshape", {input, normalizer.createInts(shape)}, 14);
  }
  Value unsqueeze(Value input, ArrayRef<int64_t> axes) {
    return create("Unsqueeze", {input, normalizer.createInts(axes)}, 13);
  }
  Value transpose(Value input, ArrayRef<int64_t> perm) {
    return create("Transpose", input, 13, b.getNamedAttr("perm", b.getDenseI64ArrayAttr(perm)));
  }
  Value gather(Value data, Value indices, int64_t axis) {
    return create("Gather", {data, indices}, 13, attr("axis", axis));
  }
  /// `to` is a TensorProto.DataType.
  Value cast(Value input, int64_t to) { return create("Cast", input, 13, attr("to", to)); }
  /// A scalar constant.
  Value scalar(TypedAttr element) {
    auto value = DenseElementsAttr::get(RankedTensorType::get({}, element.getType()),
                                        ArrayRef<Attribute>(element));
    return create("Constant", {}, 13, b.getNamedAttr("value", value));
  }
  /// Size of dimension `axis`, a scalar.
  Value size(Value input, int64_t axis) {
    return gather(create("Shape", input, 15), scalar(b.getI64IntegerAttr(axis)), 0);
  }

  Normalizer &normalizer;
  Builder &b;
  bool ok = true;
};
} // namespace

/// Replaces those results of `node` that `values` has.
static void replaceResults(NodeOp node, ArrayRef<Value> values) {
  for (auto [index, value] : llvm::enumerate(values))
    if (value && index < node.getNumResults())
      node.getResult(index).replaceAllUsesWith(value);
}

/// Reports the first result from `first` to `last` that something reads.
static LogicalResult checkUnused(NodeOp node, unsigned first, unsigned last) {
  for (unsigned i = first; i <= last && i < node.getNumResults(); ++i)
    if (!node.getResult(i).use_empty())
      return fail(node) << "output " << i << " is not supported";
  return success();
}

//===----------------------------------------------------------------------===//
// RotaryEmbedding
//===----------------------------------------------------------------------===//

/// Positions become the rows that they name; num_heads is written out.
static LogicalResult rotate(NodeOp node, Normalizer &normalizer, Value positions, Value cos,
                            Value sin) {
  RankedTensorType type = getType(node.getInput(0)), cacheType = getType(cos);
  if (!type || (type.getRank() != 3 && type.getRank() != 4))
    return fail(node) << "needs an input of rank 3 or 4";
  Chain chain(normalizer);
  if (positions) {
    RankedTensorType positionsType = getType(positions);
    if (!positionsType || positionsType.getRank() > 2)
      return fail(node) << "needs positions of rank 1 or 2";
    // One position is that of the first row.
    if (positionsType.getRank() < 2) {
      Value rows = chain.size(node.getInput(0), type.getRank() == 3 ? 1 : 2);
      Value zero = chain.scalar(chain.b.getI64IntegerAttr(0));
      Value one = chain.scalar(chain.b.getI64IntegerAttr(1));
      Value range = chain.create("Range", {zero, rows, one}, 11);
      positions =
          chain.unsqueeze(chain.create("Add", {range, chain.reshape(positions, {1})}, 14), 0);
    }
    cos = chain.gather(cos, positions, 0);
    sin = chain.gather(sin, positions, 0);
  }
  int64_t rotated = node.getIntAttr("rotary_embedding_dim", 0);
  int64_t heads = node.getIntAttr("num_heads", 0);
  if (heads == 0 && type.getRank() == 3 && rotated == 0 && cacheType &&
      !cacheType.isDynamicDim(cacheType.getRank() - 1) && !type.isDynamicDim(2) &&
      cacheType.getShape().back() > 0)
    heads = type.getDimSize(2) / (2 * cacheType.getShape().back());
  Value result =
      chain.create("RotaryEmbedding", {node.getInput(0), cos, sin}, 23,
                   {chain.attr("interleaved", node.getIntAttr("interleaved", 0)),
                    chain.attr("num_heads", heads), chain.attr("rotary_embedding_dim", rotated)});
  return success(chain.ok && succeeded(normalizer.replace(node, result)));
}

static LogicalResult upgradeContribRotary(NodeOp node, Normalizer &normalizer, bool &done) {
  if (node.getIntAttr("is_packed_batching", 0))
    return fail(node) << "packed batches are not supported";
  return rotate(node, normalizer, node.getInput(1), node.getInput(2), node.getInput(3));
}

LogicalResult mlir::moe::onnx::upgradeRotaryEmbedding(NodeOp node, Normalizer &normalizer,
                                                      bool &done) {
  if (!node.getInput(3))
    return success();
  return rotate(node, normalizer, node.getInput(3), node.getInput(1), node.getInput(2));
}

//===----------------------------------------------------------------------===//
// Normalizations
//===----------------------------------------------------------------------===//

/// The sum of input, skip and bias, normalized and as it is.
static LogicalResult splitSkip(NodeOp node, Normalizer &normalizer, StringRef norm, Value bias) {
  if (failed(checkUnused(node, 1, 2)))
    return failure();
  Chain chain(normalizer);
  Value sum = chain.create("Add", {node.getInput(0), node.getInput(1)}, 14);
  if (bias)
    sum = chain.create("Add", {sum, bias}, 14);
  SmallVector<Value> inputs = {sum, node.getInput(2)};
  bool isSimplified = norm == "SimplifiedLayerNormalization";
  if (Value beta = isSimplified ? Value() : node.getInput(3))
    inputs.push_back(beta);
  RankedTensorType type = getType(sum);
  SmallVector<NamedAttribute> attributes = {chain.attr("axis", type ? type.getRank() - 1 : -1)};
  // ONNX Runtime's default.
  float epsilon = node.getFloatAttr("epsilon", isSimplified ? 1e-5f : 1e-12f);
  attributes.push_back(chain.b.getNamedAttr("epsilon", chain.b.getF32FloatAttr(epsilon)));
  Value result = chain.create(norm, inputs, isSimplified ? 1 : 17, attributes);
  if (!chain.ok)
    return failure();
  replaceResults(node, {result, {}, {}, sum});
  return success();
}

static LogicalResult upgradeSkipNorm(NodeOp node, Normalizer &normalizer, bool &done) {
  return splitSkip(node, normalizer, "LayerNormalization", node.getInput(4));
}

static LogicalResult upgradeSkipSimplifiedNorm(NodeOp node, Normalizer &normalizer, bool &done) {
  return splitSkip(node, normalizer, "SimplifiedLayerNormalization", node.getInput(3));
}

//===----------------------------------------------------------------------===//
// MultiHeadAttention
//===----------------------------------------------------------------------===//

/// Queries, keys and values as [batch, rows, heads * size] each.
static LogicalResult unpack(NodeOp node, Chain &chain, SmallVectorImpl<Value> &parts) {
  parts.assign({node.getInput(0), node.getInput(1), node.getInput(2)});
  RankedTensorType query = getType(parts[0]), key = getType(parts[1]);
  if (!query || (parts[1] && !key))
    return fail(node) << "the ranks of query and key are not known";
  auto take = [&](Value packed, int64_t part) {
    Value index = chain.scalar(chain.b.getI64IntegerAttr(part));
    return chain.reshape(chain.gather(packed, index, 3), {0, 0, -1});
  };
  if (query.getRank() == 5) {
    Value packed = parts[0];
    for (int64_t i = 0; i < 3; ++i)
      parts[i] = take(packed, i);
  } else if (key && key.getRank() == 5) {
    Value packed = parts[1];
    for (int64_t i = 0; i < 2; ++i)
      parts[i + 1] = take(packed, i);
  } else if (!parts[1] || !parts[2]) {
    return fail(node) << "needs keys and values";
  } else if (key.getRank() == 4) {
    for (Value &part : MutableArrayRef(parts).drop_front())
      part = chain.reshape(chain.transpose(part, {0, 2, 1, 3}), {0, 0, -1});
  }
  return success(chain.ok);
}

/// Adds the parts of `bias` that belong to queries, keys and values.
static LogicalResult addBias(NodeOp node, Chain &chain, MutableArrayRef<Value> parts) {
  SmallVector<int64_t> sizes;
  for (Value part : parts) {
    RankedTensorType type = getType(part);
    if (!type || type.getRank() != 3 || type.isDynamicDim(2))
      return fail(node) << "with a bias the hidden sizes must be known";
    sizes.push_back(type.getDimSize(2));
  }
  int64_t begin = 0;
  for (auto [part, size] : llvm::zip(parts, sizes)) {
    Normalizer &n = chain.normalizer;
    Value slice = chain.create("Slice",
                               {node.getInput(3), n.createInts(begin), n.createInts(begin + size),
                                n.createInts(0), n.createInts(1)},
                               13);
    part = chain.create("Add", {part, slice}, 14);
    begin += size;
  }
  return success(chain.ok);
}

/// The padding mask as a bias: mask_filter_value for keys that are padding.
static FailureOr<Value> makePaddingBias(NodeOp node, Chain &chain, Value mask, Value key,
                                        Type element) {
  RankedTensorType type = getType(mask);
  if (!type || type.getRank() < 1 || type.getRank() > 3)
    return fail(node) << "the rank of the padding mask is not supported";
  Value isKept;
  if (type.getRank() == 1) {
    // Lengths. One of 3 * batch + 2 elements holds more than them.
    RankedTensorType keyType = getType(key);
    if (keyType && !keyType.isDynamicDim(0) && !type.isDynamicDim(0) &&
        keyType.getDimSize(0) != type.getDimSize(0))
      return fail(node) << "this form of the padding mask is not supported";
    Value zero = chain.scalar(chain.b.getI64IntegerAttr(0));
    Value one = chain.scalar(chain.b.getI64IntegerAttr(1));
    Value columns = chain.create("Range", {zero, chain.size(key, 1), one}, 11);
    Value lengths = chain.unsqueeze(chain.cast(mask, kInt64), 1);
    isKept = chain.create("Less", {columns, lengths}, 13);
  } else {
    isKept = chain.cast(mask, kBool);
  }
  float filter = node.getFloatAttr("mask_filter_value", -10000.0f);
  Value zero = chain.scalar(chain.b.getFloatAttr(element, 0));
  Value low = chain.scalar(chain.b.getFloatAttr(element, filter));
  Value bias = chain.create("Where", {isKept, zero, low}, 16);
  return chain.unsqueeze(bias,
                         type.getRank() == 3 ? ArrayRef<int64_t>{1} : ArrayRef<int64_t>{1, 2});
}

static LogicalResult upgradeMultiHeadAttention(NodeOp node, Normalizer &normalizer, bool &done) {
  if (node.getInput(8) || node.getInput(9))
    return fail(node) << "shared buffers of past keys are not supported";
  if (failed(checkUnused(node, 3, 3)))
    return failure();
  Chain chain(normalizer);
  SmallVector<Value> parts;
  if (failed(unpack(node, chain, parts)) ||
      (node.getInput(3) && failed(addBias(node, chain, parts))))
    return failure();
  Value bias = node.getInput(5);
  if (Value mask = node.getInput(4)) {
    Type element = cast<TensorType>(parts[0].getType()).getElementType();
    if (!isa<FloatType>(element))
      return fail(node) << "the element type of the queries is not known";
    FailureOr<Value> padding = makePaddingBias(node, chain, mask, parts[1], element);
    if (failed(padding))
      return failure();
    bias = bias ? chain.create("Add", {bias, *padding}, 14) : *padding;
  }
  if (!chain.ok)
    return failure();
  int64_t heads = node.getIntAttr("num_heads", 0);
  SmallVector<NamedAttribute> attributes = {
      chain.attr("is_causal", node.getIntAttr("unidirectional", 0)),
      chain.attr("kv_num_heads", heads), chain.attr("q_num_heads", heads)};
  if (float scale = node.getFloatAttr("scale", 0))
    attributes.push_back(chain.b.getNamedAttr("scale", chain.b.getF32FloatAttr(scale)));
  SmallVector<Value> inputs = {parts[0], parts[1],         parts[2],
                               bias,     node.getInput(6), node.getInput(7)};
  return normalizer.replaceBy(node, "Attention", inputs, 23, attributes,
                              std::min<unsigned>(node.getNumResults(), 3));
}

//===----------------------------------------------------------------------===//
// GroupQueryAttention
//===----------------------------------------------------------------------===//

/// Queries, keys and values of the packed input 0.
static FailureOr<SmallVector<Value>> splitPacked(NodeOp node, Normalizer &normalizer) {
  RankedTensorType type = getType(node.getInput(0));
  int64_t heads = node.getIntAttr("num_heads", 0), keyHeads = node.getIntAttr("kv_num_heads", 0);
  int64_t all = heads + 2 * keyHeads;
  if (heads <= 0 || keyHeads <= 0)
    return fail(node) << "num_heads and kv_num_heads must be positive";
  if (!type || type.getRank() != 3 || type.isDynamicDim(2) || type.getDimSize(2) % all != 0)
    return fail(node) << "packed queries, keys and values must be of rank 3 and their last size a "
                         "known multiple of "
                      << all;
  int64_t size = type.getDimSize(2) / all;
  Value sizes = normalizer.createInts({heads * size, keyHeads * size, keyHeads * size});
  return normalizer.createMany(
      "Split", {node.getInput(0), sizes}, 18,
      normalizer.builder.getNamedAttr("axis", normalizer.builder.getI64IntegerAttr(2)), 3);
}

/// The positions of the new rows, [batch, rows]: they end at seqlens_k. A prompt that is
/// padded on the right begins at 0.
static Value getPositions(NodeOp node, Chain &chain) {
  if (Value given = node.getInput(9))
    return given;
  Value zero = chain.scalar(chain.b.getI64IntegerAttr(0));
  Value one = chain.scalar(chain.b.getI64IntegerAttr(1));
  Value rows = chain.size(node.getInput(0), 1);
  Value lengths = chain.create("Add", {chain.cast(node.getInput(5), kInt64), one}, 14);
  Value first = chain.create("Max", {chain.create("Sub", {lengths, rows}, 14), zero}, 13);
  Value range = chain.create("Range", {zero, rows, one}, 11);
  return chain.create("Add", {chain.reshape(first, {-1, 1}), range}, 14);
}

/// What remains has separate queries, keys and values, and no rotary embedding.
static LogicalResult upgradeGroupQueryAttention(NodeOp node, Normalizer &normalizer, bool &done) {
  if (!node.getInput(5) || !node.getInput(6))
    return fail(node) << "needs seqlens_k and total_sequence_length";
  if (!node.getInput(1) != !node.getInput(2))
    return fail(node) << "keys and values go together";
  SmallVector<Value> inputs = node.getAllInputs();
  if (!inputs[1]) {
    FailureOr<SmallVector<Value>> parts = splitPacked(node, normalizer);
    if (failed(parts))
      return failure();
    std::copy(parts->begin(), parts->end(), inputs.begin());
  }
  if (node.getIntAttr("do_rotary", 0)) {
    Value cos = node.getInput(7), sin = node.getInput(8);
    RankedTensorType cosType = getType(cos);
    if (!cosType || cosType.getRank() != 2 || !sin)
      return fail(node) << "a rotary embedding needs cos_cache and sin_cache of rank 2";
    Chain chain(normalizer);
    Value positions = getPositions(node, chain);
    cos = chain.gather(cos, positions, 0);
    sin = chain.gather(sin, positions, 0);
    int64_t half = cosType.getDimSize(1);
    for (auto [input, heads] :
         {std::pair<Value &, StringRef>(inputs[0], "num_heads"), {inputs[1], "kv_num_heads"}})
      input = chain.create(
          "RotaryEmbedding", {input, cos, sin}, 23,
          {chain.attr("interleaved", node.getIntAttr("rotary_interleaved", 0)),
           chain.attr("num_heads", node.getIntAttr(heads, 0)),
           chain.attr("rotary_embedding_dim", ShapedType::isDynamic(half) ? 0 : 2 * half)});
    if (!chain.ok)
      return failure();
    node.removeNodeAttr("do_rotary");
  }
  for (unsigned i = 7; i <= 9 && i < inputs.size(); ++i)
    inputs[i] = {};
  node.setAllInputs(inputs);
  return success();
}

void mlir::moe::onnx::addContribUpgrades(llvm::StringMap<Canonical> &table) {
  table["com.microsoft.GroupQueryAttention"] = {1, upgradeGroupQueryAttention};
  table["com.microsoft.MultiHeadAttention"] = {1, upgradeMultiHeadAttention};
  table["com.microsoft.RotaryEmbedding"] = {1, upgradeContribRotary};
  table["com.microsoft.SkipLayerNormalization"] = {1, upgradeSkipNorm};
  table["com.microsoft.SkipSimplifiedLayerNormalization"] = {1, upgradeSkipSimplifiedNorm};
}
