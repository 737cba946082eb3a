/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Memory of contexts.
 */
#include "Internal.h"
#include <stdlib.h>
#include <sys/mman.h>

/* What generated code expects of its workspace. */
#define RT_ALIGNMENT 64

static void *allocate_default(size_t bytes, size_t alignment) {
  bool is_large = bytes >= 2 * RT_HUGE_PAGE;
  void *memory;
  if (posix_memalign(&memory, is_large ? RT_HUGE_PAGE : alignment, bytes) != 0)
    return NULL;
  if (is_large)
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

void *rt_allocate(const moec_context_options *options, size_t bytes, size_t alignment) {
  if (options->allocate)
    return options->allocate(options->allocator, bytes, alignment);
  return allocate_default(bytes, alignment);
}

void rt_deallocate(const moec_context_options *options, void *memory, size_t bytes) {
  if (!memory)
    return;
  if (options->deallocate)
    options->deallocate(options->allocator, memory, bytes);
  else
    free(memory);
}

moec_status rt_grow(moec_context *context, rt_buffer *buffer, size_t bytes, const char *what) {
  if (bytes <= buffer->bytes)
    return MOEC_OK;
  rt_deallocate(&context->options, buffer->memory, buffer->bytes);
  *buffer = (rt_buffer){NULL, 0};
  void *memory = rt_allocate(&context->options, bytes, RT_ALIGNMENT);
  if (!memory)
    return rt_fail(MOEC_ERROR_MEMORY, "cannot allocate %zu bytes for %s", bytes, what);
  *buffer = (rt_buffer){memory, bytes};
  if ((uintptr_t)memory % RT_ALIGNMENT != 0)
    return rt_fail(MOEC_ERROR_MEMORY,
                   "the allocate hook returned memory that is not aligned to "
                   "%zu bytes",
                   (size_t)RT_ALIGNMENT);
  return MOEC_OK;
}
