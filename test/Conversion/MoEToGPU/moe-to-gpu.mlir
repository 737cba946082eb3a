// RUN: moe-opt %s --moe-to-gpu | FileCheck %s

// A fused layer is a router, lists, two products of large blocks, both products of small ones in one
// launch, and a combine; few tokens have all of it in the launch of the small blocks, which is there
// for any number of tokens, so that a captured run has it. The host reads nothing.
// CHECK-LABEL: func.func @layer
// CHECK-NOT:   memref.load
// CHECK:       llvm.call @moec_counters
// CHECK:       %[[ROUTED:[0-9]+]] = arith.maxsi
// CHECK:       %[[FEW:.*]] = arith.cmpi slt, %{{.*}}, %c17
// CHECK:       %[[ROUTER_BLOCKS:.*]] = arith.select %[[FEW]], %c0{{[_0-9]*}}, %[[ROUTED]] :
// CHECK:       gpu.launch_func @moec_kernels::@[[ROUTER:moec_gating_[0-9a-f]+]] blocks in (%[[ROUTER_BLOCKS]], {{.*}} threads in (%c128
// CHECK:       %[[LISTED:.*]] = arith.select %[[FEW]], %c0{{[_0-9]*}}, %c1
// CHECK:       gpu.launch_func @moec_kernels::@moec_lists_128_8 blocks in (%[[LISTED]], {{.*}} threads in (%c1024
// CHECK:       gpu.launch_func @moec_kernels::@[[UP:moec_product_768x2048_bf16_rows64_[0-9a-f]+]]
// CHECK:       gpu.launch_func @moec_kernels::@moec_product_2048x768_bf16_rows64_
// 32 warps for the columns of a token.
// CHECK:       arith.muli %{{.*}}, %c32
// CHECK:       %[[COMBINED:.*]] = arith.select %[[FEW]], %[[BLOCKS:[0-9]+]], %c0
// CHECK:       %[[ROUTINGS:.*]] = arith.select %[[FEW]], %[[ROUTED]], %c0
// CHECK:       gpu.launch_func @moec_kernels::@moec_product_768x2048_bf16_few_2048_rows16_routed_combined_{{.*}} blocks in (%c324, {{.*}} %[[ROUTINGS]] : index, {{.*}} %[[COMBINED]] : index,
// CHECK:       %[[OWN:.*]] = arith.select %[[FEW]], %c0{{[_0-9]*}}, %[[BLOCKS]] :
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

// A routing that something needs before the experts has launches of its own; only the combine is in
// the launch of both products.
// CHECK-LABEL: func.func @chosen_before
// CHECK:       gpu.launch_func @moec_kernels::@[[ROUTER]] blocks in (%[[ROUTED:[0-9]+]],
// CHECK:       gpu.launch_func @moec_kernels::@moec_lists_128_8 blocks in (%c1
// CHECK:       gpu.launch_func @moec_kernels::@moec_product_768x2048_bf16_few_2048_rows16_combined_
func.func @chosen_before(%x: tensor<?x2048xbf16>, %l: tensor<?x128xf32>, %up: tensor<128x1536x2048xbf16>,
                          %down: tensor<128x2048x768xbf16>) -> (tensor<?x2048xbf16>, tensor<?x8xi32>) {
  %zero = arith.constant 0 : index
  %tokens = tensor.dim %l, %zero : tensor<?x128xf32>
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 8 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x128xf32>) -> !moe.routing<experts = 128, k = 8, weighted>
  %ids, %weights = moe.entries %r tokens(%tokens) : (!moe.routing<experts = 128, k = 8, weighted>, index) -> (tensor<?x8xi32>, tensor<?x8xf32>)
  %y = moe.experts %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x2048xbf16>, !moe.routing<experts = 128, k = 8, weighted>, tensor<128x1536x2048xbf16>, tensor<128x2048x768xbf16>) -> tensor<?x2048xbf16>
  return %y, %ids : tensor<?x2048xbf16>, tensor<?x8xi32>
}

// All layers share counters, as many as one of them needs.
// CHECK-LABEL: func.func @two
// CHECK:         %[[BYTES:.*]] = llvm.mlir.constant(532 : i64)
// CHECK:         llvm.call @moec_counters(%{{.*}}, %[[BYTES]])
// CHECK:         %[[SAME:.*]] = llvm.mlir.constant(532 : i64)
// CHECK:         llvm.call @moec_counters(%{{.*}}, %[[SAME]])
// CHECK:         gpu.launch_func
func.func @two(%x: tensor<?x64xbf16>, %l: tensor<?x4xf32>, %up: tensor<4x64x64xbf16>, %m: tensor<?x64xf32>,
               %more: tensor<64x64x64xbf16>) -> tensor<?x64xbf16> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 1 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x4xf32>) -> !moe.routing<experts = 4, k = 1, weighted>
  %y = moe.experts %x, %r up(%up) down(%up) <silu> : (tensor<?x64xbf16>, !moe.routing<experts = 4, k = 1, weighted>, tensor<4x64x64xbf16>, tensor<4x64x64xbf16>) -> tensor<?x64xbf16>
  %s = moe.gating %m {fn = #moe.weigh_fn<softmax>, k = 1 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 1, weighted>
  %z = moe.experts %y, %s up(%more) down(%more) <silu> : (tensor<?x64xbf16>, !moe.routing<experts = 64, k = 1, weighted>, tensor<64x64x64xbf16>, tensor<64x64x64xbf16>) -> tensor<?x64xbf16>
  return %z : tensor<?x64xbf16>
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
