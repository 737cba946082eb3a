// Switch Transformer with pass-through: a token over capacity gives p · x.
//
// W. Fedus, B. Zoph, N. Shazeer, "Switch Transformers" (arXiv 2101.03961), section 2.2;
// Hugging Face SwitchTransformersSparseMLP up to 4.51.
//
// The layer in three steps: `moe.dispatch` takes the rows of the experts,
// `moe.expert_ffn` computes them, `moe.combine` sums them up. `uncovered(%rows,
// %routing)` gives a token without an expert its row, times the weights it had before
// capacity.

!x = tensor<?x?x24xf32>
!rows = tensor<?x24xf32>
!router = tensor<8x24xf32>
!up = tensor<8x40x24xf32>
!down = tensor<8x24x40xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 1>
!routing = !moe.routing<experts = 8, k = 1, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]})
    -> (!x {onnx.name = "y"},
        !loss {onnx.name = "load_balance_loss"},
        !loss {onnx.name = "z_loss"}) {
  %router = moe.load_weight @router : !router
  %up = moe.load_weight @up : !up
  %down = moe.load_weight @down : !down

  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %groups = tensor.dim %x, %c0 : !x
  %size = tensor.dim %x, %c1 : !x
  %rows = tensor.collapse_shape %x [[0, 1], [2]] : !x into !rows

  %logits = moe.logits %rows, %router : (!rows, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 1} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores : (!selected, !scores) -> !routing
  %kept = moe.capacity %routing group_size(%size)
      {capacity = #moe.capacity<tokens * 1.25 / experts, min = 4>} : (!routing, index) -> !routing
  %tokens = tensor.dim %rows, %c0 : !rows
  %inputs = moe.dispatch %rows, %kept : (!rows, !routing) -> !rows
  %outputs = moe.expert_ffn %inputs, %kept up(%up) down(%down) <relu>
      : (!rows, !routing, !up, !down) -> !rows
  %sums = moe.combine %outputs, %kept tokens(%tokens) uncovered(%rows, %routing)
      : (!rows, !routing, index, !rows, !routing) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 24]
      : !rows into !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      group_size(%size) {fraction = #moe.aux_fraction<first>} : (!scores, !selected, index) -> !loss
  %z_loss = moe.aux <z_loss> logits(%logits) : (!scores) -> !loss
  return %y, %load_balance_loss, %z_loss : !x, !loss, !loss
}
