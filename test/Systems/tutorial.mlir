// The layer that tutorials show: top-k of the logits, softmax, capacity token by token.
//
// No paper: the layer as introductions to mixtures of experts write it.
//
// Each expert takes at most int(T · factor) entries, which ask token by token and, within
// a token, slot by slot (`order = token`), not first choices first as in the papers. What
// finds its expert full is dropped, the other weight stays as it is. A capacity of 0 (few
// tokens) drops everything.

!x = tensor<?x24xf32>
!router = tensor<8x24xf32>
!router_bias = tensor<8xf32>
!up = tensor<8x40x24xf32>
!up_bias = tensor<8x40xf32>
!down = tensor<8x24x40xf32>
!down_bias = tensor<8x24xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @router_bias from [#moe.tensor<"router_bias">] : !router_bias
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @up_bias from [#moe.tensor<"up_bias">] : !up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %router_bias = moe.load_weight @router_bias : !router_bias
  %up = moe.load_weight @up : !up
  %up_bias = moe.load_weight @up_bias : !up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %logits = moe.logits %x, %router bias(%router_bias)
      : (!x, !router, !router_bias) -> !scores
  %selected = moe.select %logits {k = 2} : (!scores) -> !selected
  %weighed = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %routing = moe.capacity %weighed
      {capacity = #moe.capacity<tokens * 0.3>, order = #moe.capacity_order<token>}
      : (!routing) -> !routing
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x
  return %y : !x
}
