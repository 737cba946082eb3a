// The tutorials' bias variant, raw: the kept biased logits are the weights.
//
// No paper: the layer as introductions to mixtures of experts write it.
//
// As tutorial_bias.mlir without the softmax: the biased logits themselves weigh the
// experts, negative ones too.

!x = tensor<?x24xf32>
!balance = tensor<8xf32> // f32 always
!router = tensor<8x24xf32>
!router_bias = tensor<8xf32>
!up = tensor<8x40x24xf32>
!up_bias = tensor<8x40xf32>
!down = tensor<8x24x40xf32>
!down_bias = tensor<8x24xf32>
!scores = tensor<?x8xf32> // f32 always
!selected = !moe.routing<experts = 8, k = 2>
!routing = !moe.routing<experts = 8, k = 2, weighted>
!top = !moe.routing<experts = 8, k = 1>
!count = tensor<8xi64>

moe.weight @router from [#moe.tensor<"router">] : !router
moe.weight @router_bias from [#moe.tensor<"router_bias">] : !router_bias
moe.weight @up from [#moe.tensor<"up">] : !up
moe.weight @up_bias from [#moe.tensor<"up_bias">] : !up_bias
moe.weight @down from [#moe.tensor<"down">] : !down
moe.weight @down_bias from [#moe.tensor<"down_bias">] : !down_bias

func.func @main(%x: !x {onnx.name = "x", onnx.dims = ["tokens", "hidden"]},
                %balance: !balance {onnx.name = "balance", onnx.dims = ["experts"]})
    -> (!x {onnx.name = "y"}, !balance {onnx.name = "updated_balance"}) {
  %router = moe.load_weight @router : !router
  %router_bias = moe.load_weight @router_bias : !router_bias
  %up = moe.load_weight @up : !up
  %up_bias = moe.load_weight @up_bias : !up_bias
  %down = moe.load_weight @down : !down
  %down_bias = moe.load_weight @down_bias : !down_bias

  %logits = moe.logits %x, %router bias(%router_bias)
      : (!x, !router, !router_bias) -> !scores
  %selected = moe.select %logits bias(%balance) {k = 2} : (!scores, !balance) -> !selected
  %routing = moe.weigh %selected, %logits bias(%balance)
      : (!selected, !scores, !balance) -> !routing
  %y = moe.experts %x, %routing up(%up) up_bias(%up_bias) down(%down) down_bias(%down_bias) <relu>
      : (!x, !routing, !up, !up_bias, !down, !down_bias) -> !x

  %top = moe.select %logits {k = 1} : (!scores) -> !top
  %load = moe.aux <tokens_per_expert> routing(%top) : (!top) -> !count
  %updated_balance = moe.bias_update <proportional> %balance, %load {rate = 0.1} : !balance, !count
  return %y, %updated_balance : !x, !balance
}
