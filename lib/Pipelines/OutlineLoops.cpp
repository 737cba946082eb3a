// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Pipelines/Passes.h"

#include "moec/Conversion/LowerEntry/LowerEntry.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_OUTLINELOOPS
#include "moec/Pipelines/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Moves loops to functions of what they read and write. Equal ones share a function.
class LoopOutliner {
public:
  LoopOutliner(ModuleOp module, func::FuncOp entry)
      : symbols(module), entry(entry), name((entry.getName() + "_loop").str()) {}

  void outline(scf::ForOp loop) {
    collectCaptures(loop);
    func::FuncOp body = getShared(makeBody(loop));
    OpBuilder builder(loop);
    auto call = func::CallOp::create(builder, loop.getLoc(), body, captures);
    loop.replaceAllUsesWith(call.getResults());
    loop.erase();
  }

private:
  void collectCaptures(scf::ForOp loop) {
    llvm::SetVector<Value> used(loop->operand_begin(), loop->operand_end());
    getUsedValuesDefinedAbove(loop.getRegion(), used);
    captures.clear();
    constants.clear();
    for (Value value : used)
      (matchPattern(value, m_Constant()) ? constants : captures).push_back(value);
  }

  /// A function, not yet in the module, that takes the captures.
  func::FuncOp makeBody(scf::ForOp loop) {
    OpBuilder builder(loop.getContext());
    auto type = builder.getFunctionType(ValueRange(captures).getTypes(), loop.getResultTypes());
    auto body = func::FuncOp::create(loop.getLoc(), name, type);
    body.setPrivate();
    // Inlined again they would be what they were before.
    body->setAttr("passthrough", builder.getStrArrayAttr({"noinline"}));
    builder.setInsertionPointToStart(body.addEntryBlock());
    IRMapping mapping;
    mapping.map(captures, body.getArguments());
    for (Value constant : constants)
      builder.clone(*constant.getDefiningOp(), mapping);
    Operation *clone = builder.clone(*loop, mapping);
    func::ReturnOp::create(builder, loop.getLoc(), clone->getResults());
    return body;
  }

  /// The function with the text of `body`, which is `body` when there is none yet.
  func::FuncOp getShared(func::FuncOp body) {
    std::string text;
    llvm::raw_string_ostream stream(text);
    body->print(stream, OpPrintingFlags().useLocalScope());
    auto [known, isNew] = functions.try_emplace(text, body);
    if (isNew) {
      symbols.insert(body, std::next(entry->getIterator()));
      return body;
    }
    body->erase();
    return known->second;
  }

  SymbolTable symbols;
  func::FuncOp entry;
  std::string name;
  llvm::StringMap<func::FuncOp> functions;
  SmallVector<Value> captures, constants;
};

/// A loop that other workers do not share.
bool isSequential(scf::ForOp loop) {
  return !loop->walk([](Operation *op) {
                return isa<scf::ParallelOp, scf::ForallOp>(op) ? WalkResult::interrupt()
                                                               : WalkResult::advance();
              })
              .wasInterrupted();
}

struct OutlineLoopsPass : moe::impl::OutlineLoopsBase<OutlineLoopsPass> {
  void runOnOperation() override {
    for (func::FuncOp entry : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      if (!entry->hasAttr(kEntryAttr))
        continue;
      LoopOutliner outliner(getOperation(), entry);
      for (auto loop : llvm::make_early_inc_range(entry.getBody().front().getOps<scf::ForOp>()))
        if (isSequential(loop))
          outliner.outline(loop);
    }
  }
};

} // namespace
