// Mixtral: softmax over all experts, the two best, divided by their sum.
//
// A. Jiang et al., "Mixtral of Experts" (arXiv 2401.04088), section 2.1.
//
// Equal to a softmax over the two largest logits, which is the paper's form:
// canonicalization turns one into the other. No capacity: no token is dropped. The
// experts are SwiGLU with gate and up rows in one tensor, the gate first.

!x = tensor<?x24xf32>
!router = tensor<8x24xf32>
!gate_up = tensor<8x80x24xf32>
!down = tensor<8x24x40xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!loss = tensor<f32> // f32 always

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !loss {onnx.name = "load_balance_loss"}) {
  %router = moe.load_weight @router : !router
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores {k = 2} : (!scores) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %load_balance_loss = moe.aux <load_balance> probabilities(%scores) routing(%selected)
      {fraction = #moe.aux_fraction<all>} : (!scores, !selected) -> !loss
  return %y, %load_balance_loss : !x, !loss
}
