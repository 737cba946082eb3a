// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --moe-trace-routing: the routing of every block as outputs.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Unsupported.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETRACEROUTINGPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

/// See RaiseMoE.h.
static constexpr StringLiteral kSourcesAttr = "moe.sources";

namespace {

/// What experts compute by: the routing, and how many tokens it has.
struct Traced {
  Operation *op;
  Value routing, input;
};

struct TraceRoutingPass : moe::impl::MoETraceRoutingPassBase<TraceRoutingPass> {
  void runOnOperation() override;

private:
  LogicalResult trace(func::FuncOp function);
  void addOutputs(func::FuncOp function, const Traced &traced);
  std::string getBlockName(Operation *op);

  llvm::StringSet<> taken;
  SmallVector<std::string> names;
};

} // namespace

/// The first node that the block was raised from, or "block0", "block1", …; every block
/// has another name.
std::string TraceRoutingPass::getBlockName(Operation *op) {
  StringRef name = getNodeName(op->getLoc());
  // The networks know better which nodes the block was.
  auto sources = op->getAttrOfType<ArrayAttr>(kSourcesAttr);
  for (Operation *user : op->getUsers())
    if (!sources)
      sources = user->getAttrOfType<ArrayAttr>(kSourcesAttr);
  if (sources && !sources.empty())
    name = cast<StringAttr>(sources[0]).getValue();
  std::string base = name.empty() ? "block" + std::to_string(names.size()) : name.str();
  std::string unique = base;
  for (unsigned i = 1; !taken.insert(unique).second; ++i)
    unique = base + "_" + std::to_string(i);
  return unique;
}

static void addOutput(func::FuncOp function, Value value, const std::string &name,
                      StringRef columns) {
  auto ret = cast<func::ReturnOp>(function.getBody().back().getTerminator());
  ret.getOperandsMutable().append(value);
  Builder builder(function.getContext());
  DictionaryAttr attributes = builder.getDictionaryAttr(
      {builder.getNamedAttr("onnx.dims", builder.getStrArrayAttr({"", columns})),
       builder.getNamedAttr("onnx.name", builder.getStringAttr(name))});
  (void)function.insertResult(function.getNumResults(), value.getType(), attributes);
}

void TraceRoutingPass::addOutputs(func::FuncOp function, const Traced &traced) {
  std::string name = getBlockName(traced.op);
  names.push_back(name);
  auto type = cast<RoutingType>(traced.routing.getType());
  OpBuilder builder(traced.op);
  Location loc = traced.op->getLoc();
  Value tokens = tensor::DimOp::create(builder, loc, traced.input, 0);
  auto shaped = [&](Type element) {
    return RankedTensorType::get({ShapedType::kDynamic, type.getK()}, element);
  };
  Type weights = type.getWeighted() ? shaped(builder.getF32Type()) : Type();
  auto entries = EntriesOp::create(builder, loc, shaped(builder.getI32Type()), weights,
                                   traced.routing, tokens);
  std::string k = std::to_string(type.getK());
  addOutput(function, entries.getIds(), name + ".expert_ids", k);
  if (weights)
    addOutput(function, entries.getWeights(), name + ".weights", k);
}

LogicalResult TraceRoutingPass::trace(func::FuncOp function) {
  SmallVector<Traced> blocks;
  function.walk([&](Operation *op) {
    if (auto dispatch = dyn_cast<DispatchOp>(op))
      blocks.push_back({op, dispatch.getRouting(), dispatch.getX()});
    else if (auto experts = dyn_cast<ExpertsOp>(op))
      blocks.push_back({op, experts.getRouting(), experts.getInput()});
  });
  for (const Traced &block : blocks) {
    if (block.op->getParentOp() != function)
      return emitUnsupported(block.op)
             << "is inside of a sub-graph, where its routing cannot be traced";
    addOutputs(function, block);
  }
  return success();
}

void TraceRoutingPass::runOnOperation() {
  for (auto function : getOperation().getOps<func::FuncOp>())
    if (function.isPublic() && !function.isDeclaration() && failed(trace(function)))
      return signalPassFailure();
  numTraced += names.size();
  SmallVector<StringRef> list(names.begin(), names.end());
  getOperation()->setAttr("moe.traced", Builder(&getContext()).getStrArrayAttr(list));
}
