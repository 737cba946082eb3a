// LongCat-Flash: experts that cost nothing.
//
// Meituan, "LongCat-Flash Technical Report" (arXiv 2509.01322), section 2.1; Hugging Face
// LongcatFlashMoE.
//
// The last experts are no networks: an identity expert adds w · x. They compete in the
// same softmax and are selected by p + b as the others, so a token chooses how much
// computation it gets. `kinds` says what ranges of ids compute; the weights hold the
// networks only.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!bias = tensor<16xf32> // f32 always
!gate_up = tensor<11x80x24xf32>
!down = tensor<11x24x40xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 3>
!routing = !moe.routing<experts = 16, k = 3, weighted>
#kinds = [#moe.kind<ffn, 11>, #moe.kind<identity, 5>]

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 3} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores {scale = 6.0} : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down)
      <silu, glu = concat> {kinds = #kinds}
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
