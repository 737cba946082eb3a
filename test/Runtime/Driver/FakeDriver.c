/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
#include "FakeDriver.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define EXPORT __attribute__((visibility("default")))

enum {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NOT_FOUND = 500
};

/*===-- State -------------------------------------------------------------===*/

typedef enum { MEMORY, PINNED, MODULE, FUNCTION, STREAM, EVENT, NODE, MAP, NAMED, NUM_KINDS } kind;
static const char *const prefixes[NUM_KINDS] = {"m", "h", "module", "", "s", "e", "n", "t", ""};

#define MAX_PARAMETERS 512
/* Bytes of shared memory: of each kernel, and at most of a block. */
#define STATIC_SHARED 1024
#define SHARED_OPTIN 232448
#define TENSOR_MAP_BYTES 128

/* Whatever a pointer of the driver points to. */
typedef struct object {
  struct object *next;
  kind kind;
  char name[128];
  char *data;
  size_t bytes;
  /* Of a function: bytes of each parameter. */
  struct object *module;
  int num_parameters;
  unsigned max_shared;
  size_t sizes[MAX_PARAMETERS];
} object;

static object *objects, *last_node;
static int numbers[NUM_KINDS];
static int num_devices, capability, version, capturing;
static char failing[64];
static int fail_after, fail_error, failed, is_set_up;
static int num_retained, num_pushed;
static size_t num_recorded;
static char *record;
static size_t record_bytes;

static void clear_log(void) {
  record_bytes = 0;
  if (record)
    record[0] = 0;
}

static void log_line(const char *format, ...) {
  char line[8192];
  va_list values;
  va_start(values, format);
  int length = vsnprintf(line, sizeof(line) - 1, format, values);
  va_end(values);
  if (length > (int)sizeof(line) - 2)
    length = sizeof(line) - 2;
  line[length++] = '\n';
  line[length] = 0;
  record = realloc(record, record_bytes + (size_t)length + 1);
  memcpy(record + record_bytes, line, (size_t)length + 1);
  record_bytes += (size_t)length;
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (file) {
    fputs(line, file);
    fclose(file);
  }
}

static int get_number(const char *variable, int value) {
  const char *text = getenv(variable);
  return text ? atoi(text) : value;
}

static void fail_call(const char *function, int n, int error) {
  snprintf(failing, sizeof(failing), "%s", function ? function : "");
  fail_after = n;
  fail_error = error;
  failed = 0;
}

static void reset(void) {
  clear_log();
  memset(numbers, 0, sizeof(numbers));
  num_devices = get_number("FAKE_CUDA_DEVICES", 1);
  capability = get_number("FAKE_CUDA_CAPABILITY", 90);
  version = get_number("FAKE_CUDA_VERSION", 12040);
  capturing = 0;
  fail_call(NULL, 0, 0);
  char function[64];
  int n, error;
  const char *text = getenv("FAKE_CUDA_FAIL");
  if (text && sscanf(text, "%63[^:]:%d:%d", function, &n, &error) == 3)
    fail_call(function, n, error);
  is_set_up = 1;
}

/* What this call has to return at once. */
static int begin(const char *function) {
  if (!is_set_up)
    reset();
  if (fail_after == 0 || (failing[0] && strcmp(failing, function) != 0) || --fail_after > 0)
    return OK;
  failed = 1;
  log_line("%s fails with %d", function, fail_error);
  return fail_error;
}

#define BEGIN                                                                                      \
  do {                                                                                             \
    int begun = begin(__func__);                                                                   \
    if (begun != OK)                                                                               \
      return begun;                                                                                \
  } while (0)

/* A function that needs a current context. */
#define BEGIN_IN_CONTEXT                                                                           \
  do {                                                                                             \
    BEGIN;                                                                                         \
    if (num_pushed == 0)                                                                           \
      return INVALID_CONTEXT;                                                                      \
  } while (0)

/* The host must not touch the device's: whole pages. */
static void *allocate(kind kind, size_t bytes) {
  if (kind != MEMORY)
    return aligned_alloc(256, (bytes + 255) / 256 * 256);
  return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void allow(const object *memory, int access) {
  if (memory)
    mprotect(memory->data, memory->bytes, access);
}

static object *add(kind kind, size_t bytes) {
  object *made = calloc(1, sizeof(*made));
  made->kind = kind;
  made->bytes = bytes;
  snprintf(made->name, sizeof(made->name), "%s%d", prefixes[kind], ++numbers[kind]);
  if (bytes) {
    /* Memory has rubbish in it. */
    made->data = allocate(kind, bytes);
    memset(made->data, 0xA5, bytes);
  }
  if (kind == MEMORY)
    allow(made, PROT_NONE);
  made->next = objects;
  objects = made;
  return made;
}

static object *find(kind kind, const void *pointer) {
  for (object *it = objects; it; it = it->next)
    if (it->kind == kind && ((const void *)it == pointer || (it->data && it->data == pointer)))
      return it;
  return NULL;
}

static bool drop(kind kind, const void *pointer) {
  for (object **it = &objects; *it; it = &(*it)->next)
    if ((*it)->kind == kind &&
        ((const void *)*it == pointer || ((*it)->data && (*it)->data == pointer))) {
      object *dropped = *it;
      *it = dropped->next;
      if (kind == MEMORY)
        munmap(dropped->data, dropped->bytes);
      else if (kind != NAMED)
        free(dropped->data);
      free(dropped);
      return true;
    }
  return false;
}

/* The device's memory with that address; NULL: none. */
static object *find_around(const void *address) {
  for (object *it = objects; it; it = it->next)
    if (it->kind == MEMORY && (uintptr_t)address - (uintptr_t)it->data < it->bytes)
      return it;
  return NULL;
}

/* "m1+16", or a number. */
static void describe(uint64_t value, char *text, size_t size) {
  for (object *it = objects; it; it = it->next)
    if (it->data && it->kind != MODULE && value >= (uintptr_t)it->data &&
        value < (uintptr_t)it->data + it->bytes) {
      size_t offset = (size_t)(value - (uintptr_t)it->data);
      if (offset)
        snprintf(text, size, "%s+%zu", it->name, offset);
      else
        snprintf(text, size, "%s", it->name);
      return;
    }
  snprintf(text, size, "%llu", (unsigned long long)value);
}

static const char *stream_name(const void *stream) {
  object *found = find(STREAM, stream);
  if (found)
    return found->name;
  static char text[32];
  snprintf(text, sizeof(text), "%p", (void *)stream);
  return stream ? text : "0";
}

/*===-- Devices -----------------------------------------------------------===*/

EXPORT int cuInit(unsigned flags) {
  (void)flags;
  BEGIN;
  log_line("cuInit");
  return num_devices ? OK : NO_DEVICE;
}

EXPORT int cuDriverGetVersion(int *result) {
  BEGIN;
  *result = version;
  return OK;
}

EXPORT int cuGetErrorName(int error, const char **name) {
  static const struct {
    int error;
    const char *name;
  } names[] = {{INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
               {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
               {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
               {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
               {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
               {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
               {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
    if (names[i].error == error) {
      *name = names[i].name;
      return OK;
    }
  *name = NULL;
  return INVALID_VALUE;
}

EXPORT int cuGetErrorString(int error, const char **text) {
  *text = error == OUT_OF_MEMORY ? "out of memory" : NULL;
  return *text ? OK : INVALID_VALUE;
}

EXPORT int cuDeviceGetCount(int *count) {
  BEGIN;
  *count = num_devices;
  return OK;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
  BEGIN;
  if (ordinal < 0 || ordinal >= num_devices)
    return INVALID_DEVICE;
  *device = 100 + ordinal;
  return OK;
}

EXPORT int cuDeviceGetName(char *name, int length, int device) {
  snprintf(name, (size_t)length, "Fake %d", device - 100);
  return OK;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  BEGIN;
  if (device < 100)
    return INVALID_DEVICE;
  *value = attribute == 75   ? capability / 10
           : attribute == 76 ? capability % 10
           : attribute == 97 ? SHARED_OPTIN
                             : -1;
  return *value < 0 ? INVALID_VALUE : OK;
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
  BEGIN;
  log_line("cuDevicePrimaryCtxRetain %d", device - 100);
  ++num_retained;
  *context = (void *)(uintptr_t)(0x1000 + device);
  return OK;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  log_line("cuDevicePrimaryCtxRelease %d", device - 100);
  --num_retained;
  return OK;
}

EXPORT int cuCtxPushCurrent_v2(void *context) {
  BEGIN;
  if ((uintptr_t)context < 0x1000)
    return INVALID_CONTEXT;
  ++num_pushed;
  return OK;
}

EXPORT int cuCtxPopCurrent_v2(void **context) {
  (void)context;
  --num_pushed;
  return OK;
}

/*===-- Modules -----------------------------------------------------------===*/

EXPORT int cuModuleLoadDataEx(void **module, const void *image, unsigned num_options, int *options,
                              void **values) {
  BEGIN_IN_CONTEXT;
  const char *text = image;
  if (!strstr(text, ".target")) {
    for (unsigned i = 0; i + 1 < num_options; ++i)
      if (options[i] == 5 && options[i + 1] == 6)
        snprintf(values[i], (size_t)(uintptr_t)values[i + 1], "ptxas fatal: not PTX");
    return INVALID_IMAGE;
  }
  object *made = add(MODULE, strlen(text) + 1);
  memcpy(made->data, text, made->bytes);
  char target[32] = "";
  sscanf(strstr(text, ".target"), ".target %31[a-z0-9_]", target);
  log_line("cuModuleLoadDataEx %s -> %s", target, made->name);
  *module = made;
  return OK;
}

EXPORT int cuModuleUnload(void *module) {
  object *found = find(MODULE, module);
  log_line("cuModuleUnload %s", found ? found->name : "?");
  for (object *it = objects, *next; it; it = next) {
    next = it->next;
    if (it->kind == FUNCTION && it->module == found)
      drop(FUNCTION, it);
  }
  return drop(MODULE, module) ? OK : INVALID_VALUE;
}

/* The parameters between the parentheses at `text`: .param .align 8 .b8 NAME[24] */
static void read_parameters(object *function, const char *text) {
  const char *end = strchr(text, ')');
  for (const char *at = strstr(text, ".param"); at && at < end; at = strstr(at + 1, ".param")) {
    int bits = 0;
    const char *comma = at;
    while (*comma != ',' && *comma != ')')
      ++comma;
    for (const char *type = at + 1; type < comma; ++type)
      if (type[0] == '.' && strchr("usfb", type[1]) && isdigit(type[2]))
        bits = atoi(type + 2);
    const char *bracket = memchr(at, '[', (size_t)(comma - at));
    function->sizes[function->num_parameters++] =
        (size_t)bits / 8 * (bracket ? (size_t)atoi(bracket + 1) : 1);
  }
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
  BEGIN_IN_CONTEXT;
  object *image = find(MODULE, module);
  size_t length = strlen(name);
  for (const char *at = strstr(image->data, ".entry"); at; at = strstr(at + 1, ".entry")) {
    const char *begin = at + 6;
    while (*begin == ' ')
      ++begin;
    if (strncmp(begin, name, length) != 0 || (begin[length] != '(' && begin[length] != '\n'))
      continue;
    object *made = add(FUNCTION, 0);
    snprintf(made->name, sizeof(made->name), "%s", name);
    made->module = image;
    made->max_shared = 48 * 1024 - STATIC_SHARED;
    if (*(begin + length) == '(')
      read_parameters(made, begin + length);
    *function = made;
    log_line("cuModuleGetFunction %s", name);
    return OK;
  }
  return NOT_FOUND;
}

EXPORT int cuFuncGetAttribute(int *value, int attribute, void *function) {
  BEGIN_IN_CONTEXT;
  *value = attribute == 1 ? STATIC_SHARED : -1;
  return find(FUNCTION, function) && *value >= 0 ? OK : INVALID_VALUE;
}

EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
  BEGIN_IN_CONTEXT;
  object *found = find(FUNCTION, function);
  log_line("cuFuncSetAttribute %s %d %d", found ? found->name : "?", attribute, value);
  if (!found || attribute != 8 || value < 0 || value + STATIC_SHARED > SHARED_OPTIN)
    return INVALID_VALUE;
  found->max_shared = (unsigned)value;
  return OK;
}

/*===-- Memory ------------------------------------------------------------===*/

EXPORT int cuMemAlloc_v2(unsigned long long *memory, size_t bytes) {
  BEGIN_IN_CONTEXT;
  if (bytes == 0)
    return INVALID_VALUE;
  object *made = add(MEMORY, bytes);
  log_line("cuMemAlloc %zu -> %s", bytes, made->name);
  *memory = (uintptr_t)made->data;
  return OK;
}

EXPORT int cuMemFree_v2(unsigned long long memory) {
  object *found = find(MEMORY, (void *)(uintptr_t)memory);
  log_line("cuMemFree %s", found ? found->name : "?");
  return drop(MEMORY, (void *)(uintptr_t)memory) ? OK : INVALID_VALUE;
}

EXPORT int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  (void)flags;
  BEGIN_IN_CONTEXT;
  object *made = add(PINNED, bytes);
  log_line("cuMemHostAlloc %zu -> %s", bytes, made->name);
  *memory = made->data;
  return OK;
}

EXPORT int cuMemFreeHost(void *memory) {
  object *found = find(PINNED, memory);
  log_line("cuMemFreeHost %s", found ? found->name : "?");
  return drop(PINNED, memory) ? OK : INVALID_VALUE;
}

static int copy(const char *name, void *to, const void *from, size_t bytes) {
  char target[64], source[64];
  describe((uintptr_t)to, target, sizeof(target));
  describe((uintptr_t)from, source, sizeof(source));
  log_line("%s %s <- %s, %zu", name, target, source, bytes);
  object *devices[] = {find_around(to), find_around(from)};
  for (int i = 0; i < 2; ++i)
    allow(devices[i], PROT_READ | PROT_WRITE);
  memcpy(to, from, bytes);
  for (int i = 0; i < 2; ++i)
    allow(devices[i], PROT_NONE);
  return OK;
}

EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes,
                                void *stream) {
  BEGIN_IN_CONTEXT;
  char name[64];
  snprintf(name, sizeof(name), "cuMemcpyHtoDAsync[%s]", stream_name(stream));
  return copy(name, (void *)(uintptr_t)to, from, bytes);
}

EXPORT int cuMemsetD8Async(unsigned long long memory, unsigned char value, size_t bytes,
                           void *stream) {
  BEGIN_IN_CONTEXT;
  char target[64];
  describe(memory, target, sizeof(target));
  log_line("cuMemsetD8Async[%s] %s <- %d, %zu", stream_name(stream), target, value, bytes);
  object *device = find_around((void *)(uintptr_t)memory);
  allow(device, PROT_READ | PROT_WRITE);
  memset((void *)(uintptr_t)memory, value, bytes);
  allow(device, PROT_NONE);
  return OK;
}

EXPORT int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
  BEGIN_IN_CONTEXT;
  return copy("cuMemcpyHtoD", (void *)(uintptr_t)to, from, bytes);
}

EXPORT int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
  BEGIN_IN_CONTEXT;
  return copy("cuMemcpyDtoH", to, (const void *)(uintptr_t)from, bytes);
}

/*===-- Streams and events ------------------------------------------------===*/

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
  BEGIN_IN_CONTEXT;
  object *made = add(STREAM, 0);
  log_line("cuStreamCreate %u -> %s", flags, made->name);
  *stream = made;
  return OK;
}

EXPORT int cuStreamDestroy_v2(void *stream) {
  log_line("cuStreamDestroy %s", stream_name(stream));
  return drop(STREAM, stream) ? OK : INVALID_VALUE;
}

EXPORT int cuStreamSynchronize(void *stream) {
  BEGIN_IN_CONTEXT;
  log_line("cuStreamSynchronize %s", stream_name(stream));
  return OK;
}

EXPORT int cuStreamIsCapturing(void *stream, int *status) {
  (void)stream;
  BEGIN_IN_CONTEXT;
  *status = capturing;
  return OK;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
  (void)flags;
  BEGIN_IN_CONTEXT;
  *event = add(EVENT, 0);
  return OK;
}

EXPORT int cuEventDestroy_v2(void *event) { return drop(EVENT, event) ? OK : INVALID_VALUE; }

EXPORT int cuEventRecord(void *event, void *stream) {
  BEGIN_IN_CONTEXT;
  object *found = find(EVENT, event);
  log_line("cuEventRecord %s in %s", found ? found->name : "?", stream_name(stream));
  if (found)
    found->bytes = ++num_recorded;
  return found ? OK : INVALID_VALUE;
}

/* A millisecond for each event that was recorded. */
EXPORT int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
  BEGIN_IN_CONTEXT;
  object *first = find(EVENT, from), *last = find(EVENT, to);
  if (!first || !last || !first->bytes || !last->bytes)
    return INVALID_VALUE;
  *milliseconds = (float)last->bytes - (float)first->bytes;
  return OK;
}

EXPORT int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  (void)flags;
  BEGIN_IN_CONTEXT;
  object *found = find(EVENT, event);
  log_line("cuStreamWaitEvent %s for %s", stream_name(stream), found ? found->name : "?");
  return found ? OK : INVALID_VALUE;
}

EXPORT int cuEventSynchronize(void *event) {
  BEGIN_IN_CONTEXT;
  object *found = find(EVENT, event);
  log_line("cuEventSynchronize %s", found ? found->name : "?");
  return found ? OK : INVALID_VALUE;
}

/*===-- Launches ----------------------------------------------------------===*/

typedef struct {
  int id;
  char pad[4];
  unsigned value[16];
} launch_attribute;

typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  void *stream;
  launch_attribute *attributes;
  unsigned num_attributes;
} launch_config;

static bool can_launch(const object *function, const unsigned *grid, const unsigned *block,
                       unsigned shared_bytes) {
  return function && (uint64_t)block[0] * block[1] * block[2] <= 1024 && grid[0] > 0 &&
         grid[1] > 0 && grid[2] > 0 && grid[1] <= 65535 && grid[2] <= 65535 &&
         shared_bytes <= function->max_shared;
}

/* A line: what happens to the kernel, its sizes, where, its arguments. */
static void log_kernel(const char *what, const object *function, const unsigned *grid,
                       const unsigned *block, unsigned shared_bytes, const char *where,
                       void **parameters) {
  char line[4096];
  size_t size = sizeof(line), length = 0;
  length += (size_t)snprintf(line, size, "%s %s grid %ux%ux%u block %ux%ux%u shared %u in %s", what,
                             function->name, grid[0], grid[1], grid[2], block[0], block[1],
                             block[2], shared_bytes, where);
  for (int i = 0; i < function->num_parameters && length < size; ++i) {
    uint64_t value = 0;
    char text[64];
    size_t bytes = function->sizes[i];
    memcpy(&value, parameters[i], bytes < sizeof(value) ? bytes : sizeof(value));
    describe(value, text, sizeof(text));
    if (bytes == TENSOR_MAP_BYTES)
      snprintf(text, sizeof(text), "%.63s", (const char *)parameters[i]);
    length += (size_t)snprintf(line + length, size - length, "%s%s", i ? ", " : ": ", text);
  }
  log_line("%s", line);
}

EXPORT int cuLaunchKernelEx(const launch_config *config, void *function, void **parameters,
                            void **extra) {
  (void)extra;
  BEGIN_IN_CONTEXT;
  object *found = find(FUNCTION, function);
  if (!can_launch(found, config->grid, config->block, config->shared_bytes))
    return INVALID_VALUE;
  char where[128];
  int length = snprintf(where, sizeof(where), "%s", stream_name(config->stream));
  for (unsigned i = 0; i < config->num_attributes; ++i)
    if (config->attributes[i].id == 4)
      length += snprintf(where + length, sizeof(where) - (size_t)length, " cluster %ux%ux%u",
                         config->attributes[i].value[0], config->attributes[i].value[1],
                         config->attributes[i].value[2]);
  if (capturing) {
    last_node = add(NODE, 0);
    snprintf(where + length, sizeof(where) - (size_t)length, " as %s", last_node->name);
  }
  log_kernel("launch", found, config->grid, config->block, config->shared_bytes, where, parameters);
  return OK;
}

/*===-- Tensor maps -------------------------------------------------------===*/

/* "64x8" */
static void append_sizes(char *text, size_t size, const uint64_t *sizes, const uint32_t *box,
                         unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%llu", i ? "x" : " ",
             (unsigned long long)(sizes ? sizes[i] : box[i]));
  }
}

/* What the reference of the driver API demands of the tiled mode without interleaving. */
EXPORT int cuTensorMapEncodeTiled(void *map, int type, uint32_t rank, unsigned long long data,
                                  const uint64_t *sizes, const uint64_t *strides,
                                  const uint32_t *box, const uint32_t *element_strides,
                                  int interleave, int swizzle, int promotion, int fill) {
  BEGIN;
  static const unsigned bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  if (type < 0 || type > 12 || rank < 1 || rank > 5 || data == 0 || data % 16 != 0 ||
      (uintptr_t)map % 64 != 0 || interleave != 0 || swizzle < 0 || swizzle > 3 || promotion < 0 ||
      promotion > 3 || fill < 0 || fill > 1)
    return INVALID_VALUE;
  for (unsigned i = 0; i < rank; ++i)
    if (sizes[i] == 0 || sizes[i] > (uint64_t)1 << 32 || box[i] == 0 || box[i] > 256 ||
        element_strides[i] != 1 ||
        (i > 0 && (strides[i - 1] % 16 != 0 || strides[i - 1] >= (uint64_t)1 << 40)))
      return INVALID_VALUE;
  unsigned inner = box[0] * bytes[type];
  if (inner % 16 != 0 || (swizzle && inner > 16u << swizzle))
    return INVALID_VALUE;
  object *made = add(MAP, 0);
  char line[512], place[64];
  describe(data, place, sizeof(place));
  snprintf(line, sizeof(line), "cuTensorMapEncodeTiled type %d of %s", type, place);
  append_sizes(line, sizeof(line), sizes, NULL, rank);
  strcat(line, " strides");
  append_sizes(line, sizeof(line), strides, NULL, rank - 1);
  strcat(line, " box");
  append_sizes(line, sizeof(line), NULL, box, rank);
  log_line("%s swizzle %d promotion %d fill %d -> %s", line, swizzle, promotion, fill, made->name);
  memset(map, 0, TENSOR_MAP_BYTES);
  snprintf(map, TENSOR_MAP_BYTES, "%s", made->name);
  return OK;
}

/*===-- Graphs ------------------------------------------------------------===*/

EXPORT int cuStreamGetCaptureInfo_v2(void *stream, int *status, uint64_t *id, void **graph,
                                     const void **last, size_t *num_last) {
  (void)stream;
  BEGIN_IN_CONTEXT;
  *status = capturing;
  *id = 1;
  *graph = NULL;
  *last = &last_node;
  *num_last = last_node ? 1 : 0;
  return OK;
}

typedef struct {
  void *function;
  unsigned grid[3], block[3], shared_bytes;
  void **parameters, **extra;
  void *kernel, *context;
} kernel_node;

EXPORT int cuGraphExecKernelNodeSetParams_v2(void *graph, void *node, const kernel_node *changed) {
  BEGIN_IN_CONTEXT;
  object *found = find(NODE, node), *function = find(FUNCTION, changed->function);
  if (!found || !graph ||
      !can_launch(function, changed->grid, changed->block, changed->shared_bytes))
    return INVALID_VALUE;
  char what[160];
  snprintf(what, sizeof(what), "change %s to", found->name);
  log_kernel(what, function, changed->grid, changed->block, changed->shared_bytes, "a graph",
             changed->parameters);
  return OK;
}

EXPORT int cuGraphNodeSetEnabled(void *graph, void *node, unsigned is_enabled) {
  BEGIN_IN_CONTEXT;
  object *found = find(NODE, node);
  log_line("cuGraphNodeSetEnabled %s %u", found ? found->name : "?", is_enabled);
  return found && graph ? OK : INVALID_VALUE;
}

/*===-- Control -----------------------------------------------------------===*/

static void set_devices(int count) { num_devices = count; }
static void set_capability(int value) { capability = value; }
static void set_version(int value) { version = value; }
static void set_capturing(int value) { capturing = value; }
static int has_failed(void) { return failed; }
static const char *get_log(void) { return record ? record : ""; }

static void name_memory(const void *memory, size_t bytes, const char *name) {
  object *made = add(NAMED, 0);
  made->data = (char *)memory;
  made->bytes = bytes;
  snprintf(made->name, sizeof(made->name), "%s", name);
}

static int count_live(void) {
  int count = num_retained + num_pushed;
  for (object *it = objects; it; it = it->next)
    count += it->kind != NAMED && it->kind != FUNCTION && it->kind != NODE && it->kind != MAP;
  return count;
}

static void reset_all(void) {
  for (object *it = objects, *next; it; it = next) {
    next = it->next;
    if (it->kind == NAMED || it->kind == NODE || it->kind == MAP)
      drop(it->kind, it);
  }
  last_node = NULL;
  reset();
}

EXPORT const fake_driver *fake_driver_get(void);
const fake_driver *fake_driver_get(void) {
  static const fake_driver driver = {reset_all, set_devices, set_capability, set_version,
                                     fail_call, has_failed,  set_capturing,  name_memory,
                                     get_log,   clear_log,   count_live};
  return &driver;
}
