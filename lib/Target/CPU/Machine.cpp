// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/Machine.h"
#include "moec/Support/Suggest.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/X86TargetParser.h"

#include <algorithm>
#include <unistd.h>

using namespace llvm;
using namespace mlir::moe;

/// Features that change which instructions LLVM selects for numerical code. The
/// others (virtualisation, cryptography, cache control, …) never matter here,
/// and requiring them at open would refuse CPUs that can run the code.
static constexpr StringLiteral usefulFeatures[] = {
    "amx-bf16",     "amx-int8",   "amx-tile",    "avx",      "avx2",       "avx512bf16",
    "avx512bitalg", "avx512bw",   "avx512cd",    "avx512dq", "avx512f",    "avx512fp16",
    "avx512ifma",   "avx512vbmi", "avx512vbmi2", "avx512vl", "avx512vnni", "avx512vpopcntdq",
    "avxvnni",      "bmi",        "bmi2",        "f16c",     "fma",        "lzcnt",
    "movbe",        "popcnt",     "sse3",        "sse4.1",   "sse4.2",     "ssse3"};

static Error unknownCPU(StringRef name, ArrayRef<StringRef> known) {
  SmallVector<StringRef> names = {"native", "multi"};
  names.append(known.begin(), known.end());
  std::string hint = suggestName(name, names);
  return createStringError(
      formatv("unknown CPU '{0}'{1} {2} native, multi, x86-64-v3, x86-64-v4, or another 64-bit x86 "
              "CPU name of LLVM",
              name, hint.empty() ? ";" : hint, hint.empty() ? "use" : "Or use"));
}

/// The features of this machine as CPUID and the operating system report them.
static SmallVector<StringRef> hostFeatures(const StringMap<bool> &all) {
  SmallVector<StringRef> features;
  for (const auto &[feature, present] : all)
    if (present)
      features.push_back(feature);
  return features;
}

static void setHostCaches(Machine &machine) {
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
  // 0 or -1 when a virtual machine hides them: the defaults stay.
  if (long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE); l1 > 0)
    machine.l1Bytes = l1;
  if (long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE); l2 > 0)
    machine.l2Bytes = l2;
#endif
}

static StringRef tuneFor(const Machine &machine) {
  if (machine.hasAMXBF16)
    return "sapphirerapids";
  if (machine.hasAVX512)
    return machine.hasAVX512VNNI ? "icelake-server" : "skylake-avx512";
  return machine.vectorBits == 256 ? "haswell" : "x86-64";
}

bool Machine::hasFeature(StringRef feature) const {
  return llvm::binary_search(features, feature.str());
}

std::string Machine::getFeatureString() const {
  std::string text;
  for (const std::string &feature : features)
    text += (text.empty() ? "+" : ",+") + feature;
  return text;
}

Machine Machine::fromFeatures(StringRef name, ArrayRef<StringRef> features) {
  StringMap<bool> implied;
  for (StringRef feature : features) {
    implied[feature] = true;
    X86::updateImpliedFeatures(feature, /*Enabled=*/true, implied);
  }
  Machine machine;
  machine.name = name.str();
  for (StringRef feature : usefulFeatures)
    if (implied.lookup(feature))
      machine.features.push_back(feature.str());

  auto has = [&](StringRef feature) { return machine.hasFeature(feature); };
  machine.hasFMA = has("fma");
  machine.hasF16C = has("f16c");
  machine.hasAVX512 =
      has("avx512f") && has("avx512bw") && has("avx512cd") && has("avx512dq") && has("avx512vl");
  machine.hasAVX512BF16 = machine.hasAVX512 && has("avx512bf16");
  machine.hasAVX512FP16 = machine.hasAVX512 && has("avx512fp16");
  machine.hasAVX512VNNI = machine.hasAVX512 && has("avx512vnni");
  machine.hasAVXVNNI = has("avxvnni");
  machine.hasAMXBF16 = has("amx-tile") && has("amx-bf16");
  machine.hasAMXInt8 = has("amx-tile") && has("amx-int8");
  machine.vectorBits = machine.hasAVX512 ? 512 : has("avx2") ? 256 : 128;
  machine.numVectorRegisters = machine.hasAVX512 ? 32 : 16;
  machine.tuneCPU = tuneFor(machine).str();
  return machine;
}

Expected<Machine> Machine::get(StringRef name) {
  if (name == "native") {
    StringMap<bool> all = sys::getHostCPUFeatures();
    Machine machine = fromFeatures(name, hostFeatures(all));
    setHostCaches(machine);
    return machine;
  }
  SmallVector<StringRef> known;
  X86::fillValidCPUArchList(known, /*Only64Bit=*/true);
  if (!is_contained(known, name))
    return unknownCPU(name, known);
  SmallVector<StringRef> features;
  X86::getFeaturesForCPU(name, features);
  Machine machine = fromFeatures(name, features);
  machine.tuneCPU = name.str();
  return machine;
}

/// Whether every CPU that runs code for `a` runs that for `b`.
static bool needsAllOf(const Machine &a, const Machine &b) {
  return std::includes(a.features.begin(), a.features.end(), b.features.begin(), b.features.end());
}

/// "l2=2M": bytes, or KiB or MiB with a K or M behind the number.
static Error setCache(Machine &machine, StringRef text) {
  auto [key, number] = text.split('=');
  int64_t unit = number.consume_back("K") ? 1 << 10 : number.consume_back("M") ? 1 << 20 : 1;
  int64_t *bytes = StringSwitch<int64_t *>(key)
                       .Case("l1", &machine.l1Bytes)
                       .Case("l2", &machine.l2Bytes)
                       .Default(nullptr);
  int64_t size;
  // Far beyond any core's.
  constexpr int64_t most = int64_t(1) << 30;
  if (!bytes || number.getAsInteger(10, size) || size <= 0 || size > most / unit ||
      size * unit < 4096)
    return createStringError(formatv("--cpu: '{0}' is no cache; expected l1=SIZE or l2=SIZE, from "
                                     "4K to 1024M",
                                     text));
  *bytes = size * unit;
  return Error::success();
}

Expected<std::vector<Machine>> Machine::getLevels(StringRef names) {
  SmallVector<StringRef> parts;
  (names == "multi" ? "x86-64-v3,x86-64-v4,sapphirerapids" : names).split(parts, ',');
  std::vector<Machine> levels;
  for (StringRef name : parts) {
    if (name.contains('=')) {
      if (levels.empty())
        return createStringError(formatv("--cpu: '{0}' comes before the name of a CPU", name));
      if (Error error = setCache(levels.back(), name))
        return error;
      continue;
    }
    Expected<Machine> machine = get(name);
    if (!machine)
      return machine.takeError();
    for (const Machine &earlier : levels)
      if (needsAllOf(earlier, *machine))
        return createStringError(
            formatv("--cpu: the code for '{0}' would never be chosen, since every such CPU also "
                    "runs that for '{1}', which comes after it; list the most demanding CPU last",
                    earlier.name, name));
    levels.push_back(std::move(*machine));
  }
  for (const Machine &machine : levels)
    if (machine.l1Bytes > machine.l2Bytes)
      return createStringError(formatv("--cpu: '{0}' has a larger L1 ({1} bytes) than L2 ({2})",
                                       machine.name, machine.l1Bytes, machine.l2Bytes));
  return levels;
}
