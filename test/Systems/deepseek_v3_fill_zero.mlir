// DeepSeek-V3 of older Hugging Face versions: keys of other groups become 0.
//
// DeepSeek-AI, "DeepSeek-V3" (arXiv 2412.19437), sections 2.1.2 and 4.2; Hugging Face
// DeepseekV3MoE before 5.7.
//
// The difference to deepseek_v3.mlir is one attribute, and numbers: with a negative bias
// the keys of allowed experts can be negative, and an expert of a group that was left
// out, at 0, is selected before them.

!x = tensor<?x24xf32>
!router = tensor<16x24xf32>
!bias = tensor<16xf32> // f32 always
!gate_up = tensor<16x80x24xf32>
!down = tensor<16x24x40xf32>
!shared_up = tensor<1x52x24xf32>
!shared_down = tensor<1x24x52xf32>
!scores = tensor<?x16xf32> // f32 always
!selected = !moe.routing<experts = 16, k = 4>
!routing = !moe.routing<experts = 16, k = 4, weighted>
!count = tensor<16xi64>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @bias from [#moe.tensor<"bias">] : !bias
moe.weight @gate_up from [#moe.tensor<"gate_up">] : !gate_up
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @shared_gate from [#moe.tensor<"shared_gate">] : !shared_up
moe.weight @shared_up from [#moe.tensor<"shared_up">] : !shared_up
moe.weight @shared_down from [#moe.tensor<"shared_down">] : !shared_down

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]})
    -> (!x {onnx.name = "y"}, !count {onnx.name = "tokens_per_expert"}) {
  %router = moe.load_weight @router : !router
  %bias = moe.load_weight @bias : !bias
  %gate_up = moe.load_weight @gate_up : !gate_up
  %down = moe.load_weight @down : !down
  %shared_gate = moe.load_weight @shared_gate : !shared_up
  %shared_up = moe.load_weight @shared_up : !shared_up
  %shared_down = moe.load_weight @shared_down : !shared_down

  %logits = moe.logits %x, %router : (!x, !router) -> !scores
  %scores = moe.score <sigmoid> %logits : !scores -> !scores
  %selected = moe.select %scores bias(%bias)
      {k = 4, n_group = 4, topk_group = 2, group_score = #moe.group_score<top2sum>,
       group_fill = #moe.group_fill<zero>} : (!scores, !bias) -> !selected
  %routing = moe.weigh %selected, %scores
      {norm = #moe.weigh_norm<sum>, norm_eps = 1.0e-20, scale = 2.5}
      : (!selected, !scores) -> !routing
  %routed = moe.experts %x, %routing up(%gate_up) down(%down) <silu, glu = concat>
      : (!x, !routing, !gate_up, !down) -> !x
  %y = moe.shared %x up(%shared_up) gate(%shared_gate) down(%shared_down) add(%routed)
      <silu, glu = separate> : (!x, !shared_up, !shared_up, !shared_down, !x) -> !x
  %tokens_per_expert = moe.aux <tokens_per_expert> routing(%routing) : (!routing) -> !count
  return %y, %tokens_per_expert : !x, !count
}
