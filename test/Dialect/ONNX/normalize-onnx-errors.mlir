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

// -----

func.func @split(%a: tensor<4xf32>) -> (tensor<*xf32>, tensor<*xf32>) {
  %s = onnx.node "Constant"() {attributes = {value = dense<[-5, 9]> : tensor<2xi64>}, version = 13 : i64} : () -> tensor<2xi64>
  // expected-error @below {{(Split): a size is negative}}
  %0:2 = onnx.node "Split"(%a, %s) {version = 18 : i64} : (tensor<4xf32>, tensor<2xi64>) -> (tensor<*xf32>, tensor<*xf32>)
  return %0#0, %0#1 : tensor<*xf32>, tensor<*xf32>
}

// -----

func.func @tile(%a: tensor<4xf32>) -> tensor<*xf32> {
  %s = onnx.node "Constant"() {attributes = {value = dense<[-2]> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-error @below {{(Tile): repeat -2 of dimension 0 is negative}}
  %0 = onnx.node "Tile"(%a, %s) {version = 13 : i64} : (tensor<4xf32>, tensor<1xi64>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @one_hot(%a: tensor<4xi64>, %values: tensor<2xf32>) -> tensor<*xf32> {
  %d = onnx.node "Constant"() {attributes = {value = dense<-3> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  // expected-error @below {{(OneHot): depth -3 is negative}}
  %0 = onnx.node "OneHot"(%a, %d, %values) {version = 11 : i64} : (tensor<4xi64>, tensor<i64>, tensor<2xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @gather_nd(%a: tensor<4x4xf32>, %i: tensor<4x1xi64>) -> tensor<*xf32> {
  // expected-error @below {{(GatherND): indices of shape [4, 1] do not fit data of shape [4, 4]}}
  %0 = onnx.node "GatherND"(%a, %i) {attributes = {batch_dims = 9223372036854775807 : i64}, version = 13 : i64} : (tensor<4x4xf32>, tensor<4x1xi64>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @constant_of_shape(%s: tensor<1xi64>) -> tensor<*xi64> {
  // expected-error @below {{(ConstantOfShape): value has 0 elements, expected 1}}
  %0 = onnx.node "ConstantOfShape"(%s) {attributes = {value = dense<> : tensor<0xi64>}, version = 9 : i64} : (tensor<1xi64>) -> tensor<*xi64>
  return %0 : tensor<*xi64>
}

// -----

// The number of elements of the range is more than an int64: no error here, and no
// overflow.
func.func @range() -> tensor<*xi64> {
  %0 = onnx.node "Constant"() {attributes = {value = dense<0> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %min = onnx.node "Constant"() {attributes = {value = dense<-9223372036854775808> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %step = onnx.node "Constant"() {attributes = {value = dense<-1> : tensor<i64>}, version = 13 : i64} : () -> tensor<i64>
  %1 = onnx.node "Range"(%0, %min, %step) {version = 11 : i64} : (tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<*xi64>
  return %1 : tensor<*xi64>
}

// -----

func.func @einsum_terms(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): the equation has 2 terms for 1 operands}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ij,jk->ik"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_rank(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): term 'ijk' does not fit operand 0, which has rank 2}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ijk->i"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_letter(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): '1' is no letter}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "i1"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_twice(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): the result has the letter 'i' twice}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ij->ii"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_unknown(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): no operand has the letter 'k' of the result}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ij->k"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_ellipsis(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): operands have an ellipsis, the result has none}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "i...->i"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_ellipsis_of_result(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): the result has an ellipsis, the operands have none}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ij->...i"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_ellipses(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): a term has two ellipses}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "......->..."}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @einsum_diagonal(%x: tensor<3x4xf32>) -> tensor<*xf32> {
  // expected-error @below {{(Einsum): sizes 3 and 4 of shape [3, 4] do not go together in the equation}}
  %0 = onnx.node "Einsum"(%x) {attributes = {equation = "ii->i"}, version = 12 : i64} : (tensor<3x4xf32>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @slice_lengths(%a: tensor<3x4xf32>) -> tensor<*xf32> {
  %one = onnx.node "Constant"() {attributes = {value = dense<1> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  %none = onnx.node "Constant"() {attributes = {value = dense<> : tensor<0xi64>}, version = 13 : i64} : () -> tensor<0xi64>
  // expected-error @below {{(Slice): starts, ends, axes and steps of Slice must have the same length: 1 and 0}}
  %0 = onnx.node "Slice"(%a, %one, %one, %none) {version = 13 : i64} : (tensor<3x4xf32>, tensor<1xi64>, tensor<1xi64>, tensor<0xi64>) -> tensor<*xf32>
  return %0 : tensor<*xf32>
}

// -----

func.func @topk(%a: tensor<?x3xf32>) -> tensor<*xf32> {
  %k = onnx.node "Constant"() {attributes = {value = dense<4> : tensor<1xi64>}, version = 13 : i64} : () -> tensor<1xi64>
  // expected-error @below {{(TopK): k = 4 exceeds the 3 elements along axis 1}}
  %0, %1 = onnx.node "TopK"(%a, %k) {version = 11 : i64} : (tensor<?x3xf32>, tensor<1xi64>) -> (tensor<*xf32>, tensor<*xi64>)
  return %0 : tensor<*xf32>
}
