// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Attention.

#include "Inference.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;
using namespace mlir::moe::onnx::inference;

/// [batch, heads, rows, size] of queries, keys or values; a size is dynamic when unknown.
static std::optional<Shape> getHeads(Inference &in, unsigned position, StringRef attribute) {
  std::optional<Shape> shape = in.shape(position);
  if (!shape || shape->size() == 4)
    return shape;
  int64_t heads = in.node.getIntAttr(attribute, 0);
  if (shape->size() != 3 || heads <= 0)
    return std::nullopt;
  int64_t all = shape->back();
  return Shape{(*shape)[0], heads, (*shape)[1], all == kDynamic ? kDynamic : all / heads};
}

static LogicalResult inferAttention(Inference &in) {
  Type element = in.element(0);
  std::optional<Shape> query = getHeads(in, 0, "q_num_heads");
  std::optional<Shape> key = getHeads(in, 1, "kv_num_heads");
  std::optional<Shape> value = getHeads(in, 2, "kv_num_heads");
  for (auto [position, present] : {std::pair<unsigned, std::optional<Shape> *>(4, &key),
                                   std::pair<unsigned, std::optional<Shape> *>(5, &value)}) {
    if (!*present || !in.node.getInput(position))
      continue;
    std::optional<Shape> past = in.shape(position);
    int64_t &rows = (**present)[2];
    if (!past || past->size() != 4 || (*past)[2] == kDynamic || rows == kDynamic)
      rows = kDynamic;
    else
      rows += (*past)[2];
  }
  std::optional<Shape> result;
  std::optional<Shape> stated = in.shape(0);
  if (query && value && stated->size() == 4)
    result = Shape{(*query)[0], (*query)[1], (*query)[2], (*value)[3]};
  if (query && value && stated->size() == 3) {
    int64_t size = (*value)[3];
    result = Shape{(*query)[0], (*query)[2], size == kDynamic ? kDynamic : size * (*query)[1]};
  }
  in.set(0, element, result);
  in.set(1, in.element(1), key);
  in.set(2, in.element(2), value);
  std::optional<Shape> scores;
  if (query && key)
    scores = Shape{(*query)[0], (*query)[1], (*query)[2], (*key)[2]};
  in.set(3, element, scores);
  return success();
}

/// Normalized: neither packed nor with rotary embeddings.
static LogicalResult inferGroupQueryAttention(Inference &in) {
  std::optional<Shape> query = in.shape(0);
  if (query && query->size() != 3)
    return in.fail() << "needs queries of rank 3, got rank " << query->size();
  in.set(0, in.element(0), query);
  for (unsigned i = 1; i <= 2; ++i) {
    std::optional<Shape> rows = getHeads(in, i, "kv_num_heads");
    // Those of past and new ones, or the size of a buffer: total_sequence_length says.
    if (rows)
      (*rows)[2] = kDynamic;
    in.set(i, in.element(i), rows);
  }
  return success();
}

void inference::addAttention(InferTable &table) {
  table["Attention"] = inferAttention;
  table["com.microsoft.GroupQueryAttention"] = inferGroupQueryAttention;
}
