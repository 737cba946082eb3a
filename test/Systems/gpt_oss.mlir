// gpt-oss: top-4 of the logits, softmax of those, clamped interleaved SwiGLU with biases.
//
// OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card" (arXiv 2508.10925), section 2; Hugging
// Face GptOssMLP.
//
// The activation has everything: gates in the even rows and linear parts in the odd ones
// of one product, both clamped at 7 before it, silu with alpha 1.702, and 1 added to the
// linear part. Weights are [in, out]; router and experts have biases.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!router_bias = tensor<16xf32>
!gate_up = tensor<16x24x80xf32>
!gate_up_bias = tensor<16x80xf32>
!down = tensor<16x40x24xf32>
!down_bias = tensor<16x24xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 4>
!routing = !moe.routing<experts = 16, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @router_bias from [#moe.tensor<"router_bias">] : !router_bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @gate_up_bias from [#moe.tensor<"gate_up_bias">] : !gate_up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %router_bias = moe.load_weight @router_bias : !router_bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %gate_up_bias = moe.load_weight @gate_up_bias : !gate_up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %logits = moe.logits %x, %router bias(%router_bias)
      : (!x, !router, !router_bias) -> !scores
  %selected = moe.select %logits {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) up_bias(%gate_up_bias) down(%down)
      down_bias(%down_bias)
      <silu, glu = interleaved, alpha = 1.702, beta = 1.0, limit = 7.0>
      {layout = #moe.layout<in_out>}
      : (!x, !routing, !gate_up, !gate_up_bias, !down, !down_bias) -> !x
  return %y : !x
}
