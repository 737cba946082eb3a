// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_TRANSFORMS_PASSES_TD
#define MOEC_DIALECT_MOE_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoEFuseGatingPass : Pass<"moe-fuse-gating"> {
  let summary = "fuse score, select and weigh into moe.gating";
  let description = [{
    `moe.weigh(moe.select(moe.score(logits)), source)` becomes one `moe.gating`,
    which a backend computes in one pass over a token's logits. The score may be
    missing (its identity folds away); the source is the score, the logits, or any
    other tensor. The fused values must have no other user. Why a `moe.weigh` stays
    is reported as a missed remark of category `moe-fuse-gating`.

    ```mlir
    %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
    %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
    %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (...)
    // becomes
    %w = moe.gating %l {fn = none, k = 2, norm = sum, score = softmax, weigh_source = score}
    ```
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numFused", "fused", "moe.gating created">];
}

def MoEFuseExpertsPass : Pass<"moe-fuse-experts"> {
  let summary = "fuse dispatch, expert_ffn and combine into moe.experts";
  let description = [{
    `moe.combine(moe.expert_ffn(moe.dispatch(x)))` on one routing, for as many tokens
    as x has rows, becomes one `moe.experts`. Rows and results between the ops are not
    rounded to the model's type any more. The discardable attributes of
    `moe.expert_ffn` are kept. Why a `moe.combine` stays is reported as a missed
    remark of category `moe-fuse-experts`.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numFused", "fused", "moe.experts created">];
}

def MoEInferencePass : Pass<"moe-inference"> {
  let summary = "erase the random operands of training";
  let description = [{
    Removes `noise` from every `moe.logits`, and `random` from every `moe.filter`, which
    then keeps the entries whose weight exceeds its threshold. The function's arguments
    stay.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numErased", "erased", "operands removed">];
}

#endif
