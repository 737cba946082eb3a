// Granite MoE: softmax over the top-8 logits.
//
// IBM, "Granite 3.0 Language Models" (2024); Hugging Face GraniteMoeMoE.
//
// The key is the logit and the softmax comes last: the same function as Mixtral's router,
// written the other way round.

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
  %selected = moe.select %logits {k = 8} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
