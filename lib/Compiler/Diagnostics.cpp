// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Diagnostics.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "moec/Support/Unsupported.h"
#include "llvm/ADT/StringExtras.h"

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

/// One line: names may hold any character.
static std::string escapeControls(StringRef text) {
  std::string line;
  for (char c : text)
    line += llvm::isPrint(c) || (c & 0x80) ? std::string(1, c)
                                           : "\\x" + llvm::utohexstr(uint8_t(c), false, 2);
  return line;
}

static void printOne(llvm::raw_ostream &os, Diagnostic &diagnostic) {
  static const char *const kinds[] = {"note", "warning", "error", "remark"};
  FileLineColLoc place = findPlace(diagnostic.getLocation());
  if (place)
    os << place.getFilename().getValue();
  else
    os << "moec";
  // A file as a whole has no place; node 0 has line 0 and column 1.
  if (place && (place.getLine() != 0 || place.getColumn() != 0))
    os << ':' << place.getLine() << ':' << place.getColumn();
  os << ": " << kinds[unsigned(diagnostic.getSeverity())] << ": "
     << escapeControls(diagnostic.str()) << '\n';
}

DiagnosticPrinter::DiagnosticPrinter(MLIRContext *context, llvm::raw_ostream &os, bool remarks)
    : ScopedDiagnosticHandler(context), os(os), remarks(remarks) {
  setHandler([this](Diagnostic &diagnostic) { print(diagnostic); });
}

void DiagnosticPrinter::print(Diagnostic &diagnostic) {
  if (diagnostic.getSeverity() == DiagnosticSeverity::Error) {
    errors = true;
    unsupported |= isUnsupported(diagnostic);
  }
  if (diagnostic.getSeverity() == DiagnosticSeverity::Remark && !remarks)
    return;
  std::string text;
  llvm::raw_string_ostream stream(text);
  printOne(stream, diagnostic);
  for (Diagnostic &note : diagnostic.getNotes())
    printOne(stream, note);
  if (seen.insert(text).second)
    os << text;
}
