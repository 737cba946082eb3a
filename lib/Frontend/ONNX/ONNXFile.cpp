// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/Importer.h"

#include "mlir/IR/AsmState.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"

using namespace mlir;

bool mlir::moe::isONNXFileName(StringRef path) { return path.ends_with(".onnx"); }

OwningOpRef<ModuleOp> mlir::moe::loadModule(StringRef path, MLIRContext *context,
                                            const ImportOptions &options) {
  if (isONNXFileName(path))
    return importONNX(path, context, options);
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
