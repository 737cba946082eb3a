// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/Bytecode/BytecodeReader.h"
#include "mlir/IR/AsmState.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"

using namespace mlir;

bool mlir::moe::isONNXFileName(StringRef path) { return path.ends_with(".onnx"); }

/// Most brackets inside one another, and minus signs in a row: each is a level of
/// recursion in MLIR's parser, which has no limit of its own.
static constexpr unsigned kMaxNesting = 1000;

namespace {
/// What MLIR's parser would crash on.
struct ParserTrap {
  size_t position;
  std::string message;
};
} // namespace

/// `array<index` with any space between: of MLIR's dense arrays only those of index have
/// no bit width, and its parser asks for one.
static bool isIndexArray(StringRef text) {
  return text.consume_front("array") && (text = text.ltrim()).consume_front("<") &&
         text.ltrim().starts_with("index");
}

static bool isWordCharacter(char c) { return llvm::isAlnum(c) || StringRef("_.$").contains(c); }

/// The first trap outside of strings and comments.
static std::optional<ParserTrap> findParserTrap(StringRef text) {
  unsigned depth = 0, signs = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    StringRef rest = text.drop_front(i);
    if (rest.starts_with("//")) {
      i += rest.find('\n') == StringRef::npos ? rest.size() : rest.find('\n');
      continue;
    }
    if (rest.front() == '"')
      for (++i; i < text.size() && text[i] != '"'; ++i)
        i += text[i] == '\\';
    else if (rest.starts_with("->"))
      ++i;
    else if (StringRef("([{<").contains(rest.front()))
      ++depth;
    else if (StringRef(")]}>").contains(rest.front()))
      depth -= depth > 0;
    else if (isIndexArray(rest) && (i == 0 || !isWordCharacter(text[i - 1])))
      return ParserTrap{i, "an array attribute cannot have elements of type index"};
    if (!llvm::isSpace(rest.front()))
      signs = rest.front() == '-' ? signs + 1 : 0;
    if (depth > kMaxNesting || signs > kMaxNesting)
      return ParserTrap{
          i, ("the text is nested more than " + Twine(kMaxNesting) + " levels deep").str()};
  }
  return std::nullopt;
}

LogicalResult mlir::moe::checkText(StringRef text, StringRef path, MLIRContext *context) {
  std::optional<ParserTrap> trap = findParserTrap(text);
  if (!trap)
    return success();
  StringRef before = text.take_front(trap->position);
  size_t column = trap->position - (before.rfind('\n') + 1) + 1;
  return emitError(FileLineColLoc::get(context, path, before.count('\n') + 1, column))
         << trap->message;
}

static LogicalResult checkTextFile(StringRef path, MLIRContext *context) {
  auto file = llvm::MemoryBuffer::getFile(path);
  // The parser reports a file that cannot be read.
  if (!file || isBytecode((*file)->getMemBufferRef()))
    return success();
  return moe::checkText((*file)->getBuffer(), path, context);
}

OwningOpRef<ModuleOp> mlir::moe::loadModule(StringRef path, MLIRContext *context,
                                            const ImportOptions &options) {
  if (isONNXFileName(path))
    return importONNX(path, context, options);
  if (failed(checkTextFile(path, context)))
    return {};
  return parseSourceFile<ModuleOp>(path, context);
}

std::unique_ptr<llvm::MemoryBuffer> mlir::moe::importONNXAsText(StringRef path,
                                                                const DialectRegistry &registry,
                                                                const ImportOptions &options) {
  MLIRContext context(registry, MLIRContext::Threading::DISABLED);
  context.printOpOnDiagnostic(false);
  llvm::SourceMgr sources;
  SourceMgrDiagnosticHandler handler(sources, &context);
  OwningOpRef<ModuleOp> module = importONNX(path, &context, options);
  if (!module)
    return nullptr;
  std::string text;
  llvm::raw_string_ostream stream(text);
  module->print(stream, OpPrintingFlags().enableDebugInfo());
  return llvm::MemoryBuffer::getMemBufferCopy(text, path);
}

std::optional<std::pair<std::string, int64_t>> mlir::moe::parseDimOption(StringRef text) {
  auto [name, size] = text.rsplit('=');
  int64_t value;
  if (name.empty() || size.getAsInteger(10, value) || value < 0)
    return std::nullopt;
  return std::make_pair(name.str(), value);
}
