// One negative case per numbered constraint.
// RUN: moe-opt %s --verify-diagnostics --split-input-file

// types and attributes.

// expected-error@+1 {{a routing needs at least one expert, got experts = 0}}
func.func private @f(!moe.routing<experts = 0, k = 1>)

// -----

// expected-error@+1 {{k = 9 is not between 1 and E = 8}}
func.func private @f(!moe.routing<experts = 8, k = 9>)

// -----

// expected-error@+1 {{k = 0 is not between 1 and E = 8}}
func.func private @f(!moe.routing<experts = 8, k = 0>)

// -----

// expected-error@+1 {{expected 'weighted'}}
func.func private @f(!moe.routing<experts = 8, k = 2, unweighted>)

// -----

// expected-error@+1 {{alpha is a parameter of silu, not of relu}}
func.func private @f() attributes {a = #moe.activation<relu, alpha = 1.0 : f32>}

// -----

// expected-error@+1 {{beta and limit need a gate}}
func.func private @f() attributes {a = #moe.activation<silu, beta = 1.0 : f32>}

// -----

// expected-error@+1 {{beta and limit need a gate}}
func.func private @f() attributes {a = #moe.activation<silu, limit = 1.0 : f32>}

// -----

// expected-error@+1 {{limit must be positive}}
func.func private @f() attributes {a = #moe.activation<silu, glu = concat, limit = 0.0 : f32>}

// -----

// expected-error@+1 {{a segment of type 'tensor<2x3xf32>' is 24 bytes long, got length = 23}}
func.func private @f() attributes {s = #moe.segment<"m", offset = 0, length = 23, tensor<2x3xf32>>}

// -----

// expected-error@+1 {{a segment has a static shape of integers or floats}}
func.func private @f() attributes {s = #moe.segment<"m", offset = 0, length = 24, tensor<?x3xf32>>}

// -----

// expected-error@+1 {{'tensor<2x3xf32>' has 2 experts, got 1 parts}}
func.func private @f() attributes {s = #moe.experts<[dense<0.0> : tensor<3xf32>], tensor<2x3xf32>>}

// -----

// expected-error@+1 {{is not an expert of 'tensor<1x3xf32>'}}
func.func private @f() attributes {s = #moe.experts<[dense<0.0> : tensor<4xf32>], tensor<1x3xf32>>}

// -----

// expected-error@+1 {{is neither a #moe.segment nor elements}}
func.func private @f() attributes {s = #moe.experts<["text"], tensor<1x3xf32>>}

// -----

// expected-error@+1 {{experts have a static shape}}
func.func private @f() attributes {s = #moe.experts<[], tensor<?x3xf32>>}

// -----

// moe.weight.

// expected-error@+1 {{C1: needs sources}}
moe.weight @w from [] : tensor<2x3xf32>

// -----

// expected-error@+1 {{C1: needs sources}}
moe.weight @w from ["text"] : tensor<2x3xf32>

// -----

// expected-error@+1 {{C1: needs sources}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>,
                    #moe.segment<"m", offset = 24, length = 36, tensor<3x3xf32>>] : tensor<2x6xf32>

// -----

// expected-error@+1 {{C1: needs sources}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>,
                    #moe.segment<"m", offset = 24, length = 12, tensor<2x3xf16>>] : tensor<2x6xf32>

// -----

// expected-error@+1 {{C2: the transforms lead to 'tensor<2x3xf32>', not to 'tensor<3x2xf32>'}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] : tensor<3x2xf32>

// -----

// expected-error@+1 {{C2: "text" is not a weight transform}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] through ["text"] : tensor<2x3xf32>

// -----

// expected-error@+1 {{C2: cannot reshape 'tensor<2x3xf32>' to [3, 2] expert by expert}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] through [#moe.reshape<[3, 2]>] : tensor<3x2xf32>

// -----

// expected-error@+1 {{C2: not a permutation of the dimensions of 'tensor<2x3xf32>' that keeps dimension 0}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] through [#moe.permute<[1, 0]>] : tensor<3x2xf32>

// -----

// expected-error@+1 {{C2: not a permutation}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] through [#moe.permute<[0, 0]>] : tensor<2x2xf32>

// -----

// expected-error@+1 {{C2: cannot unpack 5 codes of 4 bits from dimension 1 of 'tensor<2x4xui8>'}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 8, tensor<2x4xui8>>]
    through [#moe.unpack<bits = 4, axis = 1, count = 5>] : tensor<2x5xi8>

// -----

// expected-error@+1 {{C2: cannot make codes of 4 bits unsigned in 'tensor<2x4xf32>'}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 32, tensor<2x4xf32>>]
    through [#moe.to_unsigned<bits = 4>] : tensor<2x4xui8>

// -----

// expected-error@+1 {{C2: panels need [E, N, K] (N even with a gate) and an even width}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] through [#moe.panels<width = 32>] : tensor<2x3xf32>

// -----

// expected-error@+1 {{C2: panels need [E, N, K] (N even with a gate) and an even width}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3x1xf32>>]
    through [#moe.panels<width = 32, glu = concat>] : tensor<2x1x1x32xf32>

// -----

// expected-error@+1 {{C2: codes of 4 bits with K = 4 do not fit 'tensor<2x3x1xui8>'}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 6, tensor<2x3x1xui8>>]
    through [#moe.code_panels<bits = 4, k = 4>] : tensor<2x1x4x16xi8>

// -----

moe.weight @a from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] {bank = "b"} : tensor<2x3xf32>
moe.weight @c from [#moe.segment<"m", offset = 0, length = 36, tensor<3x3xf32>>] {bank = "c"} : tensor<3x3xf32>
// expected-error@+1 {{C3: experts of a member of bank b: found 3, expected 2}}
moe.weight @b from [#moe.segment<"m", offset = 0, length = 36, tensor<3x3xf32>>] {bank = "b"} : tensor<3x3xf32>

// -----

// expected-error@+1 {{C3: a member of a bank has experts in dimension 0}}
moe.weight @a from [#moe.segment<"m", offset = 0, length = 4, tensor<f32>>] {bank = "b"} : tensor<f32>

// -----

func.func @f() {
  // expected-error@+1 {{C1: no moe.weight named @missing}}
  %0 = moe.load_weight @missing : tensor<2x3xf32>
  return
}

// -----

moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>] : tensor<2x3xf32>
func.func @f() {
  // expected-error@+1 {{C1: @w is of type 'tensor<2x3xf32>'}}
  %0 = moe.load_weight @w : tensor<3x2xf32>
  return
}

// -----

// moe.dequantize.

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6xf32>) {
  // expected-error@+1 {{C1: bits = 3, expected 2, 4 or 8}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 3 : i64} : (tensor<4x6x24xui8>, tensor<4x6xf32>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6xf32>) {
  // expected-error@+1 {{C2: codes 'tensor<4x6x24xui8>', expected [4, 6, 12]}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 2 : i64} : (tensor<4x6x24xui8>, tensor<4x6xf32>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6xf32>) {
  // expected-error@+1 {{C2: needs a static result shape}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 4 : i64} : (tensor<4x6x24xui8>, tensor<4x6xf32>) -> tensor<?x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6x6xf32>) {
  // expected-error@+1 {{C3: block = 8 is not a power of two of at least 16 that divides K = 48}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 4 : i64, block = 8 : i64} : (tensor<4x6x24xui8>, tensor<4x6x6xf32>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6x2xf32>) {
  // expected-error@+1 {{C3: block = 32 is not a power of two of at least 16 that divides K = 48}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 4 : i64, block = 32 : i64} : (tensor<4x6x24xui8>, tensor<4x6x2xf32>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6x2xf32>) {
  // expected-error@+1 {{C4: scales 'tensor<4x6x2xf32>' do not fit}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 4 : i64, block = 16 : i64} : (tensor<4x6x24xui8>, tensor<4x6x2xf32>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6xf32>, %zp: tensor<4x6xui8>) {
  // expected-error@+1 {{C5: zero points 'tensor<4x6xui8>' do not fit}}
  %0 = moe.dequantize %codes scales(%scales) zero_points(%zp) {bits = 4 : i64}
      : (tensor<4x6x24xui8>, tensor<4x6xf32>, tensor<4x6xui8>) -> tensor<4x6x48xf32>
  return
}

// -----

func.func @f(%codes: tensor<4x6x24xui8>, %scales: tensor<4x6x3xf32>, %zp: tensor<4x6x3xui8>) {
  // expected-error@+1 {{C5: zero points 'tensor<4x6x3xui8>' do not fit}}
  %0 = moe.dequantize %codes scales(%scales) zero_points(%zp) {bits = 4 : i64, block = 16 : i64}
      : (tensor<4x6x24xui8>, tensor<4x6x3xf32>, tensor<4x6x3xui8>) -> tensor<4x6x48xf32>
  return
}

// -----

// gating.

func.func @f(%x: tensor<?x16xf32>, %w: tensor<8x17xf32>) {
  // expected-error@+1 {{C1: H of x and the weight: found 16, expected 17}}
  %0 = moe.logits %x, %w : (tensor<?x16xf32>, tensor<8x17xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<16x8xf32>) {
  // expected-error@+1 {{C2: E of the logits and the weight: found 9, expected 8}}
  %0 = moe.logits %x, %w {layout = #moe.layout<in_out>} : (tensor<?x16xf32>, tensor<16x8xf32>) -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%x: tensor<3x16xf32>, %w: tensor<8x16xf32>) {
  // expected-error@+1 {{C2: T of the logits and x: found 4, expected 3}}
  %0 = moe.logits %x, %w : (tensor<3x16xf32>, tensor<8x16xf32>) -> tensor<4x8xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<8x16xf32>, %b: tensor<16xf32>) {
  // expected-error@+1 {{C3: E of the bias and the weight: found 16, expected 8}}
  %0 = moe.logits %x, %w bias(%b) : (tensor<?x16xf32>, tensor<8x16xf32>, tensor<16xf32>) -> tensor<?x8xf32>
  return
}

// -----

func.func @f(%l: tensor<3x8xf32>) {
  // expected-error@+1 {{C1: dimension 0 of logits and scores: found 4, expected 3}}
  %0 = moe.score <softmax> %l : tensor<3x8xf32> -> tensor<4x8xf32>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C1: dimension 1 of logits and scores: found 9, expected 8}}
  %0 = moe.score <softmax> %l : tensor<?x8xf32> -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+2 {{C1: k = 9 is not between 1 and E = 8}}
  // expected-error@+1 {{failed to infer returned types}}
  %0 = moe.select %l {k = 9 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 9, k = 9>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+2 {{C1: k = 0 is not between 1 and E = 8}}
  // expected-error@+1 {{failed to infer returned types}}
  %0 = moe.select %l {k = 0 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+2 {{failed to infer returned types}}
  // expected-error@+1 {{inferred type(s) '!moe.routing<experts = 8, k = 2>' are incompatible with return type(s) of operation '!moe.routing<experts = 8, k = 3>'}}
  %0 = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 3>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+2 {{failed to infer returned types}}
  // expected-error@+1 {{are incompatible with return type(s)}}
  %0 = moe.select %l {k = 2 : i64} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x?xf32>) {
  // expected-error@+2 {{C2: the number of experts E must be static, got 'tensor<?x?xf32>'}}
  // expected-error@+1 {{failed to infer returned types}}
  %0 = moe.select %l {k = 2 : i64} : (tensor<?x?xf32>) -> !moe.routing<experts = 8, k = 2>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>, %b: tensor<9xf32>) {
  // expected-error@+1 {{C3: E of the bias: found 9, expected 8}}
  %0 = moe.select %l bias(%b) {k = 2 : i64} : (tensor<?x8xf32>, tensor<9xf32>) -> !moe.routing<experts = 8, k = 2>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C4: k of a selection of all experts: found 2, expected 8}}
  %0 = moe.select %l {k = 2 : i64, mode = #moe.select_mode<all>} : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  return
}

// -----

func.func @f(%r: !moe.routing<experts = 8, k = 2>, %s: tensor<?x9xf32>) {
  // expected-error@+1 {{C1: columns of the source: found 9, expected 8}}
  %0 = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x9xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%r: !moe.routing<experts = 8, k = 2>, %s: tensor<?x8xf32>) {
  // expected-error@+1 {{C2: weighs '!moe.routing<experts = 8, k = 2>' into '!moe.routing<experts = 8, k = 2>'}}
  %0 = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  return
}

// -----

func.func @f(%r: !moe.routing<experts = 8, k = 2, weighted>, %s: tensor<?x8xf32>) {
  // expected-error@+1 {{C2: weighs}}
  %0 = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2, weighted>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%r: !moe.routing<experts = 8, k = 2>, %s: tensor<?x8xf32>) {
  // expected-error@+1 {{C2: weighs}}
  %0 = moe.weigh %r, %s : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 3, weighted>
  return
}

// -----

func.func @f(%r: !moe.routing<experts = 8, k = 2>, %s: tensor<?x8xf32>) {
  // expected-error@+1 {{C3: masked_softmax needs eps > 0}}
  %0 = moe.weigh %r, %s {fn = #moe.weigh_fn<masked_softmax>} : (!moe.routing<experts = 8, k = 2>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C1: k = 9 exceeds the number of experts E = 8}}
  %0 = moe.gating %l {score = #moe.score_fn<softmax>, k = 9 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>) -> !moe.routing<experts = 9, k = 9, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C1: k = 0 is less than 1}}
  %0 = moe.gating %l {score = #moe.score_fn<softmax>, k = 0 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 1, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C1: k = 2 of E = 8 gives '!moe.routing<experts = 8, k = 2>'}}
  %0 = moe.gating %l {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>, %b: tensor<9xf32>) {
  // expected-error@+1 {{C2: E of the bias: found 9, expected 8}}
  %0 = moe.gating %l bias(%b) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>, tensor<9xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>, %s: tensor<?x9xf32>) {
  // expected-error@+1 {{C2: columns of the source: found 9, expected 8}}
  %0 = moe.gating %l source(%s) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<operand>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>, tensor<?x9xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<3x8xf32>, %s: tensor<4x8xf32>) {
  // expected-error@+1 {{C2: rows of the source: found 4, expected 3}}
  %0 = moe.gating %l source(%s) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<operand>, fn = #moe.weigh_fn<none>}
      : (tensor<3x8xf32>, tensor<4x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>) {
  // expected-error@+1 {{C3: a source operand and weigh_source = operand go together}}
  %0 = moe.gating %l {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<operand>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

func.func @f(%l: tensor<?x8xf32>, %s: tensor<?x8xf32>) {
  // expected-error@+1 {{C3: a source operand and weigh_source = operand go together}}
  %0 = moe.gating %l source(%s) {score = #moe.score_fn<softmax>, k = 2 : i64, weigh_source = #moe.weigh_source<score>, fn = #moe.weigh_fn<none>}
      : (tensor<?x8xf32>, tensor<?x8xf32>) -> !moe.routing<experts = 8, k = 2, weighted>
  return
}

// -----

// experts.

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>) {
  // expected-error@+1 {{C1: H of rows and x: found 17, expected 16}}
  %0 = moe.dispatch %x, %r : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>) -> tensor<?x17xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>) {
  // expected-error@+1 {{C2: scale_input needs a weighted routing}}
  %0 = moe.dispatch %x, %r {scale_input} : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>) -> tensor<?x16xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<12x17xf32>) {
  // expected-error@+1 {{C1: K of x and the weight: found 16, expected 17}}
  %0 = moe.linear %x, %w : (tensor<?x16xf32>, tensor<12x17xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<16x12xf32>) {
  // expected-error@+1 {{C2: N of the result and the weight: found 13, expected 12}}
  %0 = moe.linear %x, %w {layout = #moe.layout<in_out>} : (tensor<?x16xf32>, tensor<16x12xf32>) -> tensor<?x13xf32>
  return
}

// -----

func.func @f(%x: tensor<3x16xf32>, %w: tensor<12x16xf32>) {
  // expected-error@+1 {{C2: T of the result and x: found 4, expected 3}}
  %0 = moe.linear %x, %w : (tensor<3x16xf32>, tensor<12x16xf32>) -> tensor<4x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %w: tensor<12x16xf32>, %b: tensor<13xf32>) {
  // expected-error@+1 {{C3: N of the bias and the weight: found 13, expected 12}}
  %0 = moe.linear %x, %w bias(%b) : (tensor<?x16xf32>, tensor<12x16xf32>, tensor<13xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<4x12x17xf32>) {
  // expected-error@+1 {{C1: K of the rows and the weight: found 16, expected 17}}
  %0 = moe.grouped_matmul %x, %r, %w : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x12x17xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C2: N of the result and the weight: found 13, expected 12}}
  %0 = moe.grouped_matmul %x, %r, %w {layout = #moe.layout<in_out>} : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x16x12xf32>) -> tensor<?x13xf32>
  return
}

// -----

func.func @f(%x: tensor<6x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<4x12x16xf32>) {
  // expected-error@+1 {{C2: S of the result and the rows: found 7, expected 6}}
  %0 = moe.grouped_matmul %x, %r, %w : (tensor<6x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x12x16xf32>) -> tensor<7x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<5x12x16xf32>) {
  // expected-error@+1 {{C3: E of the weight and the routing: found 5, expected 4}}
  %0 = moe.grouped_matmul %x, %r, %w : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<5x12x16xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<4x12x16xf32>, %b: tensor<5x12xf32>) {
  // expected-error@+1 {{C4: E of the bias: found 5, expected 4}}
  %0 = moe.grouped_matmul %x, %r, %w bias(%b) : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x12x16xf32>, tensor<5x12xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %w: tensor<4x12x16xf32>, %b: tensor<4x13xf32>) {
  // expected-error@+1 {{C4: N of the bias: found 13, expected 12}}
  %0 = moe.grouped_matmul %x, %r, %w bias(%b) : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, tensor<4x12x16xf32>, tensor<4x13xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x13xf32>) {
  // expected-error@+1 {{C1: 13 columns do not hold a gate and a linear part}}
  %0 = moe.activate <silu, glu = concat> %x : (tensor<?x13xf32>) -> tensor<?x6xf32>
  return
}

// -----

func.func @f(%x: tensor<?x12xf32>) {
  // expected-error@+1 {{C1: I of the result: found 12, expected 6}}
  %0 = moe.activate <silu, glu = interleaved> %x : (tensor<?x12xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<3x12xf32>) {
  // expected-error@+1 {{C1: S of the result and the rows: found 4, expected 3}}
  %0 = moe.activate <silu> %x : (tensor<3x12xf32>) -> tensor<4x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x12xf32>) {
  // expected-error@+1 {{C2: a linear operand and glu = separate go together}}
  %0 = moe.activate <silu, glu = separate> %x : (tensor<?x12xf32>) -> tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x12xf32>, %l: tensor<?x12xf16>) {
  // expected-error@+1 {{C2: linear is 'tensor<?x12xf16>', expected 'tensor<?x12xf32>'}}
  %0 = moe.activate <silu, glu = separate> %x linear(%l) : (tensor<?x12xf32>, tensor<?x12xf16>) -> tensor<?x12xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x17xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C1: H of up: found 17, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x17xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C1: H of the result and the input: found 17, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x17xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<3x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C1: rows of the result and the input: found 4, expected 3}}
  %0 = moe.experts %x, %r up(%up) down(%down) <relu> : (tensor<3x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<4x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x17x12xf32>) {
  // expected-error@+1 {{C1: H of down: found 17, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x17x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %gate: tensor<4x12x17xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C1: H of the gate: found 17, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) gate(%gate) down(%down) <silu, glu = separate> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x12x17xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C2: rows of up: found 12, expected 24}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <silu, glu = concat> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %gate: tensor<4x13x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C2: I of the gate: found 13, expected 12}}
  %0 = moe.expert_ffn %x, %r up(%up) gate(%gate) down(%down) <silu, glu = separate> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x13x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<5x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C3: E of up: found 5, expected 4}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<5x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<5x16x12xf32>) {
  // expected-error@+1 {{C3: E of down: found 5, expected 4}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<5x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %gate: tensor<5x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C3: E of the gate: found 5, expected 4}}
  %0 = moe.expert_ffn %x, %r up(%up) gate(%gate) down(%down) <silu, glu = separate> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<5x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %b: tensor<5x12xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C3: E of a bias: found 5, expected 4}}
  %0 = moe.expert_ffn %x, %r up(%up) up_bias(%b) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<5x12xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %b: tensor<4x12xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C4: width of a bias: found 12, expected 16}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) down_bias(%b) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>, tensor<4x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C5: a gate operand and glu = separate go together}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <silu, glu = separate> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2, weighted>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %b: tensor<4x12xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C5: a gate bias without a gate}}
  %0 = moe.expert_ffn %x, %r up(%up) gate_bias(%b) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x12xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

!r = !moe.routing<experts = 4, k = 2>
func.func @f(%x: tensor<?x16xf32>, %r: !r, %up: tensor<4x12x16xf32>, %down: tensor<4x16x12xf32>) {
  // expected-error@+1 {{C6: the routing is unweighted}}
  %0 = moe.experts %x, %r up(%up) down(%down) <relu> : (tensor<?x16xf32>, !r, tensor<4x12x16xf32>, tensor<4x16x12xf32>) -> tensor<?x16xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2>, %t: index) {
  // expected-error@+1 {{C1: the routing is unweighted}}
  %0 = moe.combine %x, %r tokens(%t) : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2>, index) -> tensor<?x16xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %r: !moe.routing<experts = 4, k = 2, weighted>, %t: index) {
  // expected-error@+1 {{C2: H of the result and the rows: found 17, expected 16}}
  %0 = moe.combine %x, %r tokens(%t) : (tensor<?x16xf32>, !moe.routing<experts = 4, k = 2, weighted>, index) -> tensor<?x17xf32>
  return
}

// Sizes that overflow.

// -----

// expected-error@+1 {{does not fit in memory}}
func.func private @f() attributes {s = #moe.segment<"m", offset = 0, length = 0, tensor<4611686018427387904x4xf32>>}

// -----

// expected-error@+1 {{does not fit in memory}}
func.func private @f() attributes {s = #moe.segment<"m", offset = 0, length = 2097120, tensor<8xi2097120>>}

// -----

// expected-error@+1 {{C2: cannot reshape 'tensor<2x3xf32>' to [2, -1, -3] expert by expert}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xf32>>]
    through [#moe.reshape<[2, -1, -3]>, #moe.reshape<[2, 3]>] : tensor<2x3xf32>

// -----

// expected-error@+1 {{C2: cannot unpack 4611686018427387904 codes of 4 bits}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 0, tensor<2x0xui8>>]
    through [#moe.unpack<bits = 4, axis = 1, count = 4611686018427387904>] : tensor<2x4611686018427387904xi8>

// -----

// expected-error@+1 {{C2: panels of 'tensor<2x4x4xf32>' with width 4611686018427387904 do not fit in memory}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 128, tensor<2x4x4xf32>>]
    through [#moe.panels<width = 4611686018427387904>] : tensor<2x1x4x4611686018427387904xf32>

// -----

// expected-error@+1 {{C2: codes of 4 bits with K = 4611686018427387904 do not fit}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 0, tensor<2x4x0xui8>>]
    through [#moe.code_panels<bits = 4, k = 4611686018427387904>] : tensor<2x1x4611686018427387904x16xi8>

// -----

// expected-error@+1 {{C1: needs sources}}
moe.weight @w from [dense<0.0> : tensor<2x4611686018427387904xf32>,
                    dense<0.0> : tensor<2x4611686018427387904xf32>] : tensor<2x3xf32>

// -----

func.func @f(%codes: tensor<2x4x0xui8>, %scales: tensor<2x4xf32>) {
  // expected-error@+1 {{C2: codes}}
  %0 = moe.dequantize %codes scales(%scales) {bits = 4 : i64}
      : (tensor<2x4x0xui8>, tensor<2x4xf32>) -> tensor<2x4x4611686018427387904xf32>
  return
}

// -----

func.func @f(%x: tensor<3x8xf32>, %r: !moe.routing<experts = 2, k = 1, weighted>, %up: tensor<2x0x8xf32>, %down: tensor<2x8x4611686018427387904xf32>) {
  // expected-error@+1 {{C2: I = 4611686018427387904 is too large}}
  %0 = moe.expert_ffn %x, %r up(%up) down(%down) <silu, glu = concat>
      : (tensor<3x8xf32>, !moe.routing<experts = 2, k = 1, weighted>, tensor<2x0x8xf32>, tensor<2x8x4611686018427387904xf32>) -> tensor<3x8xf32>
  return
}

// -----

// expected-error@+1 {{weights are converted to f16 or bf16, got 'f32'}}
func.func private @f() attributes {a = #moe.convert<f32>}

// -----

// expected-error@+1 {{bits = 3, expected 2, 4 or 8}}
func.func private @f() attributes {a = #moe.quantize<codes, bits = 3, block = 0>}

// -----

// expected-error@+1 {{block = 24 is neither 0 nor a power of two of at least 16}}
func.func private @f() attributes {a = #moe.quantize<codes, bits = 4, block = 24>}

// -----

// expected-error@+1 {{symmetric weights have no zero points}}
func.func private @f() attributes {a = #moe.quantize<zero_points, bits = 4, block = 32>}

// -----

// expected-error@+1 {{C2: cannot convert 'tensor<2x3xi32>' to 'bf16'}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 24, tensor<2x3xi32>>] through [#moe.convert<bf16>] : tensor<2x3xbf16>

// -----

// expected-error@+1 {{C2: cannot quantize 'tensor<2x1x24xf32>' with block = 16}}
moe.weight @w from [#moe.segment<"m", offset = 0, length = 192, tensor<2x1x24xf32>>] through [#moe.quantize<scales, bits = 4, block = 16>] : tensor<2x1x1xf32>
