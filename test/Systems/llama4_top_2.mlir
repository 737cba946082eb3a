// Llama 4 with two experts per token.
//
// Meta, "The Llama 4 herd" (2025); Hugging Face Llama4TextMoe.
//
// num_experts_per_tok = 2. The fused form of llama4.mlir: `moe.experts` with
// `scale_input`.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!gate_up = tensor<16x24x80xf32>
!down = tensor<16x40x24xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 2>
!routing = !moe.routing<experts = 16, k = 2, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down
  %shared_gate = moe.load_weight @shared_gate : !shared_up
  %shared_up = moe.load_weight @shared_up : !shared_up
  %shared_down = moe.load_weight @shared_down : !shared_down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %selected = moe.select %logits {k = 2} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<sigmoid>}
      : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      {layout = #moe.layout<in_out>, scale_input, weight = #moe.combine_weight<already_applied>}
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  return %y : !x
}
