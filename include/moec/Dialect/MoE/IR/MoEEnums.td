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
  I32EnumAttrCase<"SqrtSoftplus", 3, "sqrtsoftplus">,
  I32EnumAttrCase<"LogSigmoid", 4, "logsigmoid">]>;
def MoE_ScoreFnAttr : MoE_EnumAttr<MoE_ScoreFn, "score_fn">;

def MoE_Axis : MoE_Enum<"Axis", "axis over which a score is normalised", [
  I32EnumAttrCase<"Experts", 0, "experts">,
  I32EnumAttrCase<"Tokens", 1, "tokens">]>;
def MoE_AxisAttr : MoE_EnumAttr<MoE_Axis, "axis">;

def MoE_SelectMode : MoE_Enum<"SelectMode", "how experts are selected", [
  I32EnumAttrCase<"All", 0, "all">,
  I32EnumAttrCase<"TopK", 1, "topk">,
  I32EnumAttrCase<"TopP", 2, "topp">,
  I32EnumAttrCase<"Threshold", 3, "threshold">,
  I32EnumAttrCase<"ExpertTopK", 4, "expert_topk">]>;
def MoE_SelectModeAttr : MoE_EnumAttr<MoE_SelectMode, "select_mode">;

def MoE_GroupScore : MoE_Enum<"GroupScore", "score of a group of experts", [
  I32EnumAttrCase<"Max", 0, "max">,
  I32EnumAttrCase<"Top2Sum", 1, "top2sum">]>;
def MoE_GroupScoreAttr : MoE_EnumAttr<MoE_GroupScore, "group_score">;

def MoE_GroupFill : MoE_Enum<"GroupFill", "key of the experts of dropped groups", [
  I32EnumAttrCase<"Zero", 0, "zero">,
  I32EnumAttrCase<"NegInf", 1, "neg_inf">]>;
def MoE_GroupFillAttr : MoE_EnumAttr<MoE_GroupFill, "group_fill">;

def MoE_TieBreak : MoE_Enum<"TieBreak", "which of two equal keys comes first", [
  I32EnumAttrCase<"Lower", 0, "lower">,
  I32EnumAttrCase<"Higher", 1, "higher">]>;
def MoE_TieBreakAttr : MoE_EnumAttr<MoE_TieBreak, "tie_break">;

def MoE_WeighFn : MoE_Enum<"WeighFn",
    "function of the source values of the selected experts", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Softmax", 1, "softmax">,
  I32EnumAttrCase<"Sigmoid", 2, "sigmoid">,
  I32EnumAttrCase<"MaskedSoftmax", 3, "masked_softmax">]>;
def MoE_WeighFnAttr : MoE_EnumAttr<MoE_WeighFn, "weigh_fn">;

def MoE_WeighNorm : MoE_Enum<"WeighNorm", "normalisation of a token's weights", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Sum", 1, "sum">,
  I32EnumAttrCase<"Clamp", 2, "clamp">,
  I32EnumAttrCase<"PNorm", 3, "pnorm">,
  I32EnumAttrCase<"Count", 4, "count">]>;
def MoE_WeighNormAttr : MoE_EnumAttr<MoE_WeighNorm, "weigh_norm">;

def MoE_WeighSource : MoE_Enum<"WeighSource",
    "what a fused gating takes its weights from", [
  I32EnumAttrCase<"Score", 0, "score">,
  I32EnumAttrCase<"Logit", 1, "logit">,
  I32EnumAttrCase<"Operand", 2, "operand">]>;
def MoE_WeighSourceAttr : MoE_EnumAttr<MoE_WeighSource, "weigh_source">;

def MoE_CapacityRound : MoE_Enum<"CapacityRound", "rounding of a capacity", [
  I32EnumAttrCase<"Floor", 0, "floor">,
  I32EnumAttrCase<"Ceil", 1, "ceil">,
  I32EnumAttrCase<"Nearest", 2, "nearest">]>;

def MoE_CapacityOrder : MoE_Enum<"CapacityOrder",
    "order in which entries ask for room at their expert", [
  I32EnumAttrCase<"Choice", 0, "choice">,
  I32EnumAttrCase<"BPR", 1, "bpr">,
  I32EnumAttrCase<"PerExpert", 2, "per_expert">,
  I32EnumAttrCase<"Token", 3, "token">]>;
def MoE_CapacityOrderAttr : MoE_EnumAttr<MoE_CapacityOrder, "capacity_order">;

def MoE_BlendMode : MoE_Enum<"BlendMode",
    "how routed and shared experts divide a token's weight", [
  I32EnumAttrCase<"Joint", 0, "joint">,
  I32EnumAttrCase<"SoftmaxMass", 1, "softmax_mass">]>;
def MoE_BlendModeAttr : MoE_EnumAttr<MoE_BlendMode, "blend_mode">;

def MoE_RemapPolicy : MoE_Enum<"RemapPolicy", "which replica of an expert is taken", [
  I32EnumAttrCase<"RoundRobin", 0, "round_robin">,
  I32EnumAttrCase<"LeastLoaded", 1, "least_loaded">]>;
def MoE_RemapPolicyAttr : MoE_EnumAttr<MoE_RemapPolicy, "remap_policy">;

def MoE_CombineWeight : MoE_Enum<"CombineWeight", "whether combining multiplies by the weights", [
  I32EnumAttrCase<"Output", 0, "output">,
  I32EnumAttrCase<"AlreadyApplied", 1, "already_applied">]>;
def MoE_CombineWeightAttr : MoE_EnumAttr<MoE_CombineWeight, "combine_weight">;

def MoE_Accum : MoE_Enum<"Accum", "type in which a token's rows are summed", [
  I32EnumAttrCase<"F32", 0, "f32">,
  I32EnumAttrCase<"Native", 1, "native">]>;
def MoE_AccumAttr : MoE_EnumAttr<MoE_Accum, "accum">;

def MoE_Merge : MoE_Enum<"Merge", "how routed and shared results are put together", [
  I32EnumAttrCase<"Add", 0, "add">,
  I32EnumAttrCase<"Average", 1, "average">]>;
def MoE_MergeAttr : MoE_EnumAttr<MoE_Merge, "merge">;

def MoE_ExpertKind : MoE_Enum<"ExpertKind", "what an expert computes", [
  I32EnumAttrCase<"FFN", 0, "ffn">,
  I32EnumAttrCase<"Zero", 1, "zero">,
  I32EnumAttrCase<"Identity", 2, "identity">,
  I32EnumAttrCase<"Constant", 3, "constant">]>;

def MoE_AuxKind : MoE_Enum<"AuxKind", "an auxiliary output of the router", [
  I32EnumAttrCase<"LoadBalance", 0, "load_balance">,
  I32EnumAttrCase<"ZLoss", 1, "z_loss">,
  I32EnumAttrCase<"ImportanceCV2", 2, "importance_cv2">,
  I32EnumAttrCase<"LoadCV2", 3, "load_cv2">,
  I32EnumAttrCase<"TokensPerExpert", 4, "tokens_per_expert">,
  I32EnumAttrCase<"MeanProbability", 5, "mean_probability">,
  I32EnumAttrCase<"Entropy", 6, "entropy">]>;
def MoE_AuxKindAttr : MoE_EnumAttr<MoE_AuxKind, "aux_kind">;

def MoE_AuxFraction : MoE_Enum<"AuxFraction", "entries that a load counts", [
  I32EnumAttrCase<"First", 0, "first">,
  I32EnumAttrCase<"All", 1, "all">]>;
def MoE_AuxFractionAttr : MoE_EnumAttr<MoE_AuxFraction, "aux_fraction">;

def MoE_LoadVariant : MoE_Enum<"LoadVariant", "estimate of the load under noise", [
  I32EnumAttrCase<"Shazeer", 0, "shazeer">,
  I32EnumAttrCase<"VMoE", 1, "vmoe">]>;
def MoE_LoadVariantAttr : MoE_EnumAttr<MoE_LoadVariant, "load_variant">;

def MoE_BiasRule : MoE_Enum<"BiasRule", "how a selection bias follows the load", [
  I32EnumAttrCase<"Sign", 0, "sign">,
  I32EnumAttrCase<"Proportional", 1, "proportional">]>;
def MoE_BiasRuleAttr : MoE_EnumAttr<MoE_BiasRule, "bias_rule">;

def MoE_ActivationKind : MoE_Enum<"ActivationKind", "activation of an expert", [
  I32EnumAttrCase<"Identity", 0, "identity">,
  I32EnumAttrCase<"Relu", 1, "relu">,
  I32EnumAttrCase<"Gelu", 2, "gelu">,
  I32EnumAttrCase<"GeluTanh", 3, "gelu_tanh">,
  I32EnumAttrCase<"Silu", 4, "silu">,
  I32EnumAttrCase<"Relu2", 5, "relu2">]>;

def MoE_ActivationClamp : MoE_Enum<"ActivationClamp", "what an activation's limit bounds", [
  I32EnumAttrCase<"Pre", 0, "pre">,
  I32EnumAttrCase<"Post", 1, "post">]>;

def MoE_Glu : MoE_Enum<"Glu", "where the gate rows of a gated expert are", [
  I32EnumAttrCase<"None", 0, "none">,
  I32EnumAttrCase<"Interleaved", 1, "interleaved">,
  I32EnumAttrCase<"Concat", 2, "concat">,
  I32EnumAttrCase<"Separate", 3, "separate">]>;

def MoE_QuantizedPart : MoE_Enum<"QuantizedPart", "an operand of moe.dequantize", [
  I32EnumAttrCase<"Codes", 0, "codes">,
  I32EnumAttrCase<"Scales", 1, "scales">,
  I32EnumAttrCase<"ZeroPoints", 2, "zero_points">]>;

def MoE_Layout : MoE_Enum<"Layout", "order of a weight's last two dimensions", [
  I32EnumAttrCase<"OutIn", 0, "out_in">,
  I32EnumAttrCase<"InOut", 1, "in_out">]>;
def MoE_LayoutAttr : MoE_EnumAttr<MoE_Layout, "layout">;

#endif
