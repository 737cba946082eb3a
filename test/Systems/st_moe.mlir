// ST-MoE: top-2 as GShard, a threshold for the second expert, router z-loss.
//
// B. Zoph et al., "ST-MoE" (arXiv 2202.08906), section 3.3 (z-loss) and section 4; Mesh
// TensorFlow `transformer/moe.py` (_top_2_gating).
//
// z_loss = mean (ln Σ e^L)² keeps the logits small; it is a function of the logits alone.
// Capacity has no factor for k: the factor 1.25 is of tokens, for both choices together.
// The experts are gated.

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
  %weighed = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-9}
      : (!selected, !scores) -> !routing
  %asking = moe.filter %weighed {threshold = 0.2} : (!routing) -> !routing
  %kept = moe.capacity %asking group_size(%size)
      {capacity = #moe.capacity<tokens * 1.25 / experts, min = 4>} : (!routing, index) -> !routing
  %sums = moe.experts %rows, %kept up(%gate_up) down(%down) <silu, glu = concat>
      : (!rows, !routing, !gate_up, !down) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      group_size(%size) {fraction = #moe.aux_fraction<first>} : (!scores, !selected, index) -> !loss
  %z_loss = moe.aux <z_loss> logits(%logits) : (!scores) -> !loss
  return %y, %load_balance_loss, %z_loss : !x, !loss, !loss
}
