// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_ONNX_IR_ONNXOPS_TD
#define MOEC_DIALECT_ONNX_IR_ONNXOPS_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def ONNX_Dialect : Dialect {
  let name = "onnx";
  let cppNamespace = "::mlir::moe::onnx";
  let summary = "An ONNX graph as it was read";
  let description = [{
    One operation, `onnx.node`, stands for a node of any operator, domain and
    version, so that import is total: nothing is dropped and nothing is guessed.
    `--normalize-onnx` upgrades nodes to one canonical spelling; raising and
    lowering read only normalized nodes.

    Element types: signed integers are signless (`int64` is `i64`), unsigned ones
    are `ui8` and so on, `bool` is `i1`. A value about whose type the model says
    nothing is `tensor<*x!onnx.unknown>` until types are inferred.

    Discardable attributes on a module and on function arguments and results:
    `onnx.model` (file name), `onnx.ir_version`, `onnx.opsets` (domain to
    version), `onnx.name` (graph input or output), `onnx.dims` (its dimensions as
    text: sizes, symbols, expressions; `""` when the model leaves one unset).
  }];
  let useDefaultTypePrinterParser = 1;
}

def ONNX_UnknownType : TypeDef<ONNX_Dialect, "Unknown"> {
  let mnemonic = "unknown";
  let summary = "an element type that the model does not state";
  let description = [{
    Stands in tensors until `--normalize-onnx` infers the type; what still has it then
    cannot be lowered.
  }];
}

def ONNX_NodeOp : Op<ONNX_Dialect, "node", [
    DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmResultNames"]>,
    DeclareOpInterfaceMethods<MemoryEffectsOpInterface>]> {
  let summary = "a node of an ONNX graph";
  let description = [{
    `op_type` is qualified by its domain unless that is `ai.onnx`
    (`"TopK"`, `"com.microsoft.MoE"`). `version` is the operator set version
    that the model imports for the domain; after normalization, the version since
    which the canonical form exists. `absent` lists the input positions that are
    empty; trailing ones are dropped. `outputs` are the names of the results.
    The node's own attributes print as `attributes`. Sub-graphs are regions named by `graphs`; they may use outer values and end in
    `onnx.yield`.

    Attribute values: integer `i64`, float `f32`, string, `array<i64>`,
    `array<f32>`, array of strings, type, dense elements, or a symbol naming a
    `moe.weight` for a large tensor.

    C1: `op_type` is not empty. C2: `version` is positive. C3: `absent` is sorted
    and its positions lie before the last input. C4: one name per result.
    C5: one distinct name per region. C6: attribute values are of the kinds above.
    C7: a standard operator has the inputs that every version of it has, not more
    than any version has, and an output. C8: a standard operator has only
    attributes that some version of it has, of their kind, or whose names begin with
    `__`.

    ```mlir
    %y = onnx.node "com.microsoft.MoE"(%x, %logits, %w1, %w2)
        {absent = array<i32: 3>, attributes = {k = 2 : i64}, outputs = ["y"],
         version = 1 : i64}
        : (tensor<?x64xf32>, tensor<?x8xf32>, tensor<8x64x64xf32>,
           tensor<8x64x64xf32>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins StrAttr:$op_type, Variadic<AnyTensor>:$inputs,
                       DefaultValuedAttr<DictionaryAttr, "{}">:$node_attributes,
                       DefaultValuedAttr<DenseI32ArrayAttr, "{}">:$absent,
                       DefaultValuedAttr<StrArrayAttr, "{}">:$outputs,
                       DefaultValuedAttr<StrArrayAttr, "{}">:$graphs,
                       I64Attr:$version);
  let results = (outs Variadic<AnyTensor>:$results);
  let regions = (region VariadicRegion<SizedRegion<1>>:$bodies);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let skipDefaultBuilders = 1;
  let builders = [
    // `inputs` are by ONNX position; a null value is an absent input. `outputs`
    // may be empty: then all results are unnamed.
    OpBuilder<(ins "::mlir::TypeRange":$results, "::mlir::StringRef":$opType,
        "::mlir::ArrayRef<::mlir::Value>":$inputs, "int64_t":$version,
        CArg<"::mlir::ArrayRef<::mlir::NamedAttribute>", "{}">:$attributes,
        CArg<"::mlir::ArrayRef<::mlir::StringRef>", "{}">:$outputs,
        CArg<"::mlir::ArrayRef<::mlir::StringRef>", "{}">:$graphs)>
  ];
  let extraClassDeclaration = [{
    /// Operator name without its domain, and the domain ("" is ai.onnx).
    ::mlir::StringRef getOpName();
    ::mlir::StringRef getDomain();
    /// True for the operator `type`, qualified as in `op_type`.
    bool isOp(::mlir::StringRef type) { return getOpType() == type; }

    /// Number of input positions, absent ones included.
    unsigned getNumInputs() {
      return getInputs().size() + getAbsent().size();
    }
    /// The input at an ONNX position; null when it is absent or past the end.
    ::mlir::Value getInput(unsigned position);
    /// All inputs by ONNX position, null where absent.
    ::mlir::SmallVector<::mlir::Value> getAllInputs();
    /// Replaces all inputs, by ONNX position, null where absent.
    void setAllInputs(::mlir::ArrayRef<::mlir::Value> inputs);

    /// Name of a result, "" when unnamed.
    ::mlir::StringRef getOutputName(unsigned index);

    /// Attributes of the node. The typed getters return the default when the
    /// attribute is missing or of another kind.
    ::mlir::Attribute getNodeAttr(::mlir::StringRef name) {
      return getNodeAttributes().get(name);
    }
    bool hasNodeAttr(::mlir::StringRef name) {
      return getNodeAttributes().contains(name);
    }
    void setNodeAttr(::mlir::StringRef name, ::mlir::Attribute value);
    void removeNodeAttr(::mlir::StringRef name);
    int64_t getIntAttr(::mlir::StringRef name, int64_t defaultValue);
    float getFloatAttr(::mlir::StringRef name, float defaultValue);
    ::mlir::StringRef getStringAttr(::mlir::StringRef name,
                                    ::mlir::StringRef defaultValue);
    std::optional<::mlir::ArrayRef<int64_t>>
    getIntsAttr(::mlir::StringRef name);
    std::optional<::mlir::ArrayRef<float>>
    getFloatsAttr(::mlir::StringRef name);
    std::optional<::mlir::SmallVector<::mlir::StringRef>>
    getStringsAttr(::mlir::StringRef name);
    /// A small tensor attribute; null when missing, large or of another kind.
    ::mlir::DenseElementsAttr getTensorAttr(::mlir::StringRef name);

    /// The sub-graph held by attribute `name`; null when there is none.
    ::mlir::Region *getGraph(::mlir::StringRef name);
  }];
}

def ONNX_YieldOp : Op<ONNX_Dialect, "yield", [
    Pure, Terminator, HasParent<"NodeOp">]> {
  let summary = "outputs of a sub-graph";
  let description = [{
    Ends a region of `onnx.node`. The values are the outputs of the sub-graph in their
    order, tensors of any shape; what they mean is up to the operator (`If`, `Loop`, …).
  }];
  let arguments = (ins Variadic<AnyTensor>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
}

#endif
