// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Any text as MLIR of the moe and onnx dialects: parsers, verifiers, printers,
// folders.

#include "Fuzz.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Parser/Parser.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  MLIRContext context(MLIRContext::Threading::DISABLED);
  context.printOpOnDiagnostic(false);
  context.loadDialect<MoEDialect, onnx::ONNXDialect, func::FuncDialect>();
  Errors errors(context);
  // A copy: MLIR's lexer needs the zero after the text.
  std::string text(reinterpret_cast<const char *>(data), size);
  auto module = parseSourceString<ModuleOp>(text, ParserConfig(&context));
  errors.check(bool(module), "parsing");
  if (module)
    checkRoundTrip(*module);
  return 0;
}
