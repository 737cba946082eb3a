// DBRX: top-4, weights divided by their 1-norm, the second matrix stored [in, out].
//
// Databricks, "Introducing DBRX" (2024); Hugging Face DbrxFFN.
//
// The layouts of the two products differ (w1 and v1 are [out, in], w2 [in, out] of each
// expert), so the layer is written in its parts: one dispatch, and one routing that three
// grouped products use.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!bank = tensor<16x40x24xf32>
!inner = tensor<?x40xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 4>
!routing = !moe.routing<experts = 16, k = 4, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate from [#moe.tensor<"gate">] : !bank
moe.weight @up from [#moe.tensor<"up">] : !bank
moe.weight @down from [#moe.tensor<"down">] : !bank

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %gate = moe.load_weight @gate : !bank
  %up = moe.load_weight @up : !bank
  %down = moe.load_weight @down : !bank

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 4} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<pnorm>, norm_p = 1.0}
      : (!selected, !scores) -> !routing

  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %x, %c0 : !x
  %rows = moe.dispatch %x, %routing : (!x, !routing) -> !x
  %gates = moe.grouped_matmul %rows, %routing, %gate : (!x, !routing, !bank) -> !inner
  %linears = moe.grouped_matmul %rows, %routing, %up : (!x, !routing, !bank) -> !inner
  %inner = moe.activate <silu, glu = separate> %gates linear(%linears) : (!inner, !inner) -> !inner
  %outputs = moe.grouped_matmul %inner, %routing, %down {layout = #moe.layout<in_out>}
      : (!inner, !routing, !bank) -> !x
  %y = moe.combine %outputs, %routing tokens(%tokens) : (!x, !routing, index) -> !x
  return %y : !x
}
