// moec's dialects and passes in the stock mlir-opt, which has no sanitizers.

// UNSUPPORTED: sanitizer

// RUN: mlir-opt %s --load-dialect-plugin=%moec_lib/MoecPlugin.so --load-pass-plugin=%moec_lib/MoecPlugin.so \
// RUN:   --pass-pipeline="builtin.module(normalize-onnx,raise-moe,moe-fuse-gating,moe-fuse-experts,canonicalize)" | FileCheck %s
// RUN: mlir-opt %s --load-dialect-plugin=%moec_lib/MoecPlugin.so --load-pass-plugin=%moec_lib/MoecPlugin.so \
// RUN:   --pass-pipeline="builtin.module(raise-moe,moe-to-reference,onnx-to-linalg,moec-lower-to-llvm)" | FileCheck %s --check-prefix=LLVM
// RUN: not mlir-opt %s 2>&1 | FileCheck %s --check-prefix=STOCK

// Nothing else is exported.
// RUN: llvm-nm --dynamic --defined-only %moec_lib/MoecPlugin.so | FileCheck %s --check-prefix=EXPORTS
// EXPORTS:      {{[TW]}} mlirGetDialectPluginInfo
// EXPORTS-NEXT: {{[TW]}} mlirGetPassPluginInfo
// EXPORTS-NOT:  {{.}}

// CHECK-LABEL: func.func @main
// CHECK: moe.gating
// CHECK: moe.experts
// LLVM: llvm.func @moec_entry_main_run
// STOCK: error: {{.*}}onnx

func.func @main(%x: tensor<?x8xf32>, %l: tensor<?x4xf32>, %w1: tensor<4x16x8xf32>, %w2: tensor<4x8x16xf32>) -> tensor<?x8xf32> {
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, attributes = {k = 2 : i64, activation_type = "silu"}, outputs = ["y"], version = 1 : i64}
      : (tensor<?x8xf32>, tensor<?x4xf32>, tensor<4x16x8xf32>, tensor<4x8x16xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
