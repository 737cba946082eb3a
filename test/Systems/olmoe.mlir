// OLMoE: top-8 of 64, the raw probabilities as weights.
//
// N. Muennighoff et al., "OLMoE" (arXiv 2409.02060), section 2; Hugging Face
// OlmoeSparseMoeBlock (norm_topk_prob = false).
//
// The softmax is over all experts and the weights are not divided by their sum. Two
// losses: load balance over all eight choices, and the router z-loss.

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 8>
!routing = !moe.routing<experts = 32, k = 8, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"},
        !loss {onnx.name = "load_balance_loss"},
        !loss {onnx.name = "z_loss"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 8} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      {fraction = #moe.aux_fraction<all>} : (!scores, !selected) -> !loss
  %z_loss = moe.aux <z_loss> logits(%logits) : (!scores) -> !loss
  return %y, %load_balance_loss, %z_loss : !x, !loss, !loss
}
