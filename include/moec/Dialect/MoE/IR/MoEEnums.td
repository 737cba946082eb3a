// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEENUMS_TD
#define MOEC_DIALECT_MOE_IR_MOEENUMS_TD

include "mlir/IR/EnumAttr.td"
include "moec/Dialect/MoE/IR/MoEDialect.td"

class MoE_Enum<string name, string summary, list<I32EnumAttrCase> cases>
    : I32EnumAttr<name, summary, cases> {
  let cppNamespace = "::mlir::moe";
  let genSpecializedAttr = 0;
}
class MoE_EnumAttr<EnumAttrInfo info, string mnemonic>
    : EnumAttr<MoE_Dialect, info, mnemonic> {
  let assemblyFormat = "`<` $value `>`";
}

def MoE_ScoreFn : MoE_Enum<"ScoreFn", "score function of the router", [
  I32EnumAttrCase<"Identity", 0, "identity">,
  I32EnumAttrCase<"Softmax", 1, "softmax">,
  I32EnumAttrCase<"Sigmoid", 2, "sigmoid">,
  I32EnumAttrCase<"SqrtSoftplus", 3, "sqrtsoftplus">]>;
def MoE_ScoreFnAttr : MoE_EnumAttr<MoE_ScoreFn, "score_fn">;

def MoE_Axis : MoE_Enum<"Axis", "axis over which a score is normalised", [
  I32EnumAttrCase<"Experts", 0, "experts">,
  I32EnumAttrCase<"Tokens", 1, "tokens">]>;
def MoE_AxisAttr : MoE_EnumAttr<MoE_Axis, "axis">;

def MoE_SelectMode : MoE_Enum<"SelectMode", "how experts are selected", [
  I32EnumAttrCase<"All", 0, "all">,
  I32EnumAttrCase<"TopK", 1, "topk">]>;
def MoE_SelectModeAttr : MoE_EnumAttr<MoE_SelectMode, "select_mode">;

def MoE_WeighFn : MoE_Enum<"WeighFn",
    "function of the source values of the selected experts", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Softmax", 1, "softmax">,
  I32EnumAttrCase<"Sigmoid", 2, "sigmoid">,
  I32EnumAttrCase<"MaskedSoftmax", 3, "masked_softmax">]>;
def MoE_WeighFnAttr : MoE_EnumAttr<MoE_WeighFn, "weigh_fn">;

def MoE_WeighNorm : MoE_Enum<"WeighNorm", "normalisation of a token's weights", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Sum", 1, "sum">]>;
def MoE_WeighNormAttr : MoE_EnumAttr<MoE_WeighNorm, "weigh_norm">;

def MoE_WeighSource : MoE_Enum<"WeighSource",
    "what a fused gating takes its weights from", [
  I32EnumAttrCase<"Score", 0, "score">,
  I32EnumAttrCase<"Logit", 1, "logit">,
  I32EnumAttrCase<"Operand", 2, "operand">]>;
def MoE_WeighSourceAttr : MoE_EnumAttr<MoE_WeighSource, "weigh_source">;

def MoE_ActivationKind : MoE_Enum<"ActivationKind", "activation of an expert", [
  I32EnumAttrCase<"Identity", 0, "identity">,
  I32EnumAttrCase<"Relu", 1, "relu">,
  I32EnumAttrCase<"Gelu", 2, "gelu">,
  I32EnumAttrCase<"GeluTanh", 3, "gelu_tanh">,
  I32EnumAttrCase<"Silu", 4, "silu">,
  I32EnumAttrCase<"Relu2", 5, "relu2">]>;

def MoE_Glu : MoE_Enum<"Glu", "where the gate rows of a gated expert are", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Interleaved", 1, "interleaved">,
  I32EnumAttrCase<"Concat", 2, "concat">,
  I32EnumAttrCase<"Separate", 3, "separate">]>;

def MoE_Layout : MoE_Enum<"Layout", "order of a weight's last two dimensions", [
  I32EnumAttrCase<"OutIn", 0, "out_in">,
  I32EnumAttrCase<"InOut", 1, "in_out">]>;
def MoE_LayoutAttr : MoE_EnumAttr<MoE_Layout, "layout">;

#endif
