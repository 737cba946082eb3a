// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Selection of experts for one token, shared by moe.select and moe.gating.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_SELECT_H
#define MOEC_LIB_CONVERSION_MOETOCPU_SELECT_H

#include "Keys.h"

namespace mlir::moe::cpu {

/// Groups of `size` consecutive experts, `kept` of which stay.
struct GroupOptions {
  int64_t number, size, kept;
  GroupScore score;
  GroupFill fill;

  template <typename OpTy> static GroupOptions of(OpTy op, int64_t experts) {
    int64_t number = op.getNGroup();
    return {number, experts / number, int64_t(op.getTopkGroup()), op.getGroupScore(),
            op.getGroupFill()};
  }
};

/// How many of the largest keys a token takes.
struct TakeOptions {
  SelectMode mode;
  int64_t k;
  double p, tau;

  template <typename OpTy> static TakeOptions of(OpTy op) {
    auto number = [](std::optional<APFloat> value) {
      return value ? value->convertToDouble() : 0.0;
    };
    return {op.getMode(), int64_t(op.getK()), number(op.getP()), number(op.getTau())};
  }
};

/// Removes the keys of experts that `mask` ([T,E] or [E], true: allowed) forbids.
void emitExpertMask(KernelBuilder &b, Value mask, Value token, Value experts, Keys &keys);
/// Removes the keys of dropped groups, or sets them to 0.
void emitGroupLimit(KernelBuilder &b, const GroupOptions &groups, Keys &keys);
/// `body(slot, expert, order of its key)` for all k slots; the expert is -1 for the empty
/// ones at the end.
void emitTake(KernelBuilder &b, const TakeOptions &options, Keys &keys,
              function_ref<void(Value, Value, Value)> body);
/// Runs `body` for a token that `mask` (null: every one) allows; empties its slots else.
/// `weights` may be null.
void emitUnlessMasked(KernelBuilder &b, Value mask, Value token, Value ids, Value weights,
                      function_ref<void()> body);
/// An id i32 or i64 as i32; -1 when it is not one of `experts`.
Value emitId(KernelBuilder &b, Value ids, ValueRange at, int64_t experts);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_SELECT_H
