/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * A model for CUDA as generated code would have it, written by hand.
 *
 *   main:    x [T,8] -> y [T,8], through the workspace, in two launches with the weights [8]; on
 *            older devices in smaller blocks, with weights that begin at 1 MiB
 *   cluster: x [T] -> y [T], in one launch with clusters
 *   large:   x [T] -> y [T], in a grid that no device has
 *   shared:  x [T] -> y [T], with T bytes of shared memory
 *   checked: x [T] -> y [T], with a check that fails for 13 rows
 *   counted: x [T] -> y [T], with T counters
 *   maps:    x [T,8] -> y [T,8], with tensor maps of the weights as [2,4,8] and of x
 *
 * With FAKE_BOTH, main is there for the CPU, too: y = 2x + the weights.
 */
#include "moec/Runtime/model_abi.h"
#include "moec/Runtime/moec.h"

#define WIDTH 8
#define BLOCK 128
#define OLD_BEGIN (1 << 20)
#define WEIGHTS_BYTES ((40 << 20) + 32)

typedef struct {
  char *allocated, *aligned;
  int64_t offset, extents[];
} memref;

static int64_t rows_of(void *const *args) { return ((const memref *)args[0])->extents[0]; }
static void *data_of(void *const *args, int arg) { return ((const memref *)args[arg])->aligned; }

static void main_shapes(void *const *args, int64_t *dims) {
  dims[0] = rows_of(args);
  dims[1] = WIDTH;
}

static int64_t main_workspace(void *const *args, int32_t workers) {
  return (int64_t)sizeof(float) * WIDTH * workers * rows_of(args);
}

static void main_run(void *const *args, void *workspace, const void *weights, void *call) {
  void *x = data_of(args, 0), *y = data_of(args, 1);
  int64_t n = rows_of(args) * WIDTH, blocks = (n + BLOCK - 1) / BLOCK;
  float factor = 2.0f;
  moec_launch_desc scale = {0, 0, {blocks, 1, 1}, {BLOCK, 1, 1}, {0, 0, 0}, 0, 0};
  moec_launch(call, &scale, (void *[]){&x, &workspace, &n, &factor});
  moec_launch_desc add = {1, 100000, {1, blocks, 1}, {BLOCK, 2, 1}, {0, 0, 0}, 2, 0};
  moec_launch(call, &add, (void *[]){&workspace, &weights, &y, &n});
}

static void checked_run(void *const *args, void *workspace, const void *weights, void *call) {
  const char **place = moec_check_place(call);
  void *y = data_of(args, 1);
  int64_t n = rows_of(args);
  (void)workspace;
  (void)weights;
  moec_launch_desc launch = {2, 0, {1, 1, 1}, {BLOCK, 1, 1}, {0, 0, 0}, 0, 0};
  moec_launch(call, &launch, (void *[]){&place, &y, &n});
  /* What the kernel would do. */
  if (n == 13)
    *place = "13 is an unlucky number";
}

static void counted_run(void *const *args, void *workspace, const void *weights, void *call) {
  void *y = data_of(args, 1);
  int64_t n = rows_of(args);
  void *counters = moec_counters(call, 4 * n);
  (void)workspace;
  (void)weights;
  moec_launch_desc launch = {2, 0, {1, 1, 1}, {BLOCK, 1, 1}, {0, 0, 0}, 0, 0};
  moec_launch(call, &launch, (void *[]){&counters, &y, &n});
}

static void maps_run(void *const *args, void *workspace, const void *weights, void *call) {
  void *x = data_of(args, 0);
  int64_t n = rows_of(args);
  (void)workspace;
  moec_tensor_map_desc of_weights = {.number = 0,
                                     .type = 9,
                                     .swizzle = 3,
                                     .promotion = 3,
                                     .element_bytes = 2,
                                     .rank = 3,
                                     .data = weights,
                                     .sizes = {2, 4, 8},
                                     .strides = {64, 16, 1},
                                     .box = {1, 4, 8}};
  moec_tensor_map_desc of_x = {.number = 1,
                               .type = 7,
                               .fill = 1,
                               .element_bytes = 4,
                               .rank = 2,
                               .data = x,
                               .sizes = {n, WIDTH},
                               .strides = {WIDTH, 1},
                               /* More than 256 rows is too large a box. */
                               .box = {n > 1000 ? 1000 : 128, WIDTH}};
  void *arguments[] = {(void *)moec_tensor_map(call, &of_weights),
                       (void *)moec_tensor_map(call, &of_x), &n};
  moec_launch_desc launch = {3, 0, {132, 1, 1}, {BLOCK, 1, 1}, {0, 0, 0}, 0, 0};
  moec_launch(call, &launch, arguments);
}

static void old_run(void *const *args, void *workspace, const void *weights, void *call) {
  const void *own = (const char *)weights + OLD_BEGIN;
  void *y = data_of(args, 1);
  int64_t n = rows_of(args) * WIDTH;
  moec_launch_desc add = {0, 0, {1, 1, 1}, {64, 1, 1}, {0, 0, 0}, 0, 0};
  moec_launch(call, &add, (void *[]){&workspace, &own, &y, &n});
}

#ifdef FAKE_BOTH
static void cpu_run(void *const *args, void *workspace, const void *weights, void *call) {
  const float *x = data_of(args, 0), *w = weights;
  float *y = data_of(args, 1);
  (void)workspace;
  (void)call;
  for (int64_t i = 0; i < rows_of(args) * WIDTH; ++i)
    y[i] = 2.0f * x[i] + w[i % WIDTH];
}
#endif

static void row_shapes(void *const *args, int64_t *dims) { dims[0] = rows_of(args); }

static int64_t no_workspace(void *const *args, int32_t workers) {
  (void)args;
  (void)workers;
  return 0;
}

static void launch_rows(void *const *args, void *call, int64_t blocks, int64_t cluster,
                        uint32_t shared_bytes) {
  void *x = data_of(args, 0), *y = data_of(args, 1);
  int64_t n = rows_of(args);
  moec_launch_desc launch = {2, shared_bytes, {blocks, 1, 1}, {BLOCK, 1, 1}, {cluster, 1, 1}, 0, 0};
  moec_launch(call, &launch, (void *[]){&x, &y, &n});
}

static void cluster_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  launch_rows(args, call, 2 * rows_of(args), 2, 0);
}

static void large_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  launch_rows(args, call, (int64_t)1 << 31, 0, 0);
}

static void shared_run(void *const *args, void *workspace, const void *weights, void *call) {
  (void)workspace;
  (void)weights;
  launch_rows(args, call, 1, 0, (uint32_t)rows_of(args));
}

static const int64_t dims_t8[] = {-1, WIDTH};
static const int64_t dims_t[] = {-1};
static const moec_tensor_desc main_in[] = {{"x", kDLFloat, 32, 1, 2, dims_t8}};
static const moec_tensor_desc main_out[] = {{"y", kDLFloat, 32, 1, 2, dims_t8}};
static const moec_tensor_desc row_in[] = {{"x", kDLFloat, 32, 1, 1, dims_t}};
static const moec_tensor_desc row_out[] = {{"y", kDLFloat, 32, 1, 1, dims_t}};
static const char *const symbols[] = {"T"};

static const moec_entry_desc entries[] = {
    {"main", 1, 1, 1, 0, main_in, main_out, symbols, main_shapes, main_workspace, main_run, NULL},
    {"cluster", 1, 1, 1, 0, row_in, row_out, symbols, row_shapes, no_workspace, cluster_run, NULL},
    {"large", 1, 1, 1, 0, row_in, row_out, symbols, row_shapes, no_workspace, large_run, NULL},
    {"shared", 1, 1, 1, 0, row_in, row_out, symbols, row_shapes, no_workspace, shared_run, NULL},
    {"checked", 1, 1, 1, 0, row_in, row_out, symbols, row_shapes, no_workspace, checked_run, NULL},
    {"counted", 1, 1, 1, 0, row_in, row_out, symbols, row_shapes, no_workspace, counted_run, NULL},
    {"maps", 1, 1, 1, 0, main_in, main_out, symbols, main_shapes, no_workspace, maps_run, NULL},
};

#define KERNELS                                                                                    \
  ".visible .entry scale(\n.param .u64 a, .param .u64 b, .param .u64 n,\n.param .f32 f)\n{ret;}\n" \
  ".visible .entry add(.param .u64 a,.param .u64 b,.param .u64 c,.param .u64 n) {ret;}\n"          \
  ".visible .entry moec_nothing() {ret;}\n"                                                        \
  ".visible .entry rows(.param .u64 a, .param .u64 b, .param .align 8 .b8 n[8]) {ret;}\n"          \
  ".visible .entry tiles(.param .align 64 .b8 a[128], .param .align 64 .b8 b[128],"                \
  ".param .u64 n) {ret;}\n"

static const char ptx_80[] = ".version 8.0\n.target sm_80\n" KERNELS;
static const char ptx_90a[] = ".version 8.0\n.target sm_90a\n" KERNELS;
static const char cubin_75[] = ".version 8.0\n.target sm_75\n" KERNELS;
static const char cubin_100[] = "not for this driver";

static const moec_image_desc images[] = {
    {90, 1, MOEC_IMAGE_PTX, 0, ptx_90a, sizeof(ptx_90a)},
    {120, 0, MOEC_IMAGE_CUBIN, 0, cubin_100, sizeof(cubin_100)},
};
static const char *const kernels[] = {"scale", "add", "rows", "tiles"};
static const moec_cuda_desc cuda = {&moec_cuda_device, 2, 4, images, kernels, 0,
                                    WEIGHTS_BYTES,     2, 0};
static const moec_level_desc level = {
    "sm_90a", "{\"name\":\"fake\",\"level\":\"sm_90a\"}", 7, 0, entries, NULL, &cuda};

static const moec_entry_desc old_entries[] = {
    {"main", 1, 1, 1, 0, main_in, main_out, symbols, main_shapes, main_workspace, old_run, NULL},
};
static const moec_image_desc old_images[] = {
    {75, 0, MOEC_IMAGE_CUBIN, 0, cubin_75, sizeof(cubin_75)},
    {80, 0, MOEC_IMAGE_PTX, 0, ptx_80, sizeof(ptx_80)},
};
static const char *const old_kernels[] = {"add"};
static const moec_cuda_desc old_cuda = {&moec_cuda_device, 2,  1, old_images, old_kernels,
                                        OLD_BEGIN,         64, 0, 0};
static const moec_level_desc old_level = {
    "sm_75", "{\"name\":\"fake\",\"level\":\"sm_75\"}", 1, 0, old_entries, NULL, &old_cuda};

#ifdef FAKE_BOTH
static const moec_entry_desc cpu_entries[] = {
    {"main", 1, 1, 1, 0, main_in, main_out, symbols, main_shapes, no_workspace, cpu_run, NULL},
};
static const moec_level_desc cpu_level = {
    "x86-64", "{\"name\":\"fake\",\"level\":\"x86-64\"}", 1, 0, cpu_entries, NULL, NULL};
static const moec_level_desc *const levels[] = {&cpu_level, &old_level, &level};
#else
static const moec_level_desc *const levels[] = {&old_level, &level};
#endif

__attribute__((visibility("hidden")))
const moec_model_desc moec_model_description = {MOEC_MODEL_ABI_VERSION,
                                                sizeof(levels) / sizeof(levels[0]),
                                                levels,
                                                "fake",
                                                4096 + WEIGHTS_BYTES,
                                                4096,
                                                "0123456789abcdef"};

__attribute__((visibility("hidden"))) extern const moec_library moec_runtime_library;
const moec_library *fake_moec(void);
const moec_library *fake_moec(void) { return &moec_runtime_library; }
