// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEATTRIBUTES_TD
#define MOEC_DIALECT_MOE_IR_MOEATTRIBUTES_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "moec/Dialect/MoE/IR/MoEDialect.td"
include "moec/Dialect/MoE/IR/MoEEnums.td"
include "moec/Dialect/MoE/IR/MoEInterfaces.td"

class MoE_Attr<string name, string attrMnemonic, list<Trait> traits = []>
    : AttrDef<MoE_Dialect, name, traits> {
  let mnemonic = attrMnemonic;
}

def MoE_ActivationAttr : MoE_Attr<"Activation", "activation"> {
  let summary = "activation of an expert, with its gate";
  let description = [{
    Without a gate (`glu = none`): `y = f(u)`. With a gate `g` and a linear part
    `l`: `y = f(min(g, limit)) · (clamp(l, -limit, limit) + beta)`, or, with
    `clamp = post`, `y = min(f(g), limit) · (clamp(l, -limit, limit) + beta)`.
    f: identity; relu; gelu (erf); gelu_tanh; silu: `v · sigmoid(alpha · v)`;
    relu2: `max(v, 0)²`. The quick GELU is silu with alpha 1.702. Source: ONNX Runtime contrib operator `MoE`
    (`activation_type`, `swiglu_limit`, `activation_alpha`, `activation_beta`).

    `glu`: the product's output row 2i is gate i and row 2i+1 linear i
    (`interleaved`); gate rows first, then linear rows (`concat`); gate and
    linear weights are two operands (`separate`).
  }];
  let parameters = (ins
    EnumParameter<MoE_ActivationKind>:$kind,
    DefaultValuedParameter<"::mlir::moe::Glu", "::mlir::moe::Glu::None">:$glu,
    OptionalParameter<"::mlir::FloatAttr">:$alpha,
    OptionalParameter<"::mlir::FloatAttr">:$beta,
    OptionalParameter<"::mlir::FloatAttr">:$limit,
    DefaultValuedParameter<"::mlir::moe::ActivationClamp",
                           "::mlir::moe::ActivationClamp::Pre">:$clamp);
  let assemblyFormat = [{
    `<` $kind (`,` struct($glu, $alpha, $beta, $limit, $clamp)^)? `>`
  }];
  let builders = [AttrBuilder<(ins "::mlir::moe::ActivationKind":$kind,
      "::mlir::moe::Glu":$glu, "::mlir::FloatAttr":$alpha, "::mlir::FloatAttr":$beta,
      "::mlir::FloatAttr":$limit), [{
    return $_get($_ctxt, kind, glu, alpha, beta, limit, ActivationClamp::Pre);
  }]>];
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// Values with the defaults filled in: alpha 1, beta 0, limit +inf.
    double getAlphaValue() const;
    double getBetaValue() const;
    double getLimitValue() const;
    /// True when one product yields both gate and linear part (2·I rows).
    bool isFused() const {
      return getGlu() == Glu::Interleaved || getGlu() == Glu::Concat;
    }
  }];
}

def MoE_SegmentAttr : MoE_Attr<"Segment", "segment"> {
  let summary = "a weight's bytes in a file";
  let description = [{
    `length` bytes at `offset` of `file` (relative to the model's folder), read as
    a little-endian, row-major tensor of `type`.
  }];
  let parameters = (ins "::mlir::StringAttr":$file, "uint64_t":$offset,
                        "uint64_t":$length, "::mlir::RankedTensorType":$type);
  let assemblyFormat = "`<` $file `,` `offset` `=` $offset `,` `length` `=` $length `,` $type `>`";
  let genVerifyDecl = 1;
}

def MoE_TensorAttr : MoE_Attr<"Tensor", "tensor"> {
  let summary = "a weight's bytes, by their name in a safetensors file";
  let description = [{
    The tensor `name` of the file that `--resolve-weights` (or `--weights` of moec) is
    given; it becomes a `#moe.segment`. `type` is the tensor's type in the file; it may
    be left out where it is the weight's own: one source and no transform.
  }];
  let parameters = (ins "::mlir::StringAttr":$name,
                        OptionalParameter<"::mlir::RankedTensorType">:$type);
  let assemblyFormat = "`<` $name (`,` $type^)? `>`";
}

def MoE_ExpertsAttr : MoE_Attr<"Experts", "experts"> {
  let summary = "a weight's bytes, each expert's at a place of its own";
  let description = [{
    Expert e of `type` (index of dimension 0) is `parts[e]`: a `#moe.segment` or
    inline elements, of any shape with as many elements.
  }];
  let parameters = (ins "::mlir::ArrayAttr":$parts, "::mlir::RankedTensorType":$type);
  let assemblyFormat = "`<` $parts `,` $type `>`";
  let genVerifyDecl = 1;
}

def MoE_CapacityAttr : MoE_Attr<"Capacity", "capacity"> {
  let summary = "how many entries an expert accepts";
  let description = [{
    `<factor (* factor | / factor)*, round = floor, min = 0, multiple = 1, times = 1>`:
    the expression is evaluated in f64 from left to right over positive numbers,
    `tokens` (T, or the size of the group), `experts` (E) and `k`; then
    `C = roundup(max(times · round(expression), min), multiple)`.
    round: `floor`, `ceil`, or `nearest` (half to even).

    ```
    #moe.capacity<64>
    #moe.capacity<tokens * 1.25 / experts, min = 4>                   Mesh TensorFlow
    #moe.capacity<tokens / experts * 1.25 * k, round = ceil, min = 4>  DeepSpeed
    #moe.capacity<tokens * k * 1.05 / experts, round = ceil, multiple = 4>  V-MoE
    #moe.capacity<tokens / experts, round = ceil, times = 2>           NLLB
    ```
  }];
  let parameters = (ins ArrayRefParameter<"::mlir::moe::CapacityTerm">:$terms,
                        "::mlir::moe::CapacityRound":$round, "int64_t":$min,
                        "int64_t":$multiple, "int64_t":$times);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// Larger capacities are never needed, and arithmetic on this one stays in 64 bits.
    static constexpr int64_t kLargest = 2147483647;
  }];
}

def MoE_ExpertKindAttr : MoE_Attr<"ExpertKind", "kind"> {
  let summary = "what `count` consecutive experts compute";
  let description = [{
    `ffn`: the feed-forward network of the op's weights. `zero`: 0. `identity`: the
    input row. `constant`: a row of the op's `constants`.
  }];
  let parameters = (ins EnumParameter<MoE_ExpertKind>:$kind, "int64_t":$count);
  let assemblyFormat = "`<` $kind `,` $count `>`";
  let genVerifyDecl = 1;
}

class MoE_WeightTransform<string name, string attrMnemonic>
    : MoE_Attr<name, attrMnemonic, [
        DeclareAttrInterfaceMethods<MoE_WeightTransformInterface>]>;

def MoE_ReshapeAttr : MoE_WeightTransform<"Reshape", "reshape"> {
  let summary = "the same elements under another shape";
  let description = [{ Dimension 0 must keep its size. }];
  let parameters = (ins "::mlir::DenseI64ArrayAttr":$shape);
  let assemblyFormat = "`<` $shape `>`";
}

def MoE_PermuteAttr : MoE_WeightTransform<"Permute", "permute"> {
  let summary = "dimensions in another order";
  let description = [{
    Dimension i of the result is dimension `permutation[i]` of the input;
    dimension 0 must stay.
  }];
  let parameters = (ins "::mlir::DenseI64ArrayAttr":$permutation);
  let assemblyFormat = "`<` $permutation `>`";
}

def MoE_UnpackAttr : MoE_WeightTransform<"Unpack", "unpack"> {
  let summary = "one byte per code";
  let description = [{
    Codes of `bits` bits, packed low bits first along dimension `axis` of a ui8
    tensor, to one code per i8 (to be read unsigned); `count` codes remain along
    `axis`.
  }];
  let parameters = (ins "int64_t":$bits, "int64_t":$axis, "int64_t":$count);
  let assemblyFormat = "`<` `bits` `=` $bits `,` `axis` `=` $axis `,` `count` `=` $count `>`";
}

def MoE_ToUnsignedAttr : MoE_WeightTransform<"ToUnsigned", "to_unsigned"> {
  let summary = "signed codes as unsigned ones";
  let description = [{
    q + 2^(bits-1), for each of the 8 / `bits` two's complement codes in a byte of an i8
    or ui8 tensor; the result is ui8.
  }];
  let parameters = (ins "int64_t":$bits);
  let assemblyFormat = "`<` `bits` `=` $bits `>`";
}

def MoE_PanelsAttr : MoE_WeightTransform<"Panels", "panels"> {
  let summary = "columns in panels: the packed layout of the CPU kernels";
  let description = [{
    [E, N, K] to [E, P, K, width], P = ceil(N / width), zero padded: element
    (e, p, k, c) is (e, n(p, c), k). Without a gate n = p·width + c. With a gate
    (N = 2·I) the first half of a panel's columns are the gate rows and the
    second half the linear rows of the same `width/2` intermediate columns
    i = p·width/2 + c mod (width/2).
  }];
  let parameters = (ins "int64_t":$width,
    DefaultValuedParameter<"::mlir::moe::Glu", "::mlir::moe::Glu::None">:$glu);
  let assemblyFormat = "`<` `width` `=` $width (`,` `glu` `=` $glu^)? `>`";
}

def MoE_CodePanelsAttr : MoE_WeightTransform<"CodePanels", "code_panels"> {
  let summary = "codes of quantized weights in panels";
  let description = [{
    Codes [E, N, K·bits/8] (ui8, packed low bits first along K) to i8
    [E, P, ceil(K / g), B] with the columns of `panels`, width 32:
    8 bits: g = 1, B = 32, byte c = code (k, c);
    4 bits: g = 1, B = 16, byte c = code (k, c) | code (k, c + 16) << 4;
    2 bits: g = 2, B = 16, byte c = code (2k, c) | code (2k, c + 16) << 2
            | code (2k + 1, c) << 4 | code (2k + 1, c + 16) << 6.
    A 16-byte load thus holds one vector register of columns per bit field.
  }];
  let parameters = (ins "int64_t":$bits, "int64_t":$columns,
    DefaultValuedParameter<"::mlir::moe::Glu", "::mlir::moe::Glu::None">:$glu);
  let assemblyFormat = "`<` `bits` `=` $bits `,` `k` `=` $columns (`,` `glu` `=` $glu^)? `>`";
}

def MoE_ConvertAttr : MoE_WeightTransform<"Convert", "convert"> {
  let summary = "floating-point numbers of another type";
  let description = [{
    f32, f16 or bf16 elements to `type`, f16 or bf16, rounded to nearest, ties to even.
    What is beyond the range of `type` becomes infinite.
  }];
  let parameters = (ins "::mlir::Type":$type);
  let assemblyFormat = "`<` $type `>`";
  let genVerifyDecl = 1;
}

def MoE_QuantizeAttr : MoE_WeightTransform<"Quantize", "quantize"> {
  let summary = "one of the operands of moe.dequantize, made from real weights";
  let description = [{
    f32, f16 or bf16 weights w [E, N, K] to the codes (ui8), scales (f32) or zero points
    (ui8) that `moe.dequantize` with this `bits` and `block` takes, in its layouts. In each
    block of a row (the whole row when `block` is 0), in f32, q rounded to nearest, ties to
    even, and clamped to 0 … 2^bits - 1:

    Without `zero_points`: s = v / -2^(bits-1), v being the first of the elements with the
    largest magnitude; q = round(w / s) + 2^(bits-1). v is exact, and so is 0.
    With `zero_points`: s = (max(w, 0) - min(w, 0)) / (2^bits - 1), the zero point
    z = round(-min(w, 0) / s), q = round(w / s) + z. 0 is exact.

    A block of zeros has the scale 0. One that holds NaN or infinity has the scale NaN.
  }];
  let parameters = (ins EnumParameter<MoE_QuantizedPart>:$part, "int64_t":$bits,
                        "int64_t":$block,
                        DefaultValuedParameter<"bool", "false">:$zero_points);
  let assemblyFormat = [{
    `<` $part `,` `bits` `=` $bits `,` `block` `=` $block `` custom<ZeroPoints>($zero_points) `>`
  }];
  let genVerifyDecl = 1;
}

#endif
