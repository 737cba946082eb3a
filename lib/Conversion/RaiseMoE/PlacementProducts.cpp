// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Placements as sums of products.

#include "PlacementReader.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::placement;
using onnx::NodeOp;

/// The roles of an operand that is broadcast to `roles`.
static std::optional<std::string> operandRoles(Value operand, StringRef roles) {
  RankedTensorType type = getType(operand);
  if (!type || type.getRank() > int64_t(roles.size()))
    return std::nullopt;
  std::string result = roles.take_back(type.getRank()).str();
  for (auto [role, size] : llvm::zip(result, type.getShape()))
    role = size == 1 ? '1' : role;
  return result;
}

/// The roles of the input of an operator that only arranges elements; none for others.
static std::optional<std::string> arrangedRoles(NodeOp node, StringRef roles) {
  RankedTensorType from = getType(node.getInput(0)), to = getType(node.getResult(0));
  if (!from || !to || to.getRank() != int64_t(roles.size()))
    return std::nullopt;
  std::string result(from.getRank(), '1');
  if (node.isOp("Transpose")) {
    std::optional<ArrayRef<int64_t>> perm = node.getIntsAttr("perm");
    if (!perm || perm->size() != roles.size())
      return std::nullopt;
    for (auto [role, dim] : llvm::zip(roles, *perm))
      result[dim] = role;
    return result;
  }
  static const StringRef kReshapes[] = {"Reshape", "Squeeze", "Unsqueeze", "Identity"};
  if (!llvm::is_contained(kReshapes, node.getOpType()))
    return std::nullopt;
  // The dimensions that are not 1 stay.
  int64_t next = 0;
  for (auto [role, size] : llvm::zip(roles, to.getShape())) {
    if (size == 1)
      continue;
    while (next < from.getRank() && from.getDimSize(next) == 1)
      ++next;
    if (next == from.getRank() || from.getDimSize(next) != size)
      return std::nullopt;
    result[next++] = role;
  }
  bool allTaken = llvm::all_of(from.getShape().drop_front(next), [](int64_t d) { return d == 1; });
  return allTaken ? std::optional(result) : std::nullopt;
}

bool PlacementReader::expandOperand(Value operand, StringRef roles, Terms &terms) {
  std::optional<std::string> own = operandRoles(operand, roles);
  return own && expand(operand, *own, terms);
}

/// Every term of one operand times every term of the others.
bool PlacementReader::expandProduct(ArrayRef<std::pair<Value, std::string>> operands,
                                    Terms &terms) {
  Terms product = {Term()};
  for (const auto &[value, roles] : operands) {
    Terms factors, longer;
    if (!expand(value, roles, factors) || product.size() * factors.size() > 8)
      return false;
    for (const Term &left : product)
      for (const Term &right : factors) {
        longer.push_back(left);
        llvm::append_range(longer.back(), right);
        if (longer.back().size() > 16)
          return false;
      }
    product = longer;
  }
  llvm::append_range(terms, product);
  return true;
}

bool PlacementReader::isIndicator(const Factor &factor) const {
  if (factor.is("te"))
    return bool(oneHotIds(factor.value));
  return factor.is("tc") && getOneHotIds(factor.value, positions);
}

/// Writes `value` as a sum of products. What is neither a sum nor a product is a factor.
bool PlacementReader::expand(Value value, StringRef roles, Terms &terms) {
  auto node = value.getDefiningOp<NodeOp>();
  bool hasInput = node && node.getNumInputs() > 0 && node.getInput(0);
  if (!hasInput || isIndicator({value, roles.str()})) {
    terms.push_back({{value, roles.str()}});
    return terms.size() <= 8;
  }
  if (NodeOp cast = getCast(value))
    return expand(cast.getInput(0), roles, terms);
  if (node.isOp("Expand"))
    return expandOperand(node.getInput(0), roles, terms);
  if (std::optional<std::string> arranged = arrangedRoles(node, roles))
    return expand(node.getInput(0), *arranged, terms);
  if (node.isOp("Add") || node.isOp("Sum") || node.isOp("Or"))
    return llvm::all_of(node.getInputs(),
                        [&](Value input) { return expandOperand(input, roles, terms); });
  if (node.isOp("Where") && getSplat(node.getInput(2)) == 0.0) {
    auto mask = operandRoles(node.getInput(0), roles), kept = operandRoles(node.getInput(1), roles);
    return mask && kept &&
           expandProduct({{node.getInput(0), *mask}, {node.getInput(1), *kept}}, terms);
  }
  if (node.isOp("Mul") || node.isOp("And")) {
    auto lhs = operandRoles(node.getInput(0), roles), rhs = operandRoles(node.getInput(1), roles);
    return lhs && rhs && expandProduct({{node.getInput(0), *lhs}, {node.getInput(1), *rhs}}, terms);
  }
  std::string equation;
  llvm::copy_if(node.getStringAttr("equation", ""), std::back_inserter(equation),
                [](char c) { return c != ' '; });
  auto [inputs, output] = StringRef(equation).split("->");
  auto [first, second] = inputs.split(',');
  if (node.isOp("Einsum") && output.size() == roles.size() && node.getNumInputs() == 2) {
    // Without a letter that is summed over.
    auto rolesOf = [&, output = output](StringRef letters) -> std::optional<std::string> {
      std::string result;
      for (char letter : letters) {
        size_t at = output.find(letter);
        if (at == StringRef::npos)
          return std::nullopt;
        result.push_back(roles[at]);
      }
      return result;
    };
    if (auto lhs = rolesOf(first), rhs = rolesOf(second); lhs && rhs)
      return expandProduct({{node.getInput(0), *lhs}, {node.getInput(1), *rhs}}, terms);
  }
  terms.push_back({{value, roles.str()}});
  return terms.size() <= 8;
}
