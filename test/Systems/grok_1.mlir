// Grok-1: top-2 of 8, raw probabilities, GELU-gated experts.
//
// xAI, "Grok-1" (2024), `model.py` (Router, MoELayer, DenseBlock).
//
// All matrices are [in, out]. Gate and linear part are two tensors (`glu = separate`),
// the gate goes through the tanh form of GELU. The published weights are int8 with
// scales; that is a matter of the weights' type.

!x = tensor<?x24xf32>
!router = tensor<24x8xf32>
!up = tensor<8x24x40xf32>
!down = tensor<8x40x24xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate from [#moe.tensor<"gate">] : !up
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate = moe.load_weight @gate : !up
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router {layout = #moe.layout<in_out>} : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 2} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%up) gate(%gate) down(%down) <gelu_tanh, glu = separate>
      {layout = #moe.layout<in_out>} : (!x, !routing, !up, !up, !down) -> !x
  return %y : !x
}
