// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Which routers become one moe.gating: the one place that decides it. The table in
// docs/gating.md is printed from here.

#ifndef MOEC_DIALECT_MOE_TRANSFORMS_GATINGFUSION_H
#define MOEC_DIALECT_MOE_TRANSFORMS_GATINGFUSION_H

#include "moec/Dialect/MoE/IR/MoE.h"

#include <optional>
#include <string>

namespace mlir::moe {

/// moe.score, moe.select and moe.weigh that follow each other.
struct GatingCombination {
  std::optional<ScoreFn> score; ///< None: the selection is by the logits.
  Axis axis = Axis::Experts;
  bool scoreIsRounded = false; ///< Its type is narrower than f32.
  SelectMode mode = SelectMode::TopK;
  WeighFn fn = WeighFn::None;
  bool hasSource = true; ///< Of moe.weigh.
};

/// moe.capacity on a fused gating.
struct CapacityCombination {
  CapacityOrder order;
  bool grouped;    ///< It has a group size.
  bool keepsFewer; ///< keep < k
};

/// Why there is no fused form; empty when there is one.
StringRef whyNotFused(const GatingCombination &gating);
StringRef whyNotFused(const CapacityCombination &capacity);

/// Markdown tables of all combinations.
std::string describeGatingFusion();

} // namespace mlir::moe

#endif // MOEC_DIALECT_MOE_TRANSFORMS_GATINGFUSION_H
