/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * A model as generated code would have it, written by hand. FAKE_NAME is its
 * name, FAKE_FACTOR the factor of its first entry.
 *
 *   main:  x [T,8], b [T] -> y = FAKE_FACTOR * x + w + b  [T,8], count = T []
 *          (w [8] is the weights file; a b of -1 fails a check)
 *   iota:  n [] -> y = 0 ... n-1  [n], through temporaries
 *   copy:  a bool [R,C], b bfloat16 [R,C], c int64 [R,C] -> the same
 *   tasks: x [T] -> state, worker of each task  [T]
 */
#include "moec/Runtime/model_abi.h"
#include "moec/Runtime/moec.h"
#include <string.h>
#include <xmmintrin.h>

#ifndef FAKE_NAME
#define FAKE_NAME fake
#endif
#ifndef FAKE_FACTOR
#define FAKE_FACTOR 2.0f
#endif
#ifndef FAKE_FEATURE
#define FAKE_FEATURE "sse2"
#endif
#ifndef FAKE_ABI_VERSION
#define FAKE_ABI_VERSION MOEC_MODEL_ABI_VERSION
#endif
#ifndef FAKE_WEIGHTS_SIZE
#define FAKE_WEIGHTS_SIZE (4096 + 32)
#endif

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define WIDTH 8

typedef struct {
  char *allocated, *aligned;
  int64_t offset, extents[];
} memref;

static int64_t size_of(void *const *args, int arg, int dim) {
  return ((const memref *)args[arg])->extents[dim];
}

static void *data_of(void *const *args, int arg) { return ((const memref *)args[arg])->aligned; }

/* main */

typedef struct {
  const float *x, *b, *w;
  float *y, *scratch;
  void *call;
} main_loop;

static void main_task(void *ctx, int64_t task, int32_t worker) {
  const main_loop *loop = ctx;
  float *scratch = loop->scratch + worker * WIDTH;
  moec_check(loop->call, loop->b[task] != -1.0f, "b is -1");
  for (int i = 0; i < WIDTH; ++i)
    scratch[i] = FAKE_FACTOR * loop->x[task * WIDTH + i] + loop->w[i];
  for (int i = 0; i < WIDTH; ++i)
    loop->y[task * WIDTH + i] = scratch[i] + loop->b[task];
}

static void main_shapes(void *const *args, int64_t *dims) {
  dims[0] = size_of(args, 0, 0);
  dims[1] = WIDTH;
}

static int64_t main_workspace(void *const *args, int32_t workers) {
  /* Depends on the input, so that growth can be seen. */
  return (int64_t)sizeof(float) * WIDTH * workers + size_of(args, 0, 0);
}

static void main_run(void *const *args, void *workspace, const void *weights, void *call) {
  moec_profile_mark(call, 0);
  main_loop loop = {data_of(args, 0), data_of(args, 1), weights, data_of(args, 2), workspace, call};
  moec_parallel_for(call, size_of(args, 0, 0), main_task, &loop);
  moec_profile_mark(call, 2);
  *(int64_t *)data_of(args, 3) = size_of(args, 0, 0);
}

/* iota */

static void iota_shapes(void *const *args, int64_t *dims) {
  dims[0] = *(const int64_t *)data_of(args, 0);
}

static int64_t no_workspace(void *const *args, int32_t workers) {
  (void)args;
  (void)workers;
  return 0;
}

static void iota_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  int64_t n = size_of(args, 1, 0), bytes = n * (int64_t)sizeof(int64_t);
  moec_release(call, moec_allocate(call, bytes));
  int64_t *even = moec_allocate(call, bytes), *odd = moec_allocate(call, bytes);
  for (int64_t i = 0; i < n; ++i)
    (i % 2 ? odd : even)[i] = i;
  moec_release(call, even);
  for (int64_t i = 0; i < n; ++i)
    ((int64_t *)data_of(args, 1))[i] = (i % 2 ? odd : even)[i];
}

/* copy */

static void copy_shapes(void *const *args, int64_t *dims) {
  for (int i = 0; i < 3; ++i) {
    dims[2 * i] = size_of(args, 0, 0);
    dims[2 * i + 1] = size_of(args, 0, 1);
  }
}

static void copy_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  (void)call;
  static const size_t bytes[] = {1, 2, 8};
  for (int i = 0; i < 3; ++i) {
    size_t n = (size_t)(size_of(args, i, 0) * size_of(args, i, 1));
    if (n)
      memcpy(data_of(args, 3 + i), data_of(args, i), n * bytes[i]);
  }
}

/* tasks */

static void tasks_shapes(void *const *args, int64_t *dims) {
  dims[0] = dims[1] = size_of(args, 0, 0);
}

static void tasks_task(void *ctx, int64_t task, int32_t worker) {
  void *const *args = ctx;
  ((int64_t *)data_of(args, 1))[task] = _mm_getcsr() & 0xffc0;
  ((int64_t *)data_of(args, 2))[task] = worker;
}

static void tasks_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  moec_parallel_for(call, size_of(args, 0, 0), tasks_task, (void *)args);
}

/* The description */

static const int64_t dims_t8[] = {-1, WIDTH};
static const int64_t dims_t[] = {-1};
static const int64_t dims_rc[] = {-1, -2};
static const int64_t dims_computed[] = {MOEC_DIM_COMPUTED};

static const moec_tensor_desc main_in[] = {{"x", kDLFloat, 32, 1, 2, dims_t8},
                                           {"b", kDLFloat, 32, 1, 1, dims_t}};
static const moec_tensor_desc main_out[] = {{"y", kDLFloat, 32, 1, 2, dims_t8},
                                            {"count", kDLInt, 64, 1, 0, NULL}};
static const moec_tensor_desc iota_in[] = {{"n", kDLInt, 64, 1, 0, NULL}};
static const moec_tensor_desc iota_out[] = {{"y", kDLInt, 64, 1, 1, dims_computed}};
static const moec_tensor_desc copy_in[] = {{"a", kDLBool, 8, 1, 2, dims_rc},
                                           {"b", kDLBfloat, 16, 1, 2, dims_rc},
                                           {"c", kDLInt, 64, 1, 2, dims_rc}};
static const moec_tensor_desc copy_out[] = {{"oa", kDLBool, 8, 1, 2, dims_rc},
                                            {"ob", kDLBfloat, 16, 1, 2, dims_rc},
                                            {"oc", kDLInt, 64, 1, 2, dims_rc}};
static const moec_tensor_desc tasks_in[] = {{"x", kDLFloat, 32, 1, 1, dims_t}};
static const moec_tensor_desc tasks_out[] = {{"state", kDLInt, 64, 1, 1, dims_t},
                                             {"worker", kDLInt, 64, 1, 1, dims_t}};

static const char *const symbols_t[] = {"T"};
static const char *const symbols_rc[] = {"R", "C"};

static const moec_entry_desc entries[] = {
    {"main", 2, 2, 1, 0, main_in, main_out, symbols_t, main_shapes, main_workspace, main_run, NULL},
    {"iota", 1, 1, 0, 0, iota_in, iota_out, NULL, iota_shapes, no_workspace, iota_run, NULL},
    {"copy", 3, 3, 2, 0, copy_in, copy_out, symbols_rc, copy_shapes, no_workspace, copy_run, NULL},
    {"tasks", 1, 2, 1, 0, tasks_in, tasks_out, symbols_t, tasks_shapes, no_workspace, tasks_run,
     NULL},
};

static const char *const features[] = {"sse", FAKE_FEATURE};

#define INFO                                                                                       \
  "{\"name\":\"" TEXT(                                                                             \
      FAKE_NAME) "\",\"entries\":["                                                                \
                 "{\"name\":\"main\",\"inputs\":["                                                 \
                 "{\"name\":\"x\",\"dtype\":\"float32\",\"dims\":[\"T\",8]},"                      \
                 "{\"name\":\"b\",\"dtype\":\"float32\",\"dims\":[\"T\"]}],"                       \
                 "\"outputs\":[{\"name\":\"y\",\"dtype\":\"float32\",\"dims\":[\"T\",8]},"         \
                 "{\"name\":\"count\",\"dtype\":\"int64\",\"dims\":[]}],"                          \
                 "\"symbols\":[\"T\"]},"                                                           \
                 "{\"name\":\"iota\",\"inputs\":["                                                 \
                 "{\"name\":\"n\",\"dtype\":\"int64\",\"dims\":[]}],"                              \
                 "\"outputs\":[{\"name\":\"y\",\"dtype\":\"int64\",\"dims\":[\"n\"]}],"            \
                 "\"symbols\":[]}],"                                                               \
                 "\"regions\":[{\"name\":\"scale\",\"op\":\"Mul\"},"                               \
                 "{\"name\":\"unused\",\"op\":\"Add\"},{\"name\":\"count\",\"op\":\"Size\"}]}"

#define COUNT(array) (sizeof(array) / sizeof(array[0]))

static const moec_level_desc level = {"fast",   INFO, COUNT(entries), COUNT(features), entries,
                                      features, NULL};

#ifdef FAKE_LEVELS
/* One that runs everywhere, and before it one without entries, to be told apart. */
static const char *const least_features[] = {"sse"};
static const moec_level_desc empty_level = {"empty", "{\"level\":\"empty\"}", 0, 1,
                                            NULL,    least_features};
static const moec_level_desc least_level = {
    "least", "{\"level\":\"least\"}", COUNT(entries), 1, entries, least_features, NULL};
static const moec_level_desc *const levels[] = {&empty_level, &least_level, &level};
#else
static const moec_level_desc *const levels[] = {&level};
#endif

__attribute__((visibility("hidden"))) const moec_model_desc moec_model_description = {
    FAKE_ABI_VERSION,  COUNT(levels), levels, TEXT(FAKE_NAME), FAKE_WEIGHTS_SIZE, 4096,
    "0123456789abcdef"};

/* What the compiler emits into each library. */

__attribute__((visibility("hidden"))) extern const moec_library moec_runtime_library;

__attribute__((visibility("default"))) const moec_library *JOIN(FAKE_NAME, _moec)(void);
const moec_library *JOIN(FAKE_NAME, _moec)(void) { return &moec_runtime_library; }

#ifdef FAKE_SHARED
__attribute__((visibility("default"))) const moec_library *
moec_library_accessor(void) __asm__(MOEC_LIBRARY_SYMBOL);
const moec_library *moec_library_accessor(void) { return &moec_runtime_library; }
#endif
