// A translation layer whose experts belong to language pairs.
//
// Task-level routing of S. Kudugunta et al., "Beyond Distillation: Task-level
// Mixture-of-Experts" (arXiv 2110.03742), section 3, with token choice inside the task.
//
// Each token knows its language pair; only the experts of that pair are allowed, of those
// it takes the two with the largest logits. The table of the model is looked up with
// linalg: allowed[t, e] = experts_of_pair[pair[t], e], the `expert_mask` of the
// selection.
//
// Here the pairs have consecutive groups of experts, as many each.

!x = tensor<?x24xf32>
!pair = tensor<?xi64>
!table = tensor<3x12xi1>
!mask = tensor<?x12xi1>
!router = tensor<12x24xf32>
!router_bias = tensor<12xf32>
!up = tensor<12x40x24xf32>
!up_bias = tensor<12x40xf32>
!down = tensor<12x24x40xf32>
!down_bias = tensor<12x24xf32>
!scores = tensor<?x12xf32> // f32 always
!selected = !moe.routing<experts = 12, k = 2>
!routing = !moe.routing<experts = 12, k = 2, weighted>
!count = tensor<12xi64>

#token = affine_map<(t, e) -> (t)>
#entry = affine_map<(t, e) -> (t, e)>

moe.weight @experts_of_pair from [#moe.tensor<"experts_of_pair">] : !table
moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @router_bias from [#moe.tensor<"router_bias">] : !router_bias
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @up_bias from [#moe.tensor<"up_bias">] : !up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %pair: !pair {onnx.name = "pair", onnx.dims = ["tokens"]})
    -> (!x {onnx.name = "y"}, !count {onnx.name = "tokens_per_expert"}) {
  %experts_of_pair = moe.load_weight @experts_of_pair : !table
  %router = moe.load_weight @router : !router
  %router_bias = moe.load_weight @router_bias : !router_bias
  %up = moe.load_weight @up : !up
  %up_bias = moe.load_weight @up_bias : !up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %pair, %c0 : !pair
  %empty = tensor.empty(%tokens) : !mask
  %allowed = linalg.generic {indexing_maps = [#token, #entry],
                             iterator_types = ["parallel", "parallel"]}
      ins(%pair : !pair) outs(%empty : !mask) {
  ^bb0(%p: i64, %unused: i1):
    %row = arith.index_cast %p : i64 to index
    %e = linalg.index 1 : index
    %is_allowed = tensor.extract %experts_of_pair[%row, %e] : !table
    linalg.yield %is_allowed : i1
  } -> !mask

  %logits = moe.logits %x, %router bias(%router_bias)
      : (!x, !router, !router_bias) -> !scores
  %selected = moe.select %logits expert_mask(%allowed) {k = 2} : (!scores, !mask) -> !selected
  %routing = moe.weigh %selected, %logits {fn = #moe.weigh_fn<softmax>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x
  %tokens_per_expert = moe.aux <tokens_per_expert> routing(%routing) : (!routing) -> !count
  return %y, %tokens_per_expert : !x, !count
}
