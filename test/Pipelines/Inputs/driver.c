// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Calls the entry of execute.mlir with descriptors on the stack and a runtime of
// three workers, and compares with the formulas in double.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void *allocated, *aligned;
  int64_t offset, sizes[3], strides[3];
} Memref3;
typedef struct {
  void *allocated, *aligned;
  int64_t offset, sizes[2], strides[2];
} Memref2;
typedef struct {
  void *allocated, *aligned;
  int64_t offset, sizes[1], strides[1];
} Memref1;

void moec_entry_main_run(void *const *args, void *workspace, const void *weights, void *call);
int64_t moec_entry_main_workspace(void *const *args, int32_t workers);
void moec_entry_main_shapes(void *const *args, int64_t *dims);

static int failedChecks, marks;

void moec_parallel_for(void *call, int64_t n, void (*body)(void *, int64_t, int32_t), void *ctx) {
  for (int64_t i = n - 1; i >= 0; --i)
    body(ctx, i, i % 3);
}
int32_t moec_num_workers(void *call) { return 3; }
void moec_check(void *call, bool ok, const char *message) {
  failedChecks += !ok && strcmp(message, "too many rows") == 0;
}
void moec_profile_mark(void *call, int32_t region) { marks += region; }

static void require(bool condition, const char *what, int64_t rows) {
  if (condition)
    return;
  fprintf(stderr, "%s is wrong for %lld rows\n", what, (long long)rows);
  exit(1);
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-5 * (1 + fabs(b)); }

static void test(int64_t T, const char *weights) {
  float *x = malloc(T * 32 + 1), *y = malloc(T * 16 + 1), *z = malloc(T * 32 + 1);
  float *both = malloc(T * 64 + 1);
  int64_t *n = malloc(T * 8 + 1);
  for (int64_t i = 0; i < 8 * T; ++i)
    x[i] = (float)((i * 7919) % 101) / 101 - 0.5f;
  Memref2 mx = {x, x, 0, {T, 8}, {8, 1}}, my = {y, y, 0, {T, 4}, {4, 1}};
  Memref3 mz = {z, z, 0, {T, 2, 4}, {8, 4, 1}};
  Memref2 mboth = {both, both, 0, {2 * T, 8}, {8, 1}};
  Memref1 mn = {n, n, 0, {T}, {1}};
  void *args[] = {&mx, &my, &mz, &mboth, &mn};

  int64_t dims[8];
  moec_entry_main_shapes(args, dims);
  int64_t expected[8] = {T, 4, T, 2, 4, 2 * T, 8, T};
  require(memcmp(dims, expected, sizeof dims) == 0, "shapes", T);

  int64_t bytes = moec_entry_main_workspace(args, 3);
  require(bytes >= 96 && bytes % 64 == 0, "workspace", T);
  char *workspace = aligned_alloc(64, bytes + 64);
  memset(workspace, 0x7f, bytes + 64);
  memset(y, 0x5a, T * 16);
  moec_entry_main_run(args, workspace, weights, NULL);
  for (int64_t i = 0; i < 64; ++i)
    require(workspace[bytes + i] == 0x7f, "end of the workspace", T);

  // A check of sizes that fails comes before everything else.
  if (failedChecks) {
    for (int64_t i = 0; i < T * 16; ++i)
      require(((char *)y)[i] == 0x5a, "y after a failed check", T);
    free(x), free(y), free(z), free(both), free(n), free(workspace);
    return;
  }

  for (int64_t i = 0; i < T; ++i) {
    for (int64_t c = 0; c < 4; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < 8; ++k)
        sum += (double)x[8 * i + k] * (k - c) / 8;
      require(near(y[4 * i + c], exp(sum)), "y", T);
    }
    for (int64_t j = 0; j < 8; ++j) {
      require(near(z[8 * i + j], (double)x[8 * i + j] * (240 + 2 * j)), "z", T);
      require(both[8 * i + j] == x[8 * i + j], "both", T);
      require(both[8 * (T + i) + j] == x[8 * i + j], "both", T);
    }
    require(n[i] == 2 * T, "n", T);
  }
  free(x), free(y), free(z), free(both), free(n), free(workspace);
}

int main(void) {
  char *weights = aligned_alloc(64, 1024);
  for (int k = 0; k < 8; ++k)
    for (int n = 0; n < 4; ++n)
      ((float *)(weights + 64))[4 * k + n] = (float)(k - n) / 8;
  // Codes above 127 show the difference between signed and unsigned bytes.
  for (int j = 0; j < 8; ++j) {
    weights[256 + j] = (char)j;
    weights[512 + j] = (char)(240 + j);
  }
  test(0, weights);
  test(1, weights);
  test(7, weights);
  test(64, weights);
  require(failedChecks == 0 && marks == 4, "runtime", 64);
  test(100, weights);
  require(failedChecks == 1, "check", 100);
  free(weights);
  return 0;
}
