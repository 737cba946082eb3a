// RUN: moe-opt %s --parallel-to-runtime --split-input-file --verify-diagnostics

func.func private @f(%n: index) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  // expected-error@+1 {{is in a function without an argument marked moe.call}}
  scf.parallel (%i) = (%c0) to (%n) step (%c1) {
  }
  return
}

// -----

func.func private @f(%n: index, %call: !llvm.ptr {moe.call}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  // expected-error@+1 {{has more than one dimension: not supported}}
  scf.parallel (%i, %j) = (%c0, %c0) to (%n, %n) step (%c1, %c1) {
  }
  return
}

// -----

func.func private @f() -> index {
  // expected-error@+1 {{is not in a parallel loop}}
  %w = moe.worker_id
  return %w : index
}
