// A named tensor without its file is an error at every level.
// RUN: not moec %s -O0 -o %t 2>&1 | FileCheck %s --check-prefix=O0
// RUN: not moec %s -O3 -o %t 2>&1 | FileCheck %s --check-prefix=O3

// O0: error: weight 'router': a source is a named tensor, and its file is not given
// O3: error: {{.*}} is a named tensor whose file is not given
moe.weight @router from [#moe.tensor<"router">] : tensor<8x16xf32>

func.func @main(%x: tensor<?x16xf32> {onnx.name = "x", onnx.dims = ["tokens", "16"]}) -> (tensor<?x8xf32> {onnx.name = "y"}) {
  %w = moe.load_weight @router : tensor<8x16xf32>
  %l = moe.logits %x, %w : (tensor<?x16xf32>, tensor<8x16xf32>) -> tensor<?x8xf32>
  return %l : tensor<?x8xf32>
}
