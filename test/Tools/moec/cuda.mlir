// From plain linalg to a package for CUDA, without a CUDA Toolkit.

// RUN: rm -rf %t && mkdir %t %t/again %t/one && printf 'abcdefghijklmnop' > %t/w.bin
// RUN: moec %s --model-dir=%t -o %t/scale.moec --target=cuda --gpu-format=ptx --gpu-arch=sm_90a,sm_80 --verify-each --dump-phases=%t/phases | FileCheck %s --check-prefix=SUMMARY
// SUMMARY: scale.moec: no MoE block, CUDA sm_90a sm_80 (ptx), library {{.*}} KB, weights

// The library needs nothing of CUDA, and runs on any x86-64.
// RUN: llvm-readelf --dynamic %t/scale.moec/libscale.so | FileCheck %s --check-prefix=NEEDED
// NEEDED-NOT: (NEEDED) Shared library: [{{(libcuda|libomp)}}
// NEEDED: [libc.so.6]
// RUN: FileCheck %s --check-prefix=INFO < %t/scale.moec/scale.json
// INFO-DAG: "cuda":{"architectures":["sm_90a","sm_80"],"code":[{"architectures":["sm_80"],"kernels":["parallel","parallel_0"]},{"architectures":["sm_90a"],"kernels":["parallel","parallel_0"]}],"format":"ptx"}
// INFO-DAG: "levels":["sm_80","sm_90a"]
// INFO-DAG: "features":[]
// INFO-DAG: "name":"cuda"

// It has the kernels for both.
// RUN: strings %t/scale.moec/libscale.so | FileCheck %s --check-prefix=PTX
// PTX: .target sm_80
// PTX: .entry parallel(
// PTX: .target sm_90a
// PTX: .entry parallel(

// Every phase can be compiled further, for the same target only. Each group of GPUs has a program of its own.
// RUN: ls %t/phases | FileCheck %s --check-prefix=PHASES
// PHASES: moe-to-gpu.sm_80.mlir
// PHASES: moe-to-gpu.sm_90a.mlir
// PHASES: plan-memory.sm_80.mlir
// PHASES: gpu-to-runtime.sm_80.mlir
// PHASES: llvm.sm_80.mlir
// RUN: moec %s --model-dir=%t -o %t/one/scale.moec --target=cuda --gpu-format=ptx --gpu-arch=sm_80,sm_89 --quiet
// RUN: moec %t/phases/*-plan-memory.sm_80.mlir --model-dir=%t -o %t/again/scale.moec --target=cuda --gpu-format=ptx --gpu-arch=sm_80,sm_89 --quiet
// RUN: cmp %t/again/scale.moec/libscale.so %t/one/scale.moec/libscale.so
// RUN: moec %t/phases/*-gpu-to-runtime.sm_80.mlir --model-dir=%t -o %t/again/scale.moec --target=cuda --gpu-format=ptx --gpu-arch=sm_80 --quiet
// RUN: moec %t/phases/*-llvm.sm_80.mlir --model-dir=%t -o %t/again/more.moec --target=cuda --gpu-format=ptx --gpu-arch=sm_80 --quiet
// RUN: not moec %t/phases/*-bufferize.sm_80.mlir --model-dir=%t -o %t/cpu.moec 2>&1 | FileCheck %s --check-prefix=OTHER
// OTHER: bufferize.sm_80.mlir' was lowered for --target=cuda, not cpu
// RUN: not moec %t/phases/*-bufferize.sm_80.mlir --model-dir=%t -o %t/cpu.moec --target=cuda 2>&1 | FileCheck %s --check-prefix=SEVERAL
// SEVERAL: bufferize.sm_80.mlir' was lowered for one machine; the options ask for sm_80, sm_90a

// RUN: moec inspect %t/scale.moec | FileCheck %s --check-prefix=INSPECT
// INSPECT: GPU{{ +}}sm_80 (ptx), 2 kernels
// INSPECT: GPU{{ +}}sm_90a (ptx), 2 kernels

// Both targets in one library: code for each, and the weights that both have alike once.
// RUN: moec %s --model-dir=%t -o %t/both.moec --target=cpu,cuda --cpu=x86-64-v3 --threads=none --gpu-format=ptx --gpu-arch=sm_80 --verify-each --dump-phases=%t/both | FileCheck %s --check-prefix=BOTH
// BOTH: both.moec: no MoE block, x86-64-v3 (256-bit vectors), threads none, CUDA sm_80 (ptx), library {{.*}} KB, weights
// RUN: ls %t/both | FileCheck %s --check-prefix=BOTHPHASES
// BOTHPHASES: moe-to-cpu.x86-64-v3.mlir
// BOTHPHASES: moe-to-gpu.sm_80.mlir
// BOTHPHASES: llvm.sm_80.mlir
// BOTHPHASES: llvm.x86-64-v3.mlir
// RUN: FileCheck %s --check-prefix=BOTHINFO < %t/both.moec/both.json
// BOTHINFO-DAG: "levels":["x86-64-v3","sm_80"]
// BOTHINFO-DAG: "name":"cpu,cuda"
// BOTHINFO-DAG: "tensors":[{"expert_stride":4,"name":"w","offset":0,"type":"tensor<4xf32>"}]
// RUN: moec %t/both/*-plan-weights.x86-64-v3.mlir --model-dir=%t -o %t/cpu.moec --cpu=x86-64-v3 --quiet

moe.weight @w from [#moe.segment<"w.bin", offset = 0, length = 16, tensor<4xf32>>] : tensor<4xf32>

func.func @main(%x: tensor<?x4xf32> {onnx.name = "x", onnx.dims = ["tokens", "4"]}) -> (tensor<?x4xf32> {onnx.name = "y", onnx.dims = ["tokens", "4"]}, tensor<?xf32> {onnx.name = "sum", onnx.dims = ["tokens"]}) {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %w = moe.load_weight @w : tensor<4xf32>
  %n = tensor.dim %x, %c0 : tensor<?x4xf32>
  %empty = tensor.empty(%n) : tensor<?x4xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%x, %w : tensor<?x4xf32>, tensor<4xf32>) outs(%empty : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %0 = arith.mulf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x4xf32>
  %row = tensor.empty(%n) : tensor<?xf32>
  %s = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]} ins(%y : tensor<?x4xf32>) outs(%row : tensor<?xf32>) {
  ^bb0(%a: f32, %o: f32):
    %0 = arith.maximumf %a, %o : f32
    linalg.yield %0 : f32
  } -> tensor<?xf32>
  return %y, %s : tensor<?x4xf32>, tensor<?xf32>
}
