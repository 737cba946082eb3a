// RUN: moe-opt %s --normalize-onnx --split-input-file | FileCheck %s

// Axes become inputs and count from the front.
// CHECK-LABEL: func @axes
// CHECK: %[[TWO:.*]] = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64}
// CHECK: %[[S:.*]] = onnx.node "ReduceSum"(%arg0, %[[TWO]]) {version = 13 : i64} : (tensor<?x4x8xf32>, tensor<1xi64>) -> tensor<?x4x1xf32>
// CHECK: onnx.node "Squeeze"(%[[S]], %{{.*}}) {version = 13 : i64} : (tensor<?x4x1xf32>, tensor<1xi64>) -> tensor<?x4xf32>
// CHECK: %[[ALL:.*]] = onnx.node "Constant"() {attributes = {value = dense<[0, 1, 2]> : tensor<3xi64>}, version = 13 : i64}
// CHECK: onnx.node "ReduceMean"(%arg0, %[[ALL]]) {attributes = {keepdims = 0 : i64}, version = 18 : i64} : (tensor<?x4x8xf32>, tensor<3xi64>) -> tensor<f32>
// CHECK: onnx.node "Unsqueeze"(%{{.*}}, %{{.*}}) {version = 13 : i64} : (tensor<?x4xf32>, tensor<2xi64>) -> tensor<1x?x4x1xf32>
func.func @axes(%x: tensor<?x4x8xf32>) -> (tensor<*x!onnx.unknown>, tensor<*xf32>) {
  %s = onnx.node "ReduceSum"(%x) {attributes = {axes = array<i64: -1>}, version = 11 : i64} : (tensor<?x4x8xf32>) -> tensor<*x!onnx.unknown>
  %q = onnx.node "Squeeze"(%s) {attributes = {axes = array<i64: -1>}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  %m = onnx.node "ReduceMean"(%x) {attributes = {keepdims = 0 : i64}, version = 11 : i64} : (tensor<?x4x8xf32>) -> tensor<*xf32>
  %u = onnx.node "Unsqueeze"(%q) {attributes = {axes = array<i64: 0, -1>}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  return %u, %m : tensor<*x!onnx.unknown>, tensor<*xf32>
}

// -----

// Softmax before 13 works on rows of everything from its axis on.
// CHECK-LABEL: func @softmax
// CHECK: %[[SHAPE:.*]] = onnx.node "Shape"(%arg0)
// CHECK: %[[FLAT:.*]] = onnx.node "Flatten"(%arg0) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x4x8xf32>) -> tensor<?x32xf32>
// CHECK: %[[S:.*]] = onnx.node "Softmax"(%[[FLAT]]) {attributes = {axis = 1 : i64}, version = 13 : i64}
// CHECK: %[[Y:.*]] = onnx.node "Reshape"(%[[S]], %[[SHAPE]]) {version = 14 : i64} : (tensor<?x32xf32>, tensor<3xi64>) -> tensor<?x4x8xf32>
// CHECK: %[[L:.*]] = onnx.node "Softmax"(%arg0) {attributes = {axis = 2 : i64}, version = 13 : i64}
// CHECK: return %[[Y]], %[[L]]
func.func @softmax(%x: tensor<?x4x8xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %0 = onnx.node "Softmax"(%x) {version = 11 : i64} : (tensor<?x4x8xf32>) -> tensor<*xf32>
  %1 = onnx.node "Softmax"(%x) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?x4x8xf32>) -> tensor<*xf32>
  return %0, %1 : tensor<*xf32>, tensor<*xf32>
}

// -----

// CHECK-LABEL: func @log_softmax
// CHECK: %[[FLAT:.*]] = onnx.node "Flatten"(%arg0) {attributes = {axis = 2 : i64}, version = 13 : i64} : (tensor<?x?x?x?xf32>) -> tensor<?x?xf32>
// CHECK: onnx.node "LogSoftmax"(%[[FLAT]]) {attributes = {axis = 1 : i64}, version = 13 : i64}
func.func @log_softmax(%x: tensor<?x?x?x?xf32>) -> tensor<*xf32> {
  %0 = onnx.node "LogSoftmax"(%x) {attributes = {axis = -2 : i64}, version = 11 : i64} : (tensor<?x?x?x?xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

// Dimensions of "..." broadcast, the letters of the result come in their order.
// CHECK-LABEL: func @einsum
// CHECK: -> tensor<2x?x3x7xf32>
// CHECK: -> tensor<?x3x7xf32>
func.func @einsum(%x: tensor<2x1x3x5xf32>, %y: tensor<?x5x7xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %0 = onnx.node "Einsum"(%x, %y) {attributes = {equation = "...ij,...jk"}, version = 12 : i64} : (tensor<2x1x3x5xf32>, tensor<?x5x7xf32>) -> tensor<*xf32>
  %1 = onnx.node "Einsum"(%x, %y) {attributes = {equation = "abij, bjk -> bik"}, version = 12 : i64} : (tensor<2x1x3x5xf32>, tensor<?x5x7xf32>) -> tensor<*xf32>
  return %0, %1 : tensor<*xf32>, tensor<*xf32>
}

// -----

// The statistics of a normalization have 1 where it normalizes.
// CHECK-LABEL: func @layer_normalization
// CHECK: -> (tensor<?x4x8xbf16>, tensor<?x1x1xf32>, tensor<?x1x1xf32>)
func.func @layer_normalization(%x: tensor<?x4x8xbf16>, %s: tensor<4x8xbf16>) -> (tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>) {
  %0:3 = onnx.node "LayerNormalization"(%x, %s) {attributes = {axis = 1 : i64}, version = 17 : i64} : (tensor<?x4x8xbf16>, tensor<4x8xbf16>) -> (tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>)
  return %0#0, %0#1, %0#2 : tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>
}

// -----

// What does nothing goes away; a statement about it is kept.
// CHECK-LABEL: func @gone(%arg0: tensor<?x4xf32>) -> tensor<?x4xf32>
// CHECK-NEXT: %[[R:.*]] = onnx.node "Other"(%arg0) {version = 18 : i64} : (tensor<?x4xf32>) -> tensor<?x4xf32>
// CHECK-NEXT: return %[[R]]
func.func @gone(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %0 = onnx.node "Identity"(%x) {version = 16 : i64} : (tensor<?x4xf32>) -> tensor<*x!onnx.unknown>
  %1 = onnx.node "Cast"(%0) {attributes = {to = 1 : i64}, version = 19 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*xf32>
  %2 = onnx.node "Other"(%1) {version = 18 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %3 = onnx.node "Max"(%2) {version = 13 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %4 = onnx.node "ReduceSum"(%3) {attributes = {noop_with_empty_axes = 1 : i64}, version = 13 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  %5 = onnx.node "Identity"(%4) {version = 16 : i64} : (tensor<*xf32>) -> tensor<?x4xf32>
  %unused = onnx.node "Exp"(%5) {version = 13 : i64} : (tensor<?x4xf32>) -> tensor<*xf32>
  return %5 : tensor<?x4xf32>
}

// -----

// CHECK-LABEL: func @spellings
// CHECK-DAG: value = dense<2.500000e+00> : tensor<f32>
// CHECK-DAG: value = dense<[1, 2]> : tensor<2xi64>
// CHECK: onnx.node "Transpose"(%arg0) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<?x4xf32>) -> tensor<4x?xf32>
// CHECK: %[[M:.*]] = onnx.node "Min"(%arg0, %arg1)
// CHECK: onnx.node "Min"(%[[M]], %{{.*}}) {version = 13 : i64} : (tensor<?x4xf32>, tensor<f32>) -> tensor<?x4xf32>
// CHECK: %[[AXES:.*]] = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}
// CHECK: %[[STEPS:.*]] = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}
// CHECK: onnx.node "Slice"(%arg0, %{{.*}}, %arg2, %[[AXES]], %[[STEPS]]) {version = 13 : i64}
func.func @spellings(%x: tensor<?x4xf32>, %y: tensor<4xf32>, %e: tensor<1xi64>) -> (tensor<*xf32>, tensor<*xf32>, tensor<*xf32>, tensor<*xi64>) {
  %c = onnx.node "Constant"() {attributes = {value_float = 2.5 : f32}, version = 12 : i64} : () -> tensor<*x!onnx.unknown>
  %d = onnx.node "Constant"() {attributes = {value_ints = array<i64: 1, 2>}, version = 12 : i64} : () -> tensor<*xi64>
  %s = onnx.node "Constant"() {attributes = {value_ints = array<i64: 0>}, version = 12 : i64} : () -> tensor<*xi64>
  %0 = onnx.node "Transpose"(%x) {version = 13 : i64} : (tensor<?x4xf32>) -> tensor<*xf32>
  %1 = onnx.node "Min"(%x, %y, %c) {version = 12 : i64} : (tensor<?x4xf32>, tensor<4xf32>, tensor<*x!onnx.unknown>) -> tensor<*xf32>
  %2 = onnx.node "Slice"(%x, %s, %e) {version = 11 : i64} : (tensor<?x4xf32>, tensor<*xi64>, tensor<1xi64>) -> tensor<*xf32>
  return %0, %1, %2, %d : tensor<*xf32>, tensor<*xf32>, tensor<*xf32>, tensor<*xi64>
}

// -----

// Arithmetic on shapes folds where sizes are known, and partly known shapes help.
// CHECK-LABEL: func @shapes(%arg0: tensor<?x4x8xf32>) -> (tensor<?x32xf32>, tensor<2xi64>)
// CHECK: %[[N:.*]] = onnx.node "Gather"
// CHECK: %[[T:.*]] = onnx.node "Concat"
// CHECK: %[[R:.*]] = onnx.node "Reshape"(%arg0, %[[T]]) {version = 14 : i64} : (tensor<?x4x8xf32>, tensor<2xi64>) -> tensor<?x32xf32>
// CHECK: %[[C:.*]] = onnx.node "Constant"() {attributes = {value = dense<[4, 8]> : tensor<2xi64>}
// CHECK: return %[[R]], %[[C]]
func.func @shapes(%x: tensor<?x4x8xf32>) -> (tensor<*xf32>, tensor<*xi64>) {
  %shape = onnx.node "Shape"(%x) {version = 11 : i64} : (tensor<?x4x8xf32>) -> tensor<*x!onnx.unknown>
  %i0 = onnx.node "Constant"() {attributes = {value_int = 0 : i64}, version = 12 : i64} : () -> tensor<*xi64>
  %i1 = onnx.node "Constant"() {attributes = {value_int = 1 : i64}, version = 12 : i64} : () -> tensor<*xi64>
  %i2 = onnx.node "Constant"() {attributes = {value_int = -1 : i64}, version = 12 : i64} : () -> tensor<*xi64>
  %n = onnx.node "Gather"(%shape, %i0) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*xi64>) -> tensor<*x!onnx.unknown>
  %a = onnx.node "Gather"(%shape, %i1) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*xi64>) -> tensor<*x!onnx.unknown>
  %b = onnx.node "Gather"(%shape, %i2) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*xi64>) -> tensor<*x!onnx.unknown>
  %ab = onnx.node "Mul"(%a, %b) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  %n1 = onnx.node "Unsqueeze"(%n) {attributes = {axes = array<i64: 0>}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  %ab1 = onnx.node "Unsqueeze"(%ab) {attributes = {axes = array<i64: 0>}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  %t = onnx.node "Concat"(%n1, %ab1) {attributes = {axis = 0 : i64}, version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
  %r = onnx.node "Reshape"(%x, %t) {version = 13 : i64} : (tensor<?x4x8xf32>, tensor<*x!onnx.unknown>) -> tensor<*xf32>
  %s1 = onnx.node "Constant"() {attributes = {value_ints = array<i64: 1>}, version = 12 : i64} : () -> tensor<*xi64>
  %e1 = onnx.node "Constant"() {attributes = {value_ints = array<i64: 9223372036854775807>}, version = 12 : i64} : () -> tensor<*xi64>
  %tail = onnx.node "Slice"(%shape, %s1, %e1) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<*xi64>, tensor<*xi64>) -> tensor<*xi64>
  return %r, %tail : tensor<*xf32>, tensor<*xi64>
}

// -----

// CHECK-LABEL: func @reshape
// CHECK: "Reshape"{{.*}} -> tensor<?x128xf32>
// CHECK: "Reshape"{{.*}} -> tensor<8x?xf32>
// CHECK: "Expand"{{.*}} -> tensor<3x?x4x32xf32>
func.func @reshape(%x: tensor<?x4x32xf32>) -> (tensor<*xf32>, tensor<*xf32>, tensor<*xf32>) {
  %a = onnx.node "Constant"() {attributes = {value_ints = array<i64: 0, -1>}, version = 12 : i64} : () -> tensor<*xi64>
  %b = onnx.node "Constant"() {attributes = {value_ints = array<i64: 8, -1>}, version = 12 : i64} : () -> tensor<*xi64>
  %c = onnx.node "Constant"() {attributes = {value_ints = array<i64: 3, 1, 1, 32>}, version = 12 : i64} : () -> tensor<*xi64>
  %0 = onnx.node "Reshape"(%x, %a) {version = 13 : i64} : (tensor<?x4x32xf32>, tensor<*xi64>) -> tensor<*xf32>
  %1 = onnx.node "Reshape"(%x, %b) {version = 13 : i64} : (tensor<?x4x32xf32>, tensor<*xi64>) -> tensor<*xf32>
  %2 = onnx.node "Expand"(%x, %c) {version = 13 : i64} : (tensor<?x4x32xf32>, tensor<*xi64>) -> tensor<*xf32>
  return %0, %1, %2 : tensor<*xf32>, tensor<*xf32>, tensor<*xf32>
}

// -----

// CHECK-LABEL: func @products
// CHECK: "MatMul"{{.*}} -> tensor<2x?x5xbf16>
// CHECK: "Gemm"{{.*}} -> tensor<?x7xf32>
// CHECK: "Where"{{.*}} -> tensor<?x6xf32>
// CHECK: "Equal"{{.*}} -> tensor<?x6xi1>
// CHECK: "TopK"{{.*}}axis = 1{{.*}} -> (tensor<?x2xf32>, tensor<?x2xi64>)
func.func @products(%a: tensor<?x4xbf16>, %b: tensor<2x4x5xbf16>, %c: tensor<?x6xf32>, %d: tensor<7x6xf32>, %e: tensor<7xf32>, %p: tensor<1x6xi1>)
    -> (tensor<*xbf16>, tensor<*xf32>, tensor<*xf32>, tensor<*xi1>, tensor<*xf32>) {
  %k = onnx.node "Constant"() {attributes = {value_ints = array<i64: 2>}, version = 12 : i64} : () -> tensor<*xi64>
  %0 = onnx.node "MatMul"(%a, %b) {version = 13 : i64} : (tensor<?x4xbf16>, tensor<2x4x5xbf16>) -> tensor<*xbf16>
  %1 = onnx.node "Gemm"(%c, %d, %e) {attributes = {transB = 1 : i64}, version = 11 : i64} : (tensor<?x6xf32>, tensor<7x6xf32>, tensor<7xf32>) -> tensor<*xf32>
  %2 = onnx.node "Where"(%p, %c, %c) {version = 9 : i64} : (tensor<1x6xi1>, tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<*xf32>
  %3 = onnx.node "Equal"(%c, %c) {version = 13 : i64} : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<*xi1>
  %4:2 = onnx.node "TopK"(%c, %k) {version = 11 : i64} : (tensor<?x6xf32>, tensor<*xi64>) -> (tensor<*xf32>, tensor<*xi64>)
  return %0, %1, %2, %3, %4#0 : tensor<*xbf16>, tensor<*xf32>, tensor<*xf32>, tensor<*xi1>, tensor<*xf32>
}

// -----

// Unknown operators stay as they are; graphs inside nodes are normalized.
// CHECK-LABEL: func @others
// CHECK: onnx.node "my.Op"(%arg0) {attributes = {axis = -1 : i64}, version = 7 : i64} : (tensor<4xf32>) -> tensor<*x!onnx.unknown>
// CHECK: onnx.node "If"
// CHECK-NEXT: onnx.yield %arg0
// CHECK: onnx.yield
func.func @others(%x: tensor<4xf32>, %c: tensor<i1>) -> (tensor<*x!onnx.unknown>, tensor<4xf32>) {
  %0 = onnx.node "my.Op"(%x) {attributes = {axis = -1 : i64}, version = 7 : i64} : (tensor<4xf32>) -> tensor<*x!onnx.unknown>
  %1 = onnx.node "If"(%c) {graphs = ["then_branch", "else_branch"], version = 18 : i64} : (tensor<i1>) -> tensor<4xf32> {
    %i = onnx.node "Identity"(%x) {version = 18 : i64} : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %i : tensor<4xf32>
  }, {
    %n = onnx.node "Neg"(%x) {version = 18 : i64} : (tensor<4xf32>) -> tensor<4xf32>
    onnx.yield %n : tensor<4xf32>
  }
  return %0, %1 : tensor<*x!onnx.unknown>, tensor<4xf32>
}

// -----

// A branch that is known takes the place of the node.
// CHECK-LABEL: func @known_branch
// CHECK-NOT: "If"
// CHECK: %[[NEG:.*]] = onnx.node "Neg"(%arg0) {version = 13 : i64} : (tensor<4xf32>) -> tensor<4xf32>
// CHECK: return %[[NEG]]
func.func @known_branch(%x: tensor<4xf32>) -> tensor<?xf32> {
  %c = onnx.node "Constant"() {attributes = {value = dense<false> : tensor<i1>}, version = 13 : i64} : () -> tensor<i1>
  %y = onnx.node "If"(%c) {graphs = ["then_branch", "else_branch"], version = 18 : i64} : (tensor<i1>) -> tensor<?xf32> {
    onnx.yield %x : tensor<4xf32>
  }, {
    %n = onnx.node "Neg"(%x) {version = 18 : i64} : (tensor<4xf32>) -> tensor<*x!onnx.unknown>
    onnx.yield %n : tensor<*x!onnx.unknown>
  }
  return %y : tensor<?xf32>
}

// -----

// What a loop carries has the sizes that all steps leave: the body is inferred with these.
// CHECK-LABEL: func @loop
// CHECK: onnx.node "Loop"{{.*}} -> (tensor<?x4xf32>, tensor<3x4x?xf32>)
// CHECK: ^bb0(%{{.*}}: tensor<i64>, %{{.*}}: tensor<i1>, %[[V:.*]]: tensor<?x4xf32>):
// CHECK: onnx.node "Concat"(%[[V]], %arg0) {{.*}} -> tensor<?x4xf32>
func.func @loop(%x: tensor<2x4xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %n = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %y:2 = onnx.node "Loop"(%n, %x) {absent = array<i32: 1>, graphs = ["body"], version = 18 : i64} : (tensor<i64>, tensor<2x4xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  ^bb0(%i: tensor<*x!onnx.unknown>, %c: tensor<*x!onnx.unknown>, %v: tensor<*x!onnx.unknown>):
    %next = onnx.node "Concat"(%v, %x) {attributes = {axis = 0 : i64}, version = 18 : i64} : (tensor<*x!onnx.unknown>, tensor<2x4xf32>) -> tensor<*x!onnx.unknown>
    %row = onnx.node "Transpose"(%v) {version = 18 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*x!onnx.unknown>
    onnx.yield %c, %next, %row : tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>, tensor<*x!onnx.unknown>
  }
  return %y#0, %y#1 : tensor<*xf32>, tensor<*xf32>
}

// -----

// Sequences of a known number of tensors are these tensors.
// CHECK-LABEL: func @sequences
// CHECK: %[[PARTS:.*]]:3 = onnx.node "Split"(%arg0, %{{.*}}) {attributes = {axis = 1 : i64}, version = 18 : i64} : (tensor<?x7xf32>, tensor<3xi64>) -> (tensor<?x3xf32>, tensor<?x3xf32>, tensor<?x1xf32>)
// CHECK: %[[LENGTH:.*]] = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<i64>}, version = 13 : i64}
// CHECK: %[[JOINED:.*]] = onnx.node "Concat"(%arg1, %[[PARTS]]#0, %[[PARTS]]#2)
// CHECK-NOT: Sequence
// CHECK: return %[[PARTS]]#1, %[[JOINED]], %[[LENGTH]]
func.func @sequences(%x: tensor<?x7xf32>, %y: tensor<?x2xf32>) -> (tensor<*xf32>, tensor<*xf32>, tensor<*xi64>) {
  %three = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<i64>}, version = 20 : i64} : () -> tensor<i64>
  %zero = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 20 : i64} : () -> tensor<i64>
  %one = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 20 : i64} : () -> tensor<i64>
  %s = onnx.node "SplitToSequence"(%x, %three) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?x7xf32>, tensor<i64>) -> tensor<*x!onnx.unknown>
  %n = onnx.node "SequenceLength"(%s) {version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*xi64>
  %a = onnx.node "SequenceAt"(%s, %one) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<i64>) -> tensor<*xf32>
  %e = onnx.node "SequenceErase"(%s, %one) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<i64>) -> tensor<*x!onnx.unknown>
  %i = onnx.node "SequenceInsert"(%e, %y, %zero) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<?x2xf32>, tensor<i64>) -> tensor<*x!onnx.unknown>
  %c = onnx.node "ConcatFromSequence"(%i) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*xf32>
  return %a, %c, %n : tensor<*xf32>, tensor<*xf32>, tensor<*xi64>
}

// -----

// CHECK-LABEL: func @built_sequences
// CHECK: Split
// CHECK: onnx.node "Squeeze"({{.*}}) {version = 13 : i64} : (tensor<?x1xf32>, tensor<1xi64>) -> tensor<?xf32>
// CHECK: %[[A:.*]] = onnx.node "Unsqueeze"(%arg1
// CHECK: %[[B:.*]] = onnx.node "Unsqueeze"(%arg1
// CHECK: onnx.node "Concat"(%[[A]], %[[B]]) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x1x2xf32>, tensor<?x1x2xf32>) -> tensor<?x2x2xf32>
func.func @built_sequences(%x: tensor<?x2xf32>, %y: tensor<?x2xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %one = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<i64>}, version = 20 : i64} : () -> tensor<i64>
  %s = onnx.node "SplitToSequence"(%x) {attributes = {axis = 1 : i64, keepdims = 0 : i64}, version = 11 : i64} : (tensor<?x2xf32>) -> tensor<*x!onnx.unknown>
  %a = onnx.node "SequenceAt"(%s, %one) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<i64>) -> tensor<*xf32>
  %e = onnx.node "SequenceEmpty"() {version = 11 : i64} : () -> tensor<*x!onnx.unknown>
  %i = onnx.node "SequenceInsert"(%e, %y) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<?x2xf32>) -> tensor<*x!onnx.unknown>
  %j = onnx.node "SequenceInsert"(%i, %y) {version = 11 : i64} : (tensor<*x!onnx.unknown>, tensor<?x2xf32>) -> tensor<*x!onnx.unknown>
  %c = onnx.node "ConcatFromSequence"(%j) {attributes = {axis = 1 : i64, new_axis = 1 : i64}, version = 11 : i64} : (tensor<*x!onnx.unknown>) -> tensor<*xf32>
  return %a, %c : tensor<*xf32>, tensor<*xf32>
}

// -----

// The sum before a normalization is a result, too.
// CHECK-LABEL: func @skip
// CHECK: %[[SUM:.*]] = onnx.node "Add"(%arg0, %arg1)
// CHECK: %[[Y:.*]] = onnx.node "SimplifiedLayerNormalization"(%[[SUM]], %arg2)
// CHECK: return %[[Y]], %[[SUM]]
func.func @skip(%x: tensor<?x?x8xf32>, %skip: tensor<?x?x8xf32>, %gamma: tensor<8xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %y:4 = onnx.node "com.microsoft.SkipSimplifiedLayerNormalization"(%x, %skip, %gamma) {attributes = {epsilon = 1.0e-6 : f32}, version = 1 : i64} : (tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<8xf32>) -> (tensor<*xf32>, tensor<*xf32>, tensor<*xf32>, tensor<*xf32>)
  return %y#0, %y#3 : tensor<*xf32>, tensor<*xf32>
}

// -----

// CHECK-LABEL: func @multi_head_attention
// CHECK: onnx.node "Attention"(%arg0, %arg1, %arg2) {attributes = {is_causal = 0 : i64, kv_num_heads = 2 : i64, q_num_heads = 2 : i64}, version = 23 : i64} : (tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
func.func @multi_head_attention(%q: tensor<?x?x8xf32>, %k: tensor<?x?x8xf32>, %v: tensor<?x?x8xf32>) -> tensor<*xf32> {
  %y = onnx.node "com.microsoft.MultiHeadAttention"(%q, %k, %v) {attributes = {num_heads = 2 : i64}, version = 1 : i64} : (tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<*xf32>
  return %y : tensor<*xf32>
}

// -----

// What TorchScript computes the repeats of a Tile with.

// CHECK-LABEL: func @repeats
// CHECK-NOT: OneHot
// CHECK: %[[R:.*]] = onnx.node "Constant"() {{.*}}value = dense<[1, 5, 1]> : tensor<3xi64>
// CHECK: onnx.node "Tile"(%arg0, %[[R]])
// CHECK-SAME: -> tensor<2x15x4xf32>
func.func @repeats(%x: tensor<2x3x4xf32>) -> tensor<*xf32> {
  %where = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 17 : i64} : () -> tensor<1xi64>
  %depth = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<i64>}, version = 17 : i64} : () -> tensor<i64>
  %values = onnx.node "Constant"() {attributes = {value = dense<[1, 5]> : tensor<2xi64>}, version = 17 : i64} : () -> tensor<2xi64>
  %flat = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 17 : i64} : () -> tensor<1xi64>
  %0 = onnx.node "OneHot"(%where, %depth, %values) {version = 17 : i64} : (tensor<1xi64>, tensor<i64>, tensor<2xi64>) -> tensor<*xi64>
  %1 = onnx.node "Reshape"(%0, %flat) {version = 17 : i64} : (tensor<*xi64>, tensor<1xi64>) -> tensor<*xi64>
  %2 = onnx.node "Tile"(%x, %1) {version = 17 : i64} : (tensor<2x3x4xf32>, tensor<*xi64>) -> tensor<*xf32>
  return %2 : tensor<*xf32>
}

// -----

// CHECK-LABEL: func @padded
// CHECK: onnx.node "Pad"
// CHECK-SAME: -> tensor<?x6xf32>
func.func @padded(%x: tensor<?x3xf32>) -> tensor<*xf32> {
  %pads = onnx.node "Constant"() {attributes = {value = dense<[1, 2]> : tensor<2xi64>}, version = 18 : i64} : () -> tensor<2xi64>
  %axes = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 18 : i64} : () -> tensor<1xi64>
  %0 = onnx.node "Pad"(%x, %pads, %axes) {absent = array<i32: 2>, version = 18 : i64} : (tensor<?x3xf32>, tensor<2xi64>, tensor<1xi64>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}
