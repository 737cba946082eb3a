// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEOPS_TD

include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/CommonTypeConstraints.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Dialect/LLVMIR/LLVMOpBase.td"
include "moec/Dialect/MoE/IR/MoEAttributes.td"
include "moec/Dialect/MoE/IR/MoETypes.td"

class MoE_Op<string mnemonic, list<Trait> traits = []>
    : Op<MoE_Dialect, mnemonic, traits>;

class MoE_PureOp<string mnemonic, list<Trait> traits = []>
    : MoE_Op<mnemonic, !listconcat([Pure], traits)>;

def MoE_Float : AnyTypeOf<[F32, F16, BF16, F64]>;
/// x[T,H], logits[T,E], rows[S,H].
def MoE_Matrix : TensorRankOf<[MoE_Float], [2]>;
def MoE_Vector : TensorRankOf<[MoE_Float], [1]>;
/// Weights of all experts, [E,N,K] (out_in) or [E,K,N] (in_out).
def MoE_Bank : TensorRankOf<[MoE_Float], [3]>;
/// Biases of all experts, [E,N].
def MoE_BankBias : TensorRankOf<[MoE_Float], [2]>;

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

def MoE_WeightOp : MoE_Op<"weight", [Symbol]> {
  let summary = "a weight: sources in files, and the transforms to its bytes";
  let description = [{
    A symbol, not an attribute: nothing is loaded before emission. The sources are
    stacked along dimension 1 when there are several, then `transforms` are applied
    in order. `offset` and `expert_stride` (bytes in the weights file's data
    section) are set once the file is planned: expert e starts at
    `offset + e · expert_stride`.

    C1: at least one source; several only agree when they differ in dimension 1.
    C2: the transforms lead from the sources' type to the weight's type.
    C3: `bank` members have the same number of experts (dimension 0).

    ```mlir
    moe.weight @up from [#moe.segment<"model.onnx.data", offset = 0, length = 65536,
        tensor<4x64x64xf32>>] through [#moe.panels<width = 32>] : tensor<4x2x64x32xf32>
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<AnyRankedTensor>:$type,
                       ArrayAttr:$sources,
                       DefaultValuedAttr<ArrayAttr, "{}">:$transforms,
                       OptionalAttr<StrAttr>:$bank,
                       OptionalAttr<I64Attr>:$offset,
                       OptionalAttr<I64Attr>:$expert_stride);
  let assemblyFormat = [{
    $sym_name `from` $sources (`through` $transforms^)? attr-dict `:` $type
  }];
  let hasVerifier = 1;
  let builders = [OpBuilder<(ins "::mlir::StringRef":$name,
      "::mlir::RankedTensorType":$type, "::mlir::ArrayRef<::mlir::Attribute>":$sources,
      CArg<"::mlir::ArrayRef<::mlir::Attribute>", "{}">:$transforms)>];
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getTensorType() {
      return ::llvm::cast<::mlir::RankedTensorType>(getType());
    }
    /// Type of the stacked sources, before any transform.
    ::mlir::RankedTensorType getSourceType();
  }];
}

def MoE_LoadWeightOp : MoE_PureOp<"load_weight", [
    DeclareOpInterfaceMethods<SymbolUserOpInterface>,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "the value of a weight";
  let description = [{
    C1: `weight` names a `moe.weight` of the same type.
  }];
  let arguments = (ins FlatSymbolRefAttr:$weight);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = "$weight attr-dict `:` type($result)";
}

def MoE_WeightBufferOp : MoE_PureOp<"weight_buffer"> {
  let summary = "the memory of a weight inside the mapped weights file";
  let description = [{
    What `moe.load_weight` becomes on buffers: `weights` is the start of the data
    section of the weights file.
  }];
  let arguments = (ins LLVM_AnyPointer:$weights, FlatSymbolRefAttr:$weight);
  let results = (outs AnyStridedMemRef:$result);
  let assemblyFormat = "$weights $weight attr-dict `:` type($weights) `,` type($result)";
}

def MoE_DequantizeOp : MoE_PureOp<"dequantize"> {
  let summary = "real values of quantized expert weights";
  let description = [{
    `w[e,n,k] = (q[e,n,k] - zp[e,n,b]) · scale[e,n,b]`, b = k / block (b = 0 when
    `block` is 0, row-wise). Codes are unsigned, `bits` wide, packed low bits first
    along K: codes[E, N, K·bits/8]. Scales: [E, N] (row-wise) or [E, N, K/block].
    Zero points, packed like codes: [E, ceil(N·bits/8)] along the rows (row-wise) or
    [E, N, ceil(K/block·bits/8)] along the blocks; 2^(bits-1) when absent.
    Source: ONNX Runtime contrib operator `QMoE`.

    C1: bits is 2, 4 or 8. C2: codes are [E, N, K·bits/8] for a result [E, N, K].
    C3: block is 0, or a power of two of at least 16 that divides K.
    C4: shape of the scales. C5: shape of the zero points.
  }];
  let arguments = (ins TensorRankOf<[UI8], [3]>:$codes,
                       TensorRankOf<[MoE_Float], [2, 3]>:$scales,
                       Optional<TensorRankOf<[UI8], [2, 3]>>:$zero_points,
                       I64Attr:$bits, DefaultValuedAttr<I64Attr, "0">:$block);
  let results = (outs MoE_Bank:$result);
  let assemblyFormat = [{
    $codes `scales` `(` $scales `)` (`zero_points` `(` $zero_points^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Gating
//===----------------------------------------------------------------------===//

def MoE_LogitsOp : MoE_PureOp<"logits", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "the router's logits: L = x · Wᵀ + b";
  let description = [{
    x[T,H], weight [E,H] (`out_in`) or [H,E] (`in_out`), bias [E]; L[T,E],
    accumulated in f32.

    C1: H of x and of the weight agree. C2: E of the weight and of the result, and T
    of x and of the result agree. C3: the bias has E elements.
  }];
  let arguments = (ins MoE_Matrix:$x, MoE_Matrix:$weight, Optional<MoE_Vector>:$bias,
                       DefaultValuedAttr<MoE_LayoutAttr, "::mlir::moe::Layout::OutIn">:$layout);
  let results = (outs MoE_Matrix:$logits);
  let assemblyFormat = [{
    $x `,` $weight (`bias` `(` $bias^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_ScoreOp : MoE_PureOp<"score", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "scores of the experts: s = f(L)";
  let description = [{
    f over L[T,E]: `identity`, `softmax` (over the experts or the tokens: `axis`),
    `sigmoid`, `sqrtsoftplus` (√ln(1+e^L)). Computed in f32 at least.

    C1: shapes of logits and scores agree.
  }];
  let arguments = (ins MoE_Matrix:$logits, MoE_ScoreFnAttr:$fn,
                       DefaultValuedAttr<MoE_AxisAttr, "::mlir::moe::Axis::Experts">:$axis);
  let results = (outs MoE_Matrix:$scores);
  let assemblyFormat = "$fn $logits attr-dict `:` type($logits) `->` type($scores)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def MoE_SelectOp : MoE_PureOp<"select", [InferTypeOpAdaptor]> {
  let summary = "the experts of each token";
  let description = [{
    Selection by the key κ = key + bias: `all` experts, or the k largest (`topk`).
    Equal keys: the lower expert index first. NaN counts as the largest value, so a
    selected NaN makes the token's weights NaN. Slots are in falling order of κ.

    C1: 1 ≤ k ≤ E. C2: E is static. C3: the bias has E elements.
    C4: `all` has k = E.
  }];
  let arguments = (ins MoE_Matrix:$key, Optional<MoE_Vector>:$bias,
                       DefaultValuedAttr<MoE_SelectModeAttr, "::mlir::moe::SelectMode::TopK">:$mode,
                       I64Attr:$k);
  let results = (outs MoE_RoutingType:$routing);
  let assemblyFormat = [{
    $key (`bias` `(` $bias^ `)`)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def MoE_WeighOp : MoE_PureOp<"weigh"> {
  let summary = "the weights of the selected experts";
  let description = [{
    w = norm(fn(source at the selected experts)) · scale, per token.

    fn: `none`; `softmax` over the selected; `sigmoid`; `masked_softmax`, the sparse
    mixer of PhiMoE (Phi-3.5-MoE modelling code; ONNX Runtime `use_sparse_mixer`):
    in round r, with M the largest source value not yet taken, the weight is
    `1 / Σ exp(s - M)` over the values s not yet taken with
    `M - s ≤ 2·eps·max(|s|, M)`.
    norm: `none`, or `sum`: w / (Σw + norm_eps), and 0 where that sum is 0.

    C1: the source has E columns. C2: the operand is unweighted, the result weighted,
    and both agree otherwise. C3: masked_softmax has eps > 0.
  }];
  let arguments = (ins MoE_RoutingType:$routing, MoE_Matrix:$source,
                       DefaultValuedAttr<MoE_WeighFnAttr, "::mlir::moe::WeighFn::None">:$fn,
                       DefaultValuedAttr<F64Attr, "0.0">:$eps,
                       DefaultValuedAttr<MoE_WeighNormAttr, "::mlir::moe::WeighNorm::None">:$norm,
                       DefaultValuedAttr<F64Attr, "0.0">:$norm_eps,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_RoutingType:$result);
  let assemblyFormat = [{
    $routing `,` $source attr-dict `:` functional-type(operands, results)
  }];
  let builders = [OpBuilder<(ins "::mlir::Value":$routing, "::mlir::Value":$source,
      "::mlir::moe::WeighFn":$fn, "::mlir::moe::WeighNorm":$norm,
      CArg<"double", "0.0">:$eps, CArg<"double", "0.0">:$normEps,
      CArg<"double", "1.0">:$scale)>];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def MoE_GatingOp : MoE_PureOp<"gating", [AttrSizedOperandSegments]> {
  let summary = "score, select and weigh in one pass over a token's logits";
  let description = [{
    What `--moe-fuse-gating` makes of `moe.score`, `moe.select` and `moe.weigh`; the
    attributes are theirs. The key is `score(logits) + bias`; the weights come from
    the score, from the logits, or from `source` (a router_weights tensor [T,E]).

    C1: 1 ≤ k ≤ E. C2: bias [E], source [T,E]. C3: a source operand if and only if
    `weigh_source` is `operand`.
  }];
  let arguments = (ins MoE_Matrix:$logits, Optional<MoE_Vector>:$bias,
                       Optional<MoE_Matrix>:$source,
                       MoE_ScoreFnAttr:$score, I64Attr:$k,
                       MoE_WeighSourceAttr:$weigh_source, MoE_WeighFnAttr:$fn,
                       DefaultValuedAttr<F64Attr, "0.0">:$eps,
                       DefaultValuedAttr<MoE_WeighNormAttr, "::mlir::moe::WeighNorm::None">:$norm,
                       DefaultValuedAttr<F64Attr, "0.0">:$norm_eps,
                       DefaultValuedAttr<F64Attr, "1.0">:$scale);
  let results = (outs MoE_RoutingType:$routing);
  let assemblyFormat = [{
    $logits (`bias` `(` $bias^ `)`)? (`source` `(` $source^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

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

def MoE_ActivateOp : MoE_PureOp<"activate", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
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
  let arguments = (ins MoE_Matrix:$input, MoE_RoutingType:$routing,
                       MoE_Bank:$up, Optional<MoE_BankBias>:$up_bias,
                       Optional<MoE_Bank>:$gate, Optional<MoE_BankBias>:$gate_bias,
                       MoE_Bank:$down, Optional<MoE_BankBias>:$down_bias,
                       MoE_ActivationAttr:$activation);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $input `,` $routing `up` `(` $up `)` (`up_bias` `(` $up_bias^ `)`)?
    (`gate` `(` $gate^ `)`)? (`gate_bias` `(` $gate_bias^ `)`)?
    `down` `(` $down `)` (`down_bias` `(` $down_bias^ `)`)?
    $activation attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_ExpertFFNOp : MoE_FeedForward<"expert_ffn"> {
  let summary = "the experts' feed-forward networks, on dispatched rows";
  let description = [{
    result[s] = W_down[e] · act(W_up[e] · rows[s] + b_up[e]) + b_down[e], e = e(s):
    `moe.grouped_matmul`, `moe.activate` and `moe.grouped_matmul` in one. Weights are
    [E, out, in]. `up` is [E,I,H], or [E,2I,H] when it holds gate and linear rows
    (`glu` interleaved or concat); with `glu = separate`, `gate` [E,I,H] is activated
    and multiplies `up`'s rows.

    C1: H of input, result, up, gate and down, and S of input and result agree.
    C2: I of up, gate and down agree. C3: E of routing and of every weight and bias
    agree. C4: bias shapes. C5: a gate operand if and only if `glu = separate`.
  }];
}

def MoE_CombineOp : MoE_PureOp<"combine", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "the weighted sum of each token's rows";
  let description = [{
    y[t] = Σ_s w(s) · rows[s] over the rows s of token t, accumulated in f32 in the
    order of the slots, for the `tokens` tokens of the routing. A token without an
    expert gets 0.

    C1: the routing is weighted. C2: rows and result have the same H.
  }];
  let arguments = (ins MoE_Matrix:$rows, MoE_RoutingType:$routing, Index:$tokens);
  let results = (outs MoE_Matrix:$result);
  let assemblyFormat = [{
    $rows `,` $routing `tokens` `(` $tokens `)` attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_ExpertsOp : MoE_FeedForward<"experts", [
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface,
        ["reifyResultShapes"]>]> {
  let summary = "dispatch, the experts' feed-forward networks and combine, fused";
  let description = [{
    What `--moe-fuse-experts` makes of `moe.dispatch`, `moe.expert_ffn` and
    `moe.combine`: y[t] = Σ_slots w · FFN_e(x[t]), input and result [T,H]. Lowered
    as a whole, so that rows never exist in the model's type.

    C1 … C5 as for `moe.expert_ffn`. C6: the routing is weighted.
  }];
}

//===----------------------------------------------------------------------===//
// Workers
//===----------------------------------------------------------------------===//

def MoE_CurrentCallOp : MoE_PureOp<"current_call"> {
  let summary = "the running call, before the entry has an argument for it";
  let description = [{
    Replaced by the entry function's `moe.call` argument in `--lower-entry`.
  }];
  let results = (outs LLVM_AnyPointer:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
}

def MoE_NumWorkersOp : MoE_PureOp<"num_workers"> {
  let summary = "number of workers of the context that runs the model";
  let description = [{
    Never known at compile time. `call` is the running call, the entry function's
    argument marked `moe.call`.
  }];
  let arguments = (ins LLVM_AnyPointer:$call);
  let results = (outs Index:$result);
  let assemblyFormat = "$call attr-dict `:` type($call)";
}

def MoE_WorkerIdOp : MoE_Op<"worker_id", [MemoryEffects<[MemRead]>]> {
  let summary = "which worker runs this iteration of the enclosing scf.parallel";
  let description = [{
    0 … moe.num_workers-1; two iterations that run at the same time differ.
    Lowered with the loop by `--parallel-to-runtime`.
  }];
  let results = (outs Index:$result);
  let assemblyFormat = "attr-dict";
}

def MoE_CheckOp : MoE_Op<"check"> {
  let summary = "record an error of this call unless a condition holds";
  let description = [{
    The first failing check of a call makes `run` return an error with `message`;
    execution goes on, so the code after it must stay within bounds (clamp).
  }];
  let arguments = (ins LLVM_AnyPointer:$call, I1:$condition, StrAttr:$message);
  // Of the call that runs the entry function around it.
  let builders = [OpBuilder<(ins "::mlir::Value":$condition, "const ::llvm::Twine &":$message)>];
  let assemblyFormat = "$call `,` $condition `,` $message attr-dict `:` type($call)";
}

def MoE_ProfileMarkOp : MoE_Op<"profile_mark"> {
  let summary = "time from here on belongs to a region of the profile";
  let arguments = (ins LLVM_AnyPointer:$call, I64Attr:$region);
  let assemblyFormat = "$call `,` $region attr-dict `:` type($call)";
}

#endif
