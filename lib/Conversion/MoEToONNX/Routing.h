// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Routings as tensors that nodes of standard operators compute.

#ifndef MOEC_LIB_CONVERSION_MOETOONNX_ROUTING_H
#define MOEC_LIB_CONVERSION_MOETOONNX_ROUTING_H

#include "GraphBuilder.h"

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/DenseMap.h"

namespace mlir::moe {

/// A routing's entries: T tokens by k slots.
struct Entries {
  /// int64 [T,k], each in 0 … E-1.
  Value ids;
  /// f32 (f64 for f64) [T,k]; null when the routing is unweighted.
  Value weights;
  /// bool [T,k]: whether the slot has an entry; null when all have.
  Value kept;
  int64_t experts = 0, k = 0;
};

/// Computes entries where the routing is, once for each routing.
class RoutingWriter {
public:
  /// `written`: nodes instead of the moe ops before. `getSize`: an index as int64 [1], null
  /// when nodes cannot say it.
  RoutingWriter(OpBuilder &builder, const IRMapping &written, std::function<Value(Value)> getSize)
      : builder(builder), written(written), getSize(std::move(getSize)) {}

  /// Fails after an error at the op that has no counterpart.
  FailureOr<Entries> getEntries(Value routing);
  /// The key and its bias, groups and masks: what is selected by, [T,E].
  FailureOr<Value> getKey(SelectOp select);

private:
  FailureOr<Entries> write(Operation *op);
  FailureOr<Entries> writeSelect(SelectOp select);
  FailureOr<Entries> writeGiven(GivenOp given);
  FailureOr<Entries> writeWeigh(WeighOp weigh);
  FailureOr<Entries> writeFilter(FilterOp filter);
  FailureOr<Entries> writeCapacity(CapacityOp capacity);
  Value writeGroups(GraphBuilder &b, SelectOp select, Value key);
  Value writeMaskedSoftmax(GraphBuilder &b, WeighOp weigh, Value source, const Entries &entries);
  Value normalize(GraphBuilder &b, WeighOp weigh, const Entries &entries, Value weights);
  Value get(Value value) const { return value ? written.lookupOrDefault(value) : Value(); }

  OpBuilder &builder;
  const IRMapping &written;
  std::function<Value(Value)> getSize;
  llvm::DenseMap<Value, Entries> cache;
};

/// The softmax over the experts of `logits`, whose k largest are selected; or the softmax
/// over the selected logits, which is the same once normalised.
struct SoftmaxRouting {
  Value logits;
  int64_t k = 0;
  bool normalized = false;
  /// Factor of every weight.
  double scale = 1;
};

/// Null when the routing is another, `reason` then says in which way.
std::optional<SoftmaxRouting> matchSoftmaxRouting(Value routing, std::string &reason);

/// Scores of moe.score, [T,E].
FailureOr<Value> writeScore(GraphBuilder &b, ScoreOp score, Value logits);

/// f64 for f64, else f32.
Type getComputeType(Type elementType);

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_MOETOONNX_ROUTING_H
