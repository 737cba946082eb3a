// Uni-MoE 2.0: a number of experts that follows the token, null and shared experts.
//
// Y. Li et al., "Uni-MoE-2.0-Omni" (arXiv 2511.12609), section 3; HITsz-TMG/Uni-MoE
// `UniMoE_Audio_core.py` (UniMoEAudioSparseMoeBlock).
//
// Top-p: a token takes experts by falling probability until those before hold 0.7. The
// weights come from the logits by the sparse mixer, one round for each expert taken; each
// expert keeps the tokens with its largest logits, and the weights are normalised again.
//
// The last expert is null: it gives 0, and its weight is lost. The shared experts always
// run; one softmax over the logits of the selected and the shared experts (`moe.blend`)
// divides the weight between the two kinds.

!x = tensor<?x24xf32>
!mask = tensor<?xi1>
!router = tensor<5x24xf32>
!shared_router = tensor<2x24xf32>
!gate_up = tensor<4x80x24xf32>
!down = tensor<4x24x40xf32>
!shared_up = tensor<2x28x24xf32>
!shared_down = tensor<2x24x28xf32>
!scores = tensor<?x5xf32> // f32 always
!shared_scores = tensor<?x2xf32> // f32 always
#every = 5 : i64
!selected = !moe.routing<experts = 5, k = 5>
!routing = !moe.routing<experts = 5, k = 5, weighted>
#kinds = [#moe.kind<ffn, 4>, #moe.kind<zero, 1>]

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @shared_router from [#moe.tensor<"shared_router">] : !shared_router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %mask: !mask {onnx.name = "mask", onnx.dims = ["tokens"]})
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
  %selected = moe.select %scores token_mask(%mask)
      {mode = #moe.select_mode<topp>, p = 0.7, k = #every} : (!scores, !mask) -> !selected
  %weighed = moe.weigh %selected, %logits
      {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01, norm = #moe.weigh_norm<sum>,
       norm_eps = 1.0e-6} : (!selected, !scores) -> !routing
  %kept = moe.capacity %weighed priority(%logits)
      {capacity = #moe.capacity<tokens / experts * 3, round = ceil, min = 8>,
       order = #moe.capacity_order<per_expert>} : (!routing, !scores) -> !routing
  %normalized = moe.weigh %kept {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-6}
      : (!routing) -> !routing
  %shared_logits = moe.logits %x, %shared_router : (!x, !shared_router) -> !shared_scores
  %routing, %shared_weights = moe.blend <softmax_mass>
      %normalized, %logits, %shared_logits
      : (!routing, !scores, !shared_scores) -> (!routing, !shared_scores)
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat> {kinds = #kinds}
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) weight(%shared_weights)
      add(%routed) <silu, glu = separate>
      : (!x, !shared_up, !shared_up, !shared_down, !shared_scores, !x) -> !x
  return %y : !x
}
