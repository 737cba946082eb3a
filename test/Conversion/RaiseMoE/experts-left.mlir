// RUN: moe-opt %s --raise-moe --split-input-file --verify-diagnostics

// Experts that stay as they are, and what is said of each. The first function is raised.

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// Nothing to say.

func.func @raised(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// No activation of an expert.

func.func @activation(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Tanh"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  // expected-remark @below {{expected an activation of the product with the experts' first weight}}
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// The weights of the product down are those of other experts.

func.func @other_ids(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  // expected-remark @below {{is a weight that is not read at the expert of its row}}
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat2) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// Columns that overlap.

func.func @columns(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %s0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %e0 = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %s1 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %e1 = onnx.node "Constant"() {attributes = {value = dense<5> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-remark @below {{expected the gate and the linear part in halves}}
  %g = onnx.node "Slice"(%h, %s0, %e0, %a1, %a1) {version = 13 : i64} : (tensor<?x6xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x3xf32>
  %u = onnx.node "Slice"(%h, %s1, %e1, %a1, %a1) {version = 13 : i64} : (tensor<?x6xf32>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x3xf32>
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// A gate with a lower bound.

func.func @clamp(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %lo = onnx.node "Constant"() {attributes = {value = dense<-1.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %hi = onnx.node "Constant"() {attributes = {value = dense<1.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  %gc = onnx.node "Clip"(%g, %lo, %hi) {version = 13 : i64} : (tensor<?x3xf32>, tensor<f32>, tensor<f32>) -> tensor<?x3xf32>
  %s = onnx.node "Sigmoid"(%gc) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%gc, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  // expected-remark @below {{expected the gate at most a limit}}
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// Weights by slot, then token.

func.func @weights(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-remark @below {{yields weights that are not one per token and slot, in this order}}
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wt = onnx.node "Transpose"(%w) {attributes = {perm = array<i64: 1, 0>}, version = 13 : i64} : (tensor<?x2xf32>) -> tensor<2x?xf32>
  %wc = onnx.node "Reshape"(%wt, %col) {version = 14 : i64} : (tensor<2x?xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// The largest instead of the sum.

func.func @largest(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  // expected-remark @below {{reads weighted results of experts, expected their sum over the slots or experts}}
  %y = onnx.node "ReduceMax"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 18 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 288, tensor<3x8x3xf32>>] : tensor<3x8x3xf32>

// A function of an expert's result.

func.func @interior(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x3xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %flat = onnx.node "Reshape"(%ids, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %flat2 = onnx.node "Reshape"(%other, %am1) {version = 14 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?xi64>
  %slots = onnx.node "Constant"() {attributes = {value = dense<[1, 2, 1]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %rows = onnx.node "Constant"() {attributes = {value = dense<[-1, 8]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %bt = onnx.node "Constant"() {attributes = {value = dense<[-1, 2, 8]> : tensor<3xi64>}, version = 13 : i64} : () -> tensor<3xi64>
  %col = onnx.node "Constant"() {attributes = {value = dense<[-1, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %x3 = onnx.node "Unsqueeze"(%x, %a1) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x1x8xf32>
  %x4 = onnx.node "Expand"(%x3, %slots) {version = 13 : i64} : (tensor<?x1x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %x5 = onnx.node "Reshape"(%x4, %rows) {version = 14 : i64} : (tensor<?x2x8xf32>, tensor<2xi64>) -> tensor<?x8xf32>
  %xc = onnx.node "Unsqueeze"(%x5, %a2) {version = 13 : i64} : (tensor<?x8xf32>, tensor<1xi64>) -> tensor<?x8x1xf32>
  %wu = onnx.node "Gather"(%up, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?xi64>) -> tensor<?x6x8xf32>
  %h3 = onnx.node "MatMul"(%wu, %xc) {version = 13 : i64} : (tensor<?x6x8xf32>, tensor<?x8x1xf32>) -> tensor<?x6x1xf32>
  %h = onnx.node "Squeeze"(%h3, %a2) {version = 13 : i64} : (tensor<?x6x1xf32>, tensor<1xi64>) -> tensor<?x6xf32>
  %g, %u = onnx.node "Split"(%h) {attributes = {axis = 1 : i64, num_outputs = 2 : i64}, version = 18 : i64} : (tensor<?x6xf32>) -> (tensor<?x3xf32>, tensor<?x3xf32>)
  %s = onnx.node "Sigmoid"(%g) {version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %a = onnx.node "Mul"(%g, %s) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %z = onnx.node "Mul"(%a, %u) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %zc = onnx.node "Unsqueeze"(%z, %a2) {version = 13 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> tensor<?x3x1xf32>
  %wd = onnx.node "Gather"(%down, %flat) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x3xf32>, tensor<?xi64>) -> tensor<?x8x3xf32>
  %y3 = onnx.node "MatMul"(%wd, %zc) {version = 13 : i64} : (tensor<?x8x3xf32>, tensor<?x3x1xf32>) -> tensor<?x8x1xf32>
  %y4 = onnx.node "Squeeze"(%y3, %a2) {version = 13 : i64} : (tensor<?x8x1xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  // expected-remark @below {{reads results of experts, expected an operator on their elements}}
  %y4b = onnx.node "Not"(%y4) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  %wc = onnx.node "Reshape"(%w, %col) {version = 14 : i64} : (tensor<?x2xf32>, tensor<2xi64>) -> tensor<?x1xf32>
  %y5 = onnx.node "Mul"(%y4b, %wc) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x1xf32>) -> tensor<?x8xf32>
  %y6 = onnx.node "Reshape"(%y5, %bt) {version = 14 : i64} : (tensor<?x8xf32>, tensor<3xi64>) -> tensor<?x2x8xf32>
  %y = onnx.node "ReduceSum"(%y6, %a1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x2x8xf32>, tensor<1xi64>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// Two of three experts, both asked for.

func.func @missing(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  // expected-error @below {{reads a sum of 2 of 3 experts; expert 2 is never asked for}}
  %y = onnx.node "Erf"(%r1_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// One expert is not added.

func.func @next(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %q2 = onnx.node "Equal"(%ids, %a2) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?x2xi1>
  // expected-remark @below {{reads a sum of 2 experts, expected that the next expert is added}}
  %y = onnx.node "Erf"(%r1_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// One expert is added twice.

func.func @twice(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r2_q = onnx.node "Equal"(%ids, %r2_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r2_f = onnx.node "Cast"(%r2_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r2_m = onnx.node "Mul"(%r2_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r2_s = onnx.node "ReduceSum"(%r2_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r2_u = onnx.node "Gather"(%up, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r2_d = onnx.node "Gather"(%wdown, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r2_h = onnx.node "Gemm"(%x, %r2_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r2_a = onnx.node "Relu"(%r2_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  // expected-remark @below {{an expert is added twice}}
  %r2_y = onnx.node "Gemm"(%r2_a, %r2_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r2_z = onnx.node "Mul"(%r2_s, %r2_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_acc = onnx.node "Add"(%r1_acc, %r2_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  // expected-error @below {{reads a sum of 3 of 3 experts; expert 2 is never asked for}}
  %y = onnx.node "Erf"(%r2_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// Experts that differ.

func.func @activations(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_e = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r2_q = onnx.node "Equal"(%ids, %r2_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r2_f = onnx.node "Cast"(%r2_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r2_m = onnx.node "Mul"(%r2_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r2_s = onnx.node "ReduceSum"(%r2_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r2_u = onnx.node "Gather"(%up, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r2_d = onnx.node "Gather"(%wdown, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r2_h = onnx.node "Gemm"(%x, %r2_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r2_a = onnx.node "Gelu"(%r2_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  // expected-remark @below {{experts differ in their activation}}
  %r2_y = onnx.node "Gemm"(%r2_a, %r2_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r2_z = onnx.node "Mul"(%r2_s, %r2_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_acc = onnx.node "Add"(%r1_acc, %r2_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %y = onnx.node "Erf"(%r2_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// Experts that differ in a factor.

func.func @factors(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_e = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r2_q = onnx.node "Equal"(%ids, %r2_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r2_f = onnx.node "Cast"(%r2_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r2_m = onnx.node "Mul"(%r2_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r2_s = onnx.node "ReduceSum"(%r2_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r2_u = onnx.node "Gather"(%up, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r2_d = onnx.node "Gather"(%wdown, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r2_h = onnx.node "Gemm"(%x, %r2_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r2_a = onnx.node "Relu"(%r2_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r2_y = onnx.node "Gemm"(%r2_a, %r2_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %two = onnx.node "Constant"() {attributes = {value = dense<2.0> : tensor<f32>}, version = 13 : i64} : () -> tensor<f32>
  // expected-remark @below {{experts differ in a factor}}
  %r2_y2 = onnx.node "Mul"(%r2_y, %two) {version = 14 : i64} : (tensor<?x8xf32>, tensor<f32>) -> tensor<?x8xf32>
  %r2_z = onnx.node "Mul"(%r2_s, %r2_y2) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_acc = onnx.node "Add"(%r1_acc, %r2_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %y = onnx.node "Erf"(%r2_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @wdown from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>

// Experts with weights of their own.

func.func @weighted_otherwise(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>, %other: tensor<?x2xi64>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %wdown = moe.load_weight @wdown : tensor<3x8x6xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %w, %ids = onnx.node "TopK"(%l, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  // expected-remark @below {{experts have weights of different tensors}}
  %w2 = onnx.node "Sigmoid"(%w) {version = 13 : i64} : (tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_e = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r0_q = onnx.node "Equal"(%ids, %r0_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r0_f = onnx.node "Cast"(%r0_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r0_m = onnx.node "Mul"(%r0_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r0_s = onnx.node "ReduceSum"(%r0_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r0_u = onnx.node "Gather"(%up, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r0_d = onnx.node "Gather"(%wdown, %r0_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r0_h = onnx.node "Gemm"(%x, %r0_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r0_a = onnx.node "Relu"(%r0_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r0_y = onnx.node "Gemm"(%r0_a, %r0_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r0_z = onnx.node "Mul"(%r0_s, %r0_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_e = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r1_q = onnx.node "Equal"(%ids, %r1_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r1_f = onnx.node "Cast"(%r1_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r1_m = onnx.node "Mul"(%r1_f, %w) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r1_s = onnx.node "ReduceSum"(%r1_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r1_u = onnx.node "Gather"(%up, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r1_d = onnx.node "Gather"(%wdown, %r1_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r1_h = onnx.node "Gemm"(%x, %r1_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r1_a = onnx.node "Relu"(%r1_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r1_y = onnx.node "Gemm"(%r1_a, %r1_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r1_z = onnx.node "Mul"(%r1_s, %r1_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r1_acc = onnx.node "Add"(%r0_z, %r1_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_e = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %r2_q = onnx.node "Equal"(%ids, %r2_e) {version = 13 : i64} : (tensor<?x2xi64>, tensor<i64>) -> tensor<?x2xi1>
  %r2_f = onnx.node "Cast"(%r2_q) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x2xi1>) -> tensor<?x2xf32>
  %r2_m = onnx.node "Mul"(%r2_f, %w2) {version = 14 : i64} : (tensor<?x2xf32>, tensor<?x2xf32>) -> tensor<?x2xf32>
  %r2_s = onnx.node "ReduceSum"(%r2_m, %a1) {attributes = {keepdims = 1 : i64}, version = 13 : i64} : (tensor<?x2xf32>, tensor<1xi64>) -> tensor<?x1xf32>
  %r2_u = onnx.node "Gather"(%up, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<i64>) -> tensor<6x8xf32>
  %r2_d = onnx.node "Gather"(%wdown, %r2_e) {attributes = {axis = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xf32>, tensor<i64>) -> tensor<8x6xf32>
  %r2_h = onnx.node "Gemm"(%x, %r2_u) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x8xf32>, tensor<6x8xf32>) -> tensor<?x6xf32>
  %r2_a = onnx.node "Relu"(%r2_h) {version = 13 : i64} : (tensor<?x6xf32>) -> tensor<?x6xf32>
  %r2_y = onnx.node "Gemm"(%r2_a, %r2_d) {attributes = {transB = 1 : i64}, version = 13 : i64} : (tensor<?x6xf32>, tensor<8x6xf32>) -> tensor<?x8xf32>
  %r2_z = onnx.node "Mul"(%r2_s, %r2_y) {version = 14 : i64} : (tensor<?x1xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %r2_acc = onnx.node "Add"(%r1_acc, %r2_z) {version = 14 : i64} : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %y = onnx.node "Erf"(%r2_acc) {version = 13 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// Types that contradict each other: the experts' last weights are integers.

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 1152, tensor<3x8x6xi64>>] : tensor<3x8x6xi64>

func.func @integer_weights(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x6x8xf32>
  %down = moe.load_weight @down : tensor<3x8x6xi64>
  %a2 = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %am1 = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %p = onnx.node "Softmax"(%l) {attributes = {axis = -1 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %w, %ids = onnx.node "TopK"(%p, %a2) {attributes = {axis = 1 : i64, largest = 1 : i64, sorted = 1 : i64}, version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x2xf32>, tensor<?x2xi64>)
  %at = onnx.node "Unsqueeze"(%ids, %am1) {version = 13 : i64} : (tensor<?x2xi64>, tensor<1xi64>) -> tensor<?x2x1xi64>
  %wu = onnx.node "GatherND"(%up, %at) {attributes = {batch_dims = 0 : i64}, version = 13 : i64} : (tensor<3x6x8xf32>, tensor<?x2x1xi64>) -> tensor<?x2x6x8xf32>
  %h = onnx.node "Einsum"(%x, %wu) {attributes = {equation = "td,tkid->tki"}, version = 12 : i64} : (tensor<?x8xf32>, tensor<?x2x6x8xf32>) -> tensor<?x2x6xf32>
  %r = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<?x2x6xf32>) -> tensor<?x2x6xf32>
  %wd = onnx.node "GatherND"(%down, %at) {attributes = {batch_dims = 0 : i64}, version = 13 : i64} : (tensor<3x8x6xi64>, tensor<?x2x1xi64>) -> tensor<?x2x8x6xi64>
  %d = onnx.node "Einsum"(%r, %wd) {attributes = {equation = "tki,tkdi->tkd"}, version = 12 : i64} : (tensor<?x2x6xf32>, tensor<?x2x8x6xi64>) -> tensor<?x2x8xf32>
  // expected-remark @+1 {{not raised: ends a block that the moe dialect cannot express}}
  %y = onnx.node "Einsum"(%d, %w) {attributes = {equation = "tkd,tk->td"}, version = 12 : i64} : (tensor<?x2x8xf32>, tensor<?x2xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
