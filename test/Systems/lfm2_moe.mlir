// LFM2-MoE: sigmoid scores, a selection bias, Σ + 1e-6.
//
// Liquid AI, "LFM2 Technical Report" (arXiv 2511.23404); Hugging Face
// Lfm2MoeSparseMoeBlock.
//
// use_expert_bias: the bias selects only. The weights are s / (Σs + 1e-6).

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!bias = tensor<32xf32> // f32 always
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 4>
!routing = !moe.routing<experts = 32, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 4} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-6}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
