// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_TRANSFORMS_PASSES_TD
#define MOEC_DIALECT_MOE_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoEFuseGatingPass : Pass<"moe-fuse-gating"> {
  let summary = "fuse score, select, weigh and capacity into moe.gating";
  let description = [{
    `moe.weigh(moe.select(moe.score(logits)), source)` becomes one `moe.gating`,
    which a backend computes in one pass over a token's logits. The score may be
    missing (its identity folds away); the source is the score, the logits, or any
    other tensor. A `moe.capacity` on the result whose order needs only counts becomes
    part of it too. The fused values must have no other user. docs/gating.md lists all
    combinations; why a `moe.weigh` or `moe.capacity` stays is reported as a missed
    remark of category `moe-fuse-gating`.

    ```mlir
    %s = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x8xf32>
    %r = moe.select %s {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
    %w = moe.weigh %r, %s {norm = #moe.weigh_norm<sum>} : (...)
    // becomes
    %w = moe.gating %l {fn = none, k = 2, norm = sum, score = softmax, weigh_source = score}
    ```
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numFused", "fused", "moe.gating created">,
                    Statistic<"numCapacities", "capacities", "moe.capacity fused">];
}

def MoEFuseExpertsPass : Pass<"moe-fuse-experts"> {
  let summary = "fuse dispatch, expert_ffn and combine into moe.experts";
  let description = [{
    `moe.combine(moe.expert_ffn(moe.dispatch(x)))` on one routing, for as many tokens
    as x has rows, becomes one `moe.experts`, with the attributes of all three. Rows and results between the ops are not
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

def MoEMergeGateUpPass : Pass<"moe-merge-gate-up", "::mlir::ModuleOp"> {
  let summary = "one weight for the gate and up rows of gated experts";
  let description = [{
    Experts with `glu = separate` whose gate and up weights (and biases) are untransformed
    `moe.weight`s become `glu = concat`: a new weight has the gate's sources, then those
    of up. A row of the input is then multiplied by one matrix instead of two. The passed
    remark `merged` says the number of experts, rows per expert and bytes.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numMerged", "merged", "pairs of weights merged">];
}

def MoEFoldScalePass : Pass<"moe-fold-scale"> {
  let summary = "fold the post_scale of a combine into the weights of its routing";
  let description = [{
    `post_scale · Σ w · row = Σ (post_scale · w) · row`: k products per token instead of H,
    and none when `moe.weigh` or `moe.gating` has a scale already. The routing must have no
    other user. The passed remark `folded` says the factor and the products per token before
    and after.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numFolded", "folded", "factors folded">];
}

def MoETraceRoutingPass : Pass<"moe-trace-routing", "::mlir::ModuleOp"> {
  let summary = "the routing of every block as outputs";
  let description = [{
    For each `moe.dispatch` and `moe.experts` of a public function adds two outputs made by
    `moe.entries`: `NAME.expert_ids`, i32 [T,k], -1 in empty slots, and, where the routing
    is weighted, `NAME.weights`, f32 [T,k]. NAME is the name of the first node that the
    block was raised from, `block0`, `block1`, … where there is none, with `_1`, `_2`, …
    behind one that is taken. The module attribute `moe.traced` lists the names.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::tensor::TensorDialect"];
  let statistics = [Statistic<"numTraced", "traced", "blocks traced">];
}

def MoEExpertMajorPass : Pass<"moe-expert-major"> {
  let summary = "split moe.experts into dispatch, grouped products and combine";
  let description = [{
    The inverse of `--moe-fuse-experts`, one step further: rows sorted by expert as a value,
    two or three `moe.grouped_matmul`s and `moe.activate` between `moe.dispatch` and
    `moe.combine`. Rows are f32, so that nothing is rounded that was not before. The passed
    remark `split` says the number of experts, of rows per token and of products.
  }];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::tensor::TensorDialect"];
  let statistics = [Statistic<"numSplit", "split", "moe.experts split">];
}

def ConvertWeightsPass : Pass<"convert-weights", "::mlir::ModuleOp"> {
  let summary = "convert expert weights to a smaller type";
  let description = [{
    The weights of `moe.experts`, `moe.expert_ffn`, `moe.grouped_matmul` and `moe.shared`
    that are f32, f16 or bf16 constants become constants of `type`: `bf16` and `f16` by
    `#moe.convert`; `int8` and `int4` by `#moe.quantize`, as operands of a `moe.dequantize`
    in f32. [E, in, out] weights are transposed first, so that blocks run along `in`.
    Gate and up weights are converted both or not at all. Weights that are quantised
    already stay, and so do those whose rows `block` does not divide; a missed remark of
    category `convert-weights` says why. Routers, biases and everything else stays as it
    is. A warning says when there was nothing to convert.
  }];
  let options = [
    Option<"type", "type", "std::string", /*default=*/"", "bf16, f16, int8 or int4">,
    Option<"block", "block", "int64_t", /*default=*/"32",
           "int8, int4: consecutive elements of a row with one scale; 0: one scale per row">,
    Option<"zeroPoints", "zero-points", "bool", /*default=*/"false",
           "int8, int4: a zero point beside each scale">];
  let dependentDialects = ["::mlir::moe::MoEDialect"];
  let statistics = [Statistic<"numConverted", "converted", "weights converted">];
}

#endif
