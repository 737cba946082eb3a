// Hierarchical mixture (Shazeer 2017): gates of groups, and gates inside each group.
//
// N. Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), appendix B.
//
// Two-level routing is composition: an outer routing to the groups, an inner one for each
// group, and `moe.compose` multiplies their weights and numbers the experts group by
// group. From there on it is one routing to all experts.

!x = tensor<?x24xf32>
!router = tensor<3x24xf32>
!inner_router = tensor<5x24xf32>
!up = tensor<15x40x24xf32>
!down = tensor<15x24x40xf32>
!outer_scores = tensor<?x3xf32> // f32 always
!inner_scores = tensor<?x5xf32> // f32 always
!outer_selected = !moe.routing<experts = 3, k = 2>
!outer = !moe.routing<experts = 3, k = 2, weighted>
!inner_selected = !moe.routing<experts = 5, k = 2>
!inner = !moe.routing<experts = 5, k = 2, weighted>
!routing = !moe.routing<experts = 15, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @router_0 from [#moe.tensor<"router_0">] : !inner_router
moe.weight @router_1 from [#moe.tensor<"router_1">] : !inner_router
moe.weight @router_2 from [#moe.tensor<"router_2">] : !inner_router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %router_0 = moe.load_weight @router_0 : !inner_router
  %router_1 = moe.load_weight @router_1 : !inner_router
  %router_2 = moe.load_weight @router_2 : !inner_router
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  // The groups.
  %outer_logits = moe.logits %x, %router : (!x, !router) -> !outer_scores
  %outer_selected = moe.select %outer_logits {k = 2} : (!outer_scores) -> !outer_selected
  %outer = moe.weigh %outer_selected, %outer_logits {fn = #moe.weigh_fn<softmax>}
      : (!outer_selected, !outer_scores) -> !outer

  // The experts of each group.
  %logits_0 = moe.logits %x, %router_0 : (!x, !inner_router) -> !inner_scores
  %selected_0 = moe.select %logits_0 {k = 2} : (!inner_scores) -> !inner_selected
  %inner_0 = moe.weigh %selected_0, %logits_0 {fn = #moe.weigh_fn<softmax>}
      : (!inner_selected, !inner_scores) -> !inner
  %logits_1 = moe.logits %x, %router_1 : (!x, !inner_router) -> !inner_scores
  %selected_1 = moe.select %logits_1 {k = 2} : (!inner_scores) -> !inner_selected
  %inner_1 = moe.weigh %selected_1, %logits_1 {fn = #moe.weigh_fn<softmax>}
      : (!inner_selected, !inner_scores) -> !inner
  %logits_2 = moe.logits %x, %router_2 : (!x, !inner_router) -> !inner_scores
  %selected_2 = moe.select %logits_2 {k = 2} : (!inner_scores) -> !inner_selected
  %inner_2 = moe.weigh %selected_2, %logits_2 {fn = #moe.weigh_fn<softmax>}
      : (!inner_selected, !inner_scores) -> !inner

  // At most 2 · 2 of all the experts.
  %routing = moe.compose %outer, %inner_0, %inner_1, %inner_2
      : (!outer, !inner, !inner, !inner) -> !routing
  %y = moe.experts %x, %routing up(%up) down(%down) <relu> : (!x, !routing, !up, !down) -> !x
  return %y : !x
}
