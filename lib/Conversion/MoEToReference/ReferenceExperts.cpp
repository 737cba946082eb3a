// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plain meaning of moe.dispatch, moe.grouped_matmul, moe.activate, moe.expert_ffn,
// moe.combine, moe.shared and moe.dequantize.

#include "Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::reference;

Rows reference::sortRows(ReferenceBuilder &b, const Routing &routing) {
  OpFoldResult tokens = b.size(routing.slots, 0);
  OpFoldResult capacity = b.scaled(tokens, routing.k);

  Value zero = b.index(0), one = b.index(1);
  SmallVector<Value> rows = {b.filled(capacity, zero), b.filled(capacity, zero),
                             b.filled({tokens, b.getIndexAttr(routing.k)}, b.index(-1)), zero};
  Value numTokens = b.value(tokens);
  rows = b.loop(b.index(routing.experts), rows, [&](Value e, ValueRange outer) {
    return b.loop(numTokens, outer, [&](Value t, ValueRange rows) {
      Value slot = b.rawAt(routing.slots, {t, e});
      auto append = [&]() -> SmallVector<Value> {
        Value row = rows[3], position = arith::IndexCastOp::create(b, b.getIndexType(), slot);
        return {b.insert(t, rows[0], row), b.insert(e, rows[1], row),
                b.insert(row, rows[2], {t, position}), b.add(row, one)};
      };
      return b.branch(b.isValid(slot), append, [&] { return SmallVector<Value>(rows); });
    });
  });
  return {rows[0], rows[1], rows[2], rows[3], capacity};
}

/// result[s, c] = element(s, c) for each row s < S and column c; zero past S.
static Value generateRows(ReferenceBuilder &b, const Rows &rows, OpFoldResult columns, Type type,
                          function_ref<Value(Value, Value)> element) {
  Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(type)));
  Value result = b.filled({rows.capacity, columns}, zero);
  Value numColumns = b.value(columns);
  return b.fold(rows.count, result, [&](Value s, Value result) {
    return b.fold(numColumns, result, [&](Value c, Value result) {
      return b.insert(element(s, c), result, {s, c});
    });
  });
}

Value reference::dispatch(ReferenceBuilder &b, Value x, const Routing &routing, const Rows &rows,
                          bool scaled, Type type) {
  return generateRows(b, rows, b.size(x, 1), type, [&](Value s, Value h) {
    Value t = b.rawAt(rows.tokens, s);
    Value element = b.at(x, {t, h});
    if (!scaled)
      return element;
    return b.mul(element, b.at(routing.weights, {t, b.rawAt(rows.experts, s)}));
  });
}

Value reference::groupedMatmul(ReferenceBuilder &b, Value input, const Rows &rows, const Bank &bank,
                               Type type) {
  bool outIn = bank.layout == Layout::OutIn;
  Value depth = b.value(b.size(input, 1));
  OpFoldResult width = b.size(bank.weight, outIn ? 1 : 2);
  return generateRows(b, rows, width, type, [&](Value s, Value n) {
    Value e = b.rawAt(rows.experts, s);
    Value product = b.sum(depth, [&](Value k) {
      Value w = b.at(bank.weight, outIn ? ValueRange{e, n, k} : ValueRange{e, k, n});
      return b.mul(b.at(input, {s, k}), w);
    });
    return bank.bias ? b.add(product, b.at(bank.bias, {e, n})) : product;
  });
}

//===----------------------------------------------------------------------===//
// Activation
//===----------------------------------------------------------------------===//

/// x · ½ · (1 + erf(x / √2))
static Value gelu(ReferenceBuilder &b, Value x) {
  Value erf = math::ErfOp::create(b, b.mul(x, b.constant(std::sqrt(0.5))));
  return b.mul(b.mul(x, b.constant(0.5)), b.add(b.constant(1), erf));
}

/// x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
static Value geluTanh(ReferenceBuilder &b, Value x) {
  Value cube = b.mul(x, b.mul(x, x));
  Value inner = b.add(x, b.mul(b.constant(0.044715), cube));
  Value tanh = math::TanhOp::create(b, b.mul(b.constant(std::sqrt(2.0 / M_PI)), inner));
  return b.mul(b.mul(x, b.constant(0.5)), b.add(b.constant(1), tanh));
}

static Value activationFunction(ReferenceBuilder &b, Value x, ActivationAttr activation) {
  switch (activation.getKind()) {
  case ActivationKind::Identity:
    return x;
  case ActivationKind::Relu:
    return b.max(x, b.constant(0));
  case ActivationKind::Gelu:
    return gelu(b, x);
  case ActivationKind::GeluTanh:
    return geluTanh(b, x);
  case ActivationKind::Silu:
    return b.mul(x, b.sigmoid(b.mul(b.constant(activation.getAlphaValue()), x)));
  case ActivationKind::Relu2: {
    Value positive = b.max(x, b.constant(0));
    return b.mul(positive, positive);
  }
  }
  llvm_unreachable("all activations are handled");
}

/// f(min(g, limit)) · (clamp(l, -limit, limit) + beta), or min(f(g), limit) · …
static Value gated(ReferenceBuilder &b, Value g, Value l, ActivationAttr activation) {
  bool clampsResult = activation.getClamp() == ActivationClamp::Post;
  Value limit = b.constant(activation.getLimitValue());
  if (activation.getLimit() && !clampsResult)
    g = b.min(g, limit);
  Value f = activationFunction(b, g, activation);
  if (clampsResult)
    f = b.min(f, limit);
  if (activation.getLimit())
    l = b.max(b.min(l, limit), b.constant(-activation.getLimitValue()));
  if (activation.getBeta())
    l = b.add(l, b.constant(activation.getBetaValue()));
  return b.mul(f, l);
}

/// Gate and linear part of column i of the result in row s.
static std::pair<Value, Value> gateAndLinear(ReferenceBuilder &b, Value input, Value linear,
                                             Glu glu, Value width, Value s, Value i) {
  switch (glu) {
  case Glu::None:
    break;
  case Glu::Interleaved: {
    Value column = b.mul(i, b.index(2));
    return {b.at(input, {s, column}), b.at(input, {s, b.add(column, b.index(1))})};
  }
  case Glu::Concat:
    return {b.at(input, {s, i}), b.at(input, {s, b.add(i, width)})};
  case Glu::Separate:
    return {b.at(input, {s, i}), b.at(linear, {s, i})};
  }
  llvm_unreachable("there is a gate");
}

Value reference::activate(ReferenceBuilder &b, Value input, Value linear, ActivationAttr activation,
                          Type type) {
  OpFoldResult width = b.size(input, 1);
  if (activation.isFused()) {
    if (auto columns = getConstantIntValue(width))
      width = b.getIndexAttr(*columns / 2);
    else
      width = Value(arith::DivUIOp::create(b, b.value(width), b.index(2)));
  }
  Value half = b.value(width);
  return b.generate({b.size(input, 0), width}, type, [&](ValueRange i) {
    if (activation.getGlu() == Glu::None)
      return activationFunction(b, b.at(input, i), activation);
    auto [g, l] = gateAndLinear(b, input, linear, activation.getGlu(), half, i[0], i[1]);
    return gated(b, g, l, activation);
  });
}

//===----------------------------------------------------------------------===//
// Networks and combination
//===----------------------------------------------------------------------===//

/// Rows whose experts are numbers of the banks: those of feed-forward networks. The rows
/// of other experts get the first one, and their results are not used.
static Rows rowsOfNetworks(ReferenceBuilder &b, const Rows &rows, ArrayRef<ExpertRange> kinds) {
  Rows result = rows;
  result.experts = b.generate(rows.capacity, b.getIndexType(), [&](ValueRange i) {
    Value e = b.rawAt(rows.experts, i), number = b.index(0);
    for (const ExpertRange &range : kinds) {
      if (range.kind != ExpertKind::FFN)
        continue;
      Value isIn =
          b.both(b.negate(b.isLess(e, b.index(range.begin))), b.isLess(e, b.index(range.end)));
      number = b.select(isIn, b.add(b.sub(e, b.index(range.begin)), b.index(range.data)), number);
    }
    return number;
  });
  return result;
}

/// What expert e of `range`, which is no network, makes of row s in column h.
static Value simpleExpert(ReferenceBuilder &b, const ExpertRange &range, Value input,
                          Value constants, Value e, Value s, Value h) {
  switch (range.kind) {
  case ExpertKind::Zero:
    return b.constant(0);
  case ExpertKind::Identity:
    return b.at(input, {s, h});
  case ExpertKind::Constant: {
    Value number = b.add(b.sub(e, b.index(range.begin)), b.index(range.data));
    return b.at(constants, {number, h});
  }
  case ExpertKind::FFN:
    break;
  }
  llvm_unreachable("a network is not simple");
}

/// The networks' results, with those of the other kinds in their place.
static Value withOtherKinds(ReferenceBuilder &b, Value networkRows, Value input, const Rows &rows,
                            const Networks &networks, Type type) {
  return generateRows(b, rows, b.size(input, 1), type, [&](Value s, Value h) {
    Value e = b.rawAt(rows.experts, s), result = b.at(networkRows, {s, h});
    for (const ExpertRange &range : networks.kinds) {
      if (range.kind == ExpertKind::FFN)
        continue;
      Value isIn =
          b.both(b.negate(b.isLess(e, b.index(range.begin))), b.isLess(e, b.index(range.end)));
      Value before = result;
      result = b.branch(
          isIn, [&] { return simpleExpert(b, range, input, networks.constants, e, s, h); },
          [&] { return before; });
    }
    return result;
  });
}

Value reference::feedForward(ReferenceBuilder &b, Value input, const Rows &rows,
                             const Networks &networks, Type type) {
  bool hasKinds = !networks.kinds.empty();
  Rows own = hasKinds ? rowsOfNetworks(b, rows, networks.kinds) : rows;
  Value product = groupedMatmul(b, input, own, networks.up, b.getReal());
  Value gate = product, linear;
  if (networks.activation.getGlu() == Glu::Separate) {
    gate = groupedMatmul(b, input, own, networks.gate, b.getReal());
    linear = product;
  }
  Value hidden = activate(b, gate, linear, networks.activation, b.getReal());
  Value result = groupedMatmul(b, hidden, own, networks.down, hasKinds ? b.getReal() : type);
  return hasKinds ? withOtherKinds(b, result, input, rows, networks, type) : result;
}

namespace {

/// The sums of one op.
struct Combination {
  ReferenceBuilder &b;
  Value input;
  const Routing &routing;
  const Rows &rows;
  const CombineOptions &options;
  Type type;

  /// Row s of token t times its weight, in column h.
  Value product(Value t, Value s, Value h) {
    Value element = b.at(input, {s, h});
    if (options.weight == CombineWeight::AlreadyApplied)
      return element;
    return b.mul(b.at(routing.weights, {t, b.rawAt(rows.experts, s)}), element);
  }

  /// Rounded to the result's type.
  Value rounded(Value value) { return b.convert(b.convert(value, type), b.getReal()); }

  /// In the order of the slots.
  Value sumBySlot(Value t, Value h) {
    return b.fold(b.index(routing.k), b.constant(0), [&](Value slot, Value total) {
      Value s = b.rawAt(rows.ofSlot, {t, slot});
      return b.branch(
          b.isValid(s), [&] { return b.add(total, product(t, s, h)); }, [&] { return total; });
    });
  }

  /// In the order of the experts, rounding as if the result held the sum.
  Value sumByExpert(Value t, Value h) {
    return b.fold(b.index(routing.experts), b.constant(0), [&](Value e, Value total) {
      Value slot = b.rawAt(routing.slots, {t, e});
      auto addRow = [&] {
        Value s = b.rawAt(rows.ofSlot, {t, b.toIndex(slot)});
        return rounded(b.add(total, rounded(product(t, s, h))));
      };
      return b.branch(b.isValid(slot), addRow, [&] { return total; });
    });
  }

  /// What a token without an expert gets.
  Value uncovered(Value t, Value h) {
    Value experts = b.index(options.uncoveredRouting.experts);
    Value weight = b.sum(experts, [&](Value e) {
      return b.at(options.uncoveredRouting.weights, {t, e});
    });
    return b.mul(weight, b.at(options.uncovered, {t, h}));
  }

  Value element(Value t, Value h) {
    Value sum = options.accum == Accum::Native ? sumByExpert(t, h) : sumBySlot(t, h);
    if (options.uncovered) {
      Value entries = b.count(b.index(routing.experts), [&](Value e) {
        return b.isValid(b.rawAt(routing.slots, {t, e}));
      });
      sum = b.branch(
          b.isEqual(entries, b.index(0)), [&] { return uncovered(t, h); }, [&] { return sum; });
    }
    return options.postScale == 1 ? sum : b.mul(sum, b.constant(options.postScale));
  }
};

} // namespace

Value reference::combine(ReferenceBuilder &b, Value input, const Routing &routing, const Rows &rows,
                         OpFoldResult tokens, const CombineOptions &options, Type type) {
  Combination combination = {b, input, routing, rows, options, type};
  return b.generate({tokens, b.size(input, 1)}, type,
                    [&](ValueRange i) { return combination.element(i[0], i[1]); });
}

//===----------------------------------------------------------------------===//
// Shared experts
//===----------------------------------------------------------------------===//

Value reference::shared(ReferenceBuilder &b, Value x, const Networks &networks, int64_t experts,
                        Value weight, Value y, Merge merge, Type type) {
  // Every token chooses every expert.
  SmallVector<OpFoldResult> sizes = {b.size(x, 0), b.getIndexAttr(experts)};
  Value slots = b.generate(sizes, b.getI32Type(), [&](ValueRange i) { return b.toI32(i[1]); });
  Routing all = {slots, weight, experts, experts};
  Rows rows = sortRows(b, all);
  Value input = dispatch(b, x, all, rows, /*scaled=*/false, b.getReal());
  Value results = feedForward(b, input, rows, networks, b.getReal());
  CombineOptions options;
  if (!weight)
    options.weight = CombineWeight::AlreadyApplied;
  Value sum = combine(b, results, all, rows, sizes[0], options, y ? Type(b.getReal()) : type);
  if (!y)
    return sum;
  return b.generate({sizes[0], b.size(x, 1)}, type, [&](ValueRange i) {
    Value both = b.add(b.at(y, i), b.at(sum, i));
    return merge == Merge::Average ? b.mul(both, b.constant(0.5)) : both;
  });
}

//===----------------------------------------------------------------------===//
// Dequantize
//===----------------------------------------------------------------------===//

/// Code number `i` (counted along the last dimension) of packed codes, as a real.
static Value codeAt(ReferenceBuilder &b, Value packed, SmallVector<Value> line, Value i,
                    int64_t bits) {
  Value perByte = b.index(8 / bits);
  line.push_back(arith::DivUIOp::create(b, i, perByte));
  Value byte = b.rawAt(packed, line);
  // arith has signless integers only; both are the same byte.
  if (!byte.getType().isSignlessInteger())
    byte = UnrealizedConversionCastOp::create(b, b.getI8Type(), byte).getResult(0);
  Value shift = b.mul(arith::RemUIOp::create(b, i, perByte), b.index(bits));
  Value wide = arith::ExtUIOp::create(b, b.getI32Type(), byte);
  Value code =
      arith::ShRUIOp::create(b, wide, arith::IndexCastOp::create(b, b.getI32Type(), shift));
  code = arith::AndIOp::create(b, code, b.i32((1 << bits) - 1));
  return arith::UIToFPOp::create(b, b.getReal(), code);
}

Value reference::dequantize(ReferenceBuilder &b, Value codes, Value scales, Value zeroPoints,
                            int64_t bits, int64_t block, RankedTensorType type) {
  auto zeroPoint = [&](Value e, Value n, Value blockIndex) {
    if (!zeroPoints)
      return b.constant(1 << (bits - 1));
    return block ? codeAt(b, zeroPoints, {e, n}, blockIndex, bits)
                 : codeAt(b, zeroPoints, {e}, n, bits);
  };
  SmallVector<OpFoldResult> sizes = getAsIndexOpFoldResult(b.getContext(), type.getShape());
  return b.generate(sizes, type.getElementType(), [&](ValueRange i) {
    Value e = i[0], n = i[1], k = i[2];
    Value blockIndex = block ? arith::DivUIOp::create(b, k, b.index(block)).getResult() : Value();
    Value scale = b.at(scales, block ? ValueRange{e, n, blockIndex} : ValueRange{e, n});
    Value code = codeAt(b, codes, {e, n}, k, bits);
    return b.mul(b.sub(code, zeroPoint(e, n, blockIndex)), scale);
  });
}
