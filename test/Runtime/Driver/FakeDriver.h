/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * A stand-in for libcuda.so.1 that records what it is asked for. Device memory is memory of the
 * process that only copies can read and write, kernels do not run. What the tests of the runtime control goes through the functions
 * below; other programs are tested through environment variables:
 *
 *   FAKE_CUDA_DEVICES=1  FAKE_CUDA_VERSION=12040  FAKE_CUDA_CAPABILITY=90
 *   FAKE_CUDA_FAIL=cuMemAlloc_v2:2:700   the second call of that function fails with that error
 *   FAKE_CUDA_LOG=FILE                   what is recorded is written there too
 *
 * A line of the record is a function without its version, what it was given and, after "->",
 * what it made. Memory is m1, m2, ... (pinned: h1, ...), with an offset: m1+16; streams are s1,
 * ..., the default stream 0; arguments of kernels are read as their PTX declares them. While a
 * stream is captured its launches make the nodes n1, n2, ... of graphs. Tensor maps are t1, t2,
 * ..., their dimensions in the driver's order, the fastest first.
 */
#ifndef MOEC_TEST_RUNTIME_DRIVER_FAKEDRIVER_H
#define MOEC_TEST_RUNTIME_DRIVER_FAKEDRIVER_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  /* Forgets the record and what was set; one device of sm_90. */
  void (*reset)(void);
  void (*set_devices)(int count);
  void (*set_capability)(int capability);
  void (*set_version)(int version);
  /* The n-th call from here on (1: the next) of that function, or of any that can fail if it is
   * NULL, fails with this CUresult. n = 0: none does. */
  void (*fail)(const char *function, int n, int error);
  /* Did it? */
  int (*has_failed)(void);
  /* Is a stream that is not destroyed being captured? */
  void (*set_capturing)(int capturing);
  /* Memory of the program gets a name in the record. */
  void (*name_memory)(const void *memory, size_t bytes, const char *name);
  /* The lines since the last reset or clear. */
  const char *(*get_log)(void);
  void (*clear_log)(void);
  /* Allocations, modules, streams, events, retained and pushed contexts that there are. */
  int (*count_live)(void);
} fake_driver;

/* const fake_driver *fake_driver_get(void) of the stand-in. */
typedef const fake_driver *(*fake_driver_fn)(void);

#ifdef __cplusplus
}
#endif

#endif /* MOEC_TEST_RUNTIME_DRIVER_FAKEDRIVER_H */
