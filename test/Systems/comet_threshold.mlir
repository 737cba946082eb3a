// COMET-BERT: tiny leaves are cut off.
//
// S. Ibrahim et al., "COMET: Learning Cardinality Constrained Mixture of Experts with
// Trees and Local Search" (KDD 2023), sections 3 and 4; mazumder-lab/COMET
// `model/gates/comet.py`.
//
// The authors' second implementation: inner nodes have no bias, the logit of a leaf adds
// ln(p + 1e-6), and leaves of p up to 1e-5 do not count.

!x = tensor<?x24xf32>
!node_weight = tensor<2x7x24xf32>
!leaf_weight = tensor<2x8x24xf32>
!leaf_bias = tensor<2x8xf32>
!permutation = tensor<2x8xi64>
!up = tensor<8x40x24xf32>
!up_bias = tensor<8x40xf32>
!down = tensor<8x24x40xf32>
!down_bias = tensor<8x24xf32>
!routing = !moe.routing<experts = 8, k = 8, weighted>
!visited = tensor<?xi64>

moe.weight @node_weight from [#moe.tensor<"node_weight">] : !node_weight
moe.weight @leaf_weight from [#moe.tensor<"leaf_weight">] : !leaf_weight
moe.weight @leaf_bias from [#moe.tensor<"leaf_bias">] : !leaf_bias
moe.weight @permutation from [#moe.tensor<"permutation">] : !permutation
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @up_bias from [#moe.tensor<"up_bias">] : !up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !visited {onnx.name = "visited"}) {
  %node_weight = moe.load_weight @node_weight : !node_weight
  %leaf_weight = moe.load_weight @leaf_weight : !leaf_weight
  %leaf_bias = moe.load_weight @leaf_bias : !leaf_bias
  %permutation = moe.load_weight @permutation : !permutation
  %up = moe.load_weight @up : !up
  %up_bias = moe.load_weight @up_bias : !up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %routing, %visited = moe.tree_select %x nodes(%node_weight) leaves(%leaf_weight)
      leaf_bias(%leaf_bias) permutation(%permutation)
      {gamma = 1.0, log_eps = 1.0e-6, p_min = 1.0e-5}
      : (!x, !node_weight, !leaf_weight, !leaf_bias, !permutation)
      -> (!routing, !visited)
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x
  return %y, %visited : !x, !visited
}
