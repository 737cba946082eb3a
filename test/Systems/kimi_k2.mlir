// Kimi-K2: DeepSeek-V3's layer without groups, very many experts.
//
// Kimi Team, "Kimi K2" (arXiv 2507.20534), section 2.3; published as
// DeepseekV3ForCausalLM with n_group = 1.
//
// 384 experts there, 48 here, 8 of them per token, one shared; the weights are multiplied
// by 2.827.

!x = tensor<?x24xf32>
!router = tensor<48x24xf32>
!bias = tensor<48xf32> // f32 always
!gate_up = tensor<48x36x24xf32>
!down = tensor<48x24x18xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x48xf32> // f32 always
!selected = !moe.routing<experts = 48, k = 8>
!routing = !moe.routing<experts = 48, k = 8, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down
  %shared_gate = moe.load_weight @shared_gate : !shared_up
  %shared_up = moe.load_weight @shared_up : !shared_up
  %shared_down = moe.load_weight @shared_down : !shared_down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 8} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores
      {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-20, scale = 2.827}
      : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  return %y : !x
}
