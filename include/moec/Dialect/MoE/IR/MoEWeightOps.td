// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEWEIGHTOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEWEIGHTOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_WeightOp : MoE_Op<"weight", [Symbol]> {
  let summary = "a weight: sources in files, and the transforms to its bytes";
  let description = [{
    A symbol, not an attribute: nothing is loaded before emission. The sources are
    stacked along dimension 1 when there are several, then `transforms` are applied
    in order. `offset` and `expert_stride` (bytes in the weights file's data
    section) are set once the file is planned: expert e starts at
    `offset + e · expert_stride`.

    C1: at least one source (`#moe.segment`, `#moe.experts`, `#moe.tensor` or inline
    elements); several only agree when they differ in dimension 1.
    C2: the transforms lead from the sources' type to the weight's type.
    C3: `bank` members have the same number of experts (dimension 0).
    C4: a `#moe.tensor` says its type when there are several sources or transforms.

    ```mlir
    moe.weight @up from [#moe.segment<"model.onnx.data", offset = 0, length = 65536,
        tensor<4x64x64xf32>>] through [#moe.panels<width = 32>] : tensor<4x2x64x32xf32>
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<AnyRankedTensor>:$type,
                       ArrayAttr:$sources,
                       DefaultValuedAttr<ArrayAttr, "{}">:$transforms,
                       OptionalAttr<StrAttr>:$bank,
                       OptionalAttr<I64Attr>:$offset,
                       OptionalAttr<I64Attr>:$expert_stride);
  let assemblyFormat = [{
    $sym_name `from` $sources (`through` $transforms^)? attr-dict `:` $type
  }];
  let hasVerifier = 1;
  let builders = [OpBuilder<(ins "::mlir::StringRef":$name,
      "::mlir::RankedTensorType":$type, "::mlir::ArrayRef<::mlir::Attribute>":$sources,
      CArg<"::mlir::ArrayRef<::mlir::Attribute>", "{}">:$transforms)>];
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getTensorType() {
      return ::llvm::cast<::mlir::RankedTensorType>(getType());
    }
    /// Type of a source; null when it says none.
    static ::mlir::RankedTensorType getTypeOf(::mlir::Attribute source);
    /// Type of the stacked sources, before any transform.
    ::mlir::RankedTensorType getSourceType();
  }];
}

def MoE_LoadWeightOp : MoE_PureOp<"load_weight", [
    DeclareOpInterfaceMethods<SymbolUserOpInterface>,
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>]> {
  let summary = "the value of a weight";
  let description = [{
    C1: `weight` names a `moe.weight` of the same type.
  }];
  let arguments = (ins FlatSymbolRefAttr:$weight);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = "$weight attr-dict `:` type($result)";
}

def MoE_WeightBufferOp : MoE_PureOp<"weight_buffer"> {
  let summary = "the memory of a weight inside the mapped weights file";
  let description = [{
    What `moe.load_weight` becomes on buffers: `weights` is the start of the data
    section of the weights file.
  }];
  let arguments = (ins LLVM_AnyPointer:$weights, FlatSymbolRefAttr:$weight);
  let results = (outs AnyStridedMemRef:$result);
  let assemblyFormat = "$weights $weight attr-dict `:` type($weights) `,` type($result)";
}

def MoE_DequantizeOp : MoE_PureOp<"dequantize"> {
  let summary = "real values of quantized expert weights";
  let description = [{
    `w[e,n,k] = (q[e,n,k] - zp[e,n,b]) · scale[e,n,b]`, b = k / block (b = 0 when
    `block` is 0, row-wise). Codes are unsigned, `bits` wide, packed low bits first
    along K: codes[E, N, K·bits/8]. Scales: [E, N] (row-wise) or [E, N, K/block].
    Zero points, packed like codes: [E, ceil(N·bits/8)] along the rows (row-wise) or
    [E, N, ceil(K/block·bits/8)] along the blocks; 2^(bits-1) when absent.
    Source: ONNX Runtime contrib operator `QMoE`.

    C1: bits is 2, 4 or 8. C2: codes are [E, N, K·bits/8] for a result [E, N, K].
    C3: block is 0, or a power of two of at least 16 that divides K.
    C4: shape of the scales. C5: shape of the zero points.
  }];
  let arguments = (ins TensorRankOf<[UI8], [3]>:$codes,
                       TensorRankOf<[MoE_Float], [2, 3]>:$scales,
                       Optional<TensorRankOf<[UI8], [2, 3]>>:$zero_points,
                       I64Attr:$bits, DefaultValuedAttr<I64Attr, "0">:$block);
  let results = (outs MoE_Bank:$result);
  let assemblyFormat = [{
    $codes `scales` `(` $scales `)` (`zero_points` `(` $zero_points^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

#endif
