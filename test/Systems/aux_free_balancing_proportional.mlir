// Balancing without an auxiliary loss, proportional: large violations are corrected
// faster.
//
// L. Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts"
// (arXiv 2408.15664), section 3 (ablation).
//
// The change is the expert's difference from the mean load, as a part of all entries,
// times the rate.

!x = tensor<?x24xf32>
!bias = tensor<8xf32> // f32 always
!router = tensor<8x24xf32>
!gate_up = tensor<8x80x24xf32>
!down = tensor<8x24x40xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!count = tensor<8xi64>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %bias: !bias {onnx.name = "bias", onnx.dims = ["experts"]})
    -> (!x {onnx.name = "y"},
        !count {onnx.name = "tokens_per_expert"},
        !bias {onnx.name = "updated_bias"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 2} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-20}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %tokens_per_expert = moe.aux <tokens_per_expert> routing(%routing) : (!routing) -> !count
  %updated_bias = moe.bias_update <proportional> %bias, %tokens_per_expert {rate = 1.0e-2}
      : !bias, !count
  return %y, %tokens_per_expert, %updated_bias : !x, !count, !bias
}
