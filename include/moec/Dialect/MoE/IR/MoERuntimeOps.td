// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOERUNTIMEOPS_TD
#define MOEC_DIALECT_MOE_IR_MOERUNTIMEOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_CurrentCallOp : MoE_PureOp<"current_call"> {
  let summary = "the running call, before the entry has an argument for it";
  let description = [{
    Replaced by the entry function's `moe.call` argument in `--lower-entry`.
  }];
  let results = (outs LLVM_AnyPointer:$result);
  let assemblyFormat = "attr-dict `:` type($result)";
}

def MoE_NumWorkersOp : MoE_PureOp<"num_workers"> {
  let summary = "number of workers of the context that runs the model";
  let description = [{
    Never known at compile time. `call` is the running call, the entry function's
    argument marked `moe.call`.
  }];
  let arguments = (ins LLVM_AnyPointer:$call);
  let results = (outs Index:$result);
  let assemblyFormat = "$call attr-dict `:` type($call)";
}

def MoE_WorkerIdOp : MoE_Op<"worker_id", [MemoryEffects<[MemRead]>]> {
  let summary = "which worker runs this iteration of the enclosing scf.parallel";
  let description = [{
    0 … moe.num_workers-1; two iterations that run at the same time differ.
    Lowered with the loop by `--parallel-to-runtime`.
  }];
  let results = (outs Index:$result);
  let assemblyFormat = "attr-dict";
}

def MoE_CheckOp : MoE_Op<"check"> {
  let summary = "record an error of this call unless a condition holds";
  let description = [{
    The first failing check of a call makes `run` return an error with `message`;
    execution goes on, so the code after it must stay within bounds (clamp).
  }];
  let arguments = (ins LLVM_AnyPointer:$call, I1:$condition, StrAttr:$message);
  // Of the call that runs the entry function around it.
  let builders = [OpBuilder<(ins "::mlir::Value":$condition, "const ::llvm::Twine &":$message)>];
  let assemblyFormat = "$call `,` $condition `,` $message attr-dict `:` type($call)";
}

def MoE_AllocateOp : MoE_Op<"allocate"> {
  let summary = "memory of this call whose size depends on data";
  let description = [{
    `size` bytes, aligned to 64, that are given back at the end of the call at the latest;
    -1 stands for a size that overflows. A call for which there is not enough memory
    ends here with an error. Not for parallel loops.
  }];
  let arguments = (ins LLVM_AnyPointer:$call, Index:$size);
  let results = (outs MemRefRankOf<[I8], [1]>:$result);
  let assemblyFormat = "$call `,` $size attr-dict `:` type($call) `,` type($result)";
}

def MoE_ReleaseOp : MoE_Op<"release"> {
  let summary = "give memory of moe.allocate back to the call";
  let description = [{
    After the last use of the memory. The call keeps it for its next `moe.allocate` of at
    most that size, and the context keeps it for its next call.
  }];
  let arguments = (ins LLVM_AnyPointer:$call, MemRefRankOf<[I8], [1]>:$memory);
  let assemblyFormat = "$call `,` $memory attr-dict `:` type($call) `,` type($memory)";
}

def MoE_ProfileMarkOp : MoE_Op<"profile_mark"> {
  let summary = "time from here on belongs to a region of the profile";
  let arguments = (ins LLVM_AnyPointer:$call, I64Attr:$region);
  let assemblyFormat = "$call `,` $region attr-dict `:` type($call)";
}

#endif
