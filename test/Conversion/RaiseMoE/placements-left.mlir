// RUN: moe-opt %s --raise-moe --split-input-file --verify-diagnostics

// Products with tensors [tokens, experts, positions] that may put two tokens to one position,
// or take others back than were given.

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>

// Position 0 is not used.

func.func @from_1(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x8x6xf32>
  %down = moe.load_weight @down : tensor<3x6x8xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %v0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %experts = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %places = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %off_on = onnx.node "Constant"() {attributes = {value = dense<[0, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %gates = onnx.node "Softmax"(%l) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %ids = onnx.node "ArgMax"(%gates) {attributes = {axis = 1 : i64, keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?xi64>
  %hot = onnx.node "OneHot"(%ids, %experts, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x3xi64>
  %count = onnx.node "CumSum"(%hot, %a0) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %from0 = onnx.node "Identity"(%count) {version = 14 : i64} : (tensor<?x3xi64>) -> tensor<?x3xi64>
  %masked = onnx.node "Mul"(%from0, %hot) {version = 14 : i64} : (tensor<?x3xi64>, tensor<?x3xi64>) -> tensor<?x3xi64>
  // expected-remark @below {{(ReduceSum): not raised: counts positions from 1, expected 0}}
  %at = onnx.node "ReduceSum"(%masked, %v1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xi64>, tensor<1xi64>) -> tensor<?xi64>
  %place = onnx.node "OneHot"(%at, %places, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x4xi64>
  %hotf = onnx.node "Cast"(%hot) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x3xi64>) -> tensor<?x3xf32>
  %placef = onnx.node "Cast"(%place) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x4xi64>) -> tensor<?x4xf32>
  %g = onnx.node "Mul"(%gates, %hotf) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %combine = onnx.node "Einsum"(%g, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %dispatch = onnx.node "Einsum"(%hotf, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %xe = onnx.node "Einsum"(%dispatch, %x) {attributes = {equation = "sec,sm->ecm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<?x8xf32>) -> tensor<3x4x8xf32>
  %h = onnx.node "MatMul"(%xe, %up) {version = 13 : i64} : (tensor<3x4x8xf32>, tensor<3x8x6xf32>) -> tensor<3x4x6xf32>
  %r = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<3x4x6xf32>) -> tensor<3x4x6xf32>
  %ye = onnx.node "MatMul"(%r, %down) {version = 13 : i64} : (tensor<3x4x6xf32>, tensor<3x6x8xf32>) -> tensor<3x4x8xf32>
  // expected-remark @below {{(Einsum): not raised: reads results of experts}}
  %y = onnx.node "Einsum"(%combine, %ye) {attributes = {equation = "sec,ecm->sm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<3x4x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>

// Positions count experts, not tokens.

func.func @over_experts(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x8x6xf32>
  %down = moe.load_weight @down : tensor<3x6x8xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %v0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %experts = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %places = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %off_on = onnx.node "Constant"() {attributes = {value = dense<[0, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %gates = onnx.node "Softmax"(%l) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %ids = onnx.node "ArgMax"(%gates) {attributes = {axis = 1 : i64, keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?xi64>
  %hot = onnx.node "OneHot"(%ids, %experts, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x3xi64>
  // expected-remark @below {{(CumSum): not raised: counts along another dimension than that of the tokens}}
  %count = onnx.node "CumSum"(%hot, %a1) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %from0 = onnx.node "Sub"(%count, %a1) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %masked = onnx.node "Mul"(%from0, %hot) {version = 14 : i64} : (tensor<?x3xi64>, tensor<?x3xi64>) -> tensor<?x3xi64>
  %at = onnx.node "ReduceSum"(%masked, %v1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xi64>, tensor<1xi64>) -> tensor<?xi64>
  %place = onnx.node "OneHot"(%at, %places, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x4xi64>
  %hotf = onnx.node "Cast"(%hot) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x3xi64>) -> tensor<?x3xf32>
  %placef = onnx.node "Cast"(%place) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x4xi64>) -> tensor<?x4xf32>
  %g = onnx.node "Mul"(%gates, %hotf) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %combine = onnx.node "Einsum"(%g, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %dispatch = onnx.node "Einsum"(%hotf, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %xe = onnx.node "Einsum"(%dispatch, %x) {attributes = {equation = "sec,sm->ecm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<?x8xf32>) -> tensor<3x4x8xf32>
  %h = onnx.node "MatMul"(%xe, %up) {version = 13 : i64} : (tensor<3x4x8xf32>, tensor<3x8x6xf32>) -> tensor<3x4x6xf32>
  %r = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<3x4x6xf32>) -> tensor<3x4x6xf32>
  %ye = onnx.node "MatMul"(%r, %down) {version = 13 : i64} : (tensor<3x4x6xf32>, tensor<3x6x8xf32>) -> tensor<3x4x8xf32>
  // expected-remark @below {{(Einsum): not raised: reads results of experts}}
  %y = onnx.node "Einsum"(%combine, %ye) {attributes = {equation = "sec,ecm->sm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<3x4x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 576, tensor<3x8x6xf32>>] : tensor<3x8x6xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 576, length = 576, tensor<3x6x8xf32>>] : tensor<3x6x8xf32>

// Only tokens that fit are given to the experts, but all are taken back.

func.func @other_mask(%x: tensor<?x8xf32>, %l: tensor<?x3xf32>) -> tensor<?x8xf32> {
  %up = moe.load_weight @up : tensor<3x8x6xf32>
  %down = moe.load_weight @down : tensor<3x6x8xf32>
  %a0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %a1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %v0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %v1 = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %experts = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %places = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %off_on = onnx.node "Constant"() {attributes = {value = dense<[0, 1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  %gates = onnx.node "Softmax"(%l) {attributes = {axis = 1 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?x3xf32>
  %ids = onnx.node "ArgMax"(%gates) {attributes = {axis = 1 : i64, keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xf32>) -> tensor<?xi64>
  %hot = onnx.node "OneHot"(%ids, %experts, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x3xi64>
  %count = onnx.node "CumSum"(%hot, %a0) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %from0 = onnx.node "Sub"(%count, %a1) {version = 14 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi64>
  %masked = onnx.node "Mul"(%from0, %hot) {version = 14 : i64} : (tensor<?x3xi64>, tensor<?x3xi64>) -> tensor<?x3xi64>
  %at = onnx.node "ReduceSum"(%masked, %v1) {attributes = {keepdims = 0 : i64}, version = 13 : i64} : (tensor<?x3xi64>, tensor<1xi64>) -> tensor<?xi64>
  %place = onnx.node "OneHot"(%at, %places, %off_on) {attributes = {axis = -1 : i64}, version = 11 : i64} : (tensor<?xi64>, tensor<1xi64>, tensor<2xi64>) -> tensor<?x4xi64>
  %hotf = onnx.node "Cast"(%hot) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x3xi64>) -> tensor<?x3xf32>
  %placef = onnx.node "Cast"(%place) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x4xi64>) -> tensor<?x4xf32>
  %g = onnx.node "Mul"(%gates, %hotf) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  // expected-remark @below {{(Einsum): not raised: weights other tokens or positions than those that were put to the experts}}
  %combine = onnx.node "Einsum"(%g, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %two = onnx.node "Constant"() {attributes = {value = dense<2> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %fits = onnx.node "Less"(%from0, %two) {version = 13 : i64} : (tensor<?x3xi64>, tensor<i64>) -> tensor<?x3xi1>
  %fitsf = onnx.node "Cast"(%fits) {attributes = {to = 1 : i64}, version = 13 : i64} : (tensor<?x3xi1>) -> tensor<?x3xf32>
  %few = onnx.node "Mul"(%hotf, %fitsf) {version = 14 : i64} : (tensor<?x3xf32>, tensor<?x3xf32>) -> tensor<?x3xf32>
  %dispatch = onnx.node "Einsum"(%few, %placef) {attributes = {equation = "se,sc->sec"}, version = 12 : i64} : (tensor<?x3xf32>, tensor<?x4xf32>) -> tensor<?x3x4xf32>
  %xe = onnx.node "Einsum"(%dispatch, %x) {attributes = {equation = "sec,sm->ecm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<?x8xf32>) -> tensor<3x4x8xf32>
  %h = onnx.node "MatMul"(%xe, %up) {version = 13 : i64} : (tensor<3x4x8xf32>, tensor<3x8x6xf32>) -> tensor<3x4x6xf32>
  %r = onnx.node "Relu"(%h) {version = 14 : i64} : (tensor<3x4x6xf32>) -> tensor<3x4x6xf32>
  %ye = onnx.node "MatMul"(%r, %down) {version = 13 : i64} : (tensor<3x4x6xf32>, tensor<3x6x8xf32>) -> tensor<3x4x8xf32>
  %y = onnx.node "Einsum"(%combine, %ye) {attributes = {equation = "sec,ecm->sm"}, version = 12 : i64} : (tensor<?x3x4xf32>, tensor<3x4x8xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
