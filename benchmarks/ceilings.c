/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What this machine can do at most, as the layers use it. A shared library, so that the
 * process that times the layers measures this between them; build it with
 *
 *     clang -O3 -march=native -ffp-contract=fast -pthread -shared -fPIC
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#define ROWS 12 /* 24 accumulators of 32 registers */
#define REGISTER "v"
#else
#define VECTOR_BYTES 32
#define ROWS 6 /* 12 accumulators of 16 registers */
#define REGISTER "x"
#endif
#define LANES (VECTOR_BYTES / 4)
#define COLUMNS 2 /* vectors of a panel row */
#define ACCUMULATORS (ROWS * COLUMNS)
#define READ_BYTES ((size_t)512 << 20)
#define HUGE_PAGE ((size_t)2 << 20)
#define MULTIPLY_ADDS 20000000L
#define DEPTH 256         /* columns of the rows that stay in the first-level cache */
#define PANEL_DEPTH 3072L /* panel rows, which do not: 384 KiB with AVX-512 */
#define PANEL_PASSES 128L
#define MAX_REPETITIONS 64
#define MAX_THREADS 256

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));

/* Makes the compiler compute a value that nothing else uses. */
#define KEEP(value) __asm__ volatile("" : : REGISTER(value))

static pthread_barrier_t barrier;
static int num_threads, num_repetitions;
static const char *read_from; /* READ_BYTES, shared by the threads */
static float *scratch[MAX_THREADS];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Different values everywhere, so that no layer below can merge pages. */
static void fill(char *buffer, size_t bytes) {
  uint64_t *p = (uint64_t *)buffer, state = 88172645463325252u;
  for (size_t i = 0; i < bytes / 8; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    p[i] = state;
  }
}

/* Each thread reads its part of the memory, as tasks of a layer do. */
static void read_memory(int thread) {
  size_t part = READ_BYTES / (size_t)num_threads / 256 * 256;
  const words *p = (const words *)(read_from + (size_t)thread * part);
  const words *end = p + part / sizeof(words);
  words a = {0}, b = {0}, c = {0}, d = {0};
  for (; p < end; p += 4) {
    a |= p[0];
    b |= p[1];
    c |= p[2];
    d |= p[3];
  }
  a |= b | c | d;
  KEEP(a);
}

static void multiply_add(int thread) {
  floats sum[ACCUMULATORS], factor, term;
  for (int j = 0; j < LANES; ++j) {
    factor[j] = 0.5f;
    term[j] = (float)(thread + j);
  }
  for (int i = 0; i < ACCUMULATORS; ++i)
    sum[i] = term * (float)i;
  for (long n = 0; n < MULTIPLY_ADDS / ACCUMULATORS; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < ACCUMULATORS; ++i)
      sum[i] = sum[i] * factor + term;
      /* The values are the compiler's to keep in registers, but not to foresee. */
#pragma GCC unroll 32
    for (int i = 0; i < ACCUMULATORS; ++i)
      __asm__ volatile("" : "+" REGISTER(sum[i]));
  }
}

/* ROWS rows by a panel of COLUMNS vectors. */
static void multiply_add_l2(int thread) {
  const float *rows = scratch[thread];
  const floats *panel = (const floats *)(rows + ROWS * DEPTH);
  for (long pass = 0; pass < PANEL_PASSES; ++pass) {
    floats sum[ACCUMULATORS] = {{0}};
    for (long k = 0; k < PANEL_DEPTH; ++k) {
      floats w0 = panel[2 * k], w1 = panel[2 * k + 1];
      const float *a = rows + k % DEPTH * ROWS;
#pragma GCC unroll 32
      for (int r = 0; r < ROWS; ++r) {
        sum[2 * r] += w0 * a[r];
        sum[2 * r + 1] += w1 * a[r];
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < ACCUMULATORS; ++i)
      KEEP(sum[i]);
  }
}

typedef struct {
  int thread;
  void (*body)(int);
  double start[MAX_REPETITIONS], end[MAX_REPETITIONS];
} job;

static void *work(void *argument) {
  job *mine = argument;
  for (int repetition = 0; repetition < num_repetitions; ++repetition) {
    pthread_barrier_wait(&barrier);
    mine->start[repetition] = now();
    mine->body(mine->thread);
    mine->end[repetition] = now();
  }
  return NULL;
}

/* Shortest time, from the first start to the last end, of all threads running
 * body together. */
static double best_seconds(void (*body)(int)) {
  static pthread_t handles[MAX_THREADS];
  static job jobs[MAX_THREADS];
  double best = 1e30;
  pthread_barrier_init(&barrier, NULL, (unsigned)num_threads);
  for (int i = 0; i < num_threads; ++i) {
    jobs[i].thread = i;
    jobs[i].body = body;
    pthread_create(&handles[i], NULL, work, &jobs[i]);
  }
  for (int i = 0; i < num_threads; ++i)
    pthread_join(handles[i], NULL);
  pthread_barrier_destroy(&barrier);
  for (int repetition = 0; repetition < num_repetitions; ++repetition) {
    double start = jobs[0].start[repetition], end = jobs[0].end[repetition];
    for (int i = 1; i < num_threads; ++i) {
      if (jobs[i].start[repetition] < start)
        start = jobs[i].start[repetition];
      if (jobs[i].end[repetition] > end)
        end = jobs[i].end[repetition];
    }
    if (end - start < best)
      best = end - start;
  }
  return best;
}

static void use(int threads, int repetitions) {
  num_threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
  num_repetitions = repetitions > MAX_REPETITIONS ? MAX_REPETITIONS : repetitions;
}

/* READ_BYTES in huge pages where the system has them; NULL without memory. */
const void *ceilings_make_huge(void) {
  char *memory = aligned_alloc(HUGE_PAGE, READ_BYTES);
  if (!memory)
    return NULL;
  (void)madvise(memory, READ_BYTES, MADV_HUGEPAGE);
  fill(memory, READ_BYTES);
  return memory;
}

/* The same bytes in a file at `path`, mapped as a weights file is; NULL with errno set. */
const void *ceilings_make_mapped(const char *path, const char *bytes) {
  int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  for (size_t done = 0; file >= 0 && done < READ_BYTES;) {
    ssize_t count = write(file, bytes + done, READ_BYTES - done);
    if (count <= 0)
      return NULL;
    done += (size_t)count;
  }
  void *memory = mmap(NULL, READ_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
  if (file >= 0)
    close(file);
  return memory == MAP_FAILED ? NULL : memory;
}

/* GB/s of all threads together reading that memory once: the best of some repetitions. */
double ceilings_read(const void *memory, int threads, int repetitions) {
  use(threads, repetitions);
  read_from = memory;
  size_t bytes = READ_BYTES / (size_t)num_threads / 256 * 256 * (size_t)num_threads;
  return (double)bytes / best_seconds(read_memory) / 1e9;
}

static double gflops(double multiply_adds, void (*body)(int)) {
  return (double)num_threads * multiply_adds * LANES * 2 / best_seconds(body) / 1e9;
}

/* GFLOP/s of float32 multiply-adds whose operands stay in registers. */
double ceilings_fma(int threads, int repetitions) {
  use(threads, repetitions);
  return gflops((double)(MULTIPLY_ADDS / ACCUMULATORS) * ACCUMULATORS, multiply_add);
}

/* The same when one operand comes from the second-level cache; 0 without memory. */
double ceilings_fma_l2(int threads, int repetitions) {
  use(threads, repetitions);
  size_t bytes = sizeof(float) * ROWS * DEPTH + sizeof(floats) * COLUMNS * PANEL_DEPTH;
  for (int t = 0; t < num_threads; ++t) {
    if (!scratch[t])
      scratch[t] = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!scratch[t])
      return 0;
    memset(scratch[t], 0, bytes);
  }
  return gflops((double)PANEL_PASSES * PANEL_DEPTH * ACCUMULATORS, multiply_add_l2);
}
