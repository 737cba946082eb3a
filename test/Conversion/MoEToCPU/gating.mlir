// RUN: moe-opt %s --moe-to-cpu="vector-bits=512" | FileCheck %s --check-prefixes=CHECK,AVX512
// RUN: moe-opt %s --moe-to-cpu="vector-bits=256" | FileCheck %s --check-prefixes=CHECK,AVX2

// Top-k on 64 logits: they stay in registers, and a round of the selection is one loop
// that carries them.
// CHECK-LABEL: func.func @registers
func.func @registers(%l: tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 2, weighted> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 2 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x64xf32>) -> !moe.routing<experts = 64, k = 2, weighted>
  return %r : !moe.routing<experts = 64, k = 2, weighted>
}

// 512 do not: they are keys in a buffer on the stack of one token.
// CHECK-LABEL: func.func @stack
func.func @stack(%l: tensor<?x512xf32>) -> !moe.routing<experts = 512, k = 2, weighted> {
  %r = moe.gating %l {fn = #moe.weigh_fn<softmax>, k = 2 : i64, score = #moe.score_fn<identity>, weigh_source = #moe.weigh_source<logit>} : (tensor<?x512xf32>) -> !moe.routing<experts = 512, k = 2, weighted>
  return %r : !moe.routing<experts = 512, k = 2, weighted>
}

// CHECK-LABEL: func.func private @moec_gating_
// CHECK-SAME:    memref<?x64xf32>
// CHECK:         scf.parallel
// CHECK-NOT:       memref<64xi32>
// AVX512:          scf.for {{.*}} -> (vector<16xi32>, vector<16xi32>, vector<16xi32>, vector<16xi32>)
// AVX2:            scf.for {{.*}} -> (vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>)
// The softmax is over the chosen ones only.
// CHECK-COUNT-1:   math.exp
// CHECK-NOT:       math.exp

// CHECK-LABEL: func.func private @moec_gating_
// CHECK-SAME:    memref<?x512xf32>
// CHECK:         scf.parallel
// CHECK:           memref.alloca() : memref<512xi32>
// CHECK-NOT:       memref.alloc(
