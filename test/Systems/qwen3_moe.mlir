// Qwen3-MoE: top-8 of many small experts, renormalised, none shared.
//
// Qwen Team, "Qwen3 Technical Report" (arXiv 2505.09388), section 2; Hugging Face
// Qwen3MoeSparseMoeBlock (norm_topk_prob = true).
//
// Mixtral's router with fine-grained experts: k = 8 of 128 there, of 32 here. Two of the
// experts get no token in the test.

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 8>
!routing = !moe.routing<experts = 32, k = 8, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 8} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
