// RUN: moe-opt %s --lower-entry --one-shot-bufferize | FileCheck %s

moe.weight @plain from [#moe.segment<"m.data", offset = 0, length = 64, tensor<4x4xf32>>]
    {offset = 0 : i64} : tensor<4x4xf32>
moe.weight @apart from [#moe.segment<"m.data", offset = 64, length = 64, tensor<4x2x2xf32>>]
    {offset = 4096 : i64, expert_stride = 4096 : i64} : tensor<4x2x2xf32>

// CHECK-LABEL: func.func @main
// CHECK-SAME: %[[WEIGHTS:[a-z0-9_-]+]]: !llvm.ptr {moe.weights}
// CHECK: moe.weight_buffer %[[WEIGHTS]] @plain : !llvm.ptr, memref<4x4xf32>
// CHECK: moe.weight_buffer %[[WEIGHTS]] @apart : !llvm.ptr, memref<4x2x2xf32, strided<[1024, 2, 1]>>
func.func @main(%i: tensor<index>) -> (tensor<4x4xf32>, tensor<2x2xf32>) {
  %p = moe.load_weight @plain : tensor<4x4xf32>
  %a = moe.load_weight @apart : tensor<4x2x2xf32>
  %s = tensor.extract_slice %a[1, 0, 0] [1, 2, 2] [1, 1, 1] : tensor<4x2x2xf32> to tensor<2x2xf32>
  return %p, %s : tensor<4x4xf32>, tensor<2x2xf32>
}
