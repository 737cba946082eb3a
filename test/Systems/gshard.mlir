// GShard: top-2 in groups with capacity; the second expert by chance.
//
// D. Lepikhin et al., "GShard" (arXiv 2006.16668), section 2.2, algorithm 1; lingvo
// `core/gshard_layers.py` (Top2GatingOnLogits).
//
// x holds groups of tokens that are dispatched one by one: capacity and loss count per
// group (`group_size`), everything else per token.
//
// The order of the steps is the value of the layer: weights are divided by g1 + g2 +
// 1e-9, then the second expert stays where u < g2 / 0.5 (algorithm 1: 2 · g2 > u), then
// each expert accepts C entries, first choices before second ones. What is dropped is not
// made up for. The loss counts first choices before any of that.

!x = tensor<?x?x24xf32>
!rows = tensor<?x24xf32>
!router = tensor<24x8xf32>
!up = tensor<8x24x40xf32>
!down = tensor<8x40x24xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!loss = tensor<f32> // f32 always
!random = tensor<?xf32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]},
                %u: !random {onnx.name = "u", onnx.dims = ["rows"]})
    -> (!x {onnx.name = "y"}, !loss {onnx.name = "load_balance_loss"}) {
  %router = moe.load_weight @router : !router
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %groups = tensor.dim %x, %c0 : !x
  %size = tensor.dim %x, %c1 : !x
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !rows

  %logits = moe.logits %rows, %router {layout = #moe.layout<in_out>} : (!rows, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 2} : (!scores) -> !selected
  %weighed = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-9}
      : (!selected, !scores) -> !routing
  %asking = moe.filter %weighed random(%u) {threshold = 0.5} : (!routing, !random) -> !routing
  %kept = moe.capacity %asking group_size(%size)
      {capacity = #moe.capacity<tokens * 2 / experts, min = 4, multiple = 4>}
      : (!routing, index) -> !routing
  %sums = moe.experts %rows, %kept up(%up) down(%down) <relu> {layout = #moe.layout<in_out>}
      : (!rows, !routing, !up, !down) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      group_size(%size) {fraction = #moe.aux_fraction<first>} : (!scores, !selected, index) -> !loss
  return %y, %load_balance_loss : !x, !loss
}
