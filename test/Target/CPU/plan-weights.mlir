// RUN: moe-opt %s --plan-weights | FileCheck %s

// Unused weights go away.
// CHECK-NOT: @unused
moe.weight @unused from [dense<1.0> : tensor<4xf32>] : tensor<4xf32>

// Without a bank: contiguous, at the next multiple of 64.
// CHECK: moe.weight @first {{.*}} {expert_stride = 4 : i64, offset = 0 : i64} : tensor<5xf32>
moe.weight @first from [dense<2.0> : tensor<5xf32>] : tensor<5xf32>
// CHECK: moe.weight @second {{.*}} {expert_stride = 12 : i64, offset = 64 : i64} : tensor<2x3xf32>
moe.weight @second from [#moe.segment<"d.bin", offset = 0, length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>

// The same bytes as @second.
// CHECK-NOT: @again
moe.weight @again from [#moe.segment<"d.bin", offset = 0, length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>

// Members of a bank lie together, expert by expert, in pages: 5000 and 100 bytes
// take two pages. The bank stands where its first member is.
// CHECK: moe.weight @up {{.*}} {bank = "b", expert_stride = 8192 : i64, offset = 4096 : i64}
moe.weight @up from [#moe.segment<"d.bin", offset = 64, length = 15000, tensor<3x1250xf32>>] {bank = "b"} : tensor<3x1250xf32>
// CHECK: moe.weight @between {{.*}} {expert_stride = 4 : i64, offset = 28672 : i64}
moe.weight @between from [dense<3.0> : tensor<2xf32>] : tensor<2xf32>
// CHECK: moe.weight @down {{.*}} {bank = "b", expert_stride = 8192 : i64, offset = 9152 : i64}
moe.weight @down from [#moe.segment<"d.bin", offset = 16000, length = 300, tensor<3x25xf32>>] {bank = "b"} : tensor<3x25xf32>

// CHECK-LABEL: func.func @main
func.func @main() -> (tensor<5xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<3x1250xf32>, tensor<2xf32>, tensor<3x25xf32>) {
  %0 = moe.load_weight @first : tensor<5xf32>
  %1 = moe.load_weight @second : tensor<2x3xf32>
  // CHECK-COUNT-2: moe.load_weight @second
  %2 = moe.load_weight @again : tensor<2x3xf32>
  %3 = moe.load_weight @up : tensor<3x1250xf32>
  %4 = moe.load_weight @between : tensor<2xf32>
  %5 = moe.load_weight @down : tensor<3x25xf32>
  return %0, %1, %2, %3, %4, %5 : tensor<5xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<3x1250xf32>, tensor<2xf32>, tensor<3x25xf32>
}
