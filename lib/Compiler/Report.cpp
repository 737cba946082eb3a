// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Report.h"
#include "Compilation.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/TypeUtilities.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Target/CPU/ModelDescription.h"
#include "llvm/ADT/SetVector.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

llvm::json::Object mlir::moe::countOperators(ModuleOp module) {
  std::map<std::string, int64_t> counts;
  module.walk([&](onnx::NodeOp node) { ++counts[node.getOpType().str()]; });
  llvm::json::Object object;
  for (auto &[name, count] : counts)
    object[llvm::json::fixUTF8(name)] = count;
  return object;
}

//===----------------------------------------------------------------------===//
// Blocks
//===----------------------------------------------------------------------===//

namespace {
/// A dictionary that is filled step by step.
class Fields {
public:
  explicit Fields(MLIRContext *context) : builder(context) {}
  void add(StringRef key, int64_t value) { list.set(key, builder.getI64IntegerAttr(value)); }
  void add(StringRef key, StringRef value) { list.set(key, builder.getStringAttr(value)); }
  void add(StringRef key, Attribute value) { list.set(key, value); }
  DictionaryAttr get() const { return list.getDictionary(builder.getContext()); }

private:
  Builder builder;
  NamedAttrList list;
};
} // namespace

static std::string toText(Attribute attribute) {
  std::string text;
  llvm::raw_string_ostream(text) << attribute;
  return text;
}

/// How a routing was made, following it back to the logits.
static DictionaryAttr describeRouting(Value routing) {
  Fields fields(routing.getContext());
  fields.add("score", stringifyScoreFn(ScoreFn::Identity));
  if (auto gating = routing.getDefiningOp<GatingOp>()) {
    fields.add("score", stringifyScoreFn(gating.getScore()));
    fields.add("select", "topk");
    fields.add("weigh", stringifyWeighFn(gating.getFn()));
    fields.add("source", stringifyWeighSource(gating.getWeighSource()));
    fields.add("norm", stringifyWeighNorm(gating.getNorm()));
    return fields.get();
  }
  if (auto weigh = routing.getDefiningOp<WeighOp>()) {
    fields.add("weigh", stringifyWeighFn(weigh.getFn()));
    fields.add("norm", stringifyWeighNorm(weigh.getNorm()));
    if (auto score = weigh.getSource().getDefiningOp<ScoreOp>())
      fields.add("score", stringifyScoreFn(score.getFn()));
    routing = weigh.getRouting();
  }
  if (auto select = routing.getDefiningOp<SelectOp>()) {
    fields.add("select", stringifySelectMode(select.getMode()));
    if (auto score = select.getKey().getDefiningOp<ScoreOp>())
      fields.add("score", stringifyScoreFn(score.getFn()));
  }
  return fields.get();
}

/// How a bank of weights is stored.
static DictionaryAttr describeBank(Value bank) {
  Fields fields(bank.getContext());
  auto dequantize = bank.getDefiningOp<DequantizeOp>();
  if (!dequantize) {
    fields.add("dtype", getDTypeName(getElementTypeOrSelf(bank.getType())));
    return fields.get();
  }
  fields.add("bits", dequantize.getBits());
  fields.add("block", dequantize.getBlock());
  fields.add("zero_points", dequantize.getZeroPoints() ? "yes" : "no");
  return fields.get();
}

template <typename OpT> static DictionaryAttr describeBlock(OpT op) {
  Fields fields(op.getContext());
  auto routing = cast<RoutingType>(op.getRouting().getType());
  auto down = cast<RankedTensorType>(op.getDown().getType());
  fields.add("E", routing.getExperts());
  fields.add("k", routing.getK());
  fields.add("H", down.getDimSize(1));
  fields.add("I", down.getDimSize(2));
  fields.add("dtype", getDTypeName(getElementTypeOrSelf(op.getInput().getType())));
  fields.add("activation", stringifyActivationKind(op.getActivation().getKind()));
  fields.add("glu", stringifyGlu(op.getActivation().getGlu()));
  fields.add("routing", describeRouting(op.getRouting()));
  fields.add("weights", describeBank(op.getDown()));

  llvm::SetVector<StringRef> nodes;
  for (Operation *part : {op.getOperation(), op.getRouting().getDefiningOp()})
    if (part && !getNodeName(part->getLoc()).empty())
      nodes.insert(getNodeName(part->getLoc()));
  // What raising says itself is better than what the locations tell.
  if (auto sources = op->template getAttrOfType<ArrayAttr>("moe.sources"))
    fields.add("nodes", Attribute(sources));
  else
    fields.add("nodes", Builder(op.getContext()).getStrArrayAttr(nodes.getArrayRef()));
  auto [file, index] = getNodePosition(op.getLoc());
  if (!file.empty())
    fields.add("source", (file + ":" + Twine(index)).str());
  return fields.get();
}

void mlir::moe::recordBlocks(ModuleOp module) {
  SmallVector<Attribute> blocks;
  module.walk([&](Operation *op) {
    if (auto experts = dyn_cast<ExpertFFNOp>(op))
      blocks.push_back(describeBlock(experts));
    else if (auto experts = dyn_cast<ExpertsOp>(op))
      blocks.push_back(describeBlock(experts));
  });
  module->setAttr(kBlocksAttr, ArrayAttr::get(module.getContext(), blocks));
}

llvm::json::Value mlir::moe::attributeToJSON(Attribute attribute) {
  // A phase file may have been edited: any attribute, any text.
  auto integer = dyn_cast<IntegerAttr>(attribute);
  if (integer && integer.getValue().getSignificantBits() <= 64)
    return integer.getValue().getSExtValue();
  if (auto text = dyn_cast<StringAttr>(attribute))
    return llvm::json::fixUTF8(text.getValue());
  if (auto list = dyn_cast<ArrayAttr>(attribute)) {
    llvm::json::Array array;
    for (Attribute element : list)
      array.push_back(attributeToJSON(element));
    return array;
  }
  if (auto dictionary = dyn_cast<DictionaryAttr>(attribute)) {
    llvm::json::Object object;
    for (NamedAttribute field : dictionary)
      object[llvm::json::fixUTF8(field.getName().getValue())] = attributeToJSON(field.getValue());
    return object;
  }
  return llvm::json::fixUTF8(toText(attribute));
}

llvm::json::Value mlir::moe::finiteOrNull(double number) {
  return std::isfinite(number) ? llvm::json::Value(number) : nullptr;
}

llvm::json::Array mlir::moe::listToJSON(ModuleOp module, StringRef attribute) {
  auto list = module->getAttrOfType<ArrayAttr>(attribute);
  if (!list)
    return {};
  return std::move(*attributeToJSON(list).getAsArray());
}

//===----------------------------------------------------------------------===//
// Lowerings
//===----------------------------------------------------------------------===//

/// Ops that carry data or belong to the lowered program, and compute nothing.
static bool isBookkeeping(Operation *op) {
  return isa<WeightOp, LoadWeightOp, WeightBufferOp, CurrentCallOp, NumWorkersOp, WorkerIdOp,
             CheckOp, ProfileMarkOp>(op);
}

Operations mlir::moe::collectOperations(ModuleOp module) {
  Operations operations;
  module.walk([&](Operation *op) {
    if (auto node = dyn_cast<onnx::NodeOp>(op))
      ++operations[{node.getOpType().str(), getNodeName(op->getLoc()).str()}];
    else if (isa_and_present<MoEDialect>(op->getDialect()) && !isBookkeeping(op))
      ++operations[{op->getName().getStringRef().str(), getNodeName(op->getLoc()).str()}];
  });
  return operations;
}

/// Calls `visit` with each operation of `before` and how many of it `after` lacks.
static void visitLowered(
    const Operations &before, const Operations &after,
    llvm::function_ref<void(const Operations::key_type &operation, int64_t lowered)> visit) {
  for (const auto &[operation, count] : before) {
    auto left = after.find(operation);
    visit(operation, count - (left == after.end() ? 0 : left->second));
  }
}

void mlir::moe::appendLowerings(const Operations &before, const Operations &after,
                                StringRef lowering, llvm::json::Array &list) {
  visitLowered(before, after, [&](const Operations::key_type &operation, int64_t lowered) {
    for (int64_t i = 0; i < lowered; ++i)
      list.push_back(llvm::json::Object{{"op", llvm::json::fixUTF8(operation.first)},
                                        {"node", llvm::json::fixUTF8(operation.second)},
                                        {"lowering", lowering}});
  });
}

void mlir::moe::recordLowerings(ModuleOp module, const Operations &before, const Operations &after,
                                StringRef lowering) {
  std::map<std::string, int64_t> counts;
  visitLowered(before, after, [&](const Operations::key_type &operation, int64_t lowered) {
    if (lowered > 0)
      counts[operation.first] += lowered;
  });
  SmallVector<Attribute> list;
  if (auto earlier = module->getAttrOfType<ArrayAttr>(kLoweringsAttr))
    llvm::append_range(list, earlier);
  for (const auto &[op, count] : counts) {
    Fields fields(module.getContext());
    fields.add("op", op);
    fields.add("lowering", lowering);
    fields.add("count", count);
    list.push_back(fields.get());
  }
  module->setAttr(kLoweringsAttr, ArrayAttr::get(module.getContext(), list));
}
