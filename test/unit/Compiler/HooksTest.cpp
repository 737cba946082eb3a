// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Passes of a caller between moec's phases, diagnostics as data.

#include "moec/Compiler/Compiler.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "mlir/Dialect/EmitC/IR/EmitC.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"

#include "gtest/gtest.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Calls a function on the module.
struct CallPass : PassWrapper<CallPass, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(CallPass)

  explicit CallPass(std::function<LogicalResult(ModuleOp)> function) : function(function) {}
  void runOnOperation() override {
    if (failed(function(getOperation())))
      signalPassFailure();
  }

  std::function<LogicalResult(ModuleOp)> function;
};

struct HooksTest : testing::Test {
  void SetUp() override {
    ASSERT_FALSE(llvm::sys::fs::createTemporaryFile("hooks", "mlir", input));
    ASSERT_FALSE(llvm::sys::fs::createTemporaryFile("hooks", "out", output));
    std::error_code code;
    llvm::raw_fd_ostream(input, code) << R"(
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = onnx.node "com.example.Twice"(%x) {outputs = ["y"], version = 1 : i64}
      : (tensor<4xf32>) -> tensor<4xf32> loc(fused<"com.example.Twice">["t", "model.onnx":3:1])
  return %y : tensor<4xf32>
})";
    options.input = input.str().str();
    options.output = output.str().str();
    options.compileTo = "onnx-to-linalg";
    options.onDiagnostic = [&](const CompileDiagnostic &d) { diagnostics.push_back(d); };
  }
  void TearDown() override {
    llvm::sys::fs::remove(input);
    llvm::sys::fs::remove(output);
  }

  void addHook(std::string after, std::function<LogicalResult(ModuleOp)> function) {
    options.hooks.push_back({after, [function](OpPassManager &pm) {
                               pm.addPass(std::make_unique<CallPass>(function));
                             }});
  }

  std::string onlyError() {
    return diagnostics.size() == 1 ? diagnostics.front().message : "not one diagnostic";
  }

  llvm::SmallString<128> input, output;
  CompileOptions options;
  std::vector<CompileDiagnostic> diagnostics;
};

} // namespace

/// x + x in place of an operator that moec does not know.
static LogicalResult expandTwice(ModuleOp module) {
  module.walk([](onnx::NodeOp node) {
    OpBuilder b(node);
    Value x = node->getOperand(0);
    auto sum = onnx::NodeOp::create(b, node.getLoc(), node->getResultTypes(), "Add",
                                    ArrayRef<Value>{x, x}, 14);
    node->replaceAllUsesWith(sum);
    node->erase();
  });
  return success();
}

TEST_F(HooksTest, AnOperatorOfTheCaller) {
  EXPECT_EQ(compile(options).status, CompileStatus::Unsupported);
  ASSERT_EQ(diagnostics.size(), 1u);
  EXPECT_EQ(diagnostics[0].severity, Severity::Error);
  EXPECT_EQ(diagnostics[0].file, "model.onnx");
  EXPECT_EQ(diagnostics[0].line, 3);
  EXPECT_EQ(diagnostics[0].node, "t");
  EXPECT_EQ(diagnostics[0].op, "com.example.Twice");

  diagnostics.clear();
  addHook("normalize-onnx", expandTwice);
  EXPECT_EQ(compile(options).status, CompileStatus::Success);
  EXPECT_TRUE(diagnostics.empty());
  auto text = llvm::MemoryBuffer::getFile(output);
  ASSERT_TRUE(bool(text));
  EXPECT_TRUE((*text)->getBuffer().contains("arith.addf"));
  EXPECT_FALSE((*text)->getBuffer().contains("onnx.node"));
}

TEST_F(HooksTest, RunInOrderAfterTheirPhases) {
  std::vector<std::string> calls;
  auto note = [&](std::string name) {
    return [&calls, name](ModuleOp module) {
      calls.push_back(name);
      return success();
    };
  };
  options.progress = [&](llvm::StringRef phase, uint64_t, uint64_t) {
    calls.push_back(phase.str());
    return true;
  };
  options.compileTo = "raise-moe";
  addHook("raise-moe", note("a"));
  addHook("normalize-onnx", note("b"));
  addHook("raise-moe", note("c"));
  addHook("fuse-moe", note("not reached"));
  EXPECT_EQ(compile(options).status, CompileStatus::Success);
  EXPECT_EQ(calls, (std::vector<std::string>{"normalize-onnx", "b", "raise-moe", "a", "c"}));
}

TEST_F(HooksTest, OneThatWouldNotRunIsAnError) {
  addHook("rais-moe", expandTwice);
  EXPECT_EQ(compile(options).status, CompileStatus::Usage);
  EXPECT_NE(onlyError().find("did you mean 'raise-moe'?"), std::string::npos) << onlyError();

  for (auto [phase, reason] : {std::pair<const char *, const char *>{
                                   "moe-to-reference", "does not run at this optimization level"},
                               {"import", "which the input already is past"},
                               {"package", "which is the last"}}) {
    options.hooks.clear();
    diagnostics.clear();
    addHook(phase, expandTwice);
    EXPECT_EQ(compile(options).status, CompileStatus::Usage);
    EXPECT_NE(onlyError().find(reason), std::string::npos) << onlyError();
  }
}

TEST_F(HooksTest, OneThatFailsEndsTheCompilation) {
  addHook("normalize-onnx", [](ModuleOp module) {
    return module.walk([](onnx::NodeOp node) {
                   node.emitError() << "not here";
                   return WalkResult::interrupt();
                 }).wasInterrupted()
               ? failure()
               : success();
  });
  EXPECT_EQ(compile(options).status, CompileStatus::Unsupported);
  EXPECT_EQ(onlyError(), "not here");
}

/// As do a verifier's errors about what a hook made.
TEST_F(HooksTest, WhatTheyMakeIsVerified) {
  addHook("normalize-onnx", [](ModuleOp module) {
    module.walk([](onnx::NodeOp node) { node->removeAttr("version"); });
    return success();
  });
  EXPECT_NE(compile(options).status, CompileStatus::Success);
  EXPECT_FALSE(diagnostics.empty());
}

TEST_F(HooksTest, DialectsOfTheCaller) {
  addHook("normalize-onnx", expandTwice);
  bool called = false;
  options.registerDialects = [&](DialectRegistry &registry) {
    called = true;
    registry.insert<emitc::EmitCDialect>();
  };
  EXPECT_EQ(compile(options).status, CompileStatus::Success);
  EXPECT_TRUE(called);
}
