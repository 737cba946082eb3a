// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// limit-experts K MODEL PACKAGE: compiles a model so that each token goes to at most K
// experts, those with the largest scores. Fewer weights are read; how much quality that
// costs is for the user to judge.

#include "moec/Compiler/Compiler.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"

#include <cstdio>
#include <cstdlib>

using namespace mlir;
using namespace mlir::moe;

namespace {

struct LimitExpertsPass : PassWrapper<LimitExpertsPass, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(LimitExpertsPass)

  explicit LimitExpertsPass(int64_t limit) : limit(limit) {}

  StringRef getArgument() const override { return "limit-experts"; }
  StringRef getDescription() const override { return "send each token to fewer experts"; }

  void runOnOperation() override {
    // In the order of the program, so that a routing is narrowed before its weights are.
    getOperation().walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (auto select = dyn_cast<SelectOp>(op))
        narrow(select);
      else if (auto weigh = dyn_cast<WeighOp>(op))
        setSlots(weigh.getResult(), weigh.getRouting().getType().getK());
    });
  }

private:
  void narrow(SelectOp select) {
    if (select.getMode() != SelectMode::TopK || int64_t(select.getK()) <= limit)
      return;
    select.setK(limit);
    setSlots(select.getRouting(), limit);
  }

  /// The type of a routing says how many experts a token has at most.
  static void setSlots(Value routing, int64_t k) {
    auto type = cast<RoutingType>(routing.getType());
    routing.setType(RoutingType::get(type.getContext(), type.getExperts(), k, type.getWeighted()));
  }

  int64_t limit;
};

} // namespace

int main(int argc, char **argv) {
  int64_t limit = argc == 4 ? std::atoll(argv[1]) : 0;
  if (limit < 1) {
    std::fprintf(stderr, "usage: limit-experts K MODEL PACKAGE, with K at least 1\n");
    return int(CompileStatus::Usage);
  }
  CompileOptions options;
  options.input = argv[2];
  options.output = argv[3];
  options.runtimeFolder = MOEC_RUNTIME_DIR;
  // What the model means is spelt out after this phase, and not yet fused.
  options.hooks.push_back({"raise-moe", [&](OpPassManager &pm) {
                             pm.addPass(std::make_unique<LimitExpertsPass>(limit));
                           }});
  CompileResult result = compile(options);
  if (!result.summary.empty())
    std::printf("%s\n", result.summary.c_str());
  return int(result.status);
}
