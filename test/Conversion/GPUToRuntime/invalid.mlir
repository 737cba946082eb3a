// RUN: moe-opt %s --gpu-to-runtime --split-input-file --verify-diagnostics

module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @k() kernel {
      gpu.return
    }
  }
  func.func @no_call() {
    %c1 = arith.constant 1 : index
    // expected-error @+1 {{is in a function without an argument marked moe.call}}
    gpu.launch_func @kernels::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1)
    return
  }
}

// -----

module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @k() kernel {
      gpu.return
    }
  }
  func.func @asynchronous(%call: !llvm.ptr {moe.call}) {
    %c1 = arith.constant 1 : index
    // expected-error @+1 {{is asynchronous: not supported}}
    %t = gpu.launch_func async @kernels::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1)
    return
  }
}

// -----

module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @k(%v: vector<4xf32>) kernel {
      gpu.return
    }
  }
  func.func @vector(%v: vector<4xf32>, %call: !llvm.ptr {moe.call}) {
    %c1 = arith.constant 1 : index
    // expected-error @+1 {{passes a value of type 'vector<4xf32>': not supported}}
    gpu.launch_func @kernels::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1) args(%v : vector<4xf32>)
    return
  }
}

// -----

module attributes {gpu.container_module} {
  gpu.module @a {
    gpu.func @k() kernel {
      gpu.return
    }
  }
  gpu.module @b {
    gpu.func @k() kernel {
      gpu.return
    }
  }
  func.func @same_name(%call: !llvm.ptr {moe.call}) {
    %c1 = arith.constant 1 : index
    gpu.launch_func @a::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1)
    // expected-error @+1 {{kernel 'k' is in two modules, 'a' and 'b'}}
    gpu.launch_func @b::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1)
    return
  }
}

// -----

module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @k(%m: !nvgpu.tensormap.descriptor<tensor = memref<8xf64, 3>, swizzle = none, l2promo = none, oob = zero, interleave = none>) kernel {
      gpu.return
    }
  }
  func.func @f64(%x: memref<?xf64>, %call: !llvm.ptr {moe.call}) {
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    %any = memref.cast %x : memref<?xf64> to memref<*xf64>
    // expected-error @+1 {{is no tensor map that can be made: it needs a ranked, strided memref of 1 to 5 dimensions with a type that tensor maps have}}
    %m = nvgpu.tma.create.descriptor %any box[%c8] : memref<*xf64> -> !nvgpu.tensormap.descriptor<tensor = memref<8xf64, 3>, swizzle = none, l2promo = none, oob = zero, interleave = none>
    gpu.launch_func @kernels::@k blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1) args(%m : !nvgpu.tensormap.descriptor<tensor = memref<8xf64, 3>, swizzle = none, l2promo = none, oob = zero, interleave = none>)
    return
  }
}
