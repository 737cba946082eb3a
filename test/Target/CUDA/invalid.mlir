// RUN: not moe-opt %s --emit-ptx=arch=sm90a 2>&1 | FileCheck %s --check-prefix=ARCH
// ARCH: error: unknown GPU architecture 'sm90a'; did you mean 'sm_90a'? use one of sm_80, sm_89, sm_90a, sm_100
// RUN: not moe-opt %s --emit-ptx 2>&1 | FileCheck %s --check-prefix=MATH
// MATH: error: 'math.exp' op on 'f64' has no GPU form

module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @double(%x: memref<f64>) kernel {
      %v = memref.load %x[] : memref<f64>
      %e = math.exp %v : f64
      memref.store %e, %x[] : memref<f64>
      gpu.return
    }
  }
}
