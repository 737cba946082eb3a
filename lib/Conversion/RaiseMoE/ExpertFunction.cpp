// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "ExpertFunction.h"

#include "mlir/IR/Matchers.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Constants of models are rounded to their type.
bool isNear(double lhs, double rhs) { return std::abs(lhs - rhs) <= 4e-3 * std::abs(rhs); }

class Matcher {
public:
  Matcher(int64_t expert, Refusal &refusal) : expert(expert), refusal(refusal) {}
  FailureOr<ExpertFunction> match(const Node *root);

private:
  const Node *strip(const Node *node);
  onnx::NodeOp asOp(const Node *node, StringRef type);
  std::optional<double> scalar(const Node *node);
  LogicalResult refuse(const Node *node, const Twine &reason) {
    return refusal.refuse(node->at ? node->at->getResult(0) : Value(), reason);
  }

  bool matchLayer(const Node *node, LinearLayer &layer, const Node *&input);
  void collectFactors(const Node *node, SmallVectorImpl<const Node *> &factors);
  bool removeFactor(SmallVectorImpl<const Node *> &factors,
                    llvm::function_ref<bool(const Node *)> fits);

  /// f(v) with its parameter.
  struct Function {
    ActivationKind kind = ActivationKind::Identity;
    double alpha = 1;
    const Node *argument = nullptr;
  };
  std::optional<Function> matchUnary(const Node *node);
  std::optional<Function> matchProduct(SmallVectorImpl<const Node *> &factors);
  const Node *stripClamp(const Node *node, std::optional<double> &low, std::optional<double> &high);
  const Node *matchScaled(const Node *node, double &scale);
  LogicalResult matchParts(const Node *gate, const Node *linear, const Node *at,
                           ExpertFunction &result, Glu &glu, const Node *&x);

  int64_t expert;
  Refusal &refusal;
};

} // namespace

/// What the node is for this expert, and without casts between float types.
const Node *Matcher::strip(const Node *node) {
  while (true) {
    if (node->kind == Node::Segment) {
      node = node->operands[0];
    } else if (node->kind == Node::Experts) {
      node = node->operands[expert];
    } else if (asOp(node, "Cast") || asOp(node, "CastLike")) {
      node = node->operands[0];
    } else {
      return node;
    }
  }
}

onnx::NodeOp Matcher::asOp(const Node *node, StringRef type) {
  auto op = node->kind == Node::Elementwise ? cast<onnx::NodeOp>(node->at) : onnx::NodeOp();
  return op && op.isOp(type) ? op : onnx::NodeOp();
}

/// The value of a constant that is one number.
std::optional<double> Matcher::scalar(const Node *node) {
  if (node->kind != Node::Leaf || !node->view)
    return std::nullopt;
  if (node->view->kind == Fact::Splat)
    return node->view->value;
  DenseElementsAttr elements = onnx::getConstantValue(node->view->src);
  if (!elements || elements.empty() || !isa<FloatType>(elements.getElementType()) ||
      !(elements.isSplat() || elements.getNumElements() == 1))
    return std::nullopt;
  return elements.getSplatValue<APFloat>().convertToDouble();
}

/// A product, with at most one bias added.
bool Matcher::matchLayer(const Node *node, LinearLayer &layer, const Node *&input) {
  node = strip(node);
  if (asOp(node, "Add") || asOp(node, "Gemm") || asOp(node, "com.microsoft.MatMulNBits")) {
    const Node *lhs = strip(node->operands[0]), *rhs = strip(node->operands[1]);
    if (lhs->kind == Node::Leaf)
      std::swap(lhs, rhs);
    if (rhs->kind != Node::Leaf || !Facts::isConstant(rhs->view) || !rhs->out)
      return false;
    layer.bias = rhs;
    node = lhs;
  }
  if (node->kind != Node::Linear)
    return false;
  layer.product = node;
  input = strip(node->operands[0]);
  return true;
}

void Matcher::collectFactors(const Node *node, SmallVectorImpl<const Node *> &factors) {
  node = strip(node);
  if (!asOp(node, "Mul")) {
    factors.push_back(node);
    return;
  }
  for (const Node *operand : node->operands)
    collectFactors(operand, factors);
}

/// v times a constant: v, and the constant.
const Node *Matcher::matchScaled(const Node *node, double &scale) {
  node = strip(node);
  scale = 1;
  bool isMul = bool(asOp(node, "Mul")), isDiv = bool(asOp(node, "Div"));
  if (!isMul && !isDiv)
    return node;
  for (unsigned i : {1, 0}) {
    std::optional<double> constant = scalar(node->operands[i]);
    if (!constant || (isDiv && (i == 0 || *constant == 0)))
      continue;
    scale = isMul ? *constant : 1 / *constant;
    return strip(node->operands[1 - i]);
  }
  return node;
}

/// Operators that are an activation by themselves.
std::optional<Matcher::Function> Matcher::matchUnary(const Node *node) {
  node = strip(node);
  auto make = [&](ActivationKind kind, double alpha = 1) {
    return Function{kind, alpha, strip(node->operands[0])};
  };
  if (asOp(node, "Relu"))
    return make(ActivationKind::Relu);
  if (onnx::NodeOp op = asOp(node, "Gelu"))
    return make(op.getStringAttr("approximate", "none") == "tanh" ? ActivationKind::GeluTanh
                                                                  : ActivationKind::Gelu);
  if (asOp(node, "com.microsoft.Gelu"))
    return make(ActivationKind::Gelu);
  if (asOp(node, "com.microsoft.FastGelu") && node->operands.size() == 1)
    return make(ActivationKind::GeluTanh);
  if (onnx::NodeOp op = asOp(node, "Swish"))
    return make(ActivationKind::Silu, op.getFloatAttr("alpha", 1));
  if (onnx::NodeOp op = asOp(node, "com.microsoft.QuickGelu"))
    return make(ActivationKind::Silu, op.getFloatAttr("alpha", 1.702f));
  return std::nullopt;
}

/// Removes the first factor that fits.
bool Matcher::removeFactor(SmallVectorImpl<const Node *> &factors,
                           llvm::function_ref<bool(const Node *)> fits) {
  for (auto it = factors.begin(); it != factors.end(); ++it) {
    if (!fits(*it))
      continue;
    factors.erase(it);
    return true;
  }
  return false;
}

/// An activation spelled as a product: v · sigmoid(alpha · v), v · ½ · (1 + erf(v / √2)) and
/// its tanh form, max(v, 0)². Its factors are removed.
std::optional<Matcher::Function> Matcher::matchProduct(SmallVectorImpl<const Node *> &factors) {
  for (const Node *factor : factors) {
    if (asOp(factor, "Sigmoid")) {
      double alpha;
      const Node *argument = matchScaled(factor->operands[0], alpha);
      // The scaled value may itself be the factor.
      const Node *whole = strip(factor->operands[0]);
      bool isWhole = llvm::is_contained(factors, whole);
      Function function{ActivationKind::Silu, isWhole ? 1 : alpha, isWhole ? whole : argument};
      if (!llvm::is_contained(factors, function.argument))
        continue;
      removeFactor(factors, [&](const Node *n) { return n == factor; });
      removeFactor(factors, [&](const Node *n) { return n == function.argument; });
      return function;
    }
    if (asOp(factor, "Add")) {
      auto isOne = [&](const Node *n) { return scalar(n) == 1.0; };
      const Node *inner = isOne(factor->operands[0])   ? strip(factor->operands[1])
                          : isOne(factor->operands[1]) ? strip(factor->operands[0])
                                                       : nullptr;
      if (!inner)
        continue;
      Function function;
      if (asOp(inner, "Erf")) {
        double scale;
        function.kind = ActivationKind::Gelu;
        function.argument = matchScaled(inner->operands[0], scale);
        if (!isNear(scale, std::sqrt(0.5)))
          continue;
      } else if (asOp(inner, "Tanh")) {
        // tanh(√(2/π) · (v + 0.044715 · v³)).
        double scale;
        const Node *sum = matchScaled(inner->operands[0], scale);
        if (!isNear(scale, std::sqrt(2 / M_PI)) || !asOp(sum, "Add"))
          continue;
        function.kind = ActivationKind::GeluTanh;
        for (unsigned i : {0, 1}) {
          double cubic;
          const Node *cube = matchScaled(sum->operands[i], cubic);
          const Node *v = strip(sum->operands[1 - i]);
          if (isNear(cubic, 0.044715) && asOp(cube, "Pow") && scalar(cube->operands[1]) == 3.0 &&
              strip(cube->operands[0]) == v)
            function.argument = v;
        }
      }
      if (!function.argument)
        continue;
      SmallVector<const Node *> rest(factors.begin(), factors.end());
      bool complete = removeFactor(rest, [&](const Node *n) { return n == factor; }) &&
                      removeFactor(rest, [&](const Node *n) { return n == function.argument; }) &&
                      removeFactor(rest, [&](const Node *n) { return scalar(n) == 0.5; });
      if (!complete)
        continue;
      factors.assign(rest.begin(), rest.end());
      return function;
    }
    if (asOp(factor, "Relu") && llvm::count(factors, factor) == 2) {
      Function function{ActivationKind::Relu2, 1, strip(factor->operands[0])};
      llvm::erase(factors, factor);
      return function;
    }
  }
  for (const Node *factor : factors) {
    if (asOp(factor, "Pow") && scalar(factor->operands[1]) == 2.0) {
      const Node *base = strip(factor->operands[0]);
      if (!asOp(base, "Relu"))
        continue;
      Function function{ActivationKind::Relu2, 1, strip(base->operands[0])};
      removeFactor(factors, [&](const Node *n) { return n == factor; });
      return function;
    }
    if (std::optional<Function> function = matchUnary(factor)) {
      removeFactor(factors, [&](const Node *n) { return n == factor; });
      return function;
    }
  }
  return std::nullopt;
}

/// Clip, Min and Max with constants.
const Node *Matcher::stripClamp(const Node *node, std::optional<double> &low,
                                std::optional<double> &high) {
  node = strip(node);
  while (true) {
    if (onnx::NodeOp op = asOp(node, "Clip")) {
      auto bound = [&](unsigned position) -> std::optional<double> {
        DenseElementsAttr value =
            op.getInput(position) ? onnx::getConstantValue(op.getInput(position)) : nullptr;
        return value && value.getNumElements() == 1
                   ? std::optional(value.getSplatValue<APFloat>().convertToDouble())
                   : std::nullopt;
      };
      std::optional<double> min = bound(1), max = bound(2);
      if ((op.getInput(1) && !min) || (op.getInput(2) && !max) || (min && low) || (max && high))
        return node;
      low = min ? min : low;
      high = max ? max : high;
      node = strip(node->operands[0]);
      continue;
    }
    bool isMin = bool(asOp(node, "Min")), isMax = bool(asOp(node, "Max"));
    std::optional<double> &bound = isMin ? high : low;
    if ((!isMin && !isMax) || node->operands.size() != 2 || bound)
      return node;
    bool isFirst = scalar(node->operands[0]).has_value();
    std::optional<double> constant = scalar(node->operands[isFirst ? 0 : 1]);
    if (!constant)
      return node;
    bound = constant;
    node = strip(node->operands[isFirst ? 1 : 0]);
  }
}

/// The two parts as halves of one product, or two products.
LogicalResult Matcher::matchParts(const Node *gate, const Node *linear, const Node *at,
                                  ExpertFunction &result, Glu &glu, const Node *&x) {
  gate = strip(gate);
  linear = strip(linear);
  if (gate->kind == Node::Columns && linear->kind == Node::Columns) {
    const Node *whole = strip(gate->operands[0]);
    int64_t count = gate->columns;
    if (whole != strip(linear->operands[0]) || whole->columns != 2 * count)
      return refuse(gate, "gate and linear part are not the halves of one product");
    bool areHalves = gate->step == 1 && linear->step == 1 && linear->columns == count;
    bool isLinearFirst = areHalves && linear->start == 0 && gate->start == count;
    if (areHalves && gate->start == 0 && linear->start == count)
      glu = Glu::Concat;
    else if (isLinearFirst)
      glu = Glu::Separate; // as two weights
    else if (gate->step == 2 && linear->step == 2 && gate->start == 0 && linear->start == 1)
      glu = Glu::Interleaved;
    else
      return refuse(gate, "expected the gate and the linear part in halves, or in turn with the "
                          "gate first");
    if (!matchLayer(whole, result.up, x))
      return refuse(whole, "expected a product with the experts' first weight");
    if (!isLinearFirst)
      return success();
    result.gate = result.up;
    result.up.count = result.gate.count = result.gate.start = count;
    return success();
  }
  const Node *other = nullptr;
  glu = Glu::Separate;
  if (!matchLayer(gate, result.gate, x) || !matchLayer(linear, result.up, other))
    return refuse(at, "expected products with the experts' gate and up weights");
  auto areSameRows = [](const Fact *lhs, const Fact *rhs) {
    return lhs->kind == rhs->kind && lhs->src == rhs->src &&
           bool(lhs->weight) == bool(rhs->weight) &&
           (!lhs->weight || lhs->weight->src == rhs->weight->src);
  };
  return x == other || (x->kind == Node::Leaf && other->kind == Node::Leaf &&
                        areSameRows(x->view, other->view))
             ? success()
             : refuse(linear, "gate and up do not read the same rows");
}

FailureOr<ExpertFunction> Matcher::match(const Node *root) {
  ExpertFunction result;
  const Node *hidden = nullptr, *x = nullptr;
  root = matchScaled(root, result.scale);
  if (!matchLayer(root, result.down, hidden))
    return refuse(strip(root), "expected the product with the experts' last weight");

  SmallVector<const Node *> factors;
  collectFactors(hidden, factors);
  std::optional<double> gateLow, limit, linearLow, linearHigh;
  double beta = 0;
  Glu glu = Glu::None;
  std::optional<Function> function;
  LinearLayer plain;
  if (factors.size() == 1 && matchLayer(factors[0], plain, x))
    function = Function{ActivationKind::Identity, 1, factors[0]};
  else
    function = matchProduct(factors);
  if (!function || factors.size() > 1)
    return refuse(hidden, "expected an activation of the product with the experts' first weight, "
                          "perhaps times a linear part");
  if (function->kind == ActivationKind::Identity)
    factors.clear();
  if (factors.empty()) {
    if (!matchLayer(function->argument, result.up, x))
      return refuse(function->argument, "expected the product with the experts' first weight");
  } else {
    const Node *linear = factors[0];
    if (asOp(linear, "Add")) {
      for (unsigned i : {0, 1}) {
        std::optional<double> constant = scalar(linear->operands[i]);
        if (!constant)
          continue;
        beta = *constant;
        linear = strip(linear->operands[1 - i]);
        break;
      }
    }
    const Node *gate = stripClamp(function->argument, gateLow, limit);
    linear = stripClamp(linear, linearLow, linearHigh);
    bool clamped = limit || linearLow || linearHigh;
    if (gateLow || (clamped && !(limit && linearLow && linearHigh && *linearHigh == *limit &&
                                 *linearLow == -*limit)))
      return refuse(hidden, "expected the gate at most a limit, and the linear part within it");
    if (failed(matchParts(gate, linear, hidden, result, glu, x)))
      return failure();
  }
  bool isInput = x->kind == Node::Leaf && x->view &&
                 (x->view->kind == Fact::View || x->view->kind == Fact::Scaled);
  if (!isInput)
    return refuse(x, "expected the experts' input");
  result.x = x->view;

  MLIRContext *context = root->at->getContext();
  Builder builder(context);
  auto optional = [&](double value, double fallback) {
    return value == fallback ? FloatAttr() : builder.getF32FloatAttr(value);
  };
  result.activation =
      ActivationAttr::get(context, function->kind, glu, optional(function->alpha, 1),
                          optional(beta, 0), limit ? builder.getF32FloatAttr(*limit) : FloatAttr());
  return result;
}

FailureOr<ExpertFunction> mlir::moe::matchExpertFunction(const Node *root, int64_t expert,
                                                         Refusal &refusal) {
  return Matcher(expert, refusal).match(root);
}
