// RUN: moe-opt %s --moe-to-cpu -verify-diagnostics -split-input-file

// Ops that the fusing passes left alone have no kernel.
func.func @unfused(%l: tensor<?x4xf32>) -> tensor<?x4xf32> {
  // expected-error @+1 {{'moe.score' op has no CPU kernel in this form; compile with -O0}}
  %s = moe.score <softmax> %l : tensor<?x4xf32> -> tensor<?x4xf32>
  return %s : tensor<?x4xf32>
}

// -----

func.func @weight_is_an_argument(%x: tensor<?x64xf32>, %w: tensor<64x4xf32>) -> tensor<?x4xf32> {
  // expected-error @+1 {{'moe.logits' op has a weight of type 'tensor<64x4xf32>' that is not a constant}}
  %l = moe.logits %x, %w {layout = #moe.layout<in_out>} : (tensor<?x64xf32>, tensor<64x4xf32>) -> tensor<?x4xf32>
  return %l : tensor<?x4xf32>
}
