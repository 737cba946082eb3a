// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/RaiseMoE/RaiseMoE.h"

#include "ContribMoE.h"
#include "RaiseExperts.h"
#include "Routing.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace mlir::moe {
#define GEN_PASS_DEF_RAISEMOE
#include "moec/Conversion/RaiseMoE/RaiseMoE.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

void mlir::moe::populateRaiseMoEPatterns(RewritePatternSet &patterns) {
  populateRaiseRouterPatterns(patterns);
  populateRaiseSharedPatterns(patterns);
}

namespace {

struct RaiseMoE : moe::impl::RaiseMoEBase<RaiseMoE> {
  using RaiseMoEBase::RaiseMoEBase;

  void runOnOperation() override {
    if (failed(raiseAllContribMoE()))
      return signalPassFailure();
    if (!contribOnly) {
      IRRewriter rewriter(&getContext());
      if (failed(raiseExperts(rewriter, getOperation(), allowFrozenRouting)))
        return signalPassFailure();
      raiseRoutings(rewriter, getOperation());
    }
    RewritePatternSet patterns(&getContext());
    if (contribOnly)
      populateRaiseRouterPatterns(patterns);
    else
      populateRaiseMoEPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }

  /// A walk and not a pattern, so that every failing node is reported, once.
  LogicalResult raiseAllContribMoE() {
    SmallVector<onnx::NodeOp> nodes;
    getOperation().walk([&](onnx::NodeOp node) {
      if (isContribMoE(node))
        nodes.push_back(node);
    });
    IRRewriter rewriter(&getContext());
    bool failed = false;
    for (onnx::NodeOp node : nodes)
      failed |= mlir::failed(raiseContribMoE(rewriter, node));
    return success(!failed);
  }
};

} // namespace
