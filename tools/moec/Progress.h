// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A progress bar on stderr, when that is a terminal.

#ifndef MOEC_TOOLS_MOEC_PROGRESS_H
#define MOEC_TOOLS_MOEC_PROGRESS_H

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"
#include <cstdint>
#include <string>

namespace mlir::moe {

class ProgressBar {
public:
  /// Draws at most once per percent, and removes the bar at the end.
  void update(uint64_t done, uint64_t all) {
    if (all == 0 || !llvm::errs().is_displayed())
      return;
    int percent = int(done * 100 / all);
    if (done == all)
      llvm::errs() << "\r" << std::string(width + 30, ' ') << "\r";
    else if (percent != shown)
      draw(percent, done, all);
    shown = percent;
  }

private:
  static constexpr int width = 40;

  void draw(int percent, uint64_t done, uint64_t all) {
    int full = percent * width / 100;
    llvm::errs() << llvm::formatv("\rweights [{0}{1}] {2,3}% of {3:f1} GB", std::string(full, '#'),
                                  std::string(width - full, ' '), percent, double(all) / 1e9);
  }

  int shown = -1;
};

} // namespace mlir::moe

#endif // MOEC_TOOLS_MOEC_PROGRESS_H
