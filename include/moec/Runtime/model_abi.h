/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What generated code and the runtime know of each other. Both are linked into
 * one library, with hidden visibility on both sides. Not for users.
 */
#ifndef MOEC_RUNTIME_MODEL_ABI_H
#define MOEC_RUNTIME_MODEL_ABI_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* abi_version of moec_model_desc. */
#define MOEC_MODEL_ABI_VERSION 3u

/* A dimension in moec_tensor_desc that only `shapes` knows. */
#define MOEC_DIM_COMPUTED INT64_MIN

/* A tensor of an entry's signature. Elements are described as in DLPack; bool
 * is kDLBool with 8 bits. */
typedef struct {
  const char *name;
  uint8_t code, bits;
  uint16_t lanes;
  int32_t rank;
  /* rank sizes: >= 0 static; < 0: symbol number -1-dims[i] of the entry;
   * MOEC_DIM_COMPUTED for a size of an output that is no plain symbol. */
  const int64_t *dims;
} moec_tensor_desc;

/* An entry. Tensors reach generated code as descriptors,
 *   { void *allocated, *aligned; int64_t offset, sizes[rank], strides[rank]; }
 * (MLIR's memrefs), row-major without gaps and aligned to their element size; an output that
 * extends an input, and that input, may have gaps, but not in the last dimension. Tensors
 * without elements may have null pointers. */
typedef struct {
  const char *name;
  int32_t num_inputs, num_outputs, num_symbols, reserved;
  const moec_tensor_desc *inputs, *outputs;
  const char *const *symbols;
  /* args: input descriptors. Writes every size of every output, in order. */
  void (*shapes)(void *const *args, int64_t *dims);
  /* args: input descriptors. Bytes of workspace for that many workers. */
  int64_t (*workspace)(void *const *args, int32_t workers);
  /* args: input descriptors, then output descriptors. The workspace is aligned
   * to 64 bytes, the weights to a page. */
  void (*run)(void *const *args, void *workspace, const void *weights, void *call);
  /* By output: the number of the input whose elements it begins with along one axis, -1 for
   * none; NULL when no output does. Generated code leaves these elements alone when both
   * begin at the same address. */
  const int32_t *extends;
} moec_entry_desc;

/* Code for GPUs of one architecture, or for several if it is a fatbin. */
typedef struct {
  /* Compute capability, 90 for sm_90; is_exact: it runs on no other (sm_90a). */
  uint32_t capability;
  uint32_t is_exact;
  /* PTX, which ends with a zero byte, is compiled by the driver for its device; a cubin runs
   * on devices of the same major capability and the same or a higher minor one; of a fatbin
   * the driver takes what fits, and capability and is_exact are those of its first part. */
  uint32_t kind; /* MOEC_IMAGE_... */
  uint32_t reserved;
  const void *data;
  uint64_t bytes;
} moec_image_desc;

#define MOEC_IMAGE_PTX 0u
#define MOEC_IMAGE_CUBIN 1u
#define MOEC_IMAGE_FATBIN 2u

/* What the runtime does on devices. Only libraries that need it have it. */
typedef struct moec_device moec_device;

/* A kernel without parameters that does nothing, for launches without blocks in a graph. */
#define MOEC_NOTHING_KERNEL "moec_nothing"

/* A model whose tensors, weights and workspace are in the memory of a CUDA device. Of an
 * entry, `run` launches kernels and reads none of them; the pointers in its descriptors are the
 * device's. */
typedef struct {
  const moec_device *device; /* &moec_cuda_device */
  /* All images have all kernels, and MOEC_NOTHING_KERNEL. */
  uint32_t num_images, num_kernels;
  const moec_image_desc *images;
  const char *const *kernels; /* names */
  /* The part of the weights' data section that the device needs; offsets of generated code count
   * from the begin of the section all the same. */
  uint64_t weights_begin, weights_bytes;
  uint32_t num_tensor_maps, reserved;
} moec_cuda_desc;

/* The code for one level of instructions, or for GPUs that have the same kernels. */
typedef struct {
  const char *name; /* "x86-64-v3"; "sm_80" */
  const char *info_json;
  uint32_t num_entries, num_features;
  const moec_entry_desc *entries;
  /* x86 features that the code uses, by LLVM's names: "avx2", "fma", ... */
  const char *const *features;
  /* NULL: the entries run on the CPU. */
  const moec_cuda_desc *cuda;
} moec_level_desc;

typedef struct {
  uint32_t abi_version; /* MOEC_MODEL_ABI_VERSION */
  uint32_t num_levels;
  /* At least one; those for CPUs first, the most demanding last. All have the same entries and one
   * weights file. */
  const moec_level_desc *const *levels;
  const char *name;
  /* The weights file: its size in bytes (0: the model has none), the offset of
   * its data section (a multiple of 4096), and the hexadecimal digest, which is
   * "moec.digest" in the file's __metadata__. */
  uint64_t weights_file_size;
  uint64_t weights_data_offset;
  const char *weights_digest;
} moec_model_desc;

/* A launch of a kernel. Nothing is launched when a size of the grid is 0. */
typedef struct {
  int32_t kernel;        /* a number of moec_cuda_desc.kernels */
  uint32_t shared_bytes; /* dynamic shared memory */
  int64_t grid[3];       /* in blocks */
  int64_t block[3];      /* in threads */
  int64_t cluster[3];    /* in blocks; 0, 0, 0: none */
  int32_t region;        /* of the profile */
  int32_t reserved;
} moec_launch_desc;

/* What a kernel's tensor map shows it: how bulk copies (TMA) cut boxes out of a tensor in the
 * device's memory. Sizes, strides and boxes are in elements, the slowest dimension first; the last
 * stride is 1, and what is beyond `rank` is 0. */
typedef struct {
  int32_t number; /* less than moec_cuda_desc.num_tensor_maps: one place in the program */
  /* By the numbers of CUtensorMapDataType, -Swizzle, -L2promotion, -Interleave and -FloatOOBfill.
   */
  int32_t type, swizzle, promotion, interleave, fill;
  int32_t element_bytes;
  int32_t rank; /* 1 to 5 */
  const void *data;
  int64_t sizes[5], strides[5], box[5];
} moec_tensor_map_desc;

#pragma GCC visibility push(hidden)

/* Defined by generated code. */
extern const moec_model_desc moec_model_description;

/* Defined by the runtime for CUDA. */
extern const moec_device moec_cuda_device;

/* Defined by the runtime, for generated code. `call` is what run was given. */

/* Runs body(ctx, task, worker) for each task of 0 ... n-1 and returns when all
 * have finished. Not to be called from a task. */
void moec_parallel_for(void *call, int64_t n, void (*body)(void *ctx, int64_t task, int32_t worker),
                       void *ctx);
/* Worker numbers are 0 ... moec_num_workers-1. */
int32_t moec_num_workers(void *call);
/* Records the first failure; run then returns an error with the message. The
 * code goes on with clamped values. May be called from tasks. The message must
 * outlive the call. */
void moec_check(void *call, bool ok, const char *message);
/* The same, but does not return when it fails: run does. Not to be called from a task. */
void moec_require(void *call, bool ok, const char *message);
/* Where a kernel leaves the address of a message, whose check has failed on the device: memory of
 * the host that kernels reach. It is 0 while none has. Only in models for CUDA. */
const char **moec_check_place(void *call);
/* Counters of kernels, on the device: `bytes` bytes that are 0 when a kernel begins, for which
 * every kernel leaves them so. They are the context's, whose kernels run one after the other; a
 * call for more may move them. Ends the call with an error when there is no memory: does not return
 * then. Only in models for CUDA. */
void *moec_counters(void *call, int64_t bytes);
/* Memory for the running call, aligned to 64 bytes; its content is undefined. A size
 * below 0 stands for one that overflows. Ends the call with an error when there is not
 * enough: does not return then. What is not released is when the call ends. Not to be
 * called from a task. */
void *moec_allocate(void *call, int64_t bytes);
void moec_release(void *call, void *memory);
/* Launches a kernel behind what the stream of the call has to do already. arguments[i] points
 * to the value of parameter i, which is read before this returns. Ends the call with an error
 * when the launch fails: does not return then. Only in models for CUDA; not to be called from a
 * task. */
void moec_launch(void *call, const moec_launch_desc *launch, void **arguments);
/* The value of a kernel's parameter that is a tensor map: 128 bytes, which are encoded again when
 * the description of that number has changed. Valid until the next call with the number. Ends the
 * call with an error when the driver refuses it: does not return then. As moec_launch, otherwise.
 */
const void *moec_tensor_map(void *call, const moec_tensor_map_desc *map);
/* The time from here on belongs to `region`, a number of the regions in the
 * info JSON. Does nothing unless the context profiles. Not for tasks. */
void moec_profile_mark(void *call, int32_t region);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* MOEC_RUNTIME_MODEL_ABI_H */
