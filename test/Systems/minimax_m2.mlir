// MiniMax-M2: sigmoid scores, a selection bias, plain normalisation, no shared expert.
//
// MiniMax, "MiniMax-M2" (2025); Hugging Face MiniMaxM2SparseMoeBlock.
//
// The selection follows s + b, the weights are s / Σs, with nothing added to the sum and
// no scale.

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!bias = tensor<32xf32> // f32 always
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 8>
!routing = !moe.routing<experts = 32, k = 8, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 8} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<sum>}
      : (!selected, !scores) -> !routing
  %y = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  return %y : !x
}
