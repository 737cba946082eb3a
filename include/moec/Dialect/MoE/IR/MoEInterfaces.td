// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEINTERFACES_TD
#define MOEC_DIALECT_MOE_IR_MOEINTERFACES_TD

include "mlir/IR/OpBase.td"

def MoE_WeightTransformInterface : AttrInterface<"WeightTransformInterface"> {
  let cppNamespace = "::mlir::moe";
  let description = [{
    One step of the recorded way from a weight's sources to its packed bytes.
    Transforms are expert-local: dimension 0 counts experts, and expert e of the
    result depends on expert e of the input only, so that emission streams expert
    by expert. How each is executed is in `moec/Target/CPU/WeightTransforms.h`.
  }];
  let methods = [
    InterfaceMethod<[{
      Type of the weight after this transform, or null when the transform does
      not fit `input`; the reason is then reported through `emitError`.
    }], "::mlir::RankedTensorType", "getResultType",
    (ins "::mlir::RankedTensorType":$input,
         "::llvm::function_ref<::mlir::InFlightDiagnostic()>":$emitError)>
  ];
}

#endif
