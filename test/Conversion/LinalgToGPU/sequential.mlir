// RUN: moe-opt %s --linalg-to-gpu --canonicalize --cse --split-input-file | FileCheck %s

// A loop that reads memory runs on one thread, and so does what comes at once behind it. Its result
// reaches the next kernel through memory; buffers of the loop are the host's.

// CHECK-LABEL: func.func @count
// CHECK-SAME: %[[X:.*]]: memref<?xf32>, %[[Y:.*]]: memref<?xindex>
// CHECK-DAG: %[[RESULT:.*]] = memref.alloc() : memref<index>
// CHECK-DAG: %[[TEMPORARY:.*]] = memref.alloc() : memref<2xf32>
// CHECK: gpu.launch_func @kernels::@sequential blocks in (%[[C1:.*]], %[[C1]], %[[C1]]) threads in (%c32, %[[C1]], %[[C1]])
// CHECK-NOT: memref.load
// CHECK: gpu.launch_func @kernels::@parallel
// CHECK: gpu.func @sequential
// CHECK: arith.cmpi eq, %thread_id_x
// CHECK: scf.if
// CHECK: scf.for
// CHECK: memref.load
// CHECK: memref.store %{{.*}}[] : memref<index>
// CHECK: gpu.func @parallel
// CHECK: memref.load %{{.*}}[] : memref<index>
func.func @count(%x: memref<?xf32>, %y: memref<?xindex> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %n = memref.dim %x, %c0 : memref<?xf32>
  %count = scf.for %i = %c0 to %n step %c1 iter_args(%k = %c0) -> index {
    %t = memref.alloca() : memref<2xf32>
    %v = memref.load %x[%i] : memref<?xf32>
    memref.store %v, %t[%c0] : memref<2xf32>
    linalg.fill ins(%zero : f32) outs(%t : memref<2xf32>)
    %w = memref.load %t[%c0] : memref<2xf32>
    %is = arith.cmpf ogt, %v, %w : f32
    %next = arith.addi %k, %c1 : index
    %r = arith.select %is, %next, %k : index
    scf.yield %r : index
  }
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%y : memref<?xindex>) {
  ^bb0(%o: index):
    linalg.yield %count : index
  }
  return
}

// -----

// A store of the host's numbers.

// CHECK-LABEL: func.func @shape
// CHECK: %[[N:.*]] = memref.dim
// CHECK: gpu.launch_func @kernels::@sequential {{.*}} args({{.*}}%[[N]] : index
func.func @shape(%x: memref<?xf32>, %y: memref<2xindex> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = memref.dim %x, %c0 : memref<?xf32>
  memref.store %n, %y[%c0] : memref<2xindex>
  memref.store %c1, %y[%c1] : memref<2xindex>
  return
}

// -----

// A condition of the host stays there, and so does a loop of launches.

// CHECK-LABEL: func.func @host
// CHECK: scf.if %{{.*}} {
// CHECK: gpu.launch_func @mine::@parallel
// CHECK: scf.for
// CHECK: gpu.launch_func @mine::@kernel
module attributes {gpu.container_module} {
func.func @host(%p: i1, %n: index, %x: memref<4xf32>, %y: memref<4xf32> {moe.output}) attributes {moe.entry} {
  scf.if %p {
    memref.copy %x, %y : memref<4xf32> to memref<4xf32>
  }
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %n step %c1 {
    gpu.launch_func @mine::@kernel blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1) args(%x : memref<4xf32>)
  }
  return
}
// A module of kernels that is there takes the others too.
// CHECK: gpu.module @mine
// CHECK-DAG: gpu.func @kernel
// CHECK-DAG: gpu.func @parallel
gpu.module @mine {
  gpu.func @kernel(%x: memref<4xf32>) kernel {
    gpu.return
  }
}
}

// -----

// A constant that a launch passes is copied to memory.

// CHECK-LABEL: func.func @constant
// CHECK: %[[BUFFER:.*]] = memref.alloc() : memref<2xf32>
// CHECK: gpu.launch_func @mine::@parallel {{.*}} args(%[[BUFFER]] : memref<2xf32>)
// CHECK: gpu.launch_func @mine::@kernel {{.*}} args(%[[BUFFER]] : memref<2xf32>)
// CHECK: gpu.func @parallel
// CHECK: memref.get_global @table
module attributes {gpu.container_module} {
  memref.global "private" constant @table : memref<2xf32> = dense<[1.0, 2.0]>
  func.func @constant(%y: memref<4xf32> {moe.output}) attributes {moe.entry} {
    %c1 = arith.constant 1 : index
    %t = memref.get_global @table : memref<2xf32>
    gpu.launch_func @mine::@kernel blocks in (%c1, %c1, %c1) threads in (%c1, %c1, %c1) args(%t : memref<2xf32>)
    return
  }
  gpu.module @mine {
    gpu.func @kernel(%x: memref<2xf32>) kernel {
      gpu.return
    }
  }
}

// -----

// A check of a value in memory is made on the device, where it leaves the address of its message to the host.

// CHECK-LABEL: func.func @check
// CHECK-SAME: %[[CALL:[a-z0-9]+]]: !llvm.ptr {moe.call}
// CHECK-DAG: llvm.call @moec_check_place(%[[CALL]])
// CHECK-DAG: %[[TEXT:.*]] = llvm.mlir.addressof @moec_message_0
// CHECK-DAG: %[[ADDRESS:.*]] = llvm.ptrtoint %[[TEXT]]
// CHECK-NOT: memref.load
// CHECK: gpu.launch_func @kernels::@sequential
// CHECK-SAME: %[[ADDRESS]] : i64
// CHECK-NOT: moe.check
// CHECK-NOT: moe.check
// CHECK: gpu.func @sequential
// CHECK: memref.load %{{.*}}[] : memref<i1>
// CHECK: scf.if
// CHECK: memref.load %{{.*}}[] : memref<i64>
// CHECK: memref.store %{{.*}}[] : memref<i64>
func.func @check(%ok: memref<i1>, %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %0 = memref.load %ok[] : memref<i1>
  moe.check %call, %0, "an index is out of range" : !llvm.ptr
  return
}
