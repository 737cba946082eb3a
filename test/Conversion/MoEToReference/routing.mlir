// A routing becomes two dense tensors, across functions, calls and control flow too.
// RUN: moe-opt %s --moe-to-reference --canonicalize | FileCheck %s

!unweighted = !moe.routing<experts = 5, k = 3>
!routing = !moe.routing<experts = 5, k = 3, weighted>

// CHECK-LABEL: func.func private @unweighted(tensor<?x5xi32>) -> tensor<?x5xi32>
func.func private @unweighted(!unweighted) -> !unweighted
// CHECK-LABEL: func.func private @weighted(tensor<?x5xi32>, tensor<?x5xf32>) -> (tensor<?x5xi32>, tensor<?x5xf32>)
func.func private @weighted(!routing) -> !routing

// CHECK-LABEL: func.func @calls
// CHECK-SAME:    (%[[SLOTS:.*]]: tensor<?x5xi32>, %[[WEIGHTS:.*]]: tensor<?x5xf32>)
// CHECK-NEXT:    %[[R:.*]]:2 = call @weighted(%[[SLOTS]], %[[WEIGHTS]])
// CHECK-NEXT:    return %[[R]]#0, %[[R]]#1
func.func @calls(%r: !routing) -> !routing {
  %0 = call @weighted(%r) : (!routing) -> !routing
  return %0 : !routing
}

// CHECK-LABEL: func.func @control_flow
// CHECK-SAME:    (%[[C:.*]]: i1, %[[AS:.*]]: tensor<?x5xi32>, %[[AW:.*]]: tensor<?x5xf32>, %[[BS:.*]]: tensor<?x5xi32>, %[[BW:.*]]: tensor<?x5xf32>)
// CHECK-DAG:     %[[S:.*]] = arith.select %[[C]], %[[AS]], %[[BS]] : tensor<?x5xi32>
// CHECK-DAG:     %[[W:.*]] = arith.select %[[C]], %[[AW]], %[[BW]] : tensor<?x5xf32>
// CHECK:         return %[[S]], %[[W]]
func.func @control_flow(%c: i1, %a: !routing, %b: !routing) -> !routing {
  %0 = scf.if %c -> (!routing) {
    scf.yield %a : !routing
  } else {
    scf.yield %b : !routing
  }
  return %0 : !routing
}

// A slot is the number of experts that come before, where that is less than k.
// CHECK-LABEL: func.func @select
// CHECK-SAME:    (%[[KEY:.*]]: tensor<7x5xf32>) -> tensor<?x5xi32>
// CHECK:         %[[SLOTS:.*]] = linalg.generic
// CHECK:           %[[MINE:.*]] = tensor.extract %[[KEY]]
// CHECK:           %[[RANK:.*]] = scf.for %[[E:.*]] = %c0 to %c5 step %c1
// CHECK:             %[[OTHER:.*]] = tensor.extract %[[KEY]][%{{.*}}, %[[E]]]
// CHECK:             arith.cmpf olt, %[[MINE]], %[[OTHER]]
// CHECK:           %[[FITS:.*]] = arith.cmpi slt, %[[RANK]], %c3
// CHECK:           %[[SLOT:.*]] = arith.index_cast %[[RANK]]
// CHECK:           arith.select %[[FITS]], %[[SLOT]], %c-1_i32
// CHECK:         tensor.cast %[[SLOTS]] : tensor<7x5xi32> to tensor<?x5xi32>
func.func @select(%key: tensor<7x5xf32>) -> !unweighted {
  %r = moe.select %key {k = 3 : i64} : (tensor<7x5xf32>) -> !unweighted
  return %r : !unweighted
}

// Groups that do not divide the tokens are reported when the call runs.
// CHECK-LABEL: func.func @groups
// CHECK-SAME:    (%{{.*}}: tensor<?x5xi32>, %[[N:.*]]: index)
// CHECK:         %[[REST:.*]] = arith.remui
// CHECK:         %[[WHOLE:.*]] = arith.cmpi eq, %[[REST]], %c0
// CHECK:         %[[POSITIVE:.*]] = arith.cmpi sgt, %[[N]], %c0
// CHECK:         %[[EMPTY:.*]] = arith.cmpi eq, %{{.*}}, %c0
// CHECK:         %[[FITS:.*]] = arith.andi %[[WHOLE]], %[[POSITIVE]]
// CHECK:         %[[OK:.*]] = arith.ori %[[EMPTY]], %[[FITS]]
// CHECK:         moe.check %{{.*}}, %[[OK]], "the number of tokens is not a multiple of group_size"
func.func @groups(%r: !unweighted, %n: index) -> !unweighted {
  %0 = moe.capacity %r group_size(%n) {capacity = #moe.capacity<tokens / experts>} : (!unweighted, index) -> !unweighted
  return %0 : !unweighted
}

// CHECK-LABEL: func.func @unrelated
// CHECK:         moe.load_weight @w
moe.weight @w from [#moe.segment<"model.onnx.data", offset = 0, length = 16, tensor<2x2xf32>>] : tensor<2x2xf32>
func.func @unrelated() -> tensor<2x2xf32> {
  %w = moe.load_weight @w : tensor<2x2xf32>
  return %w : tensor<2x2xf32>
}
