// RUN: moe-opt %s --moe-to-gpu | FileCheck %s

// A fused layer is a router, lists, two products of large blocks, both products of small ones in one
// launch, and a combine; few tokens have router and lists in one launch, products and combine in
// another. The host reads nothing.
// CHECK-LABEL: func.func @layer
// CHECK-NOT:   memref.load
// CHECK:       %[[FEW_ROUTED:.*]] = arith.cmpi slt, %{{.*}}, %c17
// CHECK:       %[[BOTH:.*]] = arith.select %[[FEW_ROUTED]], %c1{{[_0-9]*}}, %c0
// CHECK:       gpu.launch_func @moec_kernels::@[[ROUTER:moec_gating_[0-9a-f]+]]_lists_128 blocks in (%[[BOTH]], {{.*}} threads in (%c512
// CHECK:       %[[ROUTED:.*]] = arith.select %[[FEW_ROUTED]], %c0
// CHECK:       gpu.launch_func @moec_kernels::@[[ROUTER]] blocks in (%[[ROUTED]], {{.*}} threads in (%c128
// CHECK:       %[[LISTED:.*]] = arith.select %[[FEW_ROUTED]], %c0{{[_0-9]*}}, %c1
// CHECK:       gpu.launch_func @moec_kernels::@moec_lists_128_8 blocks in (%[[LISTED]], {{.*}} threads in (%c1024
// CHECK:       gpu.launch_func @moec_kernels::@[[UP:moec_product_768x2048_bf16_rows64_[0-9a-f]+]]
// CHECK:       gpu.launch_func @moec_kernels::@moec_product_2048x768_bf16_rows64_
// 32 warps for the columns of a token.
// CHECK:       arith.muli %{{.*}}, %c32
// CHECK:       %[[FEW:.*]] = arith.cmpi slt, %{{.*}}, %c17
// CHECK:       %[[INSIDE:.*]] = arith.select %[[FEW]], %[[BLOCKS:[0-9]+]], %c0
// CHECK:       %[[OWN:.*]] = arith.select %[[FEW]], %c0{{[_0-9]*}}, %[[BLOCKS]] :
// CHECK:       gpu.launch_func @moec_kernels::@moec_product_768x2048_bf16_few_2048_rows16_combine_{{.*}} %[[INSIDE]] : index)
// CHECK:       gpu.launch_func @moec_kernels::@moec_experts_combine_{{.*}} blocks in (%[[OWN]],
// CHECK-NOT:   memref.load
// CHECK:       return
func.func @layer(%x: tensor<?x2048xbf16>, %l: tensor<?x128xf32>, %up: tensor<128x1536x2048xbf16>,
                 %down: tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x128xf32>) -> !moe.routing<experts = 128, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x2048xbf16>, !moe.routing<experts = 128, k = 8, weighted>, tensor<128x1536x2048xbf16>, tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16>
  return %y : tensor<?x2048xbf16>
}

// The same layer again has the same kernels.
// CHECK-LABEL: func.func @again
// CHECK:       gpu.launch_func @moec_kernels::@[[ROUTER]]
// CHECK:       gpu.launch_func @moec_kernels::@[[UP]]
func.func @again(%x: tensor<?x2048xbf16>, %l: tensor<?x128xf32>, %up: tensor<128x1536x2048xbf16>,
                 %down: tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x128xf32>) -> !moe.routing<experts = 128, k = 8, weighted>
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x2048xbf16>, !moe.routing<experts = 128, k = 8, weighted>, tensor<128x1536x2048xbf16>, tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16>
  return %y : tensor<?x2048xbf16>
}

// The blocks of a router follow from the number of tokens: 4 warps of a token each.
// CHECK-LABEL: func.func @router
// CHECK:         %[[TOKENS:.*]] = memref.dim
// CHECK:         arith.divui
// CHECK:         gpu.launch_func
// CHECK-LABEL: gpu.module @moec_kernels
// No stack, and each of the 8 rounds two reductions of the warp.
// CHECK:       gpu.func @[[ROUTER]](
// CHECK:         scf.for
// CHECK:           nvvm.redux.sync  max
// CHECK:           nvvm.redux.sync  min
// CHECK:       gpu.func @moec_lists_128_8(
// CHECK-SAME:    workgroup(%{{.*}} : memref<32x128xi32, #gpu.address_space<workgroup>>
// CHECK:         nvvm.match.sync any
// CHECK:       gpu.func @[[UP]](
// CHECK:         nvgpu.device_async_copy
// CHECK:         nvvm.cp.async.wait.group 1
// CHECK:         nvvm.mma.sync
func.func @router(%l: tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 2, weighted> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 2 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 2, weighted>
  return %r : !moe.routing<experts = 64, k = 2, weighted>
}
