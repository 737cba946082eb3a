// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/DimExpression.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>

using namespace llvm;

namespace {
/// sum := product (('+' | '-') product)*
/// product := atom (('*' | '//' | '/' | '%') atom)*
/// atom := number | symbol | function '(' sum (',' sum)* ')' | '(' sum ')'
///         | '-' atom
class Parser {
public:
  Parser(StringRef text, const StringMap<int64_t> &sizes) : text(text), sizes(sizes) {}

  std::optional<int64_t> parse() {
    std::optional<int64_t> value = parseSum(0);
    return text.ltrim().empty() ? value : std::nullopt;
  }

private:
  bool consume(StringRef token) {
    text = text.ltrim();
    return text.consume_front(token);
  }
  std::optional<int64_t> parseSum(unsigned depth);
  std::optional<int64_t> parseProduct(unsigned depth);
  std::optional<int64_t> parseAtom(unsigned depth);
  std::optional<int64_t> parseCall(StringRef name, unsigned depth);

  StringRef text;
  const StringMap<int64_t> &sizes;
};
} // namespace

/// Symbols may hold dots and the like ("s72", "past_key.length").
static bool isSymbolChar(char c) {
  return isAlnum(c) || c == '_' || c == '.' || c == ':' || c == '$' ||
         static_cast<unsigned char>(c) >= 0x80;
}

static bool isFunctionName(StringRef text) {
  return text.equals_insensitive("min") || text.equals_insensitive("max") ||
         text.equals_insensitive("floor");
}

std::optional<int64_t> Parser::parseSum(unsigned depth) {
  std::optional<int64_t> left = parseProduct(depth);
  while (left) {
    bool minus = consume("-");
    if (!minus && !consume("+"))
      return left;
    std::optional<int64_t> right = parseProduct(depth);
    int64_t result;
    if (!right || (minus ? SubOverflow(*left, *right, result) : AddOverflow(*left, *right, result)))
      return std::nullopt;
    left = result;
  }
  return left;
}

std::optional<int64_t> Parser::parseProduct(unsigned depth) {
  std::optional<int64_t> left = parseAtom(depth);
  while (left) {
    char op = consume("*") ? '*' : consume("//") || consume("/") ? '/' : consume("%") ? '%' : 0;
    if (!op)
      return left;
    std::optional<int64_t> right = parseAtom(depth);
    if (!right || (op != '*' && (*right <= 0 || *left < 0)))
      return std::nullopt;
    int64_t result;
    if (op == '*') {
      if (MulOverflow(*left, *right, result))
        return std::nullopt;
    } else {
      result = op == '/' ? *left / *right : *left % *right;
    }
    left = result;
  }
  return left;
}

std::optional<int64_t> Parser::parseCall(StringRef name, unsigned depth) {
  std::optional<int64_t> result = parseSum(depth);
  while (result && consume(",")) {
    std::optional<int64_t> next = parseSum(depth);
    if (!next)
      return std::nullopt;
    result = name.equals_insensitive("min") ? std::min(*result, *next) : std::max(*result, *next);
  }
  if (!result || !consume(")"))
    return std::nullopt;
  return isFunctionName(name) ? result : std::nullopt;
}

std::optional<int64_t> Parser::parseAtom(unsigned depth) {
  if (depth > 64)
    return std::nullopt;
  if (consume("-")) {
    std::optional<int64_t> value = parseAtom(depth + 1);
    if (!value || *value == INT64_MIN)
      return std::nullopt;
    return -*value;
  }
  if (consume("(")) {
    std::optional<int64_t> value = parseSum(depth + 1);
    return consume(")") ? value : std::nullopt;
  }
  text = text.ltrim();
  StringRef word = text.take_while(isSymbolChar);
  text = text.drop_front(word.size());
  int64_t number;
  if (!word.empty() && isDigit(word.front())) {
    if (word.getAsInteger(10, number))
      return std::nullopt;
    return number;
  }
  auto known = sizes.find(word);
  if (known != sizes.end())
    return known->second;
  return consume("(") ? parseCall(word, depth + 1) : std::nullopt;
}

std::optional<int64_t> mlir::moe::evaluateDim(StringRef text, const StringMap<int64_t> &sizes) {
  // A symbol may be any text: ONNX does not say what expressions are.
  auto known = sizes.find(text);
  if (known != sizes.end())
    return known->second;
  return Parser(text, sizes).parse();
}

/// Splits the text into words (symbols, numbers) and what is between them.
static void visitWords(StringRef text, function_ref<void(StringRef, bool isWord)> visit) {
  while (!text.empty()) {
    bool isWord = isSymbolChar(text.front());
    StringRef part = text.take_while([&](char c) { return isSymbolChar(c) == isWord; });
    text = text.drop_front(part.size());
    visit(part, isWord);
  }
}

std::string mlir::moe::substituteDims(StringRef text, const StringMap<int64_t> &sizes) {
  std::string result;
  visitWords(text, [&](StringRef part, bool isWord) {
    auto known = isWord ? sizes.find(part) : sizes.end();
    result += known != sizes.end() ? std::to_string(known->second) : part.str();
  });
  return result;
}

bool mlir::moe::isDimSymbol(StringRef text) {
  return !text.empty() && llvm::all_of(text, isSymbolChar) && !isDigit(text.front()) &&
         !isFunctionName(text);
}

void mlir::moe::visitSymbols(StringRef text, function_ref<void(StringRef)> visit) {
  visitWords(text, [&](StringRef part, bool isWord) {
    if (isWord && isDimSymbol(part))
      visit(part);
  });
}
