// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_TARGET_CPU_RESOLVEWEIGHTS_TD
#define MOEC_TARGET_CPU_RESOLVEWEIGHTS_TD

include "mlir/Pass/PassBase.td"

def ResolveWeights : Pass<"resolve-weights", "::mlir::ModuleOp"> {
  let summary = "Find the named tensors of weights in a safetensors file";
  let description = [{
    Every `#moe.tensor` becomes the `#moe.segment` of that tensor's bytes in `file`, a
    path relative to `folder`, the model's. Only the file's header is read. A missing or
    broken file, a missing tensor, and one of another type or shape are errors, each
    named.
  }];
  let options = [
    Option<"file", "file", "std::string", /*default=*/"\"\"",
           "The safetensors file, relative to the model's folder">,
    Option<"folder", "folder", "std::string", /*default=*/"\"\"",
           "The model's folder; the current one when empty">
  ];
}

#endif
