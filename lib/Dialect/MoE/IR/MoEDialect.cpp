// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::moe;

#include "moec/Dialect/MoE/IR/MoEDialect.cpp.inc"
#include "moec/Dialect/MoE/IR/MoEEnums.cpp.inc"

/// `, weighted`, or nothing.
static ParseResult parseWeighted(AsmParser &parser, bool &weighted) {
  weighted = succeeded(parser.parseOptionalComma());
  return weighted ? parser.parseKeyword("weighted") : success();
}
static void printWeighted(AsmPrinter &printer, bool weighted) {
  if (weighted)
    printer << ", weighted";
}

#define GET_TYPEDEF_CLASSES
#include "moec/Dialect/MoE/IR/MoETypes.cpp.inc"

LogicalResult RoutingType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t experts,
                                  int64_t k, bool weighted) {
  if (experts < 1)
    return emitError() << "a routing needs at least one expert, got experts = " << experts;
  if (k < 1 || k > experts)
    return emitError() << "k = " << k << " is not between 1 and E = " << experts;
  return success();
}

#define GET_OP_CLASSES
#include "moec/Dialect/MoE/IR/MoEOps.cpp.inc"

void MoEDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "moec/Dialect/MoE/IR/MoEOps.cpp.inc"
      >();
  addTypes<
#define GET_TYPEDEF_LIST
#include "moec/Dialect/MoE/IR/MoETypes.cpp.inc"
      >();
  registerAttributes();
}
