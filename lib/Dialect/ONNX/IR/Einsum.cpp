// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/ONNX/IR/Einsum.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Sequence.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"

#include <map>

using namespace mlir;
using namespace mlir::moe::onnx;
using llvm::createStringError;
using llvm::Error;
using llvm::Expected;

namespace {
/// One term: its letters, and how many of them come before `...`.
struct Term {
  SmallString<8> letters;
  std::optional<size_t> ellipsis;
};
} // namespace

static Expected<Term> parseTerm(StringRef text) {
  Term term;
  while (!text.empty()) {
    if (text.consume_front("...")) {
      if (term.ellipsis)
        return createStringError("a term has two ellipses");
      term.ellipsis = term.letters.size();
      continue;
    }
    if (!llvm::isAlpha(text.front()))
      return createStringError("'" + text.take_front() + "' is no letter");
    term.letters += text.front();
    text = text.drop_front();
  }
  return term;
}

/// What the result is when the equation does not say.
static Term getImplicitResult(ArrayRef<Term> operands) {
  std::map<char, unsigned> counts;
  Term result;
  for (const Term &operand : operands) {
    if (operand.ellipsis)
      result.ellipsis = 0;
    for (char letter : operand.letters)
      ++counts[letter];
  }
  for (auto [letter, count] : counts)
    if (count == 1)
      result.letters += letter;
  return result;
}

/// An error unless the result has letters of the operands, each once.
static Error checkResult(const Term &result, const std::map<char, int64_t> &labels,
                         bool hasEllipsis) {
  for (auto [i, letter] : llvm::enumerate(result.letters)) {
    if (!labels.count(letter))
      return createStringError(Twine("no operand has the letter '") + Twine(letter) +
                               "' of the result");
    if (result.letters.str().take_front(i).contains(letter))
      return createStringError(Twine("the result has the letter '") + Twine(letter) + "' twice");
  }
  if (hasEllipsis != result.ellipsis.has_value())
    return createStringError(hasEllipsis ? "operands have an ellipsis, the result has none"
                                         : "the result has an ellipsis, the operands have none");
  return Error::success();
}

Expected<EinsumLabels> mlir::moe::onnx::parseEinsum(StringRef equation, ArrayRef<int64_t> ranks) {
  SmallString<32> text;
  llvm::copy_if(equation, std::back_inserter(text), [](char c) { return c != ' '; });
  bool isExplicit = text.str().contains("->");
  auto [left, right] = text.str().split("->");

  SmallVector<StringRef> parts;
  left.split(parts, ',');
  if (parts.size() != ranks.size())
    return createStringError("the equation has " + Twine(parts.size()) + " terms for " +
                             Twine(ranks.size()) + " operands");
  EinsumLabels result;
  SmallVector<Term> operands;
  for (auto [i, part] : llvm::enumerate(parts)) {
    Expected<Term> term = parseTerm(part);
    if (!term)
      return term.takeError();
    int64_t rest = ranks[i] - int64_t(term->letters.size());
    if (rest < 0 || (rest > 0 && !term->ellipsis))
      return createStringError("term '" + part + "' does not fit operand " + Twine(i) +
                               ", which has rank " + Twine(ranks[i]));
    result.numEllipsis = std::max(result.numEllipsis, rest);
    operands.push_back(*term);
  }

  std::map<char, int64_t> labels;
  result.numLabels = result.numEllipsis;
  for (const Term &operand : operands)
    for (char letter : operand.letters)
      if (labels.try_emplace(letter, result.numLabels).second)
        ++result.numLabels;
  // The dimensions of an ellipsis are aligned at its end.
  auto getLabels = [&](const Term &term, int64_t ellipsis) {
    SmallVector<int64_t> list;
    for (size_t i = 0; i <= term.letters.size(); ++i) {
      if (term.ellipsis == i)
        llvm::append_range(list,
                           llvm::seq<int64_t>(result.numEllipsis - ellipsis, result.numEllipsis));
      if (i < term.letters.size())
        list.push_back(labels[term.letters[i]]);
    }
    return list;
  };
  for (auto [operand, rank] : llvm::zip(operands, ranks))
    result.operands.push_back(getLabels(operand, rank - int64_t(operand.letters.size())));

  Expected<Term> term = isExplicit ? parseTerm(right) : getImplicitResult(operands);
  if (!term)
    return term.takeError();
  bool hasEllipsis = llvm::any_of(operands, [](const Term &one) { return one.ellipsis; });
  if (Error error = checkResult(*term, labels, hasEllipsis))
    return std::move(error);
  result.result = getLabels(*term, result.numEllipsis);
  return result;
}
