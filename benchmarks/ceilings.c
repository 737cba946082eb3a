/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What this machine can do at most, as the layers use it:
 *
 *     ceilings THREADS
 *
 * prints two numbers: GB/s of reading a buffer much larger than any cache, and
 * GFLOP/s of float32 multiply-adds whose operands stay in registers. Build with
 * -O3 -march=native -ffp-contract=fast -pthread.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#define ACCUMULATORS 24 /* of 32 registers */
#define REGISTER "+v"
#else
#define VECTOR_BYTES 32
#define ACCUMULATORS 12 /* of 16 registers */
#define REGISTER "+x"
#endif
#define LANES (VECTOR_BYTES / 4)
#define BYTES_PER_THREAD ((size_t)1 << 30)
#define MULTIPLY_ADDS 100000000L
#define REPETITIONS 5
#define MAX_THREADS 256

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));

static pthread_barrier_t barrier;
static char **buffers;
static double sink; /* keeps results alive */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Different values everywhere, so that no layer below can merge pages. */
static void fill(char *buffer) {
  uint64_t *p = (uint64_t *)buffer, state = 88172645463325252u;
  for (size_t i = 0; i < BYTES_PER_THREAD / 8; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    p[i] = state;
  }
}

static void read_buffer(int thread) {
  const words *p = (const words *)buffers[thread];
  const words *end = p + BYTES_PER_THREAD / sizeof(words);
  words a = {0}, b = {0}, c = {0}, d = {0};
  for (; p < end; p += 4) {
    __builtin_prefetch((const char *)p + 4096);
    __builtin_prefetch((const char *)p + 4096 + 64);
    a |= p[0];
    b |= p[1];
    c |= p[2];
    d |= p[3];
  }
  a |= b | c | d;
  for (size_t i = 0; i < sizeof(words) / 8; ++i)
    if (a[i] == 12345)
      sink = 1;
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
      __asm__ volatile("" : REGISTER(sum[i]));
  }
  for (int i = 1; i < ACCUMULATORS; ++i)
    sum[0] += sum[i];
  for (int j = 0; j < LANES; ++j)
    if (sum[0][j] == 12345.0f)
      sink = 1;
}

typedef struct {
  int thread;
  void (*body)(int);
  double start[REPETITIONS], end[REPETITIONS];
} job;

static void *work(void *argument) {
  job *mine = argument;
  for (int repetition = 0; repetition < REPETITIONS; ++repetition) {
    pthread_barrier_wait(&barrier);
    mine->start[repetition] = now();
    mine->body(mine->thread);
    mine->end[repetition] = now();
  }
  return NULL;
}

/* Shortest time, from the first start to the last end, of all threads running
 * body together. */
static double best_seconds(int threads, void (*body)(int)) {
  static pthread_t handles[MAX_THREADS];
  static job jobs[MAX_THREADS];
  double best = 1e30;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (int i = 0; i < threads; ++i) {
    jobs[i].thread = i;
    jobs[i].body = body;
    pthread_create(&handles[i], NULL, work, &jobs[i]);
  }
  for (int i = 0; i < threads; ++i)
    pthread_join(handles[i], NULL);
  for (int repetition = 0; repetition < REPETITIONS; ++repetition) {
    double start = jobs[0].start[repetition], end = jobs[0].end[repetition];
    for (int i = 1; i < threads; ++i) {
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

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > MAX_THREADS) {
    fprintf(stderr, "usage: ceilings THREADS (1 to 256)\n");
    return 2;
  }
  buffers = malloc((size_t)threads * sizeof *buffers);
  for (int i = 0; i < threads; ++i) {
    buffers[i] = aligned_alloc(1 << 21, BYTES_PER_THREAD);
    if (!buffers[i]) {
      fprintf(stderr, "ceilings: out of memory\n");
      return 1;
    }
    fill(buffers[i]);
  }
  double bytes = (double)threads * (double)BYTES_PER_THREAD;
  double read = bytes / best_seconds(threads, read_buffer) / 1e9;
  double operations =
      (double)threads * (double)(MULTIPLY_ADDS / ACCUMULATORS) * ACCUMULATORS * LANES * 2;
  double peak = operations / best_seconds(threads, multiply_add) / 1e9;
  printf("%.2f %.1f\n", read, peak);
  return 0;
}
