// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Diagnostics.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/OneLine.h"
#include "moec/Support/Unsupported.h"

#include <cstdlib>

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

bool mlir::moe::hasColors(ColorMode mode) {
  if (mode != ColorMode::Auto)
    return mode == ColorMode::Always;
  const char *refused = std::getenv("NO_COLOR");
  return (!refused || !*refused) && llvm::errs().has_colors();
}

void mlir::moe::printDiagnostic(llvm::raw_ostream &os, const CompileDiagnostic &diagnostic,
                                bool colors) {
  using llvm::raw_ostream;
  static constexpr struct {
    const char *name;
    raw_ostream::Colors color;
  } kinds[] = {{"error", raw_ostream::RED},
               {"warning", raw_ostream::MAGENTA},
               {"remark", raw_ostream::BLUE},
               {"note", raw_ostream::CYAN}};
  bool before = os.colors_enabled();
  os.enable_colors(colors);
  os.changeColor(raw_ostream::SAVEDCOLOR, /*Bold=*/true);
  os << (diagnostic.file.empty() ? "moec" : diagnostic.file);
  // A file as a whole has no place; node 0 has line 0 and column 1.
  if (diagnostic.line != 0 || diagnostic.column != 0)
    os << ':' << diagnostic.line << ':' << diagnostic.column;
  os << ": ";
  const auto &kind = kinds[unsigned(diagnostic.severity)];
  os.changeColor(kind.color, /*Bold=*/true) << kind.name << ": ";
  os.resetColor() << diagnostic.message << '\n';
  os.enable_colors(before);
  for (const CompileDiagnostic &note : diagnostic.notes)
    printDiagnostic(os, note, colors);
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
  if (diagnostic.severity > options.logLevel)
    return;
  std::string text;
  llvm::raw_string_ostream stream(text);
  printDiagnostic(stream, diagnostic);
  if (!seen.insert(text).second)
    return;
  if (options.onDiagnostic)
    options.onDiagnostic(diagnostic);
  else
    printDiagnostic(llvm::errs(), diagnostic, hasColors(options.color));
}
