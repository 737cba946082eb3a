// bfloat16 needs no library function on CPUs without instructions for it, also where a
// row does not fill a vector.

// RUN: mkdir -p %t && %python -c "open(r'%t/m.data', 'wb').write(bytes(87120))"
// RUN: moec %s --model-dir=%t --cpu=x86-64-v3 -o %t/v3.moec
// RUN: moec %s --model-dir=%t --cpu=x86-64-v4 -o %t/v4.moec

moe.weight @w1 from [#moe.segment<"m.data", offset = 0, length = 57600, tensor<5x80x72xbf16>>] : tensor<5x80x72xbf16>
moe.weight @w2 from [#moe.segment<"m.data", offset = 57600, length = 28800, tensor<5x72x40xbf16>>] : tensor<5x72x40xbf16>
moe.weight @r from [#moe.segment<"m.data", offset = 86400, length = 720, tensor<72x5xbf16>>] : tensor<72x5xbf16>

func.func @main(%x: tensor<?x72xbf16> {onnx.name = "x"}) -> (tensor<?x72xbf16> {onnx.name = "y"}) {
  %w1 = moe.load_weight @w1 : tensor<5x80x72xbf16>
  %w2 = moe.load_weight @w2 : tensor<5x72x40xbf16>
  %r = moe.load_weight @r : tensor<72x5xbf16>
  %l = onnx.node "MatMul"(%x, %r) {outputs = ["l"], version = 18 : i64} : (tensor<?x72xbf16>, tensor<72x5xbf16>) -> tensor<?x5xbf16>
  %y = onnx.node "com.microsoft.MoE"(%x, %l, %w1, %w2) {absent = array<i32: 3>, attributes = {k = 3 : i64, activation_type = "swiglu", swiglu_fusion = 1 : i64}, outputs = ["y"], version = 1 : i64} : (tensor<?x72xbf16>, tensor<?x5xbf16>, tensor<5x80x72xbf16>, tensor<5x72x40xbf16>) -> tensor<?x72xbf16>
  return %y : tensor<?x72xbf16>
}
