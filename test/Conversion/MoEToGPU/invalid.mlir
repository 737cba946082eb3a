// RUN: moe-opt %s --moe-to-gpu --split-input-file --verify-diagnostics

func.func @f64(%l: tensor<?x8xf64>) -> tensor<?x8xf64> {
  // expected-error @+1 {{'moe.score' op computes in float64, which has no GPU kernel}}
  %s = moe.score <softmax> %l : tensor<?x8xf64> -> tensor<?x8xf64>
  return %s : tensor<?x8xf64>
}

// -----

func.func @many_experts(%x: tensor<?x4xf32>, %ids: tensor<?x2xi32>, %w: tensor<4000x4x4xf32>) -> tensor<?x4xf32> {
  %r = moe.given %ids : (tensor<?x2xi32>) -> !moe.routing<experts = 4000, k = 2>
  // expected-error @+1 {{'moe.dispatch' op has 4000 experts; GPU kernels sort rows by at most 2457}}
  %rows = moe.dispatch %x, %r : (tensor<?x4xf32>, !moe.routing<experts = 4000, k = 2>) -> tensor<?x4xf32>
  return %rows : tensor<?x4xf32>
}
