// DeepSeek-V2: top-k limited to groups of experts, scaled weights.
//
// DeepSeek-AI, "DeepSeek-V2" (arXiv 2405.04434), section 2.2; Hugging Face DeepseekV2Moe
// (group_limited_greedy).
//
// The experts of a device are a group; a token's experts come from the 2 of 4 groups that
// hold the largest probabilities (3 of 8 there), so it is sent to few devices. Keys of
// the other groups become 0, which no probability is below. The weights are multiplied by
// 16, never normalised.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!gate_up = tensor<16x80x24xf32>
!down = tensor<16x24x40xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 3>
!routing = !moe.routing<experts = 16, k = 3, weighted>
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
  %selected = moe.select %scores
      {k = 3, n_group = 4, topk_group = 2, group_score = #moe.group_score<max>,
       group_fill = #moe.group_fill<zero>} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores {scale = 16.0} : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      {fraction = #moe.aux_fraction<all>, per_slot} : (!scores, !selected) -> !loss
  return %y, %load_balance_loss : !x, !loss
}
