// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Source: the operator schemas of ONNX, operator sets 11 to 28.

#include "moec/Dialect/ONNX/IR/Operators.h"

#include "moec/Support/Suggest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSwitch.h"

#include <climits>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

using Table = llvm::StringMap<OperatorSignature>;

static void addAttributes(Table &table) {
  auto set = [&](std::initializer_list<StringRef> ops, std::initializer_list<StringRef> names) {
    for (StringRef op : ops)
      table[op].attributes.assign(names);
  };
  set({"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
       "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"},
      {"axes", "keepdims", "noop_with_empty_axes"});
  set({"Concat", "Flatten", "Gather", "GatherElements", "Hardmax", "LogSoftmax", "OneHot",
       "Softmax"},
      {"axis"});
  set({"Celu", "Elu", "LeakyRelu", "SwiGLU", "Swish", "ThresholdedRelu"}, {"alpha"});
  set({"Squeeze", "Unsqueeze"}, {"axes"});
  set({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"},
      {"axis", "epsilon", "stash_type"});
  set({"Conv"}, {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"});
  set({"DequantizeLinear"}, {"axis", "block_size", "output_dtype"});
  set({"QuantizeLinear"}, {"axis", "block_size", "output_dtype", "precision", "saturate"});
  set({"BitShift"}, {"direction"});
  set({"Shrink"}, {"bias", "lambd"});
  set({"Einsum"}, {"equation"});
  set({"ArgMax", "ArgMin"}, {"axis", "keepdims", "select_last_index"});
  set({"Attention"},
      {"is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "qk_matmul_output_mode",
       "right_window_size", "scale", "softcap", "softmax_precision"});
  set({"RotaryEmbedding"}, {"interleaved", "num_heads", "rotary_embedding_dim"});
  set({"com.microsoft.FusedMatMul"}, {"alpha", "transA", "transB", "transBatchA", "transBatchB"});
  set({"com.microsoft.MatMulNBits"},
      {"K", "N", "accuracy_level", "bits", "block_size", "weight_prepacked"});
  set({"com.microsoft.MultiHeadAttention"},
      {"mask_filter_value", "num_heads", "scale", "unidirectional"});
  set({"com.microsoft.RotaryEmbedding"},
      {"interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim", "scale"});
  set({"com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"},
      {"epsilon"});
  set({"If"}, {"else_branch", "then_branch"});
  set({"Loop"}, {"body"});
  set({"Scan"}, {"body", "num_scan_inputs", "scan_input_axes", "scan_input_directions",
                 "scan_output_axes", "scan_output_directions"});
  set({"SequenceEmpty"}, {"dtype"});
  set({"SplitToSequence"}, {"axis", "keepdims"});
  set({"ConcatFromSequence"}, {"axis", "new_axis"});
  set({"Reshape"}, {"allowzero"});
  set({"HardSigmoid"}, {"alpha", "beta"});
  set({"Gemm"}, {"alpha", "beta", "transA", "transB"});
  set({"Selu"}, {"alpha", "gamma"});
  set({"Gelu"}, {"approximate"});
  set({"TopK"}, {"axis", "largest", "sorted"});
  set({"Split"}, {"axis", "num_outputs", "split"});
  set({"ScatterElements"}, {"axis", "reduction"});
  set({"GatherND"}, {"batch_dims"});
  set({"IsInf"}, {"detect_negative", "detect_positive"});
  set({"Shape"}, {"end", "start"});
  set({"CumSum"}, {"exclusive", "reverse"});
  set({"Mod"}, {"fmod"});
  set({"Transpose"}, {"perm"});
  set({"Dropout"}, {"ratio", "seed"});
  set({"ScatterND"}, {"reduction"});
  set({"CastLike"}, {"round_mode", "saturate"});
  set({"Cast"}, {"round_mode", "saturate", "to"});
  set({"Constant"}, {"sparse_value", "value", "value_float", "value_floats", "value_int",
                     "value_ints", "value_string", "value_strings"});
  set({"Range"}, {"stash_type"});
  set({"Trilu"}, {"upper"});
  set({"Compress"}, {"axis"});
  set({"Pad"}, {"mode"});
  set({"ConstantOfShape"}, {"value"});
}

StringRef mlir::moe::onnx::lookupAttributeKind(StringRef name) {
  return llvm::StringSwitch<StringRef>(name)
      .Cases({"allowzero", "axis", "batch_dims", "block_size", "detect_negative", "detect_positive",
              "end"},
             "an integer")
      .Cases({"exclusive", "fmod", "group", "keepdims", "largest", "noop_with_empty_axes",
              "num_outputs", "output_dtype", "precision"},
             "an integer")
      .Cases({"dtype", "new_axis", "num_scan_inputs"}, "an integer")
      .Cases({"K", "N", "accuracy_level", "bits", "interleaved"}, "an integer")
      .Cases({"is_causal", "is_packed_batching", "kv_num_heads", "left_window_size", "num_heads"},
             "an integer")
      .Cases({"q_num_heads", "qk_matmul_output_mode", "right_window_size", "rotary_embedding_dim"},
             "an integer")
      .Cases(
          {"softmax_precision", "transBatchA", "transBatchB", "unidirectional", "weight_prepacked"},
          "an integer")
      .Cases({"reverse", "saturate", "seed", "select_last_index", "sorted", "start"}, "an integer")
      .Cases({"stash_type", "to", "transA", "transB", "upper", "value_int"}, "an integer")
      .Cases({"alpha", "beta", "bias", "epsilon", "gamma", "lambd", "ratio", "value_float"},
             "a number")
      .Cases({"approximate", "auto_pad", "direction", "equation", "mode", "reduction", "round_mode",
              "value_string"},
             "a string")
      .Cases(
          {"axes", "dilations", "kernel_shape", "pads", "perm", "split", "strides", "value_ints"},
          "a list of integers")
      .Cases({"scan_input_axes", "scan_input_directions", "scan_output_axes",
              "scan_output_directions"},
             "a list of integers")
      .Cases({"mask_filter_value", "scale", "softcap"}, "a number")
      .Case("value_floats", "a list of numbers")
      .Case("value_strings", "a list of strings")
      .Cases({"sparse_value", "value"}, "a tensor")
      .Cases({"body", "else_branch", "then_branch"}, "a graph")
      .Default("");
}

static Table makeTable() {
  Table table;
  auto add = [&](OperatorSignature counts, std::initializer_list<StringRef> ops) {
    for (StringRef op : ops)
      table[op] = counts;
  };
  add({0, 0, 1}, {"Constant"});
  add({1, 1, 1}, {"Abs",         "Acos",
                  "Acosh",       "ArgMax",
                  "ArgMin",      "Asin",
                  "Asinh",       "Atan",
                  "Atanh",       "BitwiseNot",
                  "Cast",        "Ceil",
                  "Celu",        "ConstantOfShape",
                  "Cos",         "Cosh",
                  "Elu",         "Erf",
                  "Exp",         "Flatten",
                  "Floor",       "Gelu",
                  "HardSigmoid", "HardSwish",
                  "Hardmax",     "Identity",
                  "IsInf",       "IsNaN",
                  "LeakyRelu",   "Log",
                  "LogSoftmax",  "Mish",
                  "Neg",         "NonZero",
                  "Not",         "Reciprocal",
                  "Relu",        "Round",
                  "Selu",        "Shape",
                  "Sigmoid",     "Sign",
                  "Sin",         "Sinh",
                  "Size",        "Softmax",
                  "Softplus",    "Softsign",
                  "Sqrt",        "Tan",
                  "Tanh",        "ThresholdedRelu",
                  "Transpose"});
  add({1, 2, 1},
      {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
       "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Squeeze", "Trilu", "Unsqueeze"});
  add({1, 2, UINT_MAX}, {"Split"});
  add({1, 3, 1}, {"Clip"});
  add({1, 3, 2}, {"Dropout"});
  add({1, UINT_MAX, 1}, {"Concat", "Einsum", "Max", "Mean", "Min", "Sum"});
  add({2, 2, 1}, {"Add",       "And",         "BitwiseAnd",
                  "BitwiseOr", "BitwiseXor",  "CastLike",
                  "CumSum",    "Div",         "Equal",
                  "Expand",    "Gather",      "GatherElements",
                  "GatherND",  "Greater",     "GreaterOrEqual",
                  "Less",      "LessOrEqual", "MatMul",
                  "Mod",       "Mul",         "Or",
                  "PRelu",     "Pow",         "RMSNormalization",
                  "Reshape",   "Sub",         "Tile",
                  "Xor"});
  add({1, 1, 1}, {"GlobalAveragePool", "GlobalMaxPool", "Shrink", "Swish"});
  add({1, 1, 3}, {"DynamicQuantizeLinear"});
  add({2, 3, 1}, {"Conv", "DequantizeLinear", "QuantizeLinear"});
  add({2, 2, 1}, {"BitShift", "SwiGLU"});
  add({2, 2, 1}, {"Compress"});
  add({2, 2, 2}, {"TopK"});
  add({2, 4, 1}, {"Pad"});
  add({2, 3, 1}, {"Gemm"});
  add({2, 3, 3}, {"LayerNormalization"});
  add({2, 4, 1}, {"MatMulInteger"});
  // No schema of ONNX, but optimizers write it in ONNX's domain.
  add({2, 2, 2}, {"SimplifiedLayerNormalization"});
  add({3, 3, 1}, {"OneHot", "Range", "ScatterElements", "ScatterND", "Where"});
  add({0, UINT_MAX, UINT_MAX}, {"Loop"});
  add({1, 1, UINT_MAX}, {"If"});
  add({1, UINT_MAX, UINT_MAX}, {"Scan"});
  add({0, 0, 1}, {"SequenceEmpty"});
  add({1, 1, 1}, {"ConcatFromSequence", "SequenceLength"});
  add({1, 2, 1}, {"SequenceErase", "SplitToSequence"});
  add({1, UINT_MAX, 1}, {"SequenceConstruct"});
  add({2, 2, 1}, {"SequenceAt"});
  add({2, 3, 1}, {"SequenceInsert"});
  add({3, 5, 1}, {"Slice"});
  add({3, 4, 1}, {"RotaryEmbedding"});
  add({3, 7, 4}, {"Attention"});
  add({1, 10, 4}, {"com.microsoft.MultiHeadAttention"});
  add({2, 2, 1}, {"com.microsoft.FusedMatMul"});
  add({3, 4, 4}, {"com.microsoft.SkipSimplifiedLayerNormalization"});
  add({3, 5, 4}, {"com.microsoft.SkipLayerNormalization"});
  add({3, 6, 1}, {"com.microsoft.MatMulNBits"});
  add({4, 4, 1}, {"com.microsoft.RotaryEmbedding"});
  addAttributes(table);
  return table;
}

static const Table &getTable() {
  static const Table table = makeTable();
  return table;
}

const OperatorSignature *mlir::moe::onnx::lookupSignature(StringRef opType) {
  auto it = getTable().find(opType);
  return it == getTable().end() ? nullptr : &it->second;
}

/// The operators of ai.onnx that are not in the table above.
static constexpr StringLiteral otherOperators[] = {"AffineGrid",
                                                   "AveragePool",
                                                   "BatchNormalization",
                                                   "Bernoulli",
                                                   "BitCast",
                                                   "BlackmanWindow",
                                                   "CausalConvWithState",
                                                   "CenterCropPad",
                                                   "Col2Im",
                                                   "ConvInteger",
                                                   "ConvTranspose",
                                                   "CumProd",
                                                   "DFT",
                                                   "DeformConv",
                                                   "DepthToSpace",
                                                   "Det",
                                                   "EyeLike",
                                                   "GRU",
                                                   "GlobalLpPool",
                                                   "GridSample",
                                                   "GroupNormalization",
                                                   "HammingWindow",
                                                   "HannWindow",
                                                   "ImageDecoder",
                                                   "InstanceNormalization",
                                                   "LRN",
                                                   "LSTM",
                                                   "LinearAttention",
                                                   "LpNormalization",
                                                   "LpPool",
                                                   "MaxPool",
                                                   "MaxRoiPool",
                                                   "MaxUnpool",
                                                   "MeanVarianceNormalization",
                                                   "MelWeightMatrix",
                                                   "Multinomial",
                                                   "NegativeLogLikelihoodLoss",
                                                   "NonMaxSuppression",
                                                   "Optional",
                                                   "OptionalGetElement",
                                                   "OptionalHasElement",
                                                   "QLinearConv",
                                                   "QLinearMatMul",
                                                   "RNN",
                                                   "RandomNormal",
                                                   "RandomNormalLike",
                                                   "RandomUniform",
                                                   "RandomUniformLike",
                                                   "RegexFullMatch",
                                                   "Resize",
                                                   "ReverseSequence",
                                                   "RoiAlign",
                                                   "STFT",
                                                   "Scatter",
                                                   "SequenceMap",
                                                   "SoftmaxCrossEntropyLoss",
                                                   "SpaceToDepth",
                                                   "StringConcat",
                                                   "StringNormalizer",
                                                   "StringSplit",
                                                   "TensorScatter",
                                                   "TfIdfVectorizer",
                                                   "Unique",
                                                   "Upsample"};

bool mlir::moe::onnx::isStandardOperator(StringRef opType) {
  return (!opType.contains('.') && lookupSignature(opType)) ||
         llvm::is_contained(otherOperators, opType);
}

/// The operator's name without its domain.
static StringRef dropDomain(StringRef opType) {
  return opType.contains('.') ? opType.rsplit('.').second : opType;
}

StringRef mlir::moe::onnx::suggestOperator(StringRef opType) {
  static const StringRef contrib[] = {"com.microsoft.MoE", "com.microsoft.QMoE"};
  if (isStandardOperator(opType) || lookupSignature(opType) || llvm::is_contained(contrib, opType))
    return {};
  // Names without their domains, and what they stand for. Other domains have
  // operators of their own; only for MoE is another domain a likely mistake.
  SmallVector<StringRef> names, operators(std::begin(contrib), std::end(contrib));
  if (!opType.contains('.')) {
    llvm::copy_if(getTable().keys(), std::back_inserter(operators),
                  [](StringRef name) { return !name.contains('.'); });
    llvm::append_range(operators, otherOperators);
    llvm::sort(MutableArrayRef(operators).drop_front(std::size(contrib)));
  }
  llvm::transform(operators, std::back_inserter(names), dropDomain);
  StringRef nearest = findNearestName(dropDomain(opType), names);
  return nearest.empty() ? StringRef() : operators[llvm::find(names, nearest) - names.begin()];
}
