// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CUDA/Machine.h"
#include "moec/Support/Suggest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace mlir::moe;

static constexpr int64_t kKiB = 1024, kMiB = 1024 * kKiB;

static constexpr GPUMachine machines[] = {
    {"sm_80", "A100 80GB", 80, false, 70, 108, 163 * kKiB, 164 * kKiB, 65536, 2048, 40 * kMiB,
     2039e9},
    {"sm_89", "L40S", 89, false, 78, 142, 99 * kKiB, 100 * kKiB, 65536, 1536, 96 * kMiB, 864e9},
    {"sm_90a", "H200", 90, true, 80, 132, 227 * kKiB, 228 * kKiB, 65536, 2048, 50 * kMiB, 4800e9},
    {"sm_100", "B200", 100, false, 86, 148, 227 * kKiB, 228 * kKiB, 65536, 2048, 126 * kMiB,
     8000e9},
};

ArrayRef<GPUMachine> GPUMachine::all() { return machines; }

Expected<GPUMachine> GPUMachine::get(StringRef name) {
  const GPUMachine *found = find_if(machines, [&](const GPUMachine &m) { return m.name == name; });
  if (found != std::end(machines))
    return *found;
  SmallVector<StringRef> names;
  for (const GPUMachine &machine : machines)
    names.push_back(machine.name);
  std::string hint = suggestName(name, names);
  return createStringError(formatv("unknown GPU architecture '{0}'{1} use one of {2}", name,
                                   hint.empty() ? ";" : hint, join(names, ", ")));
}
