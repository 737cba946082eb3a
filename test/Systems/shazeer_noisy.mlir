// Noisy top-k gating (Shazeer 2017): the layer in training, its noise given by the
// caller.
//
// N. Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), section 2.1
// and appendix A.
//
// Noise is an operand of the logits: normal numbers that the caller has multiplied by
// noise_std = softplus(x · W_noise) + 0.01. `--moe-inference` removes it, and the layer
// is that of shazeer.mlir.
//
// load_loss is cv² of a smooth estimate of the load: the probability that a fresh draw of
// the noise leaves the expert among the k best. It needs the clean logits beside the
// noisy ones.

!x = tensor<?x24xf32>
!router = tensor<24x15xf32>
!up = tensor<15x40x24xf32>
!down = tensor<15x24x40xf32>
!scores = tensor<?x15xf32> // f32 always
!selected = !moe.routing<experts = 15, k = 4>
!routing = !moe.routing<experts = 15, k = 4, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %noise: !scores {onnx.name = "noise", onnx.dims = ["tokens", "experts"]},
                %noise_std: !scores {onnx.name = "noise_std", onnx.dims = ["tokens", "experts"]})
    -> (!x {onnx.name = "y"},
        !loss {onnx.name = "importance_loss"},
        !loss {onnx.name = "load_loss"}) {
  %router = moe.load_weight @router : !router
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  %clean = moe.logits %x, %router {layout = #moe.layout<in_out>} : (!x, !router) -> !scores
  %logits = moe.logits %x, %router noise(%noise) {layout = #moe.layout<in_out>}
      : (!x, !router, !scores) -> !scores
  %selected = moe.select %logits {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%up) down(%down) <relu> : (!x, !routing, !up, !down) -> !x
  %importance_loss = moe.aux <importance_cv2> routing(%routing) : (!routing) -> !loss
  %load_loss = moe.aux <load_cv2> logits(%clean) noisy_logits(%logits) noise_std(%noise_std)
      {variant = #moe.load_variant<shazeer>, k = 4} : (!scores, !scores, !scores) -> !loss
  return %y, %importance_loss, %load_loss : !x, !loss, !loss
}
