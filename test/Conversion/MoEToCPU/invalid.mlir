// RUN: moe-opt %s --moe-to-cpu -verify-diagnostics -split-input-file

func.func @float64(%l: tensor<?x4xf64>) -> tensor<?x4xf64> {
  // expected-error @+1 {{'moe.score' op computes in float64, which has no CPU kernel; compile with -O0}}
  %s = moe.score <softmax> %l : tensor<?x4xf64> -> tensor<?x4xf64>
  return %s : tensor<?x4xf64>
}

// -----

moe.weight @q from [#moe.segment<"m", offset = 0, length = 8192, tensor<4x64x32xui8>>] : tensor<4x64x32xui8>
func.func @scales_are_an_argument(%x: tensor<?x64xf32>, %r: !moe.routing<experts = 4, k = 2>, %s: tensor<4x64xf32>) -> tensor<?x64xf32> {
  %q = moe.load_weight @q : tensor<4x64x32xui8>
  %w = moe.dequantize %q scales(%s) {bits = 4 : i64} : (tensor<4x64x32xui8>, tensor<4x64xf32>) -> tensor<4x64x64xf32>
  // expected-error @+1 {{'moe.grouped_matmul' op has a weight of type 'tensor<4x64xf32>' that is not a constant: codes and their scales must be constants with optimization}}
  %y = moe.grouped_matmul %x, %r, %w : (tensor<?x64xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x64x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

func.func @nested(%c: i1, %l: tensor<?x4xf32>) -> tensor<?x4xf32> {
  %y = scf.if %c -> tensor<?x4xf32> {
    // expected-error @+1 {{'moe.score' op is inside of a region: no CPU kernel}}
    %s = moe.score <softmax> %l : tensor<?x4xf32> -> tensor<?x4xf32>
    scf.yield %s : tensor<?x4xf32>
  } else {
    scf.yield %l : tensor<?x4xf32>
  }
  return %y : tensor<?x4xf32>
}
