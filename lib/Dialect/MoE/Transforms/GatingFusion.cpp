// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/Transforms/GatingFusion.h"

using namespace mlir;
using namespace mlir::moe;

StringRef mlir::moe::whyNotFused(const GatingCombination &gating) {
  if (gating.mode == SelectMode::ExpertTopK)
    return "an expert chooses among all tokens";
  if (gating.score && gating.axis != Axis::Experts)
    return "the score is normalised over the tokens";
  if (gating.scoreIsRounded)
    return "the score is rounded to less than f32";
  if (!gating.hasSource)
    return "the weights are renormalised after the routing was changed";
  return {};
}

StringRef mlir::moe::whyNotFused(const CapacityCombination &capacity) {
  if (capacity.order != CapacityOrder::Choice && capacity.order != CapacityOrder::Token)
    return "the order needs the priorities of all tokens";
  if (capacity.grouped)
    return "the tokens are grouped";
  if (capacity.keepsFewer)
    return "a token keeps fewer entries than it has";
  return {};
}

namespace {
/// A score as a row of the table; none: the key is the logits.
struct ScoreRow {
  StringRef name;
  std::optional<ScoreFn> fn;
  Axis axis = Axis::Experts;
  bool rounded = false;
};
} // namespace

static std::string cell(StringRef reason) { return reason.empty() ? "fused" : reason.str(); }

/// One cell for all functions when they agree.
static void printWeighCells(llvm::raw_ostream &os, GatingCombination combination) {
  for (unsigned fn = 0; fn <= getMaxEnumValForWeighFn(); ++fn) {
    combination.fn = WeighFn(fn);
    os << " " << cell(whyNotFused(combination)) << " |";
  }
}

std::string mlir::moe::describeGatingFusion() {
  static const ScoreRow scores[] = {
      {"none (logits)", std::nullopt},
      {"identity", ScoreFn::Identity},
      {"softmax", ScoreFn::Softmax},
      {"softmax over tokens", ScoreFn::Softmax, Axis::Tokens},
      {"sigmoid", ScoreFn::Sigmoid},
      {"sqrtsoftplus", ScoreFn::SqrtSoftplus},
      {"logsigmoid", ScoreFn::LogSigmoid},
      {"any, rounded to f16 or bf16", ScoreFn::Softmax, Axis::Experts, true},
  };
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "| score | select |";
  for (unsigned fn = 0; fn <= getMaxEnumValForWeighFn(); ++fn)
    os << " weigh `" << stringifyWeighFn(WeighFn(fn)) << "` |";
  os << " `moe.weigh` without a source |\n|---|---|";
  for (unsigned fn = 0; fn <= getMaxEnumValForWeighFn() + 1; ++fn)
    os << "---|";
  os << "\n";
  for (const ScoreRow &row : scores)
    for (unsigned mode = 0; mode <= getMaxEnumValForSelectMode(); ++mode) {
      GatingCombination combination;
      combination.score = row.fn;
      combination.axis = row.axis;
      combination.scoreIsRounded = row.rounded;
      combination.mode = SelectMode(mode);
      os << "| " << row.name << " | `" << stringifySelectMode(combination.mode) << "` |";
      printWeighCells(os, combination);
      combination.hasSource = false;
      os << " " << cell(whyNotFused(combination)) << " |\n";
    }
  os << "\n| capacity order | fused | with `group_size` | with `keep` < k |\n|---|---|---|---|\n";
  for (unsigned order = 0; order <= getMaxEnumValForCapacityOrder(); ++order) {
    auto reason = [&](bool grouped, bool fewer) {
      return cell(whyNotFused(CapacityCombination{CapacityOrder(order), grouped, fewer}));
    };
    os << "| `" << stringifyCapacityOrder(CapacityOrder(order)) << "` | " << reason(false, false)
       << " | " << reason(true, false) << " | " << reason(false, true) << " |\n";
  }
  return text;
}
