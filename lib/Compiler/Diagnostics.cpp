// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Diagnostics.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/OneLine.h"
#include "moec/Support/Unsupported.h"

using namespace mlir;
using namespace mlir::moe;

/// The first place in a file that a location names.
static FileLineColLoc findPlace(Location location) {
  FileLineColLoc place;
  location->walk([&](Location part) {
    place = dyn_cast<FileLineColLoc>(part);
    return place ? WalkResult::interrupt() : WalkResult::advance();
  });
  return place;
}

static Severity convertSeverity(DiagnosticSeverity severity) {
  switch (severity) {
  case DiagnosticSeverity::Error:
    return Severity::Error;
  case DiagnosticSeverity::Warning:
    return Severity::Warning;
  case DiagnosticSeverity::Remark:
    return Severity::Remark;
  case DiagnosticSeverity::Note:
    return Severity::Note;
  }
  llvm_unreachable("unknown severity");
}

static CompileDiagnostic convert(Diagnostic &diagnostic) {
  CompileDiagnostic result;
  Location location = diagnostic.getLocation();
  result.severity = convertSeverity(diagnostic.getSeverity());
  result.message = escapeControls(diagnostic.str());
  result.node = getNodeName(location).str();
  result.op = getNodeOperator(location).str();
  if (FileLineColLoc place = findPlace(location)) {
    result.file = place.getFilename().str();
    result.line = place.getLine();
    result.column = place.getColumn();
  }
  for (Diagnostic &note : diagnostic.getNotes())
    result.notes.push_back(convert(note));
  return result;
}

void mlir::moe::printDiagnostic(llvm::raw_ostream &os, const CompileDiagnostic &diagnostic) {
  static const char *const kinds[] = {"error", "warning", "remark", "note"};
  os << (diagnostic.file.empty() ? "moec" : diagnostic.file);
  // A file as a whole has no place; node 0 has line 0 and column 1.
  if (diagnostic.line != 0 || diagnostic.column != 0)
    os << ':' << diagnostic.line << ':' << diagnostic.column;
  os << ": " << kinds[unsigned(diagnostic.severity)] << ": " << diagnostic.message << '\n';
  for (const CompileDiagnostic &note : diagnostic.notes)
    printDiagnostic(os, note);
}

DiagnosticHandler::DiagnosticHandler(MLIRContext *context, const CompileOptions &options)
    : ScopedDiagnosticHandler(context), options(options) {
  setHandler([this](Diagnostic &diagnostic) { handle(diagnostic); });
}

void DiagnosticHandler::handle(Diagnostic &given) {
  CompileDiagnostic diagnostic = convert(given);
  if (diagnostic.severity == Severity::Error) {
    errors = true;
    unsupported |= isUnsupported(given);
  }
  if (diagnostic.severity == Severity::Remark && !options.remarks)
    return;
  std::string text;
  llvm::raw_string_ostream stream(text);
  printDiagnostic(stream, diagnostic);
  if (!seen.insert(text).second)
    return;
  if (options.onDiagnostic)
    options.onDiagnostic(diagnostic);
  else
    llvm::errs() << text;
}
