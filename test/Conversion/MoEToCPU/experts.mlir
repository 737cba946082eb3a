// RUN: moe-opt %s --moe-to-cpu="vector-bits=512" | FileCheck %s
// RUN: moe-opt %s --moe-to-cpu="vector-bits=256" | FileCheck %s --check-prefix=AVX2

// Weights are packed in panels of 32 columns, gate and linear rows side by side, and
// put into one bank.
// CHECK-DAG: moe.weight @up_packed {{.*}} through [#moe.panels<width = 32, glu = interleaved>] {bank = "experts0"} : tensor<5x3x72x32xf32>
// CHECK-DAG: moe.weight @up_bias_packed {{.*}}tensor<5x80x1xf32>{{.*}} {bank = "experts0"} : tensor<5x3x1x32xf32>
// CHECK-DAG: moe.weight @down_packed {{.*}} through [#moe.panels<width = 32>] {bank = "experts0"} : tensor<5x3x40x32xf32>
moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 115200, tensor<5x80x72xf32>>] : tensor<5x80x72xf32>
moe.weight @up_bias from [#moe.segment<"m.data", offset = 115200, length = 1600, tensor<5x80xf32>>] : tensor<5x80xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 116800, length = 57600, tensor<5x72x40xf32>>] : tensor<5x72x40xf32>
// CHECK-DAG: moe.weight @dense_packed {{.*}} through [#moe.permute<[0, 2, 1]>, #moe.panels<width = 32>] : tensor<1x2x72x32xf32>
moe.weight @dense from [#moe.segment<"m.data", offset = 174400, length = 11520, tensor<72x40xf32>>] : tensor<72x40xf32>

// One call per step; scratch and the result are allocated by the caller.
// CHECK-LABEL: func.func @layer
// CHECK:       call @moec_gating_{{[0-9a-f]+}}
// CHECK:       call @moec_routing_lists_5_3
// CHECK:       call @moec_pack_rows_72_f32
// CHECK:       call @moec_up_5x80x72_f32_bias_f32_silu_interleaved
// CHECK:       call @moec_down_5x72x40_f32_stride48
// CHECK:       %[[Y:.+]] = memref.alloc(%{{.+}}) {{.*}} : memref<?x72xf32>
// CHECK:       call @moec_combine_72_96_3_f32({{.*}}, %[[Y]], %{{.+}}) :
// CHECK:       bufferization.to_tensor %[[Y]] restrict writable
func.func @layer(%x: tensor<?x72xf32>, %logits: tensor<?x5xf32>) -> tensor<?x72xf32> {
  %up = moe.load_weight @up : tensor<5x80x72xf32>
  %up_bias = moe.load_weight @up_bias : tensor<5x80xf32>
  %down = moe.load_weight @down : tensor<5x72x40xf32>
  %r = moe.gating %logits {score = #moe.score_fn<identity>, k = 3 : i64, weigh_source = #moe.weigh_source<logit>, fn = #moe.weigh_fn<softmax>} : (tensor<?x5xf32>) -> !moe.routing<experts = 5, k = 3, weighted>
  %y = moe.experts %x, %r up(%up) up_bias(%up_bias) down(%down) <silu, glu = interleaved> : (tensor<?x72xf32>, !moe.routing<experts = 5, k = 3, weighted>, tensor<5x80x72xf32>, tensor<5x80xf32>, tensor<5x72x40xf32>) -> tensor<?x72xf32>
  return %y : tensor<?x72xf32>
}

// A dense product: packed as one expert, in tasks of panels and rows.
// CHECK-LABEL: func.func @linear
// CHECK:       call @moec_linear_f32_f32_1x40x72_f32
func.func @linear(%x: tensor<?x72xf32>) -> tensor<?x40xf32> {
  %w = moe.load_weight @dense : tensor<72x40xf32>
  %y = moe.linear %x, %w {layout = #moe.layout<in_out>} : (tensor<?x72xf32>, tensor<72x40xf32>) -> tensor<?x40xf32>
  return %y : tensor<?x40xf32>
}

// Nothing of the layer's meaning is left to the reference lowering.
// CHECK-NOT: moe.experts
// CHECK-NOT: moe.gating

// Kernels never allocate, and their last argument is the call.
// CHECK-LABEL: func.func private @moec_up_5x80x72
// CHECK-SAME:  !llvm.ptr {moe.call}
// CHECK-NOT:   memref.alloc(
// CHECK:       scf.parallel
// CHECK:         scf.for
// CHECK:           scf.index_switch
// CHECK:             case 1
// The inner loop of a block of one row: one broadcast and two panel vectors.
// CHECK:               scf.for {{.*}} -> (vector<16xf32>, vector<16xf32>)
// CHECK-COUNT-2:         math.fma {{.*}} : vector<16xf32>
// CHECK:             case 2
// CHECK:             case 3
// CHECK:             case 4
// CHECK:             case 6
// Both lines of a panel's row are asked for 8 KiB ahead.
// CHECK:             case 8
// CHECK:               scf.for %[[STEP:[^ ]*]] =
// CHECK:                 %[[LATER:.*]] = arith.addi %[[STEP]], %c64
// CHECK:                 memref.prefetch %{{.*}}[%{{.*}}, %{{.*}}, %[[LATER]], %c0{{[_0-9]*}}], read
// CHECK:                 memref.prefetch %{{.*}}[%{{.*}}, %{{.*}}, %[[LATER]], %c16{{[_0-9]*}}], read
// CHECK-COUNT-16:        math.fma {{.*}} : vector<16xf32>
// CHECK:             case 10
// CHECK:             default

// AVX2-LABEL: func.func private @moec_up_5x80x72
// AVX2:         case 1
// AVX2:           scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// AVX2:         case 2
// AVX2:         default
