// Named tensors become the bytes of a file; each error names what is wrong.
// RUN: %python %S/Inputs/make_safetensors.py %t
// RUN: split-file %s %t
// RUN: moe-opt %t/good.mlir --resolve-weights="folder=%t file=sub/w.safetensors" | FileCheck %t/good.mlir
// RUN: moe-opt %t/none.mlir --resolve-weights | FileCheck %t/none.mlir
// RUN: not moe-opt %t/good.mlir --resolve-weights 2>&1 | FileCheck %s --check-prefix=NOFILE
// RUN: not moe-opt %t/good.mlir --resolve-weights="folder=%t file=w.safetensors" 2>&1 | FileCheck %s --check-prefix=MISSING
// RUN: not moe-opt %t/good.mlir --resolve-weights="folder=%t file=%t/sub/w.safetensors" 2>&1 | FileCheck %s --check-prefix=ABSOLUTE
// RUN: not moe-opt %t/good.mlir --resolve-weights="folder=%t/sub file=../sub/w.safetensors" 2>&1 | FileCheck %s --check-prefix=OUTSIDE
// RUN: not moe-opt %t/good.mlir --resolve-weights="folder=%t file=sub/broken.safetensors" 2>&1 | FileCheck %s --check-prefix=BROKEN
// RUN: not moe-opt %t/bad.mlir --resolve-weights="folder=%t file=sub/w.safetensors" 2>&1 | FileCheck %t/bad.mlir

// NOFILE: error: the weights are named tensors (#moe.tensor), and no weights file is given
// MISSING: error: {{.*}}w.safetensors
// ABSOLUTE: error: the weights file '{{.*}}' is not a path relative to the model's folder
// OUTSIDE: error: the weights file '../sub/w.safetensors' leaves the model's folder
// BROKEN: error: {{.*}}broken.safetensors

//--- good.mlir
// CHECK: moe.weight @router from [#moe.segment<"sub/w.safetensors", offset = [[#%d,ROUTER:]], length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>
moe.weight @router from [#moe.tensor<"layer.router">] : tensor<2x3xf32>
// CHECK: moe.weight @stacked from [#moe.segment<"sub/w.safetensors", offset = [[#ROUTER+24]], length = 16, tensor<2x2x2xf16>>,
// CHECK-SAME: #moe.segment<"sub/w.safetensors", offset = [[#ROUTER+40]], length = 16, tensor<2x2x2xf16>>] through [#moe.permute<[0, 2, 1]>] : tensor<2x2x4xf16>
moe.weight @stacked from [#moe.tensor<"layer.gate", tensor<2x2x2xf16>>, #moe.tensor<"layer.up", tensor<2x2x2xf16>>]
    through [#moe.permute<[0, 2, 1]>] : tensor<2x2x4xf16>
// CHECK: moe.weight @codes from [#moe.segment<"sub/w.safetensors", offset = [[#ROUTER+56]], length = 4, tensor<4xui8>>] : tensor<4xui8>
moe.weight @codes from [#moe.tensor<"codes">] : tensor<4xui8>
// CHECK: moe.weight @inline from [dense<1.000000e+00> : tensor<2xf32>] : tensor<2xf32>
moe.weight @inline from [dense<1.0> : tensor<2xf32>] : tensor<2xf32>

//--- none.mlir
// CHECK: moe.weight @inline
moe.weight @inline from [dense<1.0> : tensor<2xf32>] : tensor<2xf32>

//--- bad.mlir
// CHECK: error: 'moe.weight' op has no tensor 'layer.ruoter' in 'sub/w.safetensors'; did you mean 'layer.router'?
moe.weight @misspelt from [#moe.tensor<"layer.ruoter">] : tensor<2x3xf32>
// CHECK: error: 'moe.weight' op finds tensor 'layer.router' of type 'tensor<2x3xf32>' in 'sub/w.safetensors', expected 'tensor<2x3xf16>'
moe.weight @dtype from [#moe.tensor<"layer.router">] : tensor<2x3xf16>
// CHECK: error: 'moe.weight' op finds tensor 'layer.router' of type 'tensor<2x3xf32>' in 'sub/w.safetensors', expected 'tensor<3x2xf32>'
moe.weight @shape from [#moe.tensor<"layer.router">] : tensor<3x2xf32>
// CHECK: error: 'moe.weight' op finds tensor 'layer.up' of type 'tensor<2x2x2xf16>' in 'sub/w.safetensors', expected 'tensor<2x2x3xf16>'
moe.weight @declared from [#moe.tensor<"layer.up", tensor<2x2x3xf16>>] : tensor<2x2x3xf16>
