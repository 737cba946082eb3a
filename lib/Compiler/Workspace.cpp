// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The size of the workspace as text that people and programs can read.

#include "Compilation.h"
#include "Interface.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/Matchers.h"
#include "moec/Conversion/PlanMemory/PlanMemory.h"
#include "moec/Support/DimExpression.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace mlir::moe;

/// Longer formulas tell nobody anything.
static constexpr size_t kMaxLength = 4096;
static constexpr unsigned kMaxDepth = 1000;
static constexpr StringLiteral kWorkers = "workers";

namespace {
/// Writes the result of an `@ENTRY_workspace` function as an expression. A step
/// returns nullopt for what cannot be written.
class FormulaWriter {
public:
  FormulaWriter(func::FuncOp workspace, const EntryDescription &entry)
      : workspace(workspace), entry(entry) {}

  std::optional<std::string> write() {
    auto result = dyn_cast<func::ReturnOp>(workspace.getBody().front().getTerminator());
    if (!result || result.getNumOperands() != 1 || workspace.getBody().getBlocks().size() != 1)
      return std::nullopt;
    auto formula = visit(result.getOperand(0));
    return formula ? std::optional(formula->text) : std::nullopt;
  }

private:
  enum Precedence { Sum, Product, Atom };
  struct Formula {
    std::string text;
    Precedence precedence = Atom;
    /// In parentheses where an operator binds stronger than the formula.
    std::string in(Precedence context) const {
      return precedence < context ? "(" + text + ")" : text;
    }
  };
  using Result = std::optional<Formula>;

  Result visit(Value value);
  Result compute(Value value);
  Result dimension(memref::DimOp dim);
  Result outputDimension(OpResult result);
  static Result describe(const TensorDescription &tensor, int64_t axis);
  Result binary(Operation *op, StringRef symbol, Precedence precedence);
  Result call(Operation *op, StringRef name);
  Result ceilDivide(Operation *op);
  Result roundDown(arith::AndIOp op);

  func::FuncOp workspace;
  const EntryDescription &entry;
  llvm::DenseMap<Value, Formula> known;
  unsigned depth = 0;
};
} // namespace

FormulaWriter::Result FormulaWriter::describe(const TensorDescription &tensor, int64_t axis) {
  if (axis < 0 || axis >= int64_t(tensor.dims.size()))
    return std::nullopt;
  if (tensor.dims[axis] >= 0)
    return Formula{llvm::itostr(tensor.dims[axis])};
  const std::string &name = tensor.dimNames[axis];
  if (tensor.dims[axis] == kComputedDim || !isDimSymbol(name) || name == kWorkers)
    return std::nullopt;
  return Formula{name};
}

FormulaWriter::Result FormulaWriter::dimension(memref::DimOp dim) {
  auto argument = dyn_cast<BlockArgument>(dim.getSource());
  std::optional<int64_t> axis = dim.getConstantIndex();
  if (!argument || !axis || argument.getArgNumber() >= entry.inputs.size())
    return std::nullopt;
  return describe(entry.inputs[argument.getArgNumber()], *axis);
}

/// A result of the shapes function: every dimension of every output, in order.
FormulaWriter::Result FormulaWriter::outputDimension(OpResult result) {
  int64_t position = result.getResultNumber();
  for (const TensorDescription &output : entry.outputs) {
    if (position < int64_t(output.dims.size()))
      return describe(output, position);
    position -= output.dims.size();
  }
  return std::nullopt;
}

FormulaWriter::Result FormulaWriter::binary(Operation *op, StringRef symbol,
                                            Precedence precedence) {
  Result left = visit(op->getOperand(0)), right = visit(op->getOperand(1));
  if (!left || !right)
    return std::nullopt;
  // "a - (b + c)" and "a * (b // c)" keep their parentheses.
  bool reassociates = isa<arith::AddIOp, arith::MulIOp>(op);
  std::string last =
      right->in(reassociates && precedence == Sum ? Sum : Precedence(precedence + 1));
  return Formula{left->in(precedence) + symbol.str() + last, precedence};
}

FormulaWriter::Result FormulaWriter::call(Operation *op, StringRef name) {
  Result left = visit(op->getOperand(0)), right = visit(op->getOperand(1));
  if (!left || !right)
    return std::nullopt;
  return Formula{llvm::formatv("{0}({1}, {2})", name, left->text, right->text)};
}

FormulaWriter::Result FormulaWriter::ceilDivide(Operation *op) {
  Result left = visit(op->getOperand(0)), right = visit(op->getOperand(1));
  if (!left || !right)
    return std::nullopt;
  return Formula{llvm::formatv("({0} + {1} - 1)//{1}", left->text, right->in(Atom)), Product};
}

/// x & -2^n: what an alignment becomes.
FormulaWriter::Result FormulaWriter::roundDown(arith::AndIOp op) {
  llvm::APInt mask;
  Result left = visit(op.getLhs());
  if (!left || !matchPattern(op.getRhs(), m_ConstantInt(&mask)) || !mask.isNegatedPowerOf2())
    return std::nullopt;
  int64_t unit = -mask.getSExtValue();
  return Formula{llvm::formatv("{0}//{1}*{1}", left->in(Product), unit), Product};
}

FormulaWriter::Result FormulaWriter::compute(Value value) {
  if (value == workspace.getArguments().back())
    return Formula{kWorkers.str()};
  llvm::APInt constant;
  if (matchPattern(value, m_ConstantInt(&constant)) && constant.isNonNegative())
    return Formula{llvm::toString(constant, 10, /*Signed=*/true)};
  if (!value.getDefiningOp())
    return std::nullopt;
  return llvm::TypeSwitch<Operation *, Result>(value.getDefiningOp())
      .Case([&](memref::DimOp op) { return dimension(op); })
      .Case([&](func::CallOp) { return outputDimension(cast<OpResult>(value)); })
      .Case<arith::IndexCastOp, arith::IndexCastUIOp>(
          [&](Operation *op) { return visit(op->getOperand(0)); })
      .Case([&](arith::AddIOp op) { return binary(op, " + ", Sum); })
      .Case([&](arith::SubIOp op) { return binary(op, " - ", Sum); })
      .Case([&](arith::MulIOp op) { return binary(op, "*", Product); })
      .Case<arith::DivSIOp, arith::DivUIOp>(
          [&](Operation *op) { return binary(op, "//", Product); })
      .Case<arith::RemSIOp, arith::RemUIOp>([&](Operation *op) { return binary(op, "%", Product); })
      .Case<arith::CeilDivSIOp, arith::CeilDivUIOp>([&](Operation *op) { return ceilDivide(op); })
      .Case<arith::MinSIOp, arith::MinUIOp>([&](Operation *op) { return call(op, "Min"); })
      .Case<arith::MaxSIOp, arith::MaxUIOp>([&](Operation *op) { return call(op, "Max"); })
      .Case([&](arith::AndIOp op) { return roundDown(op); })
      .Default([](Operation *) { return std::nullopt; });
}

FormulaWriter::Result FormulaWriter::visit(Value value) {
  if (auto it = known.find(value); it != known.end())
    return it->second;
  if (depth == kMaxDepth)
    return std::nullopt;
  ++depth;
  Result formula = compute(value);
  --depth;
  if (!formula || formula->text.size() > kMaxLength)
    return std::nullopt;
  known[value] = *formula;
  return formula;
}

LogicalResult mlir::moe::recordWorkspace(ModuleOp module) {
  auto entries = readInterface(module);
  if (failed(entries))
    return failure();
  Builder builder(module.getContext());
  SmallVector<Attribute> list;
  auto attributes = module->getAttrOfType<ArrayAttr>(kInterfaceAttr);
  for (auto [entry, attribute] : llvm::zip_equal(*entries, attributes)) {
    NamedAttrList fields(cast<DictionaryAttr>(attribute));
    auto workspace = module.lookupSymbol<func::FuncOp>(entry.name + "_workspace");
    if (workspace && !workspace.isDeclaration())
      if (auto formula = FormulaWriter(workspace, entry).write())
        fields.set("workspace", builder.getStringAttr(*formula));
    auto main = module.lookupSymbol<func::FuncOp>(entry.name);
    if (Attribute bytes = main ? main->getAttr(kLiveBytesAttr) : Attribute())
      fields.set("live_bytes", bytes);
    list.push_back(fields.getDictionary(module.getContext()));
  }
  module->setAttr(kInterfaceAttr, builder.getArrayAttr(list));
  return success();
}
