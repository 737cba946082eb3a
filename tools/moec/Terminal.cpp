// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Terminal.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Process.h"

using namespace mlir::moe;

Terminal::Terminal(const CompileOptions &options)
    : colors(hasColors(options.color)), animated(!options.quiet && llvm::errs().is_displayed()) {}

void Terminal::print(const CompileDiagnostic &diagnostic) {
  clear();
  printDiagnostic(llvm::errs(), diagnostic, colors);
}

void Terminal::printError(const llvm::Twine &message) {
  CompileDiagnostic diagnostic;
  diagnostic.message = message.str();
  print(diagnostic);
}

void Terminal::clear() {
  // Back to the first column, then erase to the end of the line.
  if (shown)
    llvm::errs() << "\r\x1b[K";
  shown = false;
}

/// "[####    ]  50% of 3.2 GB" in `width` columns.
static std::string drawBar(uint64_t done, uint64_t all, unsigned width) {
  double part = double(done) / all;
  std::string text = llvm::formatv(" {0,3}% of {1:f2} GB", int(part * 100), double(all) / 1e9);
  if (width < text.size() + 12)
    return text;
  unsigned cells = std::min<unsigned>(40, width - text.size() - 2), full = part * cells;
  return "[" + std::string(full, '#') + std::string(cells - full, ' ') + "]" + text;
}

void Terminal::showProgress(llvm::StringRef phase, uint64_t done, uint64_t all) {
  constexpr auto kPatience = std::chrono::milliseconds(500);
  constexpr auto kInterval = std::chrono::milliseconds(100);
  Clock::time_point now = Clock::now();
  // A new phase is shown at once; within one, ten pictures a second are enough.
  if (!animated || now - start < kPatience || (all != 0 && now - last < kInterval))
    return;
  last = now;
  clear();
  unsigned columns = llvm::sys::Process::StandardErrColumns();
  unsigned width = columns == 0 ? 80 : columns;
  std::string text = all == 0 ? phase.str() : drawBar(done, all, width - 16);
  text = (all == 0 ? "moec: " : "moec: weights ") + text;
  llvm::errs() << llvm::StringRef(text).take_front(width - 1);
  shown = true;
}
