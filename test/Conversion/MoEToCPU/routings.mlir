// RUN: moe-opt %s --moe-to-cpu | FileCheck %s

!routing = !moe.routing<experts = 9, k = 4, weighted>

// Routings of a function are tensors: experts, -1 in empty slots, and weights.
// CHECK-LABEL: func.func @capacity
// CHECK-SAME:    (%{{.+}}: tensor<?x4xi32>, %{{.+}}: tensor<?x4xf32>) -> (tensor<?x2xi32>, tensor<?x2xf32>)
// The priorities of all tokens are sorted, so there are buffers for it; counts alone need none.
// CHECK:         call @moec_capacity_keys_
// CHECK:         call @moec_capacity_accept_
// CHECK:         call @moec_capacity_compact_
func.func @capacity(%r: !routing) -> !moe.routing<experts = 9, k = 2, weighted> {
  %c = moe.capacity %r {capacity = #moe.capacity<tokens * 2 / experts>, order = #moe.capacity_order<bpr>, keep = 2 : i64} : (!routing) -> !moe.routing<experts = 9, k = 2, weighted>
  return %c : !moe.routing<experts = 9, k = 2, weighted>
}

// One routing used by two products: its rows are listed once. Weights that are arguments
// are packed panel by panel into scratch of each worker.
// CHECK-LABEL: func.func @one_routing
// CHECK:         call @moec_routing_lists_9_4_partial
// CHECK-NOT:     routing_lists
// CHECK:         %[[W:.+]] = moe.num_workers
// CHECK:         memref.alloc(%[[W]]) {{.*}} : memref<?x1x24x32xf32>
// CHECK:         call @moec_down_9x40x24_f32_raw_out_in_none_f32_none_none_none_stride24
// CHECK-NOT:     routing_lists
// CHECK:         call @moec_down_9x24x40_f32_raw_in_out_none_f16_none_none_none_stride40
// CHECK:         call @moec_combine_
func.func @one_routing(%x: tensor<?x24xf32>, %r: !routing, %a: tensor<9x40x24xf32>, %b: tensor<9x40x24xf16>) -> tensor<?x24xf32> {
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %x, %c0 : tensor<?x24xf32>
  %rows = moe.dispatch %x, %r : (tensor<?x24xf32>, !routing) -> tensor<?x24xf32>
  %u = moe.grouped_matmul %rows, %r, %a : (tensor<?x24xf32>, !routing, tensor<9x40x24xf32>) -> tensor<?x40xf32>
  %d = moe.grouped_matmul %u, %r, %b {layout = #moe.layout<in_out>} : (tensor<?x40xf32>, !routing, tensor<9x40x24xf16>) -> tensor<?x24xf32>
  %y = moe.combine %d, %r tokens(%tokens) : (tensor<?x24xf32>, !routing, index) -> tensor<?x24xf32>
  return %y : tensor<?x24xf32>
}

// Nothing is left to the reference lowering.
// CHECK-NOT: moe.{{dispatch|grouped_matmul|combine|capacity}}
