// RUN: moe-opt %s --lower-entry --split-input-file --verify-diagnostics

// expected-error@+1 {{output 'y': dimension 0: output dimension depends on data: not supported}}
func.func @main(%x: tensor<?xf32>, %n: tensor<1xi64>) -> (tensor<?xf32> {onnx.name = "y"}) {
  %c0 = arith.constant 0 : index
  // expected-note@+1 {{depends on tensor.extract}}
  %i = tensor.extract %n[%c0] : tensor<1xi64>
  %s = arith.index_cast %i : i64 to index
  %y = tensor.empty(%s) : tensor<?xf32>
  return %y : tensor<?xf32>
}

// -----

// expected-error@+1 {{inputs and outputs must be tensors of known rank, found 'tensor<*xf32>'}}
func.func @main(%x: tensor<*xf32>) -> tensor<*xf32> {
  return %x : tensor<*xf32>
}

// -----

func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error@+1 {{passes tensors: inline the function first}}
  %y = call @helper(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}
func.func private @helper(tensor<4xf32>) -> tensor<4xf32>
