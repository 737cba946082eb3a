// NLLB-MoE, batch-prioritised: the surest tokens ask first.
//
// NLLB Team, "No Language Left Behind" (arXiv 2207.04672), section 6.2; Hugging Face
// NllbMoeSparseMLP up to 4.56.
//
// batch_prioritized_routing: tokens by falling probability of their first expert. With a
// capacity of a fraction of all tokens (moe_eval_capacity_token_fraction; 0.25 here, so
// that it binds; 1.0 there).

!x = tensor<?x24xf32>
!mask = tensor<?xi1>
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

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %mask: !mask {onnx.name = "mask", onnx.dims = ["tokens"]})
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
  %selected = moe.select %scores token_mask(%mask) {k = 2} : (!scores, !mask) -> !selected
  %weighed = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %kept = moe.capacity %weighed priority(%scores)
      {capacity = #moe.capacity<tokens * 0.25, round = ceil>, order = #moe.capacity_order<bpr>}
      : (!routing, !scores) -> !routing
  %routing = moe.weigh %kept
      {norm = #moe.weigh_norm<clamp>, norm_eps = 1.1920929e-07, scale = 0.8}
      : (!routing) -> !routing
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x
  return %y : !x
}
