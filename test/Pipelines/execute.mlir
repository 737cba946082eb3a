// Runs a compiled entry from C, with 0, 1 and more rows.

// RUN: moe-opt %s --moec-lower-to-llvm -o %t.mlir
// RUN: FileCheck %s --input-file %t.mlir
// The weight symbols stay until a package is written; the driver has the weights.
// RUN: sed '/moe.weight @/d' %t.mlir | mlir-translate --mlir-to-llvmir -o %t.ll
// RUN: clang-22 -O2 -Wno-override-module %t.ll %S/Inputs/driver.c -o %t.exe -lm
// RUN: %t.exe

// CHECK-NOT: @malloc
// CHECK-NOT: @free
// CHECK-NOT: @memrefCopy
// CHECK-NOT: unrealized_conversion_cast
// CHECK-DAG: llvm.func internal @main(
// CHECK-DAG: llvm.func internal @mix_body(
// CHECK-DAG: llvm.func @moec_entry_main_run(
// CHECK-DAG: llvm.func @moec_entry_main_workspace(
// CHECK-DAG: llvm.func @moec_entry_main_shapes(

// w[k][n] = (k - n) / 8
moe.weight @w from [#moe.segment<"m.data", offset = 0, length = 128, tensor<8x4xf32>>]
    {offset = 64 : i64} : tensor<8x4xf32>
// Two experts, 256 bytes apart: codes[e][j] = 240 e + j
moe.weight @codes from [#moe.segment<"m.data", offset = 128, length = 16, tensor<2x8xui8>>]
    {offset = 256 : i64, expert_stride = 256 : i64} : tensor<2x8xui8>

// y = exp(x · w); z[i, j] = x[i, j] · (codes[0][j] + codes[1][j]), in x's own type and
// through a scratch row of the worker; both = x above x; n = 2 T in every element.
func.func @main(%x: tensor<?x8xf32> {onnx.name = "x"})
    -> (tensor<?x4xf32>, tensor<?x2x4xf32>, tensor<?x8xf32>, tensor<?xi64>) {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %c100 = arith.constant 100 : index
  %zero = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : tensor<?x8xf32>
  %call = moe.current_call : !llvm.ptr
  %ok = arith.cmpi ult, %t, %c100 : index
  moe.check %call, %ok, "too many rows" : !llvm.ptr
  moe.profile_mark %call, 1 : !llvm.ptr

  %w = moe.load_weight @w : tensor<8x4xf32>
  %empty = tensor.empty(%t) : tensor<?x4xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<?x4xf32>) -> tensor<?x4xf32>
  %xw = linalg.matmul ins(%x, %w : tensor<?x8xf32>, tensor<8x4xf32>)
                      outs(%init : tensor<?x4xf32>) -> tensor<?x4xf32>
  %y = linalg.exp ins(%xw : tensor<?x4xf32>) outs(%empty : tensor<?x4xf32>) -> tensor<?x4xf32>

  %codes = moe.load_weight @codes : tensor<2x8xui8>
  %cm = bufferization.to_buffer %codes read_only
      : tensor<2x8xui8> to memref<2x8xui8, strided<[?, 1], offset: ?>>
  %xm = bufferization.to_buffer %x read_only : tensor<?x8xf32> to memref<?x8xf32>
  %workers = moe.num_workers %call : !llvm.ptr
  %scratch = memref.alloc(%workers) : memref<?x8xf32>
  %zm = memref.alloc(%t) : memref<?x8xf32>
  func.call @mix(%xm, %cm, %scratch, %zm, %call)
      : (memref<?x8xf32>, memref<2x8xui8, strided<[?, 1], offset: ?>>, memref<?x8xf32>,
         memref<?x8xf32>, !llvm.ptr) -> ()
  %z8 = bufferization.to_tensor %zm restrict : memref<?x8xf32> to tensor<?x8xf32>
  %z = tensor.expand_shape %z8 [[0], [1, 2]] output_shape [%t, 2, 4]
      : tensor<?x8xf32> into tensor<?x2x4xf32>

  %both = tensor.concat dim(0) %x, %x : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %d = tensor.dim %both, %c0 : tensor<?x8xf32>
  %n = arith.index_cast %d : index to i64
  %ne = tensor.empty(%t) : tensor<?xi64>
  %ns = linalg.fill ins(%n : i64) outs(%ne : tensor<?xi64>) -> tensor<?xi64>
  return %y, %z, %both, %ns : tensor<?x4xf32>, tensor<?x2x4xf32>, tensor<?x8xf32>, tensor<?xi64>
}

func.func private @mix(%x: memref<?x8xf32>, %codes: memref<2x8xui8, strided<[?, 1], offset: ?>>,
                       %scratch: memref<?x8xf32>, %z: memref<?x8xf32>,
                       %call: !llvm.ptr {moe.call}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c8 = arith.constant 8 : index
  %zero = arith.constant 0.0 : f32
  %t = memref.dim %x, %c0 : memref<?x8xf32>
  scf.parallel (%i) = (%c0) to (%t) step (%c1) {
    %worker = moe.worker_id
    scf.for %j = %c0 to %c8 step %c1 {
      %sum = scf.for %e = %c0 to %c2 step %c1 iter_args(%acc = %zero) -> f32 {
        %u = memref.load %codes[%e, %j] : memref<2x8xui8, strided<[?, 1], offset: ?>>
        %b = builtin.unrealized_conversion_cast %u : ui8 to i8
        %f = arith.uitofp %b : i8 to f32
        %s = arith.addf %acc, %f : f32
        scf.yield %s : f32
      }
      memref.store %sum, %scratch[%worker, %j] : memref<?x8xf32>
    }
    %xv = vector.load %x[%i, %c0] : memref<?x8xf32>, vector<8xf32>
    %sv = vector.load %scratch[%worker, %c0] : memref<?x8xf32>, vector<8xf32>
    %zv = arith.mulf %xv, %sv : vector<8xf32>
    vector.store %zv, %z[%i, %c0] : memref<?x8xf32>, vector<8xf32>
  }
  return
}
