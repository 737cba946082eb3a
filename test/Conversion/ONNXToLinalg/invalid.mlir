// RUN: moe-opt %s --onnx-to-linalg --split-input-file --verify-diagnostics

func.func @broadcast(%x: tensor<3xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{node '' (Add): sizes 3 and 4 cannot be broadcast to one another}}
  %r = onnx.node "Add"(%x, %y) {version = 14 : i64} : (tensor<3xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %r : tensor<4xf32>
}

// -----

// What depends on a node that failed is not reported.
func.func @matmul(%x: tensor<2x3xf32>, %y: tensor<4x5xf32>) -> tensor<2x5xf32> {
  // expected-error @+1 {{node '' (MatMul): the inner sizes differ (3 and 4)}}
  %p = onnx.node "MatMul"(%x, %y) {version = 13 : i64} : (tensor<2x3xf32>, tensor<4x5xf32>) -> tensor<2x5xf32>
  %r = onnx.node "And"(%p, %p) {version = 13 : i64} : (tensor<2x5xf32>, tensor<2x5xf32>) -> tensor<2x5xf32>
  return %r : tensor<2x5xf32>
}

// -----

func.func @kinds(%x: tensor<2xf32>) -> tensor<2xi1> {
  // expected-error @+1 {{node '' (Not): element type f32 is not supported}}
  %r = onnx.node "Not"(%x) {version = 13 : i64} : (tensor<2xf32>) -> tensor<2xi1>
  return %r : tensor<2xi1>
}

// -----

func.func @rank(%x: tensor<*xf32>) -> tensor<*xf32> {
  // expected-error @+1 {{node '' (Neg): the shape or element type of input 0 is not known}}
  %r = onnx.node "Neg"(%x) {version = 13 : i64} : (tensor<*xf32>) -> tensor<*xf32>
  return %r : tensor<*xf32>
}

// -----

func.func @axes(%x: tensor<2x2xf32>, %axes: tensor<?xi64>) -> tensor<?x?xf32> {
  // expected-error @+1 {{node '' (ReduceSum): the number of axes is not known}}
  %r = onnx.node "ReduceSum"(%x, %axes) {version = 13 : i64} : (tensor<2x2xf32>, tensor<?xi64>) -> tensor<?x?xf32>
  return %r : tensor<?x?xf32>
}

// -----

func.func @declared(%x: tensor<2xf32>) -> tensor<3xf32> {
  // expected-error @+1 {{node '' (Neg): computes tensor<2xf32> where the model declares tensor<3xf32>}}
  %r = onnx.node "Neg"(%x) {version = 13 : i64} : (tensor<2xf32>) -> tensor<3xf32>
  return %r : tensor<3xf32>
}

// -----

func.func @index(%x: tensor<3x2xf32>) -> tensor<2xf32> {
  %i = onnx.node "Constant"() {attributes = {value = dense<3> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  // expected-error @+1 {{node '' (Gather): index 3 is out of range for size 3}}
  %r = onnx.node "Gather"(%x, %i) {version = 13 : i64} : (tensor<3x2xf32>, tensor<i64>) -> tensor<2xf32>
  return %r : tensor<2xf32>
}

// -----

func.func @count(%x: tensor<3x2xf32>) -> tensor<4xf32> {
  %s = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-error @+1 {{node '' (Reshape): cannot make 6 elements into 4}}
  %r = onnx.node "Reshape"(%x, %s) {version = 14 : i64} : (tensor<3x2xf32>, tensor<1xi64>) -> tensor<4xf32>
  return %r : tensor<4xf32>
}

// -----

func.func @index_type(%x: tensor<3x2xf32>, %i: tensor<1xf32>) -> tensor<1x2xf32> {
  // expected-error @+1 {{node '' (Gather): its indices are neither int32 nor int64}}
  %r = onnx.node "Gather"(%x, %i) {version = 13 : i64} : (tensor<3x2xf32>, tensor<1xf32>) -> tensor<1x2xf32>
  return %r : tensor<1x2xf32>
}

// -----

func.func @range(%x: tensor<?xi64>) -> tensor<?xi64> {
  // expected-error @+1 {{node '' (Range): an input is not a scalar}}
  %r = onnx.node "Range"(%x, %x, %x) {version = 11 : i64} : (tensor<?xi64>, tensor<?xi64>, tensor<?xi64>) -> tensor<?xi64>
  return %r : tensor<?xi64>
}

// -----

func.func @k(%x: tensor<?x3xf32>) -> tensor<?x4xf32> {
  %k = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-error @+1 {{node '' (TopK): k is larger than the size of the dimension (4 and 3)}}
  %r:2 = onnx.node "TopK"(%x, %k) {version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<?x4xf32>, tensor<?x4xi64>)
  return %r#0 : tensor<?x4xf32>
}

// -----

func.func @tuple(%x: tensor<3x2xf32>, %i: tensor<?x3xi64>) -> tensor<?xf32> {
  // expected-error @+1 {{node '' (GatherND): tuples of 3 indices after 0 batch dimensions do not fit data of rank 2}}
  %r = onnx.node "GatherND"(%x, %i) {version = 13 : i64} : (tensor<3x2xf32>, tensor<?x3xi64>) -> tensor<?xf32>
  return %r : tensor<?xf32>
}

// -----

func.func @tuple_of_unknown_length(%x: tensor<3x2xf32>, %i: tensor<?x?xi64>) -> tensor<?xf32> {
  // expected-error @+1 {{node '' (GatherND): the length of its index tuples is not known}}
  %r = onnx.node "GatherND"(%x, %i) {version = 13 : i64} : (tensor<3x2xf32>, tensor<?x?xi64>) -> tensor<?xf32>
  return %r : tensor<?xf32>
}

// -----

func.func @reduction(%x: tensor<3xf32>, %i: tensor<1xi64>, %u: tensor<1xf32>) -> tensor<3xf32> {
  // expected-error @+1 {{node '' (ScatterElements): reduction 'mean' is none of none, add, mul, min and max}}
  %r = onnx.node "ScatterElements"(%x, %i, %u) {attributes = {reduction = "mean"}, version = 18 : i64}
    : (tensor<3xf32>, tensor<1xi64>, tensor<1xf32>) -> tensor<3xf32>
  return %r : tensor<3xf32>
}

// -----

func.func @updates(%x: tensor<3x2xf32>, %i: tensor<4x1xi64>, %u: tensor<4x3xf32>) -> tensor<3x2xf32> {
  // expected-error @+1 {{node '' (ScatterND): dimension 1 of the updates does not fit the data (3 and 2)}}
  %r = onnx.node "ScatterND"(%x, %i, %u) {version = 18 : i64}
    : (tensor<3x2xf32>, tensor<4x1xi64>, tensor<4x3xf32>) -> tensor<3x2xf32>
  return %r : tensor<3x2xf32>
}

// -----

func.func @repeats(%x: tensor<3xf32>) -> tensor<3xf32> {
  %k = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-error @+1 {{node '' (Tile): repeat -1 of dimension 0 is negative}}
  %r = onnx.node "Tile"(%x, %k) {version = 13 : i64} : (tensor<3xf32>, tensor<1xi64>) -> tensor<3xf32>
  return %r : tensor<3xf32>
}
