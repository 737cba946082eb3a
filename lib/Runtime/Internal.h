/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What the files of the runtime share. There is no mutable global state but the
 * thread-local error message, because every library has its own copy.
 */
#ifndef MOEC_LIB_RUNTIME_INTERNAL_H
#define MOEC_LIB_RUNTIME_INTERNAL_H

#include "moec/Runtime/moec.h"
#include "moec/Runtime/model_abi.h"
#include <setjmp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

struct moec_model {
  atomic_int_fast32_t references; /* one for the user, one per context */
  void *map;                      /* the weights file; NULL when there is none */
  size_t map_size;
  const void *weights;       /* its data section; on the device, if there is one */
  const moec_device *device; /* NULL: the CPU */
  int32_t device_id;
  void *on_device;              /* what the device has of the model */
  const moec_level_desc *level; /* a device chooses its own */
};

/* Where memory on a device comes from; NULL: from its driver. */
typedef struct {
  moec_allocate_fn allocate;
  moec_deallocate_fn deallocate;
  void *allocator;
} rt_hooks;

/* Memory that is kept and grown in a context. */
typedef struct {
  void *memory;
  size_t bytes;
} rt_buffer;

/* A descriptor of generated code: sizes, then strides, follow at extents. */
typedef struct {
  void *allocated;
  void *aligned;
  int64_t offset;
  int64_t extents[];
} rt_descriptor;

/* Where the value of a symbol was first seen. */
typedef struct {
  int64_t value; /* -1: not yet */
  int32_t input;
  int32_t dim;
} rt_symbol;

/* Memory for a size that depends on data. Kept for later ones, also of other calls. */
typedef struct {
  rt_buffer buffer;
  bool is_used;
} rt_chunk;

typedef struct {
  moec_region_time *times;
  int32_t capacity; /* of times */
  int32_t count;    /* regions seen */
  int32_t current;  /* region that time belongs to; -1: none */
  uint64_t since;   /* nanoseconds */
} rt_profile;

struct moec_context {
  moec_model *model;
  moec_context_options options; /* with a device, without allocate and deallocate */
  rt_hooks device_hooks;
  void *on_device; /* what the device has of the context */
  int32_t num_workers;
  atomic_flag busy;

  /* Of the current call. */
  _Atomic(const char *) failure; /* of the model; a static string */
  atomic_int hook_failure;       /* an rt_hook_failure */
  jmp_buf escape;                /* where a call ends that finds no memory */
  int64_t missing_bytes;         /* that it did not find; < 0: more than can be counted */
  moec_status device_status;     /* of what the device was asked for */

  /* Sized for the largest entry when the context is made. */
  rt_descriptor **args; /* inputs, then outputs */
  rt_symbol *symbols;
  int64_t *output_dims; /* of the outputs, in order */
  int64_t *shown_dims;  /* what output_shapes last gave to the user */
  size_t bytes;         /* of the block that has all these */

  rt_buffer workspace;
  rt_buffer staged_inputs;
  rt_buffer staged_outputs;
  rt_chunk *chunks;
  size_t num_chunks, max_chunks;
  rt_profile profile;
};

typedef enum { RT_HOOK_OK = 0, RT_HOOK_WORKER, RT_HOOK_TASKS } rt_hook_failure;

/* Error.c */

/* Sets this thread's message and returns the status. */
moec_status rt_fail(moec_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
const char *rt_last_error(void);

/* Features.c */

/* Checks that this CPU and operating system have every feature of the level's code, which
 * errors call "this library", then `which`. */
moec_status rt_check_features(const moec_level_desc *level, const char *which);
/* The same, without an error. */
bool rt_has_features(const moec_level_desc *level);

/* Level.c */

/* The environment variable that names the level to take. */
#define RT_LEVEL_VARIABLE "MOEC_CPU_LEVEL"

/* Of the levels for the CPU: the one that the environment names, else the last one that runs
 * here. */
moec_status rt_choose_level(const moec_level_desc **level);
/* The first level for the CPU, or for a device; NULL: there is none. */
const moec_level_desc *rt_first_level(bool on_device);
/* info of the library. */
const char *rt_info(void);

/* WeightsHeader.c */

/* Finds "moec.digest" in the __metadata__ of a safetensors header (text of
 * `size` bytes) without trusting it. NULL: none. The value has *length bytes. */
const char *rt_find_digest(const char *header, size_t size, size_t *length);

/* Weights.c */

/* Maps the weights file and checks that it is this model's. path NULL: beside
 * the library. */
moec_status rt_map_weights(moec_model *model, const char *path, uint32_t flags);
/* Large buffers are made of huge pages where the system has them. */
#define RT_HUGE_PAGE ((size_t)2 << 20)
void rt_unmap_weights(moec_model *model);

/* Model.c */
moec_status rt_open(const char *weights_path, const moec_options *options, moec_model **model);
void rt_close(moec_model *model);
DLDevice rt_model_device(const moec_model *model);
const char *rt_model_info(const moec_model *model);

/* Memory.c */

/* Memory of a context, through its hooks. NULL when there is none. */
void *rt_allocate(const moec_context_options *options, size_t bytes, size_t alignment);
void rt_deallocate(const moec_context_options *options, void *memory, size_t bytes);
/* Makes the buffer at least that large; its content is lost when it grows. */
moec_status rt_grow(moec_context *context, rt_buffer *buffer, size_t bytes, const char *what);

/* Temporaries.c */

/* All chunks are free again. */
void rt_release_chunks(moec_context *context);
void rt_destroy_chunks(moec_context *context);

/* Context.c */
moec_status rt_context_create(moec_model *model, const moec_context_options *options,
                              moec_context **context);
void rt_context_destroy(moec_context *context);
int32_t rt_context_workers(const moec_context *context);

/* Tensor.c */

/* How an error names a tensor. */
typedef struct {
  const char *entry;
  const char *kind; /* "input" or "output" */
  const moec_tensor_desc *desc;
  DLDevice device; /* where it must be */
} rt_tensor_name;

size_t rt_element_bytes(const DLTensor *tensor);
/* Stride of a dimension in bytes. */
int64_t rt_stride_bytes(const DLTensor *tensor, int32_t dim);
/* Is one of the sizes zero? */
bool rt_is_empty(const DLTensor *tensor);
/* Everything about a tensor but the values of its dimensions. */
moec_status rt_check_tensor(const rt_tensor_name *name, const DLTensor *tensor);
/* Sizes, strides, data and overlap with itself. */
moec_status rt_check_layout(const rt_tensor_name *name, const DLTensor *tensor, bool is_output);
/* Bytes of the elements without gaps. The tensor has passed rt_check_layout. */
size_t rt_tensor_bytes(const DLTensor *tensor);
/* Address of the first element. */
char *rt_tensor_data(const DLTensor *tensor);
bool rt_is_contiguous(const DLTensor *tensor);
/* Can generated code use it where it is? With gaps, but none in the last dimension, too if
 * may_have_gaps. */
bool rt_is_usable_in_place(const DLTensor *tensor, bool may_have_gaps);
/* What kernels read and write at once. */
#define RT_DEVICE_ALIGNMENT 16u
/* Tensors on a device are not copied: is it usable in place? */
moec_status rt_check_in_place(const rt_tensor_name *name, const DLTensor *tensor,
                              bool may_have_gaps);

/* Overlap.c */

/* May two tensors share a byte? Exact for views of one buffer that differ in
 * their columns; never wrongly false. */
bool rt_may_overlap(const DLTensor *a, const DLTensor *b);
/* May two elements of the tensor share a byte? */
bool rt_overlaps_itself(const DLTensor *tensor);

/* Copy.c */

/* Copies the elements of a tensor to or from a row-major buffer. */
void rt_gather(void *buffer, const DLTensor *tensor);
void rt_scatter(const DLTensor *tensor, const void *buffer);

/* Arguments.c */

/* The entry of that name (NULL: the first); NULL and an error if none. */
const moec_entry_desc *rt_find_entry(const moec_level_desc *level, const char *name);
/* Checks the inputs, copies strided ones, and fills the input descriptors. */
moec_status rt_prepare_inputs(moec_context *context, const moec_entry_desc *entry,
                              const DLTensor *const *in, int32_t n_in);
/* Asks the entry for the sizes of its outputs: context->output_dims. */
moec_status rt_compute_shapes(moec_context *context, const moec_entry_desc *entry);
/* Checks the outputs against these and fills their descriptors. */
moec_status rt_prepare_outputs(moec_context *context, const moec_entry_desc *entry,
                               const DLTensor *const *in, DLTensor *const *out, int32_t n_out);
/* Copies strided outputs to their places. */
void rt_finish_outputs(moec_context *context, const moec_entry_desc *entry, DLTensor *const *out);

/* Run.c */
moec_status rt_output_shapes(moec_context *context, const char *entry, const DLTensor *const *in,
                             int32_t n_in, DLTensor *const *out, int32_t n_out);
moec_status rt_workspace_size(moec_context *context, const char *entry, const DLTensor *const *in,
                              int32_t n_in, uint64_t *bytes);
moec_status rt_run(moec_context *context, const char *entry, const DLTensor *const *in,
                   int32_t n_in, DLTensor *const *out, int32_t n_out);

moec_status rt_wait(moec_context *context);
moec_status rt_update_graph(moec_context *context, void *graph_exec, const char *entry,
                            const DLTensor *const *in, int32_t n_in, DLTensor *const *out,
                            int32_t n_out);

/* Profile.c */
void rt_profile_begin(moec_context *context);
void rt_profile_end(moec_context *context);
int32_t rt_profile_read(const moec_context *context, moec_region_time *times, int32_t capacity);
/* Adds a region of that time. */
void rt_profile_add(moec_context *context, int32_t region, uint64_t nanoseconds);
void rt_profile_reset(moec_context *context);

/* FloatingPoint.c */

/* Sets round to nearest without flushing of denormals, and all exceptions
 * masked, for generated code. Returns the state to restore. */
uint32_t rt_enter_float_state(void);
void rt_leave_float_state(uint32_t state);

/* ParallelOpenMP.c, ParallelNone.c or ParallelCustom.c */

/* Workers of a context without a hook that asks for `wanted` of them (0: the
 * default). 0: a hook is required. */
int32_t rt_choose_workers(int32_t wanted);
/* As moec_parallel_for_fn, with at most `workers` workers. */
void rt_parallel_for(int32_t workers, int64_t n, moec_task_fn body, void *ctx);

#pragma GCC visibility pop

#endif /* MOEC_LIB_RUNTIME_INTERNAL_H */
