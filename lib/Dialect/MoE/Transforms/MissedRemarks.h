// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Reasons of patterns that did not match, as remarks.

#ifndef MOEC_LIB_DIALECT_MOE_TRANSFORMS_MISSEDREMARKS_H
#define MOEC_LIB_DIALECT_MOE_TRANSFORMS_MISSEDREMARKS_H

#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Remarks.h"

namespace mlir::moe {

/// Forwards every notifyMatchFailure of the patterns it listens to as a missed remark
/// (see --remarks-filter of moe-opt).
class MissedRemarks : public RewriterBase::Listener {
public:
  /// `category` is the pass's command-line name.
  explicit MissedRemarks(StringRef category) : category(category) {}

  void notifyMatchFailure(Location loc, function_ref<void(Diagnostic &)> reasonCallback) override {
    Diagnostic reason(loc, DiagnosticSeverity::Remark);
    reasonCallback(reason);
    remark::missed(loc, remark::RemarkOpts::name("not-fused").category(category))
        << remark::reason("{0}", reason.str());
  }

private:
  StringRef category;
};

} // namespace mlir::moe

#endif // MOEC_LIB_DIALECT_MOE_TRANSFORMS_MISSEDREMARKS_H
