// RUN: moe-opt %s --normalize-onnx --split-input-file --verify-diagnostics

func.func @matmul(%a: tensor<?x4xf32>, %b: tensor<5x6xf32>) -> tensor<*xf32> {
  // expected-error @below {{(MatMul): inner dimensions of [?, 4] and [5, 6] differ}}
  %0 = onnx.node "MatMul"(%a, %b) {version = 13 : i64} : (tensor<?x4xf32>, tensor<5x6xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @broadcast(%a: tensor<?x4xf32>, %b: tensor<3xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Add): shapes [?, 4] and [3] do not broadcast}}
  %0 = onnx.node "Add"(%a, %b) {version = 13 : i64} : (tensor<?x4xf32>, tensor<3xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @axis(%a: tensor<?x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Concat): axis 2 is out of range for rank 2}}
  %0 = onnx.node "Concat"(%a, %a) {attributes = {axis = 2 : i64}, version = 13 : i64} : (tensor<?x4xf32>, tensor<?x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @reshape(%a: tensor<3x4xf32>) -> tensor<*xf32> {
  %s = onnx.node "Constant"() {attributes = {value = dense<[5, -1]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  // expected-error @below {{(Reshape): cannot reshape [3, 4] to [5, ?]}}
  %0 = onnx.node "Reshape"(%a, %s) {version = 14 : i64} : (tensor<3x4xf32>, tensor<2xi64>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @stated(%a: tensor<3x4xf32>) -> tensor<3x5xf32> {
  // expected-warning @below {{the model states 'tensor<3x5xf32>' for output 'y', but it is 'tensor<3x4xf32>'}}
  %0 = onnx.node "Neg"(%a) {outputs = ["y"], version = 13 : i64} : (tensor<3x4xf32>) -> tensor<3x5xf32>
  return %0 : tensor<3x5xf32>
}
