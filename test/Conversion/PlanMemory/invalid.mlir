// RUN: moe-opt %s --plan-memory --split-input-file --verify-diagnostics

func.func @main(%ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %a = memref.alloc() : memref<4xf32>
  %r = scf.for %i = %c0 to %c4 step %c1 iter_args(%last = %a) -> memref<4xf32> {
    // expected-error@+1 {{leaves its loop: not supported}}
    %b = memref.alloc() : memref<4xf32>
    func.call @use(%last, %b) : (memref<4xf32>, memref<4xf32>) -> ()
    scf.yield %b : memref<4xf32>
  }
  return
}
func.func private @main_shapes()
func.func private @use(memref<4xf32>, memref<4xf32>)

// -----

func.func private @kernel(%x: memref<4xf32>) {
  // expected-error@+1 {{outside of an entry function: kernels get their temporaries as arguments}}
  %b = memref.alloc() : memref<4xf32>
  memref.copy %x, %b : memref<4xf32> to memref<4xf32>
  return
}
