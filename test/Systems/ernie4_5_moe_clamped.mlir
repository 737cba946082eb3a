// Ernie 4.5 with a bound that binds: weights of unsure tokens sum to less than 1.
//
// Baidu, "ERNIE 4.5 Technical Report" (2025), section 2; Hugging Face
// Ernie4_5_MoeSparseMoeBlock.
//
// The bound of the normaliser is 0.5 in place of 1e-12, as moe_norm_min allows: where the
// selected experts hold less than half of the probability, their weights are 2 · p.

!x = tensor<?x24xf32>
!router = tensor<32x24xf32>
!bias = tensor<32xf32> // f32 always
!gate_up = tensor<32x40x24xf32>
!down = tensor<32x24x20xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x32xf32> // f32 always
!selected = !moe.routing<experts = 32, k = 6>
!routing = !moe.routing<experts = 32, k = 6, weighted>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down
  %shared_gate = moe.load_weight @shared_gate : !shared_up
  %shared_up = moe.load_weight @shared_up : !shared_up
  %shared_down = moe.load_weight @shared_down : !shared_down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <softmax> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias) {k = 6} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores {norm = #moe.weigh_norm<clamp>, norm_eps = 0.5}
      : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  return %y : !x
}
