// RUN: moe-opt %s --split-input-file --verify-diagnostics

// expected-error @below {{C1: the operator name must not be empty}}
onnx.node ""() {version = 1 : i64} : () -> ()

// -----

// expected-error @below {{C1: the operator name must not be empty}}
onnx.node "com.microsoft."() {version = 1 : i64} : () -> ()

// -----

// expected-error @below {{C2: version must be positive, got 0}}
onnx.node "Neg"() {version = 0 : i64} : () -> ()

// -----

// expected-error @below {{expected the attribute 'version'}}
onnx.node "Neg"() : () -> ()

// -----

func.func @absent_order(%x: tensor<f32>) {
  // expected-error @below {{C3: absent positions must be sorted and not negative, got 1 after 1}}
  onnx.node "Clip"(%x, %x) {absent = array<i32: 1, 1>, version = 1 : i64} : (tensor<f32>, tensor<f32>) -> ()
  return
}

// -----

func.func @absent_negative(%x: tensor<f32>) {
  // expected-error @below {{C3: absent positions must be sorted and not negative}}
  onnx.node "Clip"(%x) {absent = array<i32: -1>, version = 1 : i64} : (tensor<f32>) -> ()
  return
}

// -----

func.func @absent_trailing(%x: tensor<f32>) {
  // expected-error @below {{C3: absent position 1 does not lie before the last input}}
  onnx.node "Clip"(%x) {absent = array<i32: 1>, version = 1 : i64} : (tensor<f32>) -> ()
  return
}

// -----

func.func @names(%x: tensor<f32>) {
  // expected-error @below {{C4: has 1 results but 2 output names}}
  onnx.node "Neg"(%x) {outputs = ["a", "b"], version = 1 : i64} : (tensor<f32>) -> tensor<f32>
  return
}

// -----

func.func @graph_count(%x: tensor<f32>) {
  // expected-error @below {{C5: has 0 regions but 1 graph names}}
  onnx.node "If"(%x) {graphs = ["then_branch"], version = 1 : i64} : (tensor<f32>) -> ()
  return
}

// -----

func.func @graph_twice(%x: tensor<f32>) {
  // expected-error @below {{C5: graph name 'body' is used twice}}
  onnx.node "If"(%x) {graphs = ["body", "body"], version = 1 : i64} : (tensor<f32>) -> () {
    onnx.yield
  }, {
    onnx.yield
  }
  return
}

// -----

// expected-error @below {{C6: attribute 'k' has an unexpected value 2 : i32}}
onnx.node "TopK"() {attributes = {k = 2 : i32}, version = 1 : i64} : () -> ()

// -----

func.func @no_input() {
  // expected-error @below {{node '' (Neg): has 0 inputs, expected at least 1}}
  %0 = onnx.node "Neg"() {version = 13 : i64} : () -> tensor<2xi64>
  return
}

// -----

func.func @inputs(%x: tensor<f32>) {
  // expected-error @below {{node '' (Neg): has 2 inputs, expected at most 1}}
  %0 = onnx.node "Neg"(%x, %x) {version = 13 : i64} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return
}

// -----

func.func @required(%x: tensor<f32>) {
  // expected-error @below {{node '' (Add): input 0 is missing}}
  %0 = onnx.node "Add"(%x) {absent = array<i32: 0>, version = 14 : i64} : (tensor<f32>) -> tensor<f32>
  return
}

// -----

func.func @no_output(%x: tensor<f32>) {
  // expected-error @below {{node '' (Equal): has 0 outputs, expected 1}}
  onnx.node "Equal"(%x, %x) {version = 13 : i64} : (tensor<f32>, tensor<f32>) -> ()
  return
}

// -----

func.func @outputs(%x: tensor<f32>) {
  // expected-error @below {{node '' (Neg): has 2 outputs, expected 1}}
  %0:2 = onnx.node "Neg"(%x) {version = 13 : i64} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return
}

// -----

func.func @attribute(%x: tensor<2xf32>) {
  // expected-error @below {{node '' (Softmax): has no attribute 'axs'; did you mean 'axis'?}}
  %0 = onnx.node "Softmax"(%x) {attributes = {axs = 0 : i64}, version = 13 : i64} : (tensor<2xf32>) -> tensor<2xf32>
  return
}

// -----

func.func @foreign_attribute(%x: tensor<2xf32>) {
  // expected-error @below {{node '' (Abs): has no attribute 'temperature'}}
  %0 = onnx.node "Abs"(%x) {attributes = {__comment = "fine", temperature = 1.0 : f32}, version = 13 : i64} : (tensor<2xf32>) -> tensor<2xf32>
  return
}

// -----

func.func @kind_of_attribute(%x: tensor<2xf32>) {
  // expected-error @below {{node '' (Softmax): attribute 'axis' is a number, expected an integer}}
  %0 = onnx.node "Softmax"(%x) {attributes = {axis = 0.0 : f32}, version = 13 : i64} : (tensor<2xf32>) -> tensor<2xf32>
  return
}

// -----

func.func @graph_as_attribute(%x: tensor<2xf32>) {
  // expected-error @below {{node '' (Softmax): attribute 'axis' is a graph, expected an integer}}
  %0 = onnx.node "Softmax"(%x) {graphs = ["axis"], version = 13 : i64} : (tensor<2xf32>) -> tensor<2xf32> {
    onnx.yield %x : tensor<2xf32>
  }
  return
}
