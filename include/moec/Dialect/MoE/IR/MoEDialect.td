// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEDIALECT_TD
#define MOEC_DIALECT_MOE_IR_MOEDIALECT_TD

include "mlir/IR/OpBase.td"

def MoE_Dialect : Dialect {
  let name = "moe";
  let cppNamespace = "::mlir::moe";
  let summary = "Mixture-of-Experts: gating, dispatch, experts, combine";
  let description = [{
    What a Mixture-of-Experts layer means, factored so that every system of the
    literature is a point in the space of attribute values:

    ```
    x[T,H] -> logits L[T,E] -> score s -> select k experts -> weigh
           -> dispatch rows -> expert FFN -> combine
    ```

    Letters: T tokens, E experts, k selected experts per token, H hidden size,
    I intermediate size, S rows (token, expert) pairs. A routing (which token
    goes to which expert with which weight) is one SSA value of type
    `!moe.routing`. Weights are symbols (`moe.weight`): sources in files plus the
    transforms that were applied to them; nothing is loaded before emission.

    Constraints are numbered per op; a verifier names the number it checked.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::tensor::TensorDialect"];
  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
  let extraClassDeclaration = [{
    void registerAttributes();
  }];
}

#endif
