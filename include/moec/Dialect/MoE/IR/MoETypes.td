// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOETYPES_TD
#define MOEC_DIALECT_MOE_IR_MOETYPES_TD

include "mlir/IR/AttrTypeBase.td"
include "moec/Dialect/MoE/IR/MoEDialect.td"

def MoE_RoutingType : TypeDef<MoE_Dialect, "Routing"> {
  let mnemonic = "routing";
  let summary = "which token goes to which expert, with which weight";
  let description = [{
    A sparse T x E matrix of weights together with the slot (0 … k-1) at which a
    token chose an expert. `experts` is E, `k` the largest number of experts per
    token, `weighted` says whether the weights are set: combining an unweighted
    routing is refused. Dense, top-k, dropped and expert-choice routings are all
    this one type.

    Rows (token, expert) pairs are ordered by expert, and by token within an
    expert; S is their number, T·k when no token is dropped.
  }];
  let parameters = (ins "int64_t":$experts, "int64_t":$k,
                        DefaultValuedParameter<"bool", "false">:$weighted);
  let assemblyFormat = "`<` `experts` `=` $experts `,` `k` `=` $k `` custom<Weighted>($weighted) `>`";
  let genVerifyDecl = 1;
}

#endif
