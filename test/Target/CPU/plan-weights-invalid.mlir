// RUN: moe-opt %s --plan-weights --verify-diagnostics

// expected-note@+1 {{this one}}
moe.weight @a from [dense<1.0> : tensor<4x2xf32>] {bank = "b"} : tensor<4x2xf32>
// expected-error@+1 {{C3: has 3 experts, other members of bank "b" have 4}}
moe.weight @b from [dense<1.0> : tensor<3x2xf32>] {bank = "b"} : tensor<3x2xf32>

func.func @main() -> (tensor<4x2xf32>, tensor<3x2xf32>) {
  %0 = moe.load_weight @a : tensor<4x2xf32>
  %1 = moe.load_weight @b : tensor<3x2xf32>
  return %0, %1 : tensor<4x2xf32>, tensor<3x2xf32>
}
