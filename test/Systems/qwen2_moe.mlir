// Qwen2-MoE: raw top-k probabilities, a shared expert with a sigmoid gate.
//
// Qwen Team, "Qwen2 Technical Report" (arXiv 2407.10671), section 2.2.2; Hugging Face
// Qwen2MoeSparseMoeBlock (norm_topk_prob = false).
//
// The weights are not divided by their sum, so a token's experts count less where the
// router is unsure. The shared expert runs on every token, times sigmoid of a router with
// one row: its gate is the `weight` of `moe.shared`.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!shared_router = tensor<1x24xf32>
!gate_up = tensor<16x80x24xf32>
!down = tensor<16x24x40xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x16xf32> // f32 always
!gate = tensor<?x1xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 4>
!routing = !moe.routing<experts = 16, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @shared_router from [#moe.tensor<"shared_router">] : !shared_router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %shared_router = moe.load_weight @shared_router : !shared_router
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
  %gate_logits = moe.logits %x, %shared_router : (!x, !shared_router) -> !gate
  %gate = moe.score <sigmoid> %gate_logits : !gate -> !gate
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) weight(%gate)
      add(%routed) <silu, glu = separate>
      : (!x, !shared_up, !shared_up, !shared_down, !gate, !x) -> !x
  return %y : !x
}
