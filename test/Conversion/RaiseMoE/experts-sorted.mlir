// RUN: moe-opt %s --raise-moe | FileCheck %s

// The (token, slot) pairs sorted by expert, and the rows of each expert cut out of them.

!x = tensor<?x8xf32>
!w = tensor<?x2xf32>
!i = tensor<?x2xi64>
!p = tensor<?xi64>

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 384, tensor<2x8x6xf32>>] : tensor<2x8x6xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 384, length = 192, tensor<2x3x8xf32>>] : tensor<2x3x8xf32>
moe.weight @down6 from [#moe.segment<"m.data", offset = 1024, length = 384, tensor<2x6x8xf32>>] : tensor<2x6x8xf32>

// The rows by Gather at a Range, the order undone by an inverse permutation.

// CHECK-LABEL: func @ranges
// CHECK-SAME: (%[[X:[a-z0-9]*]]: tensor<?x8xf32>
// CHECK: %[[ROWS:.*]] = moe.dispatch %[[X]], %[[R:.*]] :
// CHECK: %[[F:.*]] = moe.expert_ffn %[[ROWS]], %[[R]] up(%up) down(%down) <silu, glu = interleaved, alpha = 1.702000e+00 : f32, beta = 1.000000e+00 : f32, limit = 7.000000e+00 : f32> {layout = #moe.layout<in_out>
// CHECK: moe.combine %[[F]], %[[R]]
func.func @ranges(%x: !x, %l: tensor<?x2xf32>) -> !x {
  %up = moe.load_weight @up : tensor<2x8x6xf32>
  %down = moe.load_weight @down : tensor<2x3x8xf32>
  %e0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %last = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %f0 = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %zeros2 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %alpha = onnx.node "Constant"() {attributes = {value = dense<1.702> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %one = onnx.node "Constant"() {attributes = {value = dense<1.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %hi = onnx.node "Constant"() {attributes = {value = dense<7.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %lo = onnx.node "Constant"() {attributes = {value = dense<-7.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %six = onnx.node "Constant"() {attributes = {value = dense<6> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %pairs = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> (!w, !i)
  %flat = onnx.node "Reshape"(%ids, %last) {version = 14 : i64} : (!i, tensor<1xi64>) -> !p
  %num = onnx.node "Shape"(%flat) {version = 15 : i64} : (!p) -> tensor<1xi64>
  %sorted, %perm = onnx.node "TopK"(%flat, %num) {attributes = {axis = 0 : i64, largest = 0 : i64, sorted = 1 : i64}, version = 11 : i64} : (!p, tensor<1xi64>) -> (!p, !p)
  %tok = onnx.node "Div"(%perm, %e2) {version = 14 : i64} : (!p, tensor<i64>) -> !p
  %tok1 = onnx.node "Unsqueeze"(%tok, %a1) {version = 13 : i64} : (!p, tensor<1xi64>) -> tensor<?x1xi64>
  %perm1 = onnx.node "Unsqueeze"(%perm, %a1) {version = 13 : i64} : (!p, tensor<1xi64>) -> tensor<?x1xi64>
  %xs = onnx.node "GatherND"(%x, %tok1) {version = 13 : i64} : (!x, tensor<?x1xi64>) -> !x
  %ones = onnx.node "ConstantOfShape"(%num) {attributes = {value = dense<1> : tensor<1xi64>}, version = 9 : i64} : (tensor<1xi64>) -> !p
  %counts = onnx.node "ScatterElements"(%zeros2, %sorted, %ones) {attributes = {axis = 0 : i64, reduction = "add"}, version = 18 : i64} : (tensor<2xi64>, !p, !p) -> tensor<2xi64>
  %ends = onnx.node "CumSum"(%counts, %e0) {version = 14 : i64} : (tensor<2xi64>, tensor<i64>) -> tensor<2xi64>
  %end0 = onnx.node "Gather"(%ends, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2xi64>, tensor<i64>) -> tensor<i64>
  %end1 = onnx.node "Gather"(%ends, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2xi64>, tensor<i64>) -> tensor<i64>
  %r0 = onnx.node "Range"(%e0, %end0, %e1) {version = 11 : i64} : (tensor<i64>, tensor<i64>, tensor<i64>) -> !p
  %r1 = onnx.node "Range"(%end0, %end1, %e1) {version = 11 : i64} : (tensor<i64>, tensor<i64>, tensor<i64>) -> !p
  %x0 = onnx.node "Gather"(%xs, %r0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (!x, !p) -> !x
  %u0 = onnx.node "Gather"(%up, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %h0 = onnx.node "MatMul"(%x0, %u0) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %x1 = onnx.node "Gather"(%xs, %r1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (!x, !p) -> !x
  %u1 = onnx.node "Gather"(%up, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %h1 = onnx.node "MatMul"(%x1, %u1) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %h = onnx.node "Concat"(%h0, %h1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %g = onnx.node "Slice"(%h, %a0, %six, %a1, %a2) {version = 13 : i64} : (tensor<?x6xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x3xf32>
  %v = onnx.node "Slice"(%h, %a1, %six, %a1, %a2) {version = 13 : i64} : (tensor<?x6xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x3xf32>
  %gc = onnx.node "Min"(%g, %hi) {version = 13 : i64} : (tensor<?x3xf32>, tensor<f32>) -> tensor<?x3xf32>
  %vc = onnx.node "Clip"(%v, %lo, %hi) {version = 13 : i64} : (tensor<?x3xf32>, tensor<f32>, tensor<f32>) -> tensor<?x3xf32>
  %ga = onnx.node "Mul"(%alpha, %gc) {version = 14 : i64} : (tensor<f32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %gs = onnx.node "Sigmoid"(%ga) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %glu = onnx.node "Mul"(%gs, %gc) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %vb = onnx.node "Add"(%vc, %one) {version = 14 : i64} : (tensor<?x3xf32>, tensor<f32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%vb, %glu) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %a_0 = onnx.node "Gather"(%a, %r0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>, !p) -> tensor<?x3xf32>
  %d0 = onnx.node "Gather"(%down, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x3x8xf32>, tensor<i64>) -> tensor<3x8xf32>
  %y0 = onnx.node "MatMul"(%a_0, %d0) {version = 13 : i64} : (tensor<?x3xf32>, tensor<3x8xf32>) -> !x
  %a_1 = onnx.node "Gather"(%a, %r1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>, !p) -> tensor<?x3xf32>
  %d1 = onnx.node "Gather"(%down, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x3x8xf32>, tensor<i64>) -> tensor<3x8xf32>
  %y1 = onnx.node "MatMul"(%a_1, %d1) {version = 13 : i64} : (tensor<?x3xf32>, tensor<3x8xf32>) -> !x
  %ys = onnx.node "Concat"(%y0, %y1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (!x, !x) -> !x
  %wf = onnx.node "Reshape"(%w, %last) {version = 14 : i64} : (!w, tensor<1xi64>) -> tensor<?xf32>
  %wp = onnx.node "GatherND"(%wf, %perm1) {version = 13 : i64} : (tensor<?xf32>, tensor<?x1xi64>) -> tensor<?xf32>
  %wu = onnx.node "Unsqueeze"(%wp, %a1) {version = 13 : i64} : (tensor<?xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %yw = onnx.node "Mul"(%ys, %wu) {version = 14 : i64} : (!x, tensor<?x1xf32>) -> !x
  %inv0, %inverse = onnx.node "TopK"(%perm, %num) {attributes = {axis = 0 : i64, largest = 0 : i64, sorted = 1 : i64}, version = 11 : i64} : (!p, tensor<1xi64>) -> (!p, !p)
  %back = onnx.node "Gather"(%yw, %inverse) {attributes = {axis = 0 : i64}, version = 13 : i64} : (!x, !p) -> !x
  %yp = onnx.node "Reshape"(%back, %pairs) {version = 14 : i64} : (!x, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%yp, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> !x
  return %y : !x
}

// The rows by Slice at sums of a one-hot mask of the tokens, written back by ScatterND.

// CHECK-LABEL: func @slices
// CHECK: moe.expert_ffn {{.*}} up(%up) down(%down6) <relu> {layout = #moe.layout<in_out>
// CHECK: moe.combine
func.func @slices(%x: !x, %l: tensor<?x2xf32>) -> !x {
  %up = moe.load_weight @up : tensor<2x8x6xf32>
  %down6 = moe.load_weight @down6 : tensor<2x6x8xf32>
  %e0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %e2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %last = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %f0 = onnx.node "Constant"() {attributes = {value = dense<0.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %zeros2 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %pairs = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> (!w, !i)
  %flat = onnx.node "Reshape"(%ids, %last) {version = 14 : i64} : (!i, tensor<1xi64>) -> !p
  %num = onnx.node "Shape"(%flat) {version = 15 : i64} : (!p) -> tensor<1xi64>
  %sorted, %perm = onnx.node "TopK"(%flat, %num) {attributes = {axis = 0 : i64, largest = 0 : i64, sorted = 1 : i64}, version = 11 : i64} : (!p, tensor<1xi64>) -> (!p, !p)
  %tok = onnx.node "Div"(%perm, %e2) {version = 14 : i64} : (!p, tensor<i64>) -> !p
  %tok1 = onnx.node "Unsqueeze"(%tok, %a1) {version = 13 : i64} : (!p, tensor<1xi64>) -> tensor<?x1xi64>
  %perm1 = onnx.node "Unsqueeze"(%perm, %a1) {version = 13 : i64} : (!p, tensor<1xi64>) -> tensor<?x1xi64>
  %xs = onnx.node "GatherND"(%x, %tok1) {version = 13 : i64} : (!x, tensor<?x1xi64>) -> !x
  %shape = onnx.node "Shape"(%l) {version = 15 : i64} : (tensor<?x2xf32>) -> tensor<2xi64>
  %zero = onnx.node "Expand"(%e0, %shape) {version = 13 : i64} : (tensor<i64>, tensor<2xi64>) -> !i
  %one2 = onnx.node "ConstantOfShape"(%shape) {attributes = {value = dense<1> : tensor<1xi64>}, version = 9 : i64} : (tensor<2xi64>) -> !i
  %hot = onnx.node "ScatterElements"(%zero, %ids, %one2) {attributes = {axis = 1 : i64}, version = 18 : i64} : (!i, !i, !i) -> !i
  %counts = onnx.node "ReduceSum"(%hot, %a0) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (!i, tensor<1xi64>) -> tensor<2xi64>
  %ends = onnx.node "CumSum"(%counts, %e0) {version = 14 : i64} : (tensor<2xi64>, tensor<i64>) -> tensor<2xi64>
  %end0 = onnx.node "Slice"(%ends, %a0, %a1) {version = 13 : i64} : (tensor<2xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
  %end1 = onnx.node "Slice"(%ends, %a1, %a2) {version = 13 : i64} : (tensor<2xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
  %x0 = onnx.node "Slice"(%xs, %a0, %end0, %a0) {version = 13 : i64} : (!x, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> !x
  %u0 = onnx.node "Gather"(%up, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %h0 = onnx.node "MatMul"(%x0, %u0) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %r0 = onnx.node "Relu"(%h0) {version = 14 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %d0 = onnx.node "Gather"(%down6, %e0) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %y0 = onnx.node "MatMul"(%r0, %d0) {version = 13 : i64} : (tensor<?x6xf32>, tensor<6x8xf32>) -> !x
  %x1 = onnx.node "Slice"(%xs, %end0, %end1, %a0) {version = 13 : i64} : (!x, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> !x
  %u1 = onnx.node "Gather"(%up, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %h1 = onnx.node "MatMul"(%x1, %u1) {version = 13 : i64} : (!x, tensor<8x6xf32>) -> tensor<?x6xf32>
  %r1 = onnx.node "Relu"(%h1) {version = 14 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %d1 = onnx.node "Gather"(%down6, %e1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<2x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %y1 = onnx.node "MatMul"(%r1, %d1) {version = 13 : i64} : (tensor<?x6xf32>, tensor<6x8xf32>) -> !x
  %ys = onnx.node "Concat"(%y0, %y1) {attributes = {axis = 0 : i64}, version = 13 : i64} : (!x, !x) -> !x
  %yshape = onnx.node "Shape"(%ys) {version = 15 : i64} : (!x) -> tensor<2xi64>
  %base = onnx.node "Expand"(%f0, %yshape) {version = 13 : i64} : (tensor<f32>, tensor<2xi64>) -> !x
  %back = onnx.node "ScatterND"(%base, %perm1, %ys) {version = 18 : i64} : (!x, tensor<?x1xi64>, !x) -> !x
  %yp = onnx.node "Reshape"(%back, %pairs) {version = 14 : i64} : (!x, tensor<3xi64>) -> tensor<?x2x8xf32>
  %wu = onnx.node "Unsqueeze"(%w, %a2) {version = 13 : i64} : (!w, tensor<1xi64>) -> tensor<?x2x1xf32>
  %yw = onnx.node "Mul"(%yp, %wu) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<?x2x1xf32>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%yw, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> !x
  return %y : !x
}
