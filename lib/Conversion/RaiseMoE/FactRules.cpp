// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The table of rules, by operator.

#include "FactBuilder.h"

using namespace mlir;
using namespace mlir::moe;

void Facts::visit(onnx::NodeOp node) { Builder(*this, node).run(); }

void Facts::Builder::run() {
  if (!node.getGraphs().empty() || node->getNumResults() == 0)
    return;
  auto rule = getRules().find(node.getOpType());
  const Fact *fact = rule == getRules().end() ? nullptr : (this->*rule->second)();
  if (fact) {
    f.facts[node.getResult(0)] = fact;
    return;
  }
  if (f.facts.contains(node.getResult(0)))
    return; // several results, set by the rule
  for (Value operand : node.getInputs()) {
    const Fact *lost = f.get(operand);
    if (lost && lost->promising && !node.isOp("Shape") && !node.isOp("SplitToSequence"))
      f.stops.push_back({node, lost});
  }
}

const llvm::StringMap<Facts::Builder::Rule> &Facts::Builder::getRules() {
  static const llvm::StringMap<Rule> rules = [] {
    llvm::StringMap<Rule> map;
    map["Reshape"] = &Builder::arrange;
    map["Flatten"] = &Builder::flattenTo2D;
    for (StringRef type : {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow"})
      map[type] = &Builder::binary;
    for (StringRef type : {"Sigmoid",
                           "Tanh",
                           "Relu",
                           "Gelu",
                           "Erf",
                           "Softplus",
                           "Exp",
                           "Neg",
                           "Abs",
                           "Sqrt",
                           "Mish",
                           "Elu",
                           "Swish",
                           "HardSwish",
                           "HardSigmoid",
                           "LeakyRelu",
                           "Softsign",
                           "Reciprocal",
                           "com.microsoft.QuickGelu",
                           "com.microsoft.FastGelu",
                           "com.microsoft.Gelu"})
      map[type] = &Builder::unary;
    map["Transpose"] = &Builder::transpose;
    map["Squeeze"] = &Builder::squeeze;
    map["Unsqueeze"] = &Builder::unsqueeze;
    map["Expand"] = &Builder::expand;
    map["Tile"] = &Builder::tile;
    map["Cast"] = &Builder::cast;
    map["CastLike"] = &Builder::cast;
    map["Gather"] = &Builder::gather;
    map["GatherND"] = &Builder::gatherND;
    map["Slice"] = &Builder::slice;
    map["Split"] = &Builder::split;
    map["Concat"] = &Builder::concat;
    map["Equal"] = &Builder::equal;
    for (StringRef type : {"Less", "GreaterOrEqual", "LessOrEqual", "Greater"})
      map[type] = &Builder::compare;
    map["And"] = &Builder::logicalAnd;
    map["NonZero"] = &Builder::nonZero;
    map["Range"] = &Builder::range;
    map["TopK"] = &Builder::topK;
    map["CumSum"] = &Builder::cumSum;
    map["ConstantOfShape"] = &Builder::constantOfShape;
    map["Constant"] = &Builder::constantOfShape;
    map["ScatterElements"] = &Builder::scatterElements;
    map["ScatterND"] = &Builder::scatterND;
    map["Clip"] = &Builder::clip;
    map["MatMul"] = &Builder::matMul;
    map["com.microsoft.MatMulNBits"] = &Builder::matMulNBits;
    map["Gemm"] = &Builder::gemm;
    map["Einsum"] = &Builder::einsum;
    map["ReduceSum"] = &Builder::reduceSum;
    map["Sum"] = &Builder::sumOf;
    map["SequenceAt"] = &Builder::sequenceAt;
    return map;
  }();
  return rules;
}

/// The value of all elements of a constant or splat.
std::optional<double> Facts::Builder::scalar(const Fact *fact) {
  if (!fact)
    return std::nullopt;
  if (fact->kind == Fact::Splat)
    return fact->value;
  if (!isConstant(fact) || !fact->casts.empty())
    return std::nullopt;
  DenseElementsAttr elements = onnx::getConstantValue(fact->src);
  if (!elements || elements.empty() || !(elements.isSplat() || elements.getNumElements() == 1))
    return std::nullopt;
  if (isa<FloatType>(elements.getElementType()))
    return elements.getSplatValue<APFloat>().convertToDouble();
  if (!isa<IntegerType>(elements.getElementType()))
    return std::nullopt;
  if (std::optional<SmallVector<int64_t>> values = onnx::getConstantInts(fact->src))
    return double(values->front());
  return std::nullopt;
}
