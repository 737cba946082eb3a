// QMoE: Switch routing whose overflow passes through, capacity per sequence.
//
// E. Frantar, D. Alistarh, "QMoE" (arXiv 2310.16795); IST-DASLab/qmoe `sub1.py`.
//
// The layer that QMoE compresses: as switch_pass_through.mlir with a fixed capacity per
// sequence (64 there). The fused form: `moe.experts` takes the routing before capacity as
// `uncovered`. The compressed weights are another matter, of the weights' type.

!x = tensor<?x?x32xf32>
!rows = tensor<?x32xf32>
!router = tensor<8x32xf32>
!up = tensor<8x44x32xf32>
!down = tensor<8x32x44xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 1>
!routing = !moe.routing<experts = 8, k = 1, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["groups", "tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
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
      {capacity = #moe.capacity<4>} : (!routing, index) -> !routing
  %sums = moe.experts %rows, %kept up(%up) down(%down) uncovered(%routing) <relu>
      : (!rows, !routing, !up, !down, !routing) -> !rows
  %y = tensor.expand_shape %sums [[0, 1], [2]] output_shape [%groups, %size, 32]
      : !rows into !x
  return %y : !x
}
