// From plain linalg to a package; its files, symbols and dependencies.

// RUN: rm -rf %t && mkdir %t && printf 'abcdefghijklmnop' > %t/w.bin
// RUN: moec %s --model-dir=%t -o %t/scale.moec --cpu=x86-64-v3 --verify-each --report=%t/report.json | FileCheck %s --check-prefix=SUMMARY
// SUMMARY: scale.moec: no MoE block, x86-64-v3 (256-bit vectors), threads openmp, library {{.*}} KB, weights

// RUN: ls %t/scale.moec | FileCheck %s --check-prefix=FILES
// FILES:      libscale.a
// FILES-NEXT: libscale.so
// FILES-NEXT: moec.h
// FILES-NEXT: scale.h
// FILES-NEXT: scale.json
// FILES-NEXT: scale.safetensors
// FILES-NOT:  {{.}}

// RUN: llvm-nm --dynamic --defined-only %t/scale.moec/libscale.so | FileCheck %s --check-prefix=EXPORTS
// EXPORTS:     T moec_library
// EXPORTS-NEXT: T scale_moec
// EXPORTS-NOT: {{.}}

// RUN: llvm-nm --extern-only --defined-only %t/scale.moec/libscale.a | FileCheck %s --check-prefix=ARCHIVE
// ARCHIVE:     T scale_moec
// ARCHIVE-NOT: {{.}}

// RUN: llvm-readelf --dynamic %t/scale.moec/libscale.so | FileCheck %s --check-prefix=NEEDED
// NEEDED-NOT: (NEEDED) Shared library: [{{(libLLVM|libMLIR|libstdc)}}
// NEEDED: [libomp.so.5]

// RUN: FileCheck %s --check-prefix=INFO < %t/scale.moec/scale.json
// INFO-DAG: "dims":["tokens",4],"dtype":"float32","name":"x"
// INFO-DAG: "symbols":["tokens"]
// INFO-DAG: "features":["avx","avx2","bmi","bmi2","f16c","fma","lzcnt","movbe","popcnt","sse3","sse4.1","sse4.2","ssse3"]

// RUN: FileCheck %s --check-prefix=REPORT < %t/report.json
// REPORT-DAG: "phase": "package"
// REPORT-DAG: "libscale.so":
// REPORT-DAG: "weight": "w"

// The same input gives the same bytes, and replaces the package.
// RUN: cp -r %t/scale.moec %t/before
// RUN: moec %s --model-dir=%t -o %t/scale.moec/ --cpu=x86-64-v3
// RUN: diff -r %t/before %t/scale.moec
// RUN: ls -A %t | FileCheck %s --check-prefix=LEFT
// LEFT-NOT: tmp

// Without OpenMP, and not a C identifier.
// RUN: moec %s --model-dir=%t -o %t/7-b.moec --threads=none -O0 --cpu=x86-64
// RUN: llvm-readelf --dynamic %t/7-b.moec/libm7_b.so | FileCheck %s --check-prefix=NONE
// NONE-NOT: libomp
// RUN: FileCheck %s --check-prefix=HEADER < %t/7-b.moec/m7_b.h
// HEADER: const moec_library *m7_b_moec(void);

// Each phase can be compiled further, to the same library.
// RUN: moec %s --model-dir=%t -o %t/scale.moec --cpu=x86-64-v3 --dump-phases=%t/phases
// RUN: moec %t/phases/08-plan-weights.mlir --model-dir=%t -o %t/scale2.moec --cpu=x86-64-v3
// RUN: moec %t/phases/11-llvm.mlir --model-dir=%t -o %t/scale.moec --cpu=x86-64-v3
// RUN: cmp %t/before/libscale.so %t/scale.moec/libscale.so
// RUN: moec %t/phases/08-plan-weights.mlir --model-dir=%t --compile-to=bufferize | FileCheck %s --check-prefix=PHASE
// PHASE: moe.phase = "bufferize"
// PHASE: func.func @main({{.*}}memref<?x4xf32>

moe.weight @w from [#moe.segment<"w.bin", offset = 0, length = 16, tensor<4xf32>>] : tensor<4xf32>

func.func @main(%x: tensor<?x4xf32> {onnx.name = "x", onnx.dims = ["tokens", "4"]})
    -> (tensor<?x4xf32> {onnx.name = "y", onnx.dims = ["tokens", "4"]}) {
  %w = moe.load_weight @w : tensor<4xf32>
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x4xf32>
  %init = tensor.empty(%n) : tensor<?x4xf32>
  %y = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}
      ins(%x, %w : tensor<?x4xf32>, tensor<4xf32>) outs(%init : tensor<?x4xf32>) {
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %product = arith.mulf %a, %b : f32
    linalg.yield %product : f32
  } -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
