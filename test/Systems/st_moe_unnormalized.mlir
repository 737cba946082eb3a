// ST-MoE of flaxformer: raw probabilities, no second-expert policy.
//
// B. Zoph et al., "ST-MoE" (arXiv 2202.08906), section 3.3 (z-loss) and section 4;
// google/flaxformer `architectures/moe/routing.py`.
//
// The weights of the two experts are not divided by their sum, and the capacity is
// rounded to the nearest number (half to even) where Mesh TensorFlow rounds down.
// flaxformer's dense `extra_mlp` after the layer is a layer of its own.

!x = tensor<?x?x24xf32>
!rows = tensor<?x24xf32>
!router = tensor<24x8xf32>
!gate_up = tensor<8x80x24xf32>
!down = tensor<8x24x40xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]})
    -> (!x {onnx.name = "y"},
        !loss {onnx.name = "load_balance_loss"},
        !loss {onnx.name = "z_loss"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %groups = tensor.dim %x, %c0 : !x
  %size = tensor.dim %x, %c1 : !x
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !rows

  %logits = moe.logits %rows, %router {layout = #moe.layout<in_out>} : (!rows, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 2} : (!scores) -> !selected
  %weighed = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %kept = moe.capacity %weighed group_size(%size)
      {capacity = #moe.capacity<tokens * 1.25 / experts, round = nearest, min = 4>}
      : (!routing, index) -> !routing
  %sums = moe.experts %rows, %kept up(%gate_up) down(%down) <silu, glu = concat>
      : (!rows, !routing, !gate_up, !down) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      group_size(%size) {fraction = #moe.aux_fraction<first>} : (!scores, !selected, index) -> !loss
  %z_loss = moe.aux <z_loss> logits(%logits) : (!scores) -> !loss
  return %y, %load_balance_loss, %z_loss : !x, !loss, !loss
}
