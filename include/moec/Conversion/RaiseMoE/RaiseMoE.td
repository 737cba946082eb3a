// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_RAISEMOE_RAISEMOE_TD
#define MOEC_CONVERSION_RAISEMOE_RAISEMOE_TD

include "mlir/Pass/PassBase.td"

def RaiseMoE : Pass<"raise-moe", "::mlir::ModuleOp"> {
  let summary = "raise MoE nodes of an ONNX graph to the moe dialect";
  let description = [{
    Replaces the contrib operators `com.microsoft.MoE` and `com.microsoft.QMoE` by
    `moe.score`, `moe.select`, `moe.weigh`, `moe.dispatch`, `moe.expert_ffn` and
    `moe.combine` (with `moe.dequantize` for QMoE), and the matrix product that
    yields their logits by `moe.logits`. `moe.expert_ffn` carries the names of the
    nodes it came from in the attribute `moe.sources`.

    Experts in standard operators become `moe.dispatch`, `moe.expert_ffn` and
    `moe.combine`: every tensor that is proven to be y[t] = Σ w · F_e(x[t]) over the
    experts e chosen for token t. One walk over the graph derives what each tensor is in
    terms of tokens, slots and experts (`Facts.h`); all spellings end in the same fact. A
    remark says where facts stop, and what was expected there. Weights that the graph has
    as codes (`DequantizeLinear` of constants with one scale per row, or per block that
    divides the columns; `MatMulNBits`) become those of `moe.dequantize`. Weights that
    multiply the experts' input (Llama 4) become `scale_input`. A loop over experts that
    tracing unrolled without some of them is an error.

    Routers in standard operators become `moe.score`, `moe.select`, `moe.weigh` and
    `moe.capacity`, whatever they are spelled with: softmax, sigmoid or √softplus
    scores, biases that only select, groups of experts (by their largest key or the sum
    of the two largest), top-k or rounds of argmax, softmax over the selected, the
    sparse mixer, normalisation by the sum (plus an epsilon), a bounded sum or a norm,
    factors of all or of each expert, and the capacity masks of Switch. Ids and weights
    that come from elsewhere stay a `moe.given` routing, and a remark says which
    condition failed at which node.

    A feed-forward network of the block's input that is added to the block becomes
    `moe.shared`, with its sigmoid gate as the weight.

    A node that is illegal, or that asks for what moec does not compute, is an error
    at the node; the pass reports all such nodes and then fails.

    Deviations from ONNX Runtime's CPU provider, whose numbers are otherwise meant:
    equal keys select the lower expert index, `use_sparse_mixer` and fc3 are computed,
    and no route is dropped for its weight being zero or negative.
  }];
  let options = [
    Option<"contribOnly", "contrib-only", "bool", "false",
           "leave blocks that are written in standard operators as they are">,
    Option<"allowFrozenRouting", "allow-frozen-routing", "bool", "false",
           "accept blocks that lack experts because tracing the model never chose them">];
  let dependentDialects = ["::mlir::moe::MoEDialect", "::mlir::moe::onnx::ONNXDialect",
                           "::mlir::tensor::TensorDialect", "::mlir::arith::ArithDialect",
                           "::mlir::LLVM::LLVMDialect"];
}

#endif
