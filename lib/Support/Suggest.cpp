// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/Suggest.h"

#include "llvm/ADT/Twine.h"

using namespace llvm;

StringRef mlir::moe::findNearestName(StringRef name, ArrayRef<StringRef> candidates) {
  // A name that shares next to nothing is no help.
  unsigned best = 2 + name.size() / 3;
  StringRef nearest;
  for (StringRef candidate : candidates) {
    unsigned distance = name.edit_distance_insensitive(candidate, /*AllowReplacements=*/true, best);
    // Two names of one or two letters always are near each other.
    if (distance < best && distance < candidate.size()) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string mlir::moe::suggestName(StringRef name, ArrayRef<StringRef> candidates) {
  StringRef nearest = findNearestName(name, candidates);
  return nearest.empty() ? "" : ("; did you mean '" + nearest + "'?").str();
}
