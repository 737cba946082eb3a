// Phi-3.5-MoE: the sparse mixer, two rounds that leave out what is far below the winner.
//
// L. Liu et al., "GRIN" (arXiv 2409.12136), section 2; M. Abdin et al., "Phi-3 Technical
// Report" (arXiv 2404.14219); Hugging Face `sparsemixer`.
//
// Each of the two experts is weighed by its part in a softmax over the experts not yet
// taken whose logit lies within 2 · eps, relative, of its own: mostly that is the expert
// alone, with weight 1. The weights are not normalised together. The values within the
// margin are of all experts, not of the selected two.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!gate_up = tensor<16x80x24xf32>
!down = tensor<16x24x40xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 2>
!routing = !moe.routing<experts = 16, k = 2, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %selected = moe.select %logits {k = 2} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<masked_softmax>, eps = 0.01}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
