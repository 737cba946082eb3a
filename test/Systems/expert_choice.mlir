// Expert Choice: each expert takes its best tokens.
//
// Y. Zhou et al., "Mixture-of-Experts with Expert Choice Routing" (arXiv 2202.09368),
// section 3.2; google/flaxformer `architectures/moe/routing.py`
// (ExpertsChooseMaskedRouter).
//
// The other direction of selection, the same type: `mode = expert_topk` lets every expert
// of a group take the C tokens with its largest scores. A token may end up with none or
// with all of the experts (k = E); the load is even by construction. The weight is the
// score, not renormalised. A token's experts depend on the other tokens, so the layer is
// not causal.

!x = tensor<?x?x24xf32>
!rows = tensor<?x24xf32>
!router = tensor<24x8xf32>
!up = tensor<8x40x24xf32>
!down = tensor<8x24x40xf32>
!scores = tensor<?x8xf32> // f32 always
#every = 8 : i64
!selected = !moe.routing<experts = 8, k = 8>
!routing = !moe.routing<experts = 8, k = 8, weighted>
!count = tensor<8xi64>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !count {onnx.name = "tokens_per_expert"}) {
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
  %selected = moe.select %scores group_size(%size)
      {mode = #moe.select_mode<expert_topk>, k = #every,
       capacity = #moe.capacity<tokens * 2 / experts, round = nearest, min = 4>}
      : (!scores, index) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %sums = moe.experts %rows, %routing up(%up) down(%down) <relu>
      : (!rows, !routing, !up, !down) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %tokens_per_expert = moe.aux <tokens_per_expert> routing(%routing) : (!routing) -> !count
  return %y, %tokens_per_expert : !x, !count
}
