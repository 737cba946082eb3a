// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What the upgrades of operators share.

#ifndef MOEC_LIB_DIALECT_ONNX_TRANSFORMS_NORMALIZER_H
#define MOEC_LIB_DIALECT_ONNX_TRANSFORMS_NORMALIZER_H

#include "InferTypes.h"

#include "llvm/ADT/StringMap.h"

namespace mlir::moe::onnx {

/// Rewrites one graph in a walk from its inputs to its outputs.
class Normalizer {
public:
  explicit Normalizer(MLIRContext *context) : builder(context) {}

  LogicalResult run(Block &block);
  unsigned getNumFolded() const { return numFolded; }

  /// Creates a normalized node before the current one.
  FailureOr<Value> create(StringRef opType, ArrayRef<Value> inputs, int64_t version,
                          ArrayRef<NamedAttribute> attributes = {});
  /// The same for a node with `count` results.
  FailureOr<SmallVector<Value>> createMany(StringRef opType, ArrayRef<Value> inputs,
                                           int64_t version, ArrayRef<NamedAttribute> attributes,
                                           unsigned count);
  /// A constant of type int64: a vector.
  Value createInts(ArrayRef<int64_t> values);
  /// Replaces the current node's only result, and marks the node for erasure.
  LogicalResult replace(NodeOp node, Value value);
  /// The same by a new normalized node, which has the first `numResults` results.
  LogicalResult replaceBy(NodeOp node, StringRef opType, ArrayRef<Value> inputs, int64_t version,
                          ArrayRef<NamedAttribute> attributes, unsigned numResults);

  OpBuilder builder;
  ShapeValues shapes;
  /// The tensors of the sequences whose number is known.
  llvm::DenseMap<Value, SmallVector<Value>> sequences;

private:
  LogicalResult visit(NodeOp node);
  /// Normalizes the sub-graphs of a node. `done` says that the node is gone: one of its
  /// branches took its place.
  LogicalResult visitGraphs(NodeOp node, bool &done);
  FailureOr<bool> takeKnownBranch(NodeOp node);
  LogicalResult visitLoopBody(NodeOp node);
  /// Forgets what is known of values that are about to be erased.
  void forgetResults(Operation *op);
  void fold(NodeOp node);
  unsigned numFolded = 0;
};

/// Brings a node to its canonical form. On success `done` says whether the node
/// may get its canonical version; a node that was replaced has no uses any more.
using UpgradeFn = LogicalResult (*)(NodeOp node, Normalizer &normalizer, bool &done);

/// Canonical form of an operator.
struct Canonical {
  int64_t since;
  UpgradeFn upgrade;
};

/// RotaryEmbedding without positions.
LogicalResult upgradeRotaryEmbedding(NodeOp node, Normalizer &normalizer, bool &done);

/// Canonical forms of operators of com.microsoft: standard operators where those can say it.
void addContribUpgrades(llvm::StringMap<Canonical> &table);
/// Sequences as the tensors in them.
void addSequenceUpgrades(llvm::StringMap<Canonical> &table);

} // namespace mlir::moe::onnx

#endif // MOEC_LIB_DIALECT_ONNX_TRANSFORMS_NORMALIZER_H
