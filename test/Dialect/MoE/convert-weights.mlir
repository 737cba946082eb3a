// RUN: moe-opt %s --split-input-file --convert-weights="type=bf16" | FileCheck %s --check-prefix=BF16
// RUN: moe-opt %s --split-input-file --convert-weights="type=int4 block=16" | FileCheck %s --check-prefix=INT4
// RUN: moe-opt %s --split-input-file --convert-weights="type=int8 block=0 zero-points=true" | FileCheck %s --check-prefix=INT8
// RUN: moe-opt %s --split-input-file --convert-weights="type=int4 block=16" --remarks-filter=convert-weights 2>&1 | FileCheck %s --check-prefix=REMARK
// RUN: not moe-opt %s --split-input-file --convert-weights="type=int3" 2>&1 | FileCheck %s --check-prefix=TYPE
// RUN: not moe-opt %s --split-input-file --convert-weights="type=int4 block=24" 2>&1 | FileCheck %s --check-prefix=BLOCK

// TYPE: error: --convert-weights: type = 'int3', expected bf16, f16, int8 or int4
// BLOCK: error: --convert-weights: block = 24 is neither 0 nor a power of two of at least 16

!x = tensor<?x32xf32>
!routing = !moe.routing<experts = 2, k = 1, weighted>

// Weights in files, some of them transformed already, and inline ones.

// BF16: moe.weight @up_bf16 from [#moe.segment<"m", offset = 0, length = 12288, tensor<2x48x32xf32>>] through [#moe.convert<bf16>] : tensor<2x48x32xbf16>
// INT4: moe.weight @up_codes from [#moe.segment<"m", offset = 0, length = 12288, tensor<2x48x32xf32>>] through [#moe.quantize<codes, bits = 4, block = 16>] : tensor<2x48x16xui8>
// INT4: moe.weight @up_scales from {{.*}} through [#moe.quantize<scales, bits = 4, block = 16>] : tensor<2x48x2xf32>
// INT8: moe.weight @up_codes from {{.*}} through [#moe.quantize<codes, bits = 8, block = 0, zero_points>] : tensor<2x48x32xui8>
// INT8: moe.weight @up_scales from {{.*}} through [#moe.quantize<scales, bits = 8, block = 0, zero_points>] : tensor<2x48xf32>
// INT8: moe.weight @up_zero_points from {{.*}} through [#moe.quantize<zero_points, bits = 8, block = 0, zero_points>] : tensor<2x48xui8>
moe.weight @up from [#moe.segment<"m", offset = 0, length = 12288, tensor<2x48x32xf32>>] : tensor<2x48x32xf32>
// INT4: moe.weight @down_codes from {{.*}} through [#moe.permute<[0, 2, 1]>, #moe.quantize<codes, bits = 4, block = 16>] : tensor<2x32x24xui8>
moe.weight @down from [#moe.segment<"m", offset = 0, length = 12288, tensor<2x48x32xf32>>] through [#moe.permute<[0, 2, 1]>] : tensor<2x32x48xf32>

// BF16-LABEL: func @experts
// BF16:         %[[UP:.+]] = moe.load_weight @up_bf16 : tensor<2x48x32xbf16>
// BF16:         %[[DOWN:.+]] = moe.load_weight @down_bf16 : tensor<2x32x48xbf16>
// BF16:         moe.experts %{{.+}}, %{{.+}} up(%[[UP]]) down(%[[DOWN]])
// INT4-LABEL: func @experts
// INT4-NOT:     moe.load_weight @up :
// INT4:         %[[CODES:.+]] = moe.load_weight @up_codes
// INT4:         %[[SCALES:.+]] = moe.load_weight @up_scales
// INT4:         %[[UP:.+]] = moe.dequantize %[[CODES]] scales(%[[SCALES]]) {bits = 4 : i64, block = 16 : i64} : (tensor<2x48x16xui8>, tensor<2x48x2xf32>) -> tensor<2x48x32xf32>
// INT4:         %[[DOWN:.+]] = moe.dequantize
// INT4:         moe.experts %{{.+}}, %{{.+}} up(%[[UP]]) down(%[[DOWN]])
// INT8-LABEL: func @experts
// INT8:         moe.dequantize %{{.+}} scales(%{{.+}}) zero_points(%{{.+}}) {bits = 8 : i64}
func.func @experts(%x: !x, %r: !routing) -> !x {
  %u = moe.load_weight @up : tensor<2x48x32xf32>
  %d = moe.load_weight @down : tensor<2x32x48xf32>
  %y = moe.experts %x, %r up(%u) down(%d) <relu> : (!x, !routing, tensor<2x48x32xf32>, tensor<2x32x48xf32>) -> !x
  return %y : !x
}

// -----

!x = tensor<?x32xf32>
!shared = tensor<1x32x64xf32>
!down = tensor<1x64x32xf32>

// [E, in, out] is transposed to be quantized, and only then.

// BF16: moe.weight @up_bf16 from {{.*}} through [#moe.convert<bf16>] : tensor<1x32x64xbf16>
// INT4: moe.weight @gate_codes from {{.*}} through [#moe.permute<[0, 2, 1]>, #moe.quantize<codes, bits = 4, block = 16>] : tensor<1x64x16xui8>
moe.weight @gate from [#moe.segment<"m", offset = 0, length = 8192, !shared>] : !shared
moe.weight @up from [#moe.segment<"m", offset = 8192, length = 8192, !shared>] : !shared

// BF16-LABEL: func @in_out
// BF16:         moe.shared {{.*}} {layout = #moe.layout<in_out>}
// INT4-LABEL: func @in_out
// INT4-COUNT-3: moe.dequantize
// INT4:         moe.shared
// INT4-NOT:     in_out
func.func @in_out(%x: !x) -> !x {
  %g = moe.load_weight @gate : !shared
  %u = moe.load_weight @up : !shared
  %d = arith.constant dense<1.0> : !down
  %y = moe.shared %x up(%u) gate(%g) down(%d) <silu, glu = separate> {layout = #moe.layout<in_out>} : (!x, !shared, !shared, !down) -> !x
  return %y : !x
}

// -----

!x = tensor<?x32xf32>
!routing = !moe.routing<experts = 2, k = 1, weighted>

// What the block does not divide stays; of [E, in, out] weights it is transposed.

// INT4: moe.weight @down_transposed from {{.*}} through [#moe.permute<[0, 2, 1]>] : tensor<2x32x24xf32>
moe.weight @up from [#moe.segment<"m", offset = 0, length = 6144, tensor<2x32x24xf32>>] : tensor<2x32x24xf32>
moe.weight @down from [#moe.segment<"m", offset = 6144, length = 6144, tensor<2x24x32xf32>>] : tensor<2x24x32xf32>

// INT4-LABEL: func @blocks
// INT4:         moe.expert_ffn
// INT4-NOT:     in_out
// REMARK-DAG:       rows of 24 elements are not whole blocks of 16
func.func @blocks(%x: !x, %r: !routing) -> !x {
  %u = moe.load_weight @up : tensor<2x32x24xf32>
  %d = moe.load_weight @down : tensor<2x24x32xf32>
  %y = moe.expert_ffn %x, %r up(%u) down(%d) <relu> {layout = #moe.layout<in_out>} : (!x, !routing, tensor<2x32x24xf32>, tensor<2x24x32xf32>) -> !x
  return %y : !x
}

// -----

!x = tensor<?x32xf32>
!routing = !moe.routing<experts = 2, k = 1, weighted>
!w = tensor<2x8x32xf32>

// What is no constant, or no floating-point number of a known type, stays, and is warned of.

// REMARK-DAG: warning: no expert weights were converted to int4; remarks say why
// REMARK-DAG: the weights are not constants
// INT4-LABEL: func @argument
// INT4:         moe.grouped_matmul %{{.+}}, %{{.+}}, %arg2 :
func.func @argument(%x: !x, %r: !routing, %w: !w) -> tensor<?x8xf32> {
  %y = moe.grouped_matmul %x, %r, %w : (!x, !routing, !w) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

!x = tensor<?x32xf32>
!routing = !moe.routing<experts = 2, k = 1, weighted>

// REMARK-DAG: the weights are quantized already
// INT4-LABEL: func @quantized
// INT4-COUNT-1: moe.dequantize
// INT4-NOT:     moe.dequantize
func.func @quantized(%x: !x, %r: !routing, %c: tensor<2x8x32xui8>, %s: tensor<2x8xf32>) -> tensor<?x8xf32> {
  %w = moe.dequantize %c scales(%s) {bits = 8 : i64} : (tensor<2x8x32xui8>, tensor<2x8xf32>) -> tensor<2x8x32xf32>
  %y = moe.grouped_matmul %x, %r, %w : (!x, !routing, tensor<2x8x32xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

!x = tensor<?x32xbf16>
!routing = !moe.routing<experts = 2, k = 1, weighted>
!w = tensor<2x8x32xbf16>

// BF16-LABEL: func @same_type
// BF16:         moe.load_weight @w : tensor<2x8x32xbf16>
// INT4-LABEL: func @same_type
// INT4:         moe.dequantize {{.*}} -> tensor<2x8x32xf32>
moe.weight @w from [#moe.segment<"m", offset = 0, length = 1024, !w>] : !w
func.func @same_type(%x: !x, %r: !routing) -> tensor<?x8xbf16> {
  %w = moe.load_weight @w : !w
  %y = moe.grouped_matmul %x, %r, %w : (!x, !routing, !w) -> tensor<?x8xbf16>
  return %y : tensor<?x8xbf16>
}
