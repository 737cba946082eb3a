// LFM2-MoE without bias and normalisation: scaled sigmoids as weights.
//
// Liquid AI, "LFM2 Technical Report" (arXiv 2511.23404); Hugging Face
// Lfm2MoeSparseMoeBlock.
//
// use_expert_bias = false, norm_topk_prob = false, routed_scaling_factor = 2: the experts
// do not compete for the weight, each is weighed by its own sigmoid.

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 4>
!routing = !moe.routing<experts = 32, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores {scale = 2.0} : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
