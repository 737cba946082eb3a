/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Memory of a call for sizes that depend on data. Chunks that are free are used
 * again, and grow when they are too small, so there are never more of them than
 * were in use at one time.
 */
#include "Internal.h"

#define UNIT ((size_t)64)

/* The smallest free chunk that is large enough, else the largest free one, which has to
 * grow; NULL when none is free. */
static rt_chunk *find_free(moec_context *context, size_t bytes) {
  rt_chunk *best = NULL;
  for (size_t i = 0; i < context->num_chunks; ++i) {
    rt_chunk *chunk = &context->chunks[i];
    if (chunk->is_used)
      continue;
    bool fits = chunk->buffer.bytes >= bytes;
    bool is_better =
        !best || (best->buffer.bytes >= bytes ? fits && chunk->buffer.bytes < best->buffer.bytes
                                              : chunk->buffer.bytes > best->buffer.bytes);
    if (is_better)
      best = chunk;
  }
  return best;
}

/* A chunk without memory; NULL when there is none. */
static rt_chunk *add_chunk(moec_context *context) {
  if (context->num_chunks == context->max_chunks) {
    size_t count = 2 * context->max_chunks + 16;
    rt_chunk *chunks = rt_allocate(&context->options, count * sizeof(rt_chunk), UNIT);
    if (!chunks)
      return NULL;
    for (size_t i = 0; i < context->num_chunks; ++i)
      chunks[i] = context->chunks[i];
    rt_deallocate(&context->options, context->chunks, context->max_chunks * sizeof(rt_chunk));
    context->chunks = chunks;
    context->max_chunks = count;
  }
  rt_chunk *chunk = &context->chunks[context->num_chunks++];
  *chunk = (rt_chunk){{NULL, 0}, false};
  return chunk;
}

/* The rest of the call has nothing to work on. */
static _Noreturn void give_up(moec_context *context, int64_t bytes) {
  context->missing_bytes = bytes;
  longjmp(context->escape, 1);
}

void *moec_allocate(void *call, int64_t bytes) {
  moec_context *context = call;
  if (bytes < 0 || bytes > INT64_MAX / 2)
    give_up(context, -1);
  size_t rounded = ((size_t)bytes / UNIT + 1) * UNIT;
  rt_chunk *chunk = find_free(context, rounded);
  if (!chunk)
    chunk = add_chunk(context);
  if (!chunk || rt_grow(context, &chunk->buffer, rounded, "a temporary") != MOEC_OK)
    give_up(context, bytes);
  chunk->is_used = true;
  return chunk->buffer.memory;
}

void moec_release(void *call, void *memory) {
  moec_context *context = call;
  for (size_t i = 0; i < context->num_chunks; ++i)
    if (context->chunks[i].buffer.memory == memory)
      context->chunks[i].is_used = false;
}

void rt_release_chunks(moec_context *context) {
  for (size_t i = 0; i < context->num_chunks; ++i)
    context->chunks[i].is_used = false;
}

void rt_destroy_chunks(moec_context *context) {
  for (size_t i = 0; i < context->num_chunks; ++i)
    rt_deallocate(&context->options, context->chunks[i].buffer.memory,
                  context->chunks[i].buffer.bytes);
  rt_deallocate(&context->options, context->chunks, context->max_chunks * sizeof(rt_chunk));
}
