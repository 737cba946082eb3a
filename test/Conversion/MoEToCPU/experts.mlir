// RUN: moe-opt %s --moe-to-cpu="vector-bits=512" | FileCheck %s

moe.weight @up from [#moe.segment<"m.data", offset = 0, length = 115200, tensor<5x80x72xf32>>] : tensor<5x80x72xf32>
moe.weight @down from [#moe.segment<"m.data", offset = 115200, length = 57600, tensor<5x72x40xf32>>] : tensor<5x72x40xf32>
moe.weight @up_bias from [#moe.segment<"m.data", offset = 172800, length = 1600, tensor<5x80xf32>>] : tensor<5x80xf32>

func.func @main(%x: tensor<?x72xf32>, %logits: tensor<?x5xf32>) -> tensor<?x72xf32> {
  %up = moe.load_weight @up : tensor<5x80x72xf32>
  %down = moe.load_weight @down : tensor<5x72x40xf32>
  %up_bias = moe.load_weight @up_bias : tensor<5x80xf32>
  %r = moe.gating %logits {score = #moe.score_fn<identity>, k = 3 : i64, weigh_source = #moe.weigh_source<logit>, fn = #moe.weigh_fn<softmax>} : (tensor<?x5xf32>) -> !moe.routing<experts = 5, k = 3, weighted>
  %y = moe.experts %x, %r up(%up) up_bias(%up_bias) down(%down) <silu, glu = interleaved> : (tensor<?x72xf32>, !moe.routing<experts = 5, k = 3, weighted>, tensor<5x80x72xf32>, tensor<5x80xf32>, tensor<5x72x40xf32>) -> tensor<?x72xf32>
  return %y : tensor<?x72xf32>
}
