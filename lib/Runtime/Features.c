/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Which x86 features this machine has. Compiled for the first x86-64, so that
 * the check itself runs everywhere.
 */
#include "Internal.h"
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef enum { EAX, EBX, ECX, EDX } rt_register;

/* State that the operating system must save, as bits of XCR0. */
#define STATE_NONE 0u
#define STATE_AVX 0x6u
#define STATE_AVX512 0xe6u
#define STATE_AMX 0x60000u

typedef struct {
  const char *name; /* as LLVM calls it */
  uint32_t leaf, subleaf;
  rt_register reg;
  uint32_t bit;
  uint32_t state;
} rt_feature;

/* Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A,
 * CPUID; AMD64 Architecture Programmer's Manual, volume 3, appendix E. */
static const rt_feature table[] = {
    {"cx8", 1, 0, EDX, 8, STATE_NONE},
    {"cmov", 1, 0, EDX, 15, STATE_NONE},
    {"mmx", 1, 0, EDX, 23, STATE_NONE},
    {"fxsr", 1, 0, EDX, 24, STATE_NONE},
    {"sse", 1, 0, EDX, 25, STATE_NONE},
    {"sse2", 1, 0, EDX, 26, STATE_NONE},
    {"sse3", 1, 0, ECX, 0, STATE_NONE},
    {"pclmul", 1, 0, ECX, 1, STATE_NONE},
    {"ssse3", 1, 0, ECX, 9, STATE_NONE},
    {"fma", 1, 0, ECX, 12, STATE_AVX},
    {"cx16", 1, 0, ECX, 13, STATE_NONE},
    {"sse4.1", 1, 0, ECX, 19, STATE_NONE},
    {"sse4.2", 1, 0, ECX, 20, STATE_NONE},
    {"movbe", 1, 0, ECX, 22, STATE_NONE},
    {"popcnt", 1, 0, ECX, 23, STATE_NONE},
    {"aes", 1, 0, ECX, 25, STATE_NONE},
    {"xsave", 1, 0, ECX, 26, STATE_NONE},
    {"avx", 1, 0, ECX, 28, STATE_AVX},
    {"f16c", 1, 0, ECX, 29, STATE_AVX},
    {"rdrnd", 1, 0, ECX, 30, STATE_NONE},
    {"fsgsbase", 7, 0, EBX, 0, STATE_NONE},
    {"bmi", 7, 0, EBX, 3, STATE_NONE},
    {"avx2", 7, 0, EBX, 5, STATE_AVX},
    {"bmi2", 7, 0, EBX, 8, STATE_NONE},
    {"avx512f", 7, 0, EBX, 16, STATE_AVX512},
    {"avx512dq", 7, 0, EBX, 17, STATE_AVX512},
    {"rdseed", 7, 0, EBX, 18, STATE_NONE},
    {"adx", 7, 0, EBX, 19, STATE_NONE},
    {"avx512ifma", 7, 0, EBX, 21, STATE_AVX512},
    {"clflushopt", 7, 0, EBX, 23, STATE_NONE},
    {"clwb", 7, 0, EBX, 24, STATE_NONE},
    {"avx512cd", 7, 0, EBX, 28, STATE_AVX512},
    {"sha", 7, 0, EBX, 29, STATE_NONE},
    {"avx512bw", 7, 0, EBX, 30, STATE_AVX512},
    {"avx512vl", 7, 0, EBX, 31, STATE_AVX512},
    {"avx512vbmi", 7, 0, ECX, 1, STATE_AVX512},
    {"waitpkg", 7, 0, ECX, 5, STATE_NONE},
    {"avx512vbmi2", 7, 0, ECX, 6, STATE_AVX512},
    {"gfni", 7, 0, ECX, 8, STATE_NONE},
    {"vaes", 7, 0, ECX, 9, STATE_AVX},
    {"vpclmulqdq", 7, 0, ECX, 10, STATE_AVX},
    {"avx512vnni", 7, 0, ECX, 11, STATE_AVX512},
    {"avx512bitalg", 7, 0, ECX, 12, STATE_AVX512},
    {"avx512vpopcntdq", 7, 0, ECX, 14, STATE_AVX512},
    {"movdiri", 7, 0, ECX, 27, STATE_NONE},
    {"movdir64b", 7, 0, ECX, 28, STATE_NONE},
    {"avx512vp2intersect", 7, 0, EDX, 8, STATE_AVX512},
    {"amx-bf16", 7, 0, EDX, 22, STATE_AMX},
    {"avx512fp16", 7, 0, EDX, 23, STATE_AVX512},
    {"amx-tile", 7, 0, EDX, 24, STATE_AMX},
    {"amx-int8", 7, 0, EDX, 25, STATE_AMX},
    {"avxvnni", 7, 1, EAX, 4, STATE_AVX},
    {"avx512bf16", 7, 1, EAX, 5, STATE_AVX512},
    {"amx-fp16", 7, 1, EAX, 21, STATE_AMX},
    {"avxifma", 7, 1, EAX, 23, STATE_AVX},
    {"avxvnniint8", 7, 1, EDX, 4, STATE_AVX},
    {"avxneconvert", 7, 1, EDX, 5, STATE_AVX},
    {"amx-complex", 7, 1, EDX, 8, STATE_AMX},
    {"avxvnniint16", 7, 1, EDX, 10, STATE_AVX},
    {"xsaveopt", 13, 1, EAX, 0, STATE_NONE},
    {"xsavec", 13, 1, EAX, 1, STATE_NONE},
    {"xsaves", 13, 1, EAX, 3, STATE_NONE},
    {"sahf", 0x80000001u, 0, ECX, 0, STATE_NONE},
    {"lzcnt", 0x80000001u, 0, ECX, 5, STATE_NONE},
    {"sse4a", 0x80000001u, 0, ECX, 6, STATE_NONE},
    {"prfchw", 0x80000001u, 0, ECX, 8, STATE_NONE},
    {"64bit", 0x80000001u, 0, EDX, 29, STATE_NONE},
};

static bool has_bit(const rt_feature *feature) {
  unsigned regs[4];
  if (!__get_cpuid_count(feature->leaf, feature->subleaf, &regs[EAX], &regs[EBX], &regs[ECX],
                         &regs[EDX]))
    return false;
  return regs[feature->reg] >> feature->bit & 1;
}

/* The register state that the operating system saves, 0 without XSAVE. */
static uint32_t get_saved_state(void) {
  unsigned a, b, c, d;
  const unsigned osxsave = 1u << 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave))
    return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/* Linux gives tile registers only to processes that ask. */
static bool request_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static const rt_feature *find_feature(const char *name) {
  for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); ++i)
    if (strcmp(table[i].name, name) == 0)
      return &table[i];
  return NULL;
}

typedef enum { FOUND, UNKNOWN, MISSING, NOT_ENABLED, REFUSED } rt_availability;

static rt_availability find_availability(const char *name, uint32_t saved) {
  const rt_feature *feature = find_feature(name);
  if (!feature)
    return UNKNOWN;
  if (!has_bit(feature))
    return MISSING;
  if ((feature->state & saved) != feature->state)
    return NOT_ENABLED;
  return feature->state == STATE_AMX && !request_tiles() ? REFUSED : FOUND;
}

/* What keeps the level from running here; FOUND: nothing. */
static rt_availability find_obstacle(const moec_level_desc *level, const char **name) {
  uint32_t saved = get_saved_state();
  for (uint32_t i = 0; i < level->num_features; ++i) {
    *name = level->features[i];
    rt_availability availability = find_availability(*name, saved);
    if (availability != FOUND)
      return availability;
  }
  return FOUND;
}

bool rt_has_features(const moec_level_desc *level) {
  const char *name;
  return find_obstacle(level, &name) == FOUND;
}

moec_status rt_check_features(const moec_level_desc *level, const char *which) {
  const char *name;
  switch (find_obstacle(level, &name)) {
  case FOUND:
    return MOEC_OK;
  case UNKNOWN:
    return rt_fail(MOEC_ERROR_CPU,
                   "this library%s was compiled for CPU feature '%s', which this "
                   "runtime cannot check",
                   which, name);
  case MISSING:
    return rt_fail(MOEC_ERROR_CPU,
                   "this CPU does not have '%s', which this library%s was "
                   "compiled for; compile the model again with --cpu for this "
                   "machine",
                   name, which);
  case NOT_ENABLED:
    return rt_fail(MOEC_ERROR_CPU,
                   "the operating system does not enable CPU feature '%s', "
                   "which this library%s was compiled for",
                   name, which);
  case REFUSED:
    break;
  }
  return rt_fail(MOEC_ERROR_CPU,
                 "the operating system refuses the tile registers of CPU "
                 "feature '%s', which this library%s was compiled for: %s",
                 name, which, strerror(errno));
}
