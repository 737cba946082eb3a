// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEEXPERTOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEEXPERTOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_DispatchOp : MoE_PureOp<"dispatch"> {
  let summary = "the rows of x that each expert computes, sorted by expert";
  let description = [{
    rows[s] = x[token(s)], s over the routing's (expert, token) pairs. With
    `scale_input` each row is multiplied by its weight (Llama 4).

    C1: x and rows have the same H. C2: `scale_input` needs a weighted routing.
  }];
  let arguments = (ins MoE_Matrix:$x, MoE_RoutingType:$routing, UnitAttr:$scale_input);
  let results = (outs MoE_Matrix:$rows);
  let assemblyFormat = "$x `,` $routing attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def MoE_GroupedMatmulOp : MoE_PureOp<"grouped_matmul"> {
  let summary = "each row times its expert's matrix";
  let description = [{
    out[s,n] = Σ_k rows[s,k] · W[e(s),n,k] + bias[e(s),n]; weight [E,N,K] (`out_in`)
    or [E,K,N] (`in_out`).

    C1: K of rows and weight agree. C2: N of weight and result, and S of rows and
    result agree.
    C3: E of weight and routing agree. C4: bias [E,N].
  }];
  let arguments = (ins MoE_Matrix:$rows, MoE_RoutingType:$routing, MoE_Bank:$weight,
                       Optional<MoE_BankBias>:$bias,
                       DefaultValuedAttr<MoE_LayoutAttr, "::mlir::moe::Layout::OutIn">:$layout);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $rows `,` $routing `,` $weight (`bias` `(` $bias^ `)`)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_LinearOp : MoE_ReifyOp<"linear"> {
  let summary = "a product with one matrix for all rows: y = x · Wᵀ + b";
  let description = [{
    What stands around MoE layers: projections of attention, dense layers, the head of a
    language model. x[T,K], weight [N,K] (`out_in`) or [K,N] (`in_out`), bias [N];
    y[T,N], accumulated in f32.

    C1: K of x and of the weight agree. C2: N of the weight and of the result, and T of x
    and of the result agree. C3: the bias has N elements.
  }];
  let arguments = (ins MoE_Matrix:$x, MoE_Matrix:$weight, Optional<MoE_Vector>:$bias,
                       DefaultValuedAttr<MoE_LayoutAttr, "::mlir::moe::Layout::OutIn">:$layout);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $x `,` $weight (`bias` `(` $bias^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let hasCanonicalizer = 1;
  let hasVerifier = 1;
}

def MoE_ActivateOp : MoE_ReifyOp<"activate"> {
  let summary = "the experts' activation, row by row";
  let description = [{
    See `#moe.activation`. With `glu = separate`, `linear` is the second operand.

    C1: I of the result: N, or N/2 when gate and linear part are in one operand; S of
    rows and result agree.
    C2: `linear` if and only if `glu = separate`, of the same type as `rows`.
  }];
  let arguments = (ins MoE_Matrix:$rows, Optional<MoE_Matrix>:$linear,
                       MoE_ActivationAttr:$activation);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $activation $rows (`linear` `(` $linear^ `)`)? attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

class MoE_FeedForward<string mnemonic, list<Trait> traits = []>
    : MoE_PureOp<mnemonic, !listconcat([AttrSizedOperandSegments], traits)> {
  dag weights = (ins MoE_Bank:$up, Optional<MoE_BankBias>:$up_bias,
                     Optional<MoE_Bank>:$gate, Optional<MoE_BankBias>:$gate_bias,
                     MoE_Bank:$down, Optional<MoE_BankBias>:$down_bias);
  dag form = (ins MoE_ActivationAttr:$activation,
                  DefaultValuedAttr<MoE_LayoutAttr, "::mlir::moe::Layout::OutIn">:$layout);
  let results = (outs MoE_Matrix:$result);
  let hasVerifier = 1;
}

class MoE_RoutedFeedForward<string mnemonic, list<Trait> traits = []>
    : MoE_FeedForward<mnemonic, traits> {
  dag constants = (ins Optional<MoE_BankBias>:$constants);
  dag kinds = (ins OptionalAttr<MoE_ExpertKindArrayAttr>:$kinds);
  let hasCanonicalizer = 1;
}

def MoE_ExpertFFNOp : MoE_RoutedFeedForward<"expert_ffn"> {
  let summary = "the experts' feed-forward networks, on dispatched rows";
  let description = [{
    result[s] = W_down[e] · act(W_up[e] · rows[s] + b_up[e]) + b_down[e], e = e(s):
    `moe.grouped_matmul`, `moe.activate` and `moe.grouped_matmul` in one. Weights are
    [E, out, in], or [E, in, out] with `layout = in_out`. `up` is [E,I,H], or [E,2I,H]
    when it holds gate and linear rows (`glu` interleaved or concat); with `glu =
    separate`, `gate` [E,I,H] is activated and multiplies `up`'s rows.

    `kinds` lists `#moe.kind`s, which stand for consecutive ids; all are `ffn` without
    it. The weights and biases hold the ffn experts only, `constants` [., H] the rows of
    the constant experts, both in the order of the ids.

    C1: H of input, result, up, gate and down, and S of input and result agree.
    C2: I of up, gate and down agree. C3: every weight and bias has as many experts as
    there are ffn experts. C4: bias shapes. C5: a gate operand if and only if
    `glu = separate`. C7: kinds add up to E of the routing, with an ffn expert.
    C8: constants are [number of constant experts, H], and absent when there are none.
    (C6 is a constraint of `moe.experts` only.)
  }];
  let arguments = !con((ins MoE_Matrix:$input, MoE_RoutingType:$routing), weights, constants,
                       form, kinds);
  let assemblyFormat = [{
    $input `,` $routing `up` `(` $up `)` (`up_bias` `(` $up_bias^ `)`)?
    (`gate` `(` $gate^ `)`)? (`gate_bias` `(` $gate_bias^ `)`)?
    `down` `(` $down `)` (`down_bias` `(` $down_bias^ `)`)?
    (`constants` `(` $constants^ `)`)?
    $activation attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$input,
      "::mlir::Value":$routing, "::mlir::Value":$up, "::mlir::Value":$upBias,
      "::mlir::Value":$gate, "::mlir::Value":$gateBias, "::mlir::Value":$down,
      "::mlir::Value":$downBias, "::mlir::moe::ActivationAttr":$activation)>];
}

def MoE_CombineOp : MoE_ReifyOp<"combine", [AttrSizedOperandSegments]> {
  let summary = "the weighted sum of each token's rows";
  let description = [{
    y[t] = post_scale · Σ_s w(s) · rows[s] over the rows s of token t, for the `tokens`
    tokens of the routing. A token without an expert gets 0, or, with `uncovered(x,
    routing0)`, post_scale · (Σ of its weights in routing0) · x[t]: what dropped tokens
    give in Switch Transformers of Hugging Face before 4.52.

    weight: `output`, or `already_applied`: every w(s) is 1 (the input was scaled).
    accum: `f32` sums in f32 (f64 for f64) in the order of the slots, rounded once;
    `native` in the order of the experts, each product and each sum rounded to the
    result's type.

    C1: the routing is weighted, unless already_applied. C2: rows and result have the
    same H. C3: x of `uncovered` is like the result, and its routing weighted.
  }];
  let arguments = (ins MoE_Matrix:$rows, MoE_RoutingType:$routing, Index:$tokens,
                       Optional<MoE_Matrix>:$uncovered, Optional<MoE_RoutingType>:$uncovered_routing,
                       DefaultValuedAttr<MoE_CombineWeightAttr, "::mlir::moe::CombineWeight::Output">:$weight,
                       DefaultValuedAttr<MoE_AccumAttr, "::mlir::moe::Accum::F32">:$accum,
                       DefaultValuedAttr<F64Attr, "1.0">:$post_scale);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $rows `,` $routing `tokens` `(` $tokens `)`
    (`uncovered` `(` $uncovered^ `,` $uncovered_routing `)`)? attr-dict
    `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$rows,
      "::mlir::Value":$routing, "::mlir::Value":$tokens)>];
  let hasVerifier = 1;
}

def MoE_ExpertsOp : MoE_RoutedFeedForward<"experts", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "dispatch, the experts' feed-forward networks and combine, fused";
  let description = [{
    What `--moe-fuse-experts` makes of `moe.dispatch`, `moe.expert_ffn` and
    `moe.combine`: y[t] = Σ_slots w · FFN_e(x[t]), input and result [T,H]. Lowered
    as a whole, so that rows never exist in the model's type. `scale_input` is
    `moe.dispatch`'s; `uncovered(routing0)`, `weight`, `accum` and `post_scale` are
    `moe.combine`'s, with the input as x.

    C1 … C5, C7, C8 as for `moe.expert_ffn`. C6: the routing is weighted, unless
    already_applied without scale_input. C9: the routing of `uncovered` is weighted.
  }];
  let arguments = !con((ins MoE_Matrix:$input, MoE_RoutingType:$routing), weights, constants,
                       (ins Optional<MoE_RoutingType>:$uncovered_routing), form, kinds,
                       (ins UnitAttr:$scale_input,
                        DefaultValuedAttr<MoE_CombineWeightAttr, "::mlir::moe::CombineWeight::Output">:$weight,
                        DefaultValuedAttr<MoE_AccumAttr, "::mlir::moe::Accum::F32">:$accum,
                        DefaultValuedAttr<F64Attr, "1.0">:$post_scale));
  let assemblyFormat = [{
    $input `,` $routing `up` `(` $up `)` (`up_bias` `(` $up_bias^ `)`)?
    (`gate` `(` $gate^ `)`)? (`gate_bias` `(` $gate_bias^ `)`)?
    `down` `(` $down `)` (`down_bias` `(` $down_bias^ `)`)?
    (`constants` `(` $constants^ `)`)? (`uncovered` `(` $uncovered_routing^ `)`)?
    $activation attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Type":$type, "::mlir::Value":$input,
      "::mlir::Value":$routing, "::mlir::Value":$up, "::mlir::Value":$upBias,
      "::mlir::Value":$gate, "::mlir::Value":$gateBias, "::mlir::Value":$down,
      "::mlir::Value":$downBias, "::mlir::moe::ActivationAttr":$activation)>];
}

def MoE_SharedOp : MoE_FeedForward<"shared", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "shared experts: feed-forward networks that run on every token";
  let description = [{
    shared[t] = Σ_s weight[t,s] · FFN_s(x[t]) over the S experts of the banks [S,I,H]
    and [S,H,I] (see `moe.expert_ffn`), summed in f32 (f64 for f64) in rising order of
    s; every weight is 1 without `weight`. The result is shared; with `add(y)`,
    y + shared (`merge = add`) or (y + shared) / 2 (`average`).

    A sigmoid gate is `moe.logits` and `moe.score <sigmoid>`; weights of a common
    softmax come from `moe.blend`.

    C1, C2, C4, C5 as for `moe.expert_ffn`. C3: S of every weight and bias agree
    and is static. C6: weight is [T,S]. C7: y is like the result. C8: average needs y.
  }];
  let arguments = !con((ins MoE_Matrix:$input), weights,
                       (ins Optional<MoE_Matrix>:$weight, Optional<MoE_Matrix>:$add), form,
                       (ins DefaultValuedAttr<MoE_MergeAttr, "::mlir::moe::Merge::Add">:$merge));
  let assemblyFormat = [{
    $input `up` `(` $up `)` (`up_bias` `(` $up_bias^ `)`)?
    (`gate` `(` $gate^ `)`)? (`gate_bias` `(` $gate_bias^ `)`)?
    `down` `(` $down `)` (`down_bias` `(` $down_bias^ `)`)?
    (`weight` `(` $weight^ `)`)? (`add` `(` $add^ `)`)?
    $activation attr-dict `:` functional-type(operands, results)
  }];
}

#endif
