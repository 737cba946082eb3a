// Sparsely-gated layer (Shazeer 2017): top-k of the logits, softmax over the kept,
// without noise.
//
// N. Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), section 2.1
// and appendix A.
//
// What the trained layer computes: the key is the logit, not a probability, and the
// softmax comes after the selection. The router is [H,E] as in the paper. importance_loss
// is cv² of each expert's sum of gates; without noise the load is a plain count.

!x = tensor<?x24xf32>
!router = tensor<24x15xf32>
!up = tensor<15x40x24xf32>
!down = tensor<15x24x40xf32>
!scores = tensor<?x15xf32> // f32 always
!selected = !moe.routing<experts = 15, k = 4>
!routing = !moe.routing<experts = 15, k = 4, weighted>
!loss = tensor<f32> // f32 always
!count = tensor<15xi64>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"},
        !loss {onnx.name = "importance_loss"},
        !count {onnx.name = "tokens_per_expert"}) {
  %router = moe.load_weight @router : !router
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router {layout = #moe.layout<in_out>} : (!x, !router) -> !scores
  %selected = moe.select %logits {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%up) down(%down) <relu> : (!x, !routing, !up, !down) -> !x
  %importance_loss = moe.aux <importance_cv2> routing(%routing) : (!routing) -> !loss
  %tokens_per_expert = moe.aux <tokens_per_expert> routing(%routing) : (!routing) -> !count
  return %y, %importance_loss, %tokens_per_expert : !x, !loss, !count
}
