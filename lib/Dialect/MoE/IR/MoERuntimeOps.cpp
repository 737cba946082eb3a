// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/IR/MoE.h"

using namespace mlir;
using namespace mlir::moe;

void CheckOp::build(OpBuilder &builder, OperationState &state, Value condition,
                    const Twine &message) {
  auto pointer = LLVM::LLVMPointerType::get(builder.getContext());
  Value call = CurrentCallOp::create(builder, state.location, pointer);
  build(builder, state, call, condition, builder.getStringAttr(message));
}
