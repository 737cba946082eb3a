// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Source: the operator schemas of ONNX, operator sets 11 to 28.

#include "OperatorCounts.h"

#include "llvm/ADT/StringMap.h"

#include <climits>

using namespace mlir;
using namespace mlir::moe::onnx;

using Table = llvm::StringMap<OperatorCounts>;

static Table makeTable() {
  Table table;
  auto add = [&](OperatorCounts counts, std::initializer_list<StringRef> ops) {
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
  add({1, UINT_MAX, 1}, {"Concat", "Max", "Mean", "Min", "Sum"});
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
  add({2, 2, 2}, {"TopK"});
  add({2, 3, 1}, {"Gemm"});
  add({2, 3, 3}, {"LayerNormalization"});
  add({3, 3, 1}, {"OneHot", "Range", "ScatterElements", "ScatterND", "Where"});
  add({3, 5, 1}, {"Slice"});
  return table;
}

const OperatorCounts *mlir::moe::onnx::lookupCounts(StringRef opType) {
  static const Table table = makeTable();
  auto it = table.find(opType);
  return it == table.end() ? nullptr : &it->second;
}
