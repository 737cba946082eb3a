// RUN: moe-opt %s --linalg-to-gpu --split-input-file --verify-diagnostics

// All of them are reported.

func.func private @kernel(memref<4xf32>)
func.func @host(%x: memref<4xf32>, %n: memref<index>, %y: memref<4xf32> {moe.output}, %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  // expected-error @+1 {{gives the host a value that only the device has (a size or a condition that depends on data): not supported on a GPU}}
  %size = memref.load %n[] : memref<index>
  %t = memref.alloc(%size) : memref<?xf32>
  %f = arith.constant 0.0 : f32
  linalg.fill ins(%f : f32) outs(%t : memref<?xf32>)
  // expected-error @+1 {{is a kernel for the CPU: not supported on a GPU}}
  func.call @kernel(%x) : (memref<4xf32>) -> ()
  return
}

// -----

func.func @overwritten(%n: memref<f32>, %y: memref<4xf32> {moe.output}) attributes {moe.entry} {
  %zero = arith.constant 0.0 : f32
  // expected-error @+1 {{loads a value that is overwritten before it is used: not supported}}
  %f = memref.load %n[] : memref<f32>
  // expected-note @+1 {{overwritten here}}
  linalg.fill ins(%zero : f32) outs(%n : memref<f32>)
  linalg.fill ins(%f : f32) outs(%y : memref<4xf32>)
  return
}

// -----

func.func @chooses(%x: memref<4xf32>, %z: memref<4xf32>, %p: memref<i1>, %y: memref<4xf32> {moe.output}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %v = memref.load %p[] : memref<i1>
  // expected-error @+1 {{chooses memory on the device: not supported on a GPU}}
  %m = scf.if %v -> memref<4xf32> {
    %f = memref.load %x[%c0] : memref<4xf32>
    memref.store %f, %z[%c0] : memref<4xf32>
    scf.yield %x : memref<4xf32>
  } else {
    scf.yield %z : memref<4xf32>
  }
  memref.copy %m, %y : memref<4xf32> to memref<4xf32>
  return
}
