// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/ONNXToLinalg/ONNXToLinalg.h"

#include "Lowering.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Iterators.h"
#include "llvm/ADT/MapVector.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/Operators.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Unsupported.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ONNXTOLINALG
#include "moec/Conversion/ONNXToLinalg/ONNXToLinalg.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

/// All lowerings.
static ArrayRef<LoweringEntry> getTable() {
  static const SmallVector<LoweringEntry> table = [] {
    SmallVector<LoweringEntry> entries;
    addElementWise(entries);
    addMatMul(entries);
    addReductions(entries);
    addShape(entries);
    addIndexing(entries);
    addAttention(entries);
    addEinsum(entries);
    addNormalization(entries);
    addQuantization(entries);
    addConvolution(entries);
    addGathering(entries);
    addScattering(entries);
    addOrdering(entries);
    addFilling(entries);
    addSelecting(entries);
    addControlFlow(entries);
    return entries;
  }();
  return table;
}

static const LoweringEntry *findLowering(StringRef opType, int64_t version) {
  ArrayRef<LoweringEntry> table = getTable();
  const LoweringEntry *entry = llvm::find_if(table, [&](const LoweringEntry &entry) {
    return entry.opType == opType && entry.since <= version && version <= entry.until;
  });
  return entry == table.end() ? nullptr : entry;
}

bool mlir::moe::isLoweredToLinalg(StringRef opType, int64_t version) {
  return findLowering(opType, version) != nullptr;
}

/// Name of an operator in the list of unsupported ones; with its version when other
/// versions are supported.
static std::string nameUnsupported(onnx::NodeOp node) {
  std::string name = node.getOpType().str();
  bool otherVersion = llvm::any_of(
      getTable(), [&](const LoweringEntry &entry) { return entry.opType == node.getOpType(); });
  if (otherVersion)
    name += " version " + std::to_string(node.getVersion());
  return name;
}

/// One error for all operators that have no lowering.
static LogicalResult checkSupported(ArrayRef<onnx::NodeOp> nodes) {
  llvm::MapVector<StringAttr, SmallVector<std::string>> unsupported;
  std::optional<Location> location;
  for (onnx::NodeOp node : nodes) {
    if (findLowering(node.getOpType(), node.getVersion()))
      continue;
    if (unsupported.empty())
      location = node.getLoc();
    auto name = StringAttr::get(node.getContext(), nameUnsupported(node));
    unsupported[name].push_back("'" + getNodeName(node.getLoc()).str() + "'");
  }
  if (unsupported.empty())
    return success();
  InFlightDiagnostic error = emitUnsupported(*location);
  error << unsupported.size() << (unsupported.size() == 1 ? " operator is" : " operators are")
        << " not supported: ";
  llvm::interleaveComma(unsupported, error, [&](auto &entry) {
    StringRef name = entry.first.getValue();
    StringRef meant = onnx::suggestOperator(name.split(' ').first);
    error << name << (entry.second.size() == 1 ? " (node " : " (nodes ")
          << llvm::join(entry.second, ", ");
    if (!meant.empty())
      error << "; did you mean '" << meant << "'?";
    error << ")";
  });
  return error;
}

/// Reports the first input without a known rank or element type.
static LogicalResult checkInputs(NodeLowering &n) {
  for (auto [position, input] : llvm::enumerate(n.inputs()))
    if (input && (!isa<RankedTensorType>(input.getType()) ||
                  !getElementTypeOrSelf(input.getType()).isIntOrFloat()))
      return n.unsupported("the shape or element type of input " + Twine(position) +
                           " is not known");
  return success();
}

LogicalResult mlir::moe::lowerNodeToLinalg(onnx::NodeOp node, int64_t vectorBits) {
  NodeLowering n(node, vectorBits);
  if (failed(checkSupported(node)) || failed(checkInputs(n)))
    return failure();
  return findLowering(node.getOpType(), node.getVersion())->lower(n);
}

LogicalResult lowering::lowerNodes(ArrayRef<onnx::NodeOp> nodes, int64_t vectorBits) {
  bool hasFailed = false;
  for (onnx::NodeOp node : nodes) {
    // The inputs of this one have been reported.
    bool isBlocked = llvm::any_of(node.getInputs(), [](Value input) {
      return isa_and_nonnull<onnx::NodeOp>(input.getDefiningOp());
    });
    if (isBlocked || failed(lowerNodeToLinalg(node, vectorBits)))
      hasFailed = true;
  }
  return failure(hasFailed);
}

/// Checks the sizes of inputs that the model states as expressions.
static void checkStatedSizes(func::FuncOp func) {
  if (func.isDeclaration())
    return;
  auto b = ImplicitLocOpBuilder::atBlockBegin(func.getLoc(), &func.front());
  for (BlockArgument argument : func.getArguments()) {
    auto type = dyn_cast<RankedTensorType>(argument.getType());
    for (int64_t dim = 0; type && dim < type.getRank(); ++dim) {
      OpFoldResult stated =
          type.isDynamicDim(dim) ? getStatedSize(b, argument, dim) : OpFoldResult();
      if (!stated)
        continue;
      unsigned position = argument.getArgNumber();
      auto given = func.getArgAttrOfType<StringAttr>(position, "onnx.name");
      std::string name = given ? given.str() : std::to_string(position);
      auto dims = func.getArgAttrOfType<ArrayAttr>(position, onnx::kDimsAttr);
      Value size = tensor::DimOp::create(b, argument, dim);
      CheckOp::create(b, equalSizes(b, size, stated),
                      "dimension " + Twine(dim) + " of input '" + name + "' is not " +
                          cast<StringAttr>(dims[dim]).getValue() + ", as the model states");
    }
  }
}

/// Sizes and constants that turned out not to be needed.
static void eraseDeadOps(ModuleOp module) {
  module.walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
    if (isOpTriviallyDead(op))
      op->erase();
  });
}

namespace {
struct ONNXToLinalgPass : mlir::moe::impl::ONNXToLinalgBase<ONNXToLinalgPass> {
  using ONNXToLinalgBase::ONNXToLinalgBase;

  void runOnOperation() override {
    // Those of sub-graphs are lowered with the nodes that hold these.
    SmallVector<onnx::NodeOp> all, nodes;
    getOperation().walk<WalkOrder::PreOrder>([&](onnx::NodeOp node) {
      all.push_back(node);
      if (!node->getParentOfType<onnx::NodeOp>())
        nodes.push_back(node);
    });
    if (failed(checkSupported(all)))
      return signalPassFailure();

    for (auto func : getOperation().getOps<func::FuncOp>())
      checkStatedSizes(func);
    if (failed(lowerNodes(nodes, vectorBits)))
      return signalPassFailure();
    eraseDeadOps(getOperation());
  }
};
} // namespace
