// Jacobs et al. 1991: every expert runs, weighted by a softmax.
//
// R. Jacobs, M. Jordan, S. Nowlan, G. Hinton, "Adaptive Mixtures of Local Experts",
// Neural Computation 3 (1991), section 1.
//
// The dense mixture that all others thin out. `mode = all` selects every expert in the
// order of the ids; k is the number of experts. The paper leaves the experts' network
// open: here one hidden layer with biases.

!x = tensor<?x24xf32>
!router = tensor<8x24xf32>
!router_bias = tensor<8xf32>
!up = tensor<8x40x24xf32>
!up_bias = tensor<8x40xf32>
!down = tensor<8x24x40xf32>
!down_bias = tensor<8x24xf32>
!scores = tensor<?x8xf32> // f32 always
#every = 8 : i64
!selected = !moe.routing<experts = 8, k = 8>
!routing = !moe.routing<experts = 8, k = 8, weighted>

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
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {mode = #moe.select_mode<all>, k = #every} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x
  return %y : !x
}
