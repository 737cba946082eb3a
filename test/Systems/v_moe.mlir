// V-MoE: softmax before top-k, raw weights, batch-prioritised capacity.
//
// C. Riquelme et al., "Scaling Vision with Sparse Mixture of Experts" (arXiv 2106.05974),
// sections 2 and 4, appendix A.2; google-research/vmoe `vmoe/nn/routing.py`.
//
// Batch-prioritised routing: the tokens of a group ask for room in the order of their
// largest probability (`order = bpr`), so a capacity below one entry per token (factor
// 0.5 here) drops the least important patches. The weights are the probabilities, not
// renormalised. The experts are ViT's MLP, whose GELU is the tanh form.

!x = tensor<?x?x24xf32>
!rows = tensor<?x24xf32>
!router = tensor<24x8xf32>
!up = tensor<8x40x24xf32>
!up_bias = tensor<8x40xf32>
!down = tensor<8x24x40xf32>
!down_bias = tensor<8x24xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @up_bias from [#moe.tensor<"up_bias">] : !up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !loss {onnx.name = "load_balance_loss"}) {
  %router = moe.load_weight @router : !router
  %up = moe.load_weight @up : !up
  %up_bias = moe.load_weight @up_bias : !up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %groups = tensor.dim %x, %c0 : !x
  %size = tensor.dim %x, %c1 : !x
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !rows

  %logits = moe.logits %rows, %router {layout = #moe.layout<in_out>} : (!rows, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 2} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %kept = moe.capacity %routing priority(%scores) group_size(%size)
      {capacity = #moe.capacity<tokens * k * 0.5 / experts, round = ceil, multiple = 4>,
       order = #moe.capacity_order<bpr>} : (!routing, !scores, index) -> !routing
  %sums = moe.experts %rows, %kept up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias)
      <gelu_tanh> : (!rows, !routing, !up, !up_bias, !down, !down_bias) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      group_size(%size) {fraction = #moe.aux_fraction<first>} : (!scores, !selected, index) -> !loss
  return %y, %load_balance_loss : !x, !loss
}
