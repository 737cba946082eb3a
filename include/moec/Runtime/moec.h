/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The interface of a library compiled by moec: C99 and C++.
 *
 * A package NAME.moec has libNAME.so, libNAME.a and NAME.h, which declares
 *
 *     const moec_library *NAME_moec(void);
 *
 * Everything else is reached through the table that this function returns. A
 * program that loads libraries by name with dlopen looks up the symbol
 * MOEC_LIBRARY_SYMBOL instead, which is a function of type moec_library_fn.
 *
 * Life of a model: open -> context_create -> run ... run -> context_destroy ->
 * close. A model is immutable and may be shared by threads. A context serves
 * one call at a time: give each thread its own.
 *
 * Tensors are DLTensors (https://dmlc.github.io/dlpack). To use the structures
 * of <dlpack/dlpack.h>, include that file before this one.
 */
#ifndef MOEC_RUNTIME_MOEC_H
#define MOEC_RUNTIME_MOEC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*===-- DLPack ------------------------------------------------------------===*/

#if !defined(DLPACK_DLPACK_H_) && !defined(MOEC_DLPACK_DECLARED)
#define MOEC_DLPACK_DECLARED

/* The part of the DLPack ABI (version 1) that concerns tensors in memory. */

typedef enum { kDLCPU = 1, kDLCUDA = 2, kDLCUDAManaged = 13 } DLDeviceType;

typedef enum {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLOpaqueHandle = 3,
  kDLBfloat = 4,
  kDLComplex = 5,
  kDLBool = 6
} DLDataTypeCode;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id;
} DLDevice;

typedef struct {
  uint8_t code; /* DLDataTypeCode */
  uint8_t bits;
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;       /* ndim sizes */
  int64_t *strides;     /* ndim strides in elements; NULL: row-major, no gaps */
  uint64_t byte_offset; /* of the first element from `data` */
} DLTensor;
#endif

/*===-- Status ------------------------------------------------------------===*/

/* Version of this interface. Fields are only ever added at the end of the
 * structures below, which begin with their size; what changes the meaning of an
 * existing field changes this number. */
#define MOEC_ABI_VERSION 1u

/* What a function returns. Any other value than MOEC_OK leaves a message that
 * names the tensor or file, what was found and what was expected: last_error.
 */
typedef enum {
  MOEC_OK = 0,
  /* A null pointer, an unknown entry, a wrong number of tensors, an option that
   * this library does not have, or a context that is in use. */
  MOEC_ERROR_ARGUMENT = 1,
  /* A tensor with a wrong device, dtype, rank, shape or strides, without data,
   * or with an overlap that is not allowed. */
  MOEC_ERROR_TENSOR = 2,
  /* The weights file is missing, truncated, or belongs to another model. */
  MOEC_ERROR_WEIGHTS = 3,
  /* This CPU lacks a feature that the library was compiled for. */
  MOEC_ERROR_CPU = 4,
  /* Memory could not be allocated. */
  MOEC_ERROR_MEMORY = 5,
  /* A check of the model failed on the values of the inputs, for example an
   * index out of range. The outputs are not to be used. */
  MOEC_ERROR_RUN = 6,
  /* The parallel_for hook is missing or broke its contract. */
  MOEC_ERROR_PARALLEL = 7,
  /* There is no CUDA driver or device, or it is too old or of another architecture than this
   * library was compiled for, or the driver reports an error. */
  MOEC_ERROR_DEVICE = 8
} moec_status;

/*===-- Options -----------------------------------------------------------===*/

typedef struct moec_model moec_model;
typedef struct moec_context moec_context;

/* flags of moec_options */
/* Ask the operating system to read the whole weights file ahead. */
#define MOEC_OPEN_PREFETCH 1u
/* Read and map the whole weights file before `open` returns: no run then waits for a page that it
 * touches first. The file stays shared with other processes. */
#define MOEC_OPEN_POPULATE 2u
/* Copy the weights into memory of this process, of huge pages where the system gives them (see
 * /sys/kernel/mm/transparent_hugepage/enabled). */
#define MOEC_OPEN_HUGE_PAGES 4u

/* Told how many of the weights' bytes are on the device. */
typedef void (*moec_progress_fn)(void *data, uint64_t done, uint64_t all);

/* How to open a model. Initialize with MOEC_OPTIONS_INIT. */
typedef struct {
  size_t size;          /* sizeof(moec_options) */
  uint32_t abi_version; /* MOEC_ABI_VERSION; checked by open */
  uint32_t flags;       /* MOEC_OPEN_... */
  /* The rest is for libraries that run on CUDA devices. */
  int32_t device_id;         /* the number of the device, as CUDA_VISIBLE_DEVICES leaves them */
  moec_progress_fn progress; /* NULL: nobody wants to know */
  void *progress_data;       /* its first argument */
  /* A DLDeviceType: kDLCPU or kDLCUDA, for which the library must have code. 0: what it has code
   * for; if that is both, a CUDA device where there is one (or device_id is not 0), else the
   * CPU. A device that is there but cannot be used is an error. */
  int32_t device_type;
} moec_options;

#define MOEC_OPTIONS_INIT                                                                          \
  { sizeof(moec_options), MOEC_ABI_VERSION, 0, 0, NULL, NULL, 0 }

/* One task of a parallel loop. `worker` is less than the number of workers of
 * the context, and no two tasks run at the same time with the same worker. */
typedef void (*moec_task_fn)(void *ctx, int64_t task, int32_t worker);

/* Runs body(ctx, task, worker) once for each task of 0 ... n-1, in any order
 * and on any threads, and returns when all have finished. Tasks never wait for
 * each other, so any concurrency is right, none included. Tasks do not throw.
 */
typedef void (*moec_parallel_for_fn)(void *pool, int64_t n, moec_task_fn body, void *ctx);

/* Returns `bytes` bytes aligned to `alignment` (a power of two), or NULL. */
typedef void *(*moec_allocate_fn)(void *allocator, size_t bytes, size_t alignment);
/* Frees what moec_allocate_fn returned; `bytes` as then. */
typedef void (*moec_deallocate_fn)(void *allocator, void *memory, size_t bytes);

/* flags of moec_context_options */
/* Measure the time of each region of the model (see profile). On a CUDA device each launch of a
 * kernel is one, timed by events: a run waits for the one before, and a captured one is not timed.
 */
#define MOEC_CONTEXT_PROFILE 1u

/* How to make a context. Initialize with MOEC_CONTEXT_OPTIONS_INIT; what is
 * zero has its default. */
typedef struct {
  size_t size;    /* sizeof(moec_context_options) */
  uint32_t flags; /* MOEC_CONTEXT_... */
  /* Most workers that a parallel loop uses. 0: the OpenMP setting
   * (OMP_NUM_THREADS, else all processors) in a library with OpenMP, 1 in a
   * library without. Must be given with parallel_for. */
  int32_t num_workers;
  /* Runs parallel loops instead of the library's own threads. Must be given to
   * a library that was compiled with --threads=custom. */
  moec_parallel_for_fn parallel_for;
  void *pool; /* first argument of parallel_for */
  /* Where all memory of the context comes from: both or neither. In a library for CUDA, where
   * its memory on the device comes from. */
  moec_allocate_fn allocate;
  moec_deallocate_fn deallocate;
  void *allocator; /* first argument of allocate and deallocate */
  /* The CUstream (or cudaStream_t) of the model's device that runs put their work into. NULL:
   * the default stream. Must be NULL in a library for the CPU. */
  void *stream;
} moec_context_options;

#define MOEC_CONTEXT_OPTIONS_INIT                                                                  \
  { sizeof(moec_context_options), 0, 0, NULL, NULL, NULL, NULL, NULL, NULL }

/* Time spent in one region of the model. */
typedef struct {
  uint64_t count;       /* how often the region was entered */
  uint64_t nanoseconds; /* in all */
} moec_region_time;

/*===-- The library -------------------------------------------------------===*/

/* The table of a library's functions. A library of the same abi_version may be
 * older or newer than this header: fields beyond `size` bytes are absent. */
typedef struct moec_library {
  size_t size;          /* of this table in bytes */
  uint32_t abi_version; /* MOEC_ABI_VERSION of the library */
  uint32_t reserved;

  /* Checks the CPU, maps the weights file, checks that it is this model's
   * (without reading the data: takes milliseconds at any size) and returns a
   * model. A library may have code for several levels of instructions (moec
   * --cpu=multi): the last one that this CPU and operating system can run is used,
   * or the one that the environment variable MOEC_CPU_LEVEL names, which then must
   * run here. A library for CUDA also finds its device, loads its kernels and copies
   * the weights to the device, and needs the file no longer then.
   * weights_path NULL: NAME.safetensors in the folder of the library, or
   * of the program when linked statically. options may be NULL. */
  moec_status (*open)(const char *weights_path, const moec_options *options, moec_model **model);

  /* Makes a context. options may be NULL. */
  moec_status (*context_create)(moec_model *model, const moec_context_options *options,
                                moec_context **context);

  /* Checks the inputs and describes the outputs that they give: sets ndim,
   * shape, strides (NULL), dtype and device of each out[i], and leaves data and
   * byte_offset alone. The shapes are owned by the context and valid until its
   * next output_shapes. Outputs are in the order of the entry's description.
   * entry NULL: the first entry. */
  moec_status (*output_shapes)(moec_context *context, const char *entry, const DLTensor *const *in,
                               int32_t n_in, DLTensor *const *out, int32_t n_out);

  /* Checks the inputs and tells how many bytes of workspace a run with inputs
   * of these shapes needs. */
  moec_status (*workspace_size)(moec_context *context, const char *entry, const DLTensor *const *in,
                                int32_t n_in, uint64_t *bytes);

  /* Computes the outputs. Tensors are in the order of the entry's description,
   * on the CPU, with exactly the described dtype and with shapes that agree.
   * Any strides are accepted for inputs; the elements of an output must not
   * overlap. Row-major tensors are used in place; others are copied. An output
   * may not overlap an input or another output, but for a cache: an output that
   * the description says extends an input may begin at its address, with the
   * same strides (the last is 1). Then only what is behind the input is written,
   * and gaps between rows need no copy. Memory is allocated in the first run at
   * a size, not in later ones of the same or a smaller size.
   *
   * In a library for CUDA tensors are on the model's device, row-major and aligned to 16
   * bytes, and run returns when
   * all work is in the context's stream: the outputs are valid when the stream has come so far,
   * and inputs and outputs must live until then. From the second run at a size on, run neither
   * waits nor allocates, so it can be captured into a CUDA graph. */
  moec_status (*run)(moec_context *context, const char *entry, const DLTensor *const *in,
                     int32_t n_in, DLTensor *const *out, int32_t n_out);

  /* JSON: entries with names, dtypes and symbolic dimensions of their inputs
   * and outputs, target, plan, regions, digest of the weights. Of a library with
   * several levels: "levels" of "target" lists them, and the rest is that of the
   * level that open would choose now, on the CPU if there is code for it. */
  const char *(*info)(void);

  /* Message of the last failure of this library in the calling thread; "" when
   * there was none. Valid until the next failure in that thread. */
  const char *(*last_error)(void);

  /* Both accept NULL. A closed model lives on until its last context is
   * destroyed. */
  void (*context_destroy)(moec_context *context);
  void (*close)(moec_model *model);

  /* Times of the regions 0 ... in all runs of a context that was made with
   * MOEC_CONTEXT_PROFILE: writes at most `capacity` of them and returns their
   * number, which is at most the number of regions in info (one for each of the "phases"
   * of an element of "regions", or one without). */
  int32_t (*profile)(const moec_context *context, moec_region_time *times, int32_t capacity);
  /* Sets all of them to zero. */
  void (*profile_reset)(moec_context *context);

  /* Number of workers of the context: the most that run at the same time. */
  int32_t (*num_workers)(const moec_context *context);

  /* Where the tensors of a model are. */
  DLDevice (*device)(const moec_model *model);

  /* Makes the next launches of a CUDA graph compute another run: the arguments are those of run,
   * with the same entry, and `graph_exec` is a CUgraphExec (or cudaGraphExec_t) of the graph into
   * which the context's last captured run went; that graph must still exist. Sizes may be others
   * as long as the context's workspace is large enough for them: those of the captured run are,
   * and smaller ones. Takes a microsecond for each kernel, and neither waits nor touches the
   * device. After an error the graph is not to be launched. Only for models on a CUDA device. */
  moec_status (*update_graph)(moec_context *context, void *graph_exec, const char *entry,
                              const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                              int32_t n_out);

  /* Waits until the work of the context's runs is done, graphs with them included, and returns what
   * went wrong in it: MOEC_ERROR_RUN for a check of the values, MOEC_ERROR_DEVICE for an error of
   * the device. Without it the context's next run returns the failed check of an earlier one, if it
   * is known by then, and does nothing else. At once on the CPU. */
  moec_status (*wait)(moec_context *context);

  /* As info, of the code that the model was opened with: its target and regions. */
  const char *(*model_info)(const moec_model *model);
} moec_library;

typedef const moec_library *(*moec_library_fn)(void);
#define MOEC_LIBRARY_SYMBOL "moec_library"

#ifdef __cplusplus
}
#endif

#endif /* MOEC_RUNTIME_MOEC_H */
