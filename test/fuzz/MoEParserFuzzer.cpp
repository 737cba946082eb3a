// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Any text as MLIR of the moe and onnx dialects: parsers, verifiers, printers,
// folders.

#include "Fuzz.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/StringExtras.h"

#include <random>

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
  bool survives = succeeded(checkText(text, "fuzz.mlir", &context));
  errors.check(survives, "the check of the text");
  if (!survives)
    return 0;
  auto module = parseSourceString<ModuleOp>(text, ParserConfig(&context));
  errors.check(bool(module), "parsing");
  if (module)
    checkRoundTrip(*module);
  return 0;
}

//===----------------------------------------------------------------------===//
// Mutation
//===----------------------------------------------------------------------===//

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t maxSize);

/// Words (with their sigils), numbers, strings, white space, single characters.
static std::vector<std::string> tokenize(llvm::StringRef text) {
  std::vector<std::string> tokens;
  auto isWord = [](char c) { return llvm::isAlnum(c) || c == '_' || c == '.' || c == '$'; };
  while (!text.empty()) {
    size_t length = 1;
    if (text.front() == '"')
      length = std::min(text.find('"', 1), text.size() - 1) + 1;
    else if (isWord(text.front()) || llvm::StringRef("%@#!^-").contains(text.front()))
      length += text.drop_front().take_while(isWord).size();
    else if (llvm::isSpace(text.front()))
      length = text.take_while(llvm::isSpace).size();
    tokens.push_back(text.take_front(length).str());
    text = text.drop_front(length);
  }
  return tokens;
}

/// Exchanges whole tokens, so that the text stays readable to the parser.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t maxSize,
                                          unsigned seed) {
  std::minstd_rand random(seed);
  auto pick = [&](size_t count) {
    return std::uniform_int_distribution<size_t>(0, count - 1)(random);
  };
  std::vector<std::string> tokens = tokenize({reinterpret_cast<const char *>(data), size});
  if (tokens.empty() || pick(3) == 0)
    return LLVMFuzzerMutate(data, size, maxSize);
  static const char *const kWords[] = {"0",
                                       "1",
                                       "2",
                                       "4",
                                       "-1",
                                       "8",
                                       "127",
                                       "256",
                                       "65536",
                                       "2147483647",
                                       "4294967296",
                                       "4611686018427387904",
                                       "9223372036854775807",
                                       "-9223372036854775808",
                                       "0.0",
                                       "-1.0",
                                       "1.0e+300",
                                       "0x7FC00000",
                                       "f32",
                                       "f16",
                                       "bf16",
                                       "f64",
                                       "i1",
                                       "i8",
                                       "ui8",
                                       "i64",
                                       "index",
                                       "?"};
  size_t at = pick(tokens.size());
  switch (pick(5)) {
  case 0:
    tokens[at] = tokens[pick(tokens.size())];
    break;
  case 1:
    tokens[at] = kWords[pick(std::size(kWords))];
    break;
  case 2: {
    // A run of tokens, repeated elsewhere.
    size_t end = at + 1 + pick(std::min<size_t>(tokens.size() - at, 32));
    std::vector<std::string> copy(tokens.begin() + at, tokens.begin() + end);
    tokens.insert(tokens.begin() + pick(tokens.size() + 1), copy.begin(), copy.end());
    break;
  }
  case 3:
    tokens.erase(tokens.begin() + at,
                 tokens.begin() + at + 1 + pick(std::min<size_t>(tokens.size() - at, 8)));
    break;
  default:
    std::swap(tokens[at], tokens[pick(tokens.size())]);
    break;
  }
  std::string text = llvm::join(tokens, "");
  if (text.size() > maxSize)
    return LLVMFuzzerMutate(data, size, maxSize);
  llvm::copy(text, data);
  return text.size();
}
