// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEOPBASE_TD
#define MOEC_DIALECT_MOE_IR_MOEOPBASE_TD

include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/CommonTypeConstraints.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Dialect/LLVMIR/LLVMOpBase.td"
include "moec/Dialect/MoE/IR/MoEAttributes.td"
include "moec/Dialect/MoE/IR/MoETypes.td"

class MoE_Op<string mnemonic, list<Trait> traits = []>
    : Op<MoE_Dialect, mnemonic, traits>;

class MoE_PureOp<string mnemonic, list<Trait> traits = []>
    : MoE_Op<mnemonic, !listconcat([Pure], traits)>;

def MoE_Float : AnyTypeOf<[F32, F16, BF16, F64]>;
/// x[T,H], logits[T,E], rows[S,H].
def MoE_Matrix : TensorRankOf<[MoE_Float], [2]>;
def MoE_Vector : TensorRankOf<[MoE_Float], [1]>;
/// Weights of all experts, [E,N,K] (out_in) or [E,K,N] (in_out).
def MoE_Bank : TensorRankOf<[MoE_Float], [3]>;
/// Biases of all experts, [E,N].
def MoE_BankBias : TensorRankOf<[MoE_Float], [2]>;
/// Expert ids.
def MoE_Ids : TensorRankOf<[I32, I64], [2]>;

def MoE_ExpertKindArrayAttr
    : TypedArrayAttrBase<MoE_ExpertKindAttr, "array of #moe.kind">;

class MoE_ReifyOp<string mnemonic, list<Trait> traits = []>
    : MoE_PureOp<mnemonic, !listconcat([DeclareOpInterfaceMethods<
          ReifyRankedShapedTypeOpInterface, ["reifyResultShapes"]>], traits)>;

#endif
