// DeepSeekMoE: fine-grained experts and a shared one.
//
// D. Dai et al., "DeepSeekMoE" (arXiv 2401.06066), section 3.
//
// Experts of a fraction of the usual width, more of them per token, and shared experts
// that every token visits: n_shared of them are one SwiGLU of n_shared times the width.
// The loss divides the counts by k (`per_slot`), so that it is 1 for an even load.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!gate_up = tensor<16x80x24xf32>
!down = tensor<16x24x40xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 4>
!routing = !moe.routing<experts = 16, k = 4, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !loss {onnx.name = "load_balance_loss"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down
  %shared_gate = moe.load_weight @shared_gate : !shared_up
  %shared_up = moe.load_weight @shared_up : !shared_up
  %shared_down = moe.load_weight @shared_down : !shared_down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      {fraction = #moe.aux_fraction<all>, per_slot} : (!scores, !selected) -> !loss
  return %y, %load_balance_loss : !x, !loss
}
