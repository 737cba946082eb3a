// REQUIRES: ptxas
// RUN: moe-opt %s --onnx-to-linalg=vector-bits=1024 "--emit-ptx=check arch=sm_80" -o /dev/null 2>&1 | FileCheck %s
// RUN: moe-opt %s --onnx-to-linalg=vector-bits=1024 "--emit-ptx=check arch=sm_90a" -o /dev/null 2>&1 | FileCheck %s

// Sums and scores stay in registers, for the largest heads, too; a spill would be an error.
// CHECK-DAG: remark: moec_attention_{{[0-9a-f]+}}: {{[0-9]+}} registers, 0 bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_attention_{{[0-9a-f]+}}: {{[0-9]+}} registers, {{[0-9]+}} bytes of shared memory, 0 of stack, 0 of spills
// CHECK-DAG: remark: moec_attention_{{[0-9a-f]+}}_combine: {{[0-9]+}} registers, 0 bytes of shared memory, 0 of stack, 0 of spills

func.func @half(%q: tensor<1x?x?x128xbf16>, %k: tensor<1x?x?x128xbf16>, %v: tensor<1x?x?x128xbf16>) -> tensor<1x?x?x128xbf16> {
  %y = onnx.node "Attention"(%q, %k, %v) {attributes = {is_causal = 1 : i64}, version = 23 : i64} : (tensor<1x?x?x128xbf16>, tensor<1x?x?x128xbf16>, tensor<1x?x?x128xbf16>) -> tensor<1x?x?x128xbf16>
  return %y : tensor<1x?x?x128xbf16>
}

func.func @largest(%q: tensor<1x?x?x256xf16>, %k: tensor<1x?x?x256xf16>, %v: tensor<1x?x?x256xf16>) -> tensor<1x?x?x256xf16> {
  %y = onnx.node "Attention"(%q, %k, %v) {version = 23 : i64} : (tensor<1x?x?x256xf16>, tensor<1x?x?x256xf16>, tensor<1x?x?x256xf16>) -> tensor<1x?x?x256xf16>
  return %y : tensor<1x?x?x256xf16>
}

func.func @single(%q: tensor<1x?x?x64xf32>, %k: tensor<1x?x?x64xf32>, %v: tensor<1x?x?x64xf32>) -> tensor<1x?x?x64xf32> {
  %y = onnx.node "Attention"(%q, %k, %v) {version = 23 : i64} : (tensor<1x?x?x64xf32>, tensor<1x?x?x64xf32>, tensor<1x?x?x64xf32>) -> tensor<1x?x?x64xf32>
  return %y : tensor<1x?x?x64xf32>
}
