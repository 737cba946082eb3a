/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The part of the CUDA driver interface that the runtime uses, as the reference of the driver
 * API describes it (https://docs.nvidia.com/cuda/cuda-driver-api), and the driver, which is
 * opened at run time: no header or library of the CUDA Toolkit is needed.
 */
#ifndef MOEC_LIB_RUNTIME_CUDADRIVER_H
#define MOEC_LIB_RUNTIME_CUDADRIVER_H

#include "Internal.h"

typedef int rt_cu_result;
typedef int rt_cu_device;
typedef unsigned long long rt_cu_pointer;
typedef struct rt_cu_context *rt_cu_context;
typedef struct rt_cu_module *rt_cu_module;
typedef struct rt_cu_function *rt_cu_function;
typedef struct rt_cu_stream *rt_cu_stream;
typedef struct rt_cu_event *rt_cu_event;
typedef struct rt_cu_graph *rt_cu_graph;
typedef struct rt_cu_node *rt_cu_node;
typedef struct rt_cu_graph_exec *rt_cu_graph_exec;

/* CUresult */
enum {
  RT_CU_SUCCESS = 0,
  RT_CU_OUT_OF_MEMORY = 2,
  RT_CU_STUB_LIBRARY = 34,
  RT_CU_NO_DEVICE = 100,
  RT_CU_NO_BINARY_FOR_GPU = 209,
  RT_CU_INVALID_PTX = 218,
  RT_CU_UNSUPPORTED_PTX_VERSION = 222
};

/* CUdevice_attribute */
enum {
  RT_CU_CAPABILITY_MAJOR = 75,
  RT_CU_CAPABILITY_MINOR = 76,
  RT_CU_MAX_SHARED_BYTES_OPTIN = 97
};

/* CUfunction_attribute */
enum { RT_CU_STATIC_SHARED_BYTES = 1, RT_CU_MAX_DYNAMIC_SHARED_BYTES = 8 };

/* CUjit_option */
enum { RT_CU_JIT_ERROR_LOG = 5, RT_CU_JIT_ERROR_LOG_BYTES = 6 };

/* CUevent_flags, CUstream_flags, CUstreamCaptureStatus */
enum { RT_CU_EVENT_DEFAULT = 0, RT_CU_EVENT_DISABLE_TIMING = 2 };
enum { RT_CU_STREAM_NON_BLOCKING = 1 };
enum { RT_CU_MEM_HOST_PORTABLE = 1, RT_CU_MEM_HOST_DEVICEMAP = 2 };
enum { RT_CU_CAPTURE_NONE = 0, RT_CU_CAPTURE_ACTIVE = 1 };

/* CUlaunchAttribute; its id is a CUlaunchAttributeID. */
enum { RT_CU_CLUSTER_DIMENSION = 4 };
typedef struct {
  int id;
  char pad[4];
  union {
    char pad[64];
    struct {
      unsigned x, y, z;
    } cluster;
  } value;
} rt_cu_launch_attribute;

/* CUlaunchConfig */
typedef struct {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  rt_cu_stream stream;
  rt_cu_launch_attribute *attributes;
  unsigned num_attributes;
} rt_cu_launch_config;

/* CUDA_KERNEL_NODE_PARAMS_v2 */
typedef struct {
  rt_cu_function function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void **parameters;
  void **extra;
  void *kernel; /* a CUkernel, in place of the function */
  rt_cu_context context;
} rt_cu_kernel_node;

/* The functions by their names in the driver without "cu"; X(member, symbol, parameters). */
#define RT_CU_FUNCTIONS(X)                                                                         \
  X(Init, "cuInit", (unsigned flags))                                                              \
  X(DriverGetVersion, "cuDriverGetVersion", (int *version))                                        \
  X(GetErrorName, "cuGetErrorName", (rt_cu_result error, const char **name))                       \
  X(GetErrorString, "cuGetErrorString", (rt_cu_result error, const char **text))                   \
  X(DeviceGetCount, "cuDeviceGetCount", (int *count))                                              \
  X(DeviceGet, "cuDeviceGet", (rt_cu_device * device, int ordinal))                                \
  X(DeviceGetName, "cuDeviceGetName", (char *name, int length, rt_cu_device device))               \
  X(DeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, rt_cu_device device))  \
  X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain",                                            \
    (rt_cu_context * context, rt_cu_device device))                                                \
  X(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (rt_cu_device device))                \
  X(CtxPushCurrent, "cuCtxPushCurrent_v2", (rt_cu_context context))                                \
  X(CtxPopCurrent, "cuCtxPopCurrent_v2", (rt_cu_context * context))                                \
  X(ModuleLoadDataEx, "cuModuleLoadDataEx",                                                        \
    (rt_cu_module * module, const void *image, unsigned num_options, int *options, void **values)) \
  X(ModuleUnload, "cuModuleUnload", (rt_cu_module module))                                         \
  X(ModuleGetFunction, "cuModuleGetFunction",                                                      \
    (rt_cu_function * function, rt_cu_module module, const char *name))                            \
  X(FuncGetAttribute, "cuFuncGetAttribute", (int *value, int attribute, rt_cu_function function))  \
  X(FuncSetAttribute, "cuFuncSetAttribute", (rt_cu_function function, int attribute, int value))   \
  X(MemAlloc, "cuMemAlloc_v2", (rt_cu_pointer * memory, size_t bytes))                             \
  X(MemFree, "cuMemFree_v2", (rt_cu_pointer memory))                                               \
  X(MemHostAlloc, "cuMemHostAlloc", (void **memory, size_t bytes, unsigned flags))                 \
  X(MemFreeHost, "cuMemFreeHost", (void *memory))                                                  \
  X(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2",                                                       \
    (rt_cu_pointer to, const void *from, size_t bytes, rt_cu_stream stream))                       \
  X(MemsetD8Async, "cuMemsetD8Async",                                                              \
    (rt_cu_pointer memory, unsigned char value, size_t bytes, rt_cu_stream stream))                \
  X(StreamCreate, "cuStreamCreate", (rt_cu_stream * stream, unsigned flags))                       \
  X(StreamDestroy, "cuStreamDestroy_v2", (rt_cu_stream stream))                                    \
  X(StreamSynchronize, "cuStreamSynchronize", (rt_cu_stream stream))                               \
  X(StreamIsCapturing, "cuStreamIsCapturing", (rt_cu_stream stream, int *status))                  \
  X(StreamGetCaptureInfo, "cuStreamGetCaptureInfo_v2",                                             \
    (rt_cu_stream stream, int *status, uint64_t *id, rt_cu_graph *graph, const rt_cu_node **last,  \
     size_t *num_last))                                                                            \
  X(GraphExecKernelNodeSetParams, "cuGraphExecKernelNodeSetParams_v2",                             \
    (rt_cu_graph_exec graph, rt_cu_node node, const rt_cu_kernel_node *parameters))                \
  X(GraphNodeSetEnabled, "cuGraphNodeSetEnabled",                                                  \
    (rt_cu_graph_exec graph, rt_cu_node node, unsigned is_enabled))                                \
  X(TensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                \
    (void *map, int type, uint32_t rank, rt_cu_pointer data, const uint64_t *sizes,                \
     const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,                \
     int interleave, int swizzle, int promotion, int fill))                                        \
  X(EventCreate, "cuEventCreate", (rt_cu_event * event, unsigned flags))                           \
  X(EventDestroy, "cuEventDestroy_v2", (rt_cu_event event))                                        \
  X(EventRecord, "cuEventRecord", (rt_cu_event event, rt_cu_stream stream))                        \
  X(EventSynchronize, "cuEventSynchronize", (rt_cu_event event))                                   \
  X(EventElapsedTime, "cuEventElapsedTime",                                                        \
    (float *milliseconds, rt_cu_event begin, rt_cu_event end))                                     \
  X(LaunchKernelEx, "cuLaunchKernelEx",                                                            \
    (const rt_cu_launch_config *config, rt_cu_function function, void **parameters, void **extra))

#pragma GCC visibility push(hidden)

typedef struct {
  void *library;
#define RT_CU_MEMBER(member, symbol, parameters) rt_cu_result(*member) parameters;
  RT_CU_FUNCTIONS(RT_CU_MEMBER)
#undef RT_CU_MEMBER
} rt_cu_driver;

/* Opens and initializes the driver; it is the process's, and stays loaded. */
moec_status rt_cu_open(rt_cu_driver *driver);
void rt_cu_close(rt_cu_driver *driver);

/* Is there a driver and, as far as it says, a device? */
bool rt_cu_is_present(void);

/* MOEC_OK if `result` is a success. Else an error that says what could not be done: "cannot
 * load the kernels of 'moe': CUDA_ERROR_INVALID_IMAGE (device kernel image is invalid)". */
moec_status rt_cu_check(const rt_cu_driver *driver, rt_cu_result result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

typedef struct {
  rt_cu_function function;
  uint32_t max_shared_bytes; /* dynamic shared memory that a block may have */
} rt_kernel;

/* model->on_device of a model for CUDA. */
typedef struct {
  const moec_cuda_desc *desc;
  rt_cu_driver driver;
  rt_cu_device device;
  int32_t device_id;
  int32_t capability; /* 90 for sm_90 */
  rt_cu_context context;
  rt_cu_module module;
  rt_kernel *kernels;     /* by the numbers of moec_cuda_desc.kernels */
  rt_cu_function nothing; /* MOEC_NOTHING_KERNEL */
  rt_cu_pointer weights;
} rt_cuda_model;

/* A launch of the last captured run. */
typedef struct {
  rt_cu_node node;
  int32_t kernel;
} rt_captured;

/* A launch, or the end of a run, with what its time belongs to. */
typedef struct {
  rt_cu_event event;
  int32_t region; /* -1: the end */
} rt_cuda_mark;

/* CUtensorMap, and what it was made of. */
typedef struct {
  _Alignas(128) char bytes[128];
  moec_tensor_map_desc desc;
  bool is_encoded;
} rt_tensor_map;

/* context->on_device of a context of such a model. */
typedef struct {
  bool is_capturing;      /* the stream, in the current run */
  bool was_captured;      /* a graph has the address of the workspace */
  rt_cu_graph_exec graph; /* that the current call changes; NULL: it launches */
  rt_captured *captured;
  size_t num_captured, max_captured;
  size_t next;         /* of `captured`, to be changed */
  rt_tensor_map *maps; /* by their numbers */
  rt_buffer counters;  /* see moec_counters */
  /* Pinned: the message of a check that failed on the device. NULL: no run has any. */
  const char *volatile *failure;
  /* Of the profiled run. Events are kept for later ones. */
  rt_cuda_mark *marks;
  size_t num_marks, num_events, max_marks;
} rt_cuda_context;

/* CudaWeights.c */

/* Copies the mapped weights to the device. */
moec_status rt_upload_weights(moec_model *model, rt_cuda_model *cuda, const moec_options *options);

/* CudaGraph.c */

/* Notes the launch that has just been captured. */
moec_status rt_note_captured(moec_context *context, int32_t kernel);
/* Changes the next launch of the graph; NULL: it has no blocks. */
moec_status rt_update_launch(moec_context *context, int32_t kernel,
                             const rt_cu_launch_config *config, void **arguments);
/* Were all of them changed? */
moec_status rt_check_updated(const moec_context *context);

/* CudaProfile.c */

/* The time from here on belongs to the region; -1: to none. Nothing unless the context profiles. */
moec_status rt_cuda_mark_region(moec_context *context, int32_t region);
moec_status rt_cuda_collect_profile(moec_context *context);
void rt_cuda_free_marks(rt_cuda_context *state, const rt_cu_driver *driver);

/* CudaContext.c */
moec_status rt_cuda_create_context(moec_context *context);
void rt_cuda_destroy_context(moec_context *context);
moec_status rt_cuda_begin_run(moec_context *context, void *graph_exec);
moec_status rt_cuda_end_run(moec_context *context);
moec_status rt_cuda_wait(moec_context *context);
moec_status rt_cuda_enter(moec_model *model);
void rt_cuda_leave(moec_model *model);
moec_status rt_cuda_grow(moec_context *context, rt_buffer *buffer, size_t bytes, const char *what);
void rt_cuda_release(moec_context *context, rt_buffer *buffer);

#pragma GCC visibility pop

#endif /* MOEC_LIB_RUNTIME_CUDADRIVER_H */
