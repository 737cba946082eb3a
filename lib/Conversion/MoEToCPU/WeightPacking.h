// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From weight operands to packed moe.weight symbols in the kernels' layout.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_WEIGHTPACKING_H
#define MOEC_LIB_CONVERSION_MOETOCPU_WEIGHTPACKING_H

#include "Kernels.h"

namespace mlir::moe::cpu {

/// Adds packed weights to a module. Weights of equal sources and transforms are shared.
class WeightPacker {
public:
  explicit WeightPacker(ModuleOp module) : module(module), symbols(module) {}

  /// Packs a matrix operand for `user` (location of errors, insertion point of loads):
  /// `weight` [E,N,K] or [N,K], `gate` the gate rows when they are a separate operand,
  /// biases or null. The result's values are buffers with a dynamic expert stride.
  /// When an operand is not a constant the values are left null: the weight is to be
  /// packed when it is used (see PackedWeight::raw). Fails with an error at `user` when
  /// codes are not constant.
  FailureOr<PackedWeight> pack(Operation *user, Value weight, Value bias, Value gate,
                               Value gateBias, Glu glu, Layout layout, StringAttr bank);

private:
  /// Sources and transforms of a constant tensor, as in a moe.weight.
  struct Source {
    std::string name;
    SmallVector<Attribute> sources, transforms;
    RankedTensorType type;
  };

  FailureOr<Source> trace(Operation *user, Value value);
  FailureOr<Source> traceStacked(Operation *user, Value first, Value second);
  LogicalResult retype(Operation *user, Source &source, ArrayRef<int64_t> shape);
  Value load(OpBuilder &builder, Location loc, Source source, StringAttr bank);
  FailureOr<Value> packBias(Operation *user, OpBuilder &builder, Value bias, Value gateBias,
                            int64_t experts, int64_t n, bool separate, Glu glu, StringAttr bank);

  ModuleOp module;
  SymbolTable symbols;
  DenseMap<std::pair<Attribute, Attribute>, WeightOp> packed;
};

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_WEIGHTPACKING_H
