/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Time per region of the model.
 */
#include "Device.h"
#include <string.h>
#include <time.h>

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static bool is_enabled(const moec_context *context) {
  return context->options.flags & MOEC_CONTEXT_PROFILE;
}

/* Makes room for a region; happens in first runs only. */
static bool reserve(moec_context *context, int32_t region) {
  rt_profile *profile = &context->profile;
  if (region < profile->capacity)
    return true;
  if (region > INT32_MAX / 4)
    return false;
  int32_t capacity = 2 * region + 16;
  size_t bytes = (size_t)capacity * sizeof(moec_region_time);
  moec_region_time *times = rt_allocate(&context->options, bytes, sizeof(uint64_t) * 2);
  if (!times)
    return false;
  memset(times, 0, bytes);
  size_t old = (size_t)profile->capacity * sizeof(moec_region_time);
  if (old)
    memcpy(times, profile->times, old);
  rt_deallocate(&context->options, profile->times, old);
  profile->times = times;
  profile->capacity = capacity;
  return true;
}

/* Gives the time since the last mark to its region. */
static void close_region(rt_profile *profile, uint64_t time) {
  if (profile->current >= 0)
    profile->times[profile->current].nanoseconds += time - profile->since;
  profile->current = -1;
  profile->since = time;
}

void rt_profile_begin(moec_context *context) {
  if (is_enabled(context))
    close_region(&context->profile, now());
}

void rt_profile_end(moec_context *context) {
  if (is_enabled(context))
    close_region(&context->profile, now());
}

void moec_profile_mark(void *call, int32_t region) {
  moec_context *context = call;
  rt_profile *profile = &context->profile;
  if (!is_enabled(context))
    return;
  close_region(profile, now());
  if (region < 0 || !reserve(context, region))
    return;
  profile->current = region;
  ++profile->times[region].count;
  if (profile->count <= region)
    profile->count = region + 1;
}

void rt_profile_add(moec_context *context, int32_t region, uint64_t nanoseconds) {
  rt_profile *profile = &context->profile;
  if (region < 0 || !reserve(context, region))
    return;
  ++profile->times[region].count;
  profile->times[region].nanoseconds += nanoseconds;
  if (profile->count <= region)
    profile->count = region + 1;
}

/* What a device has measured and nobody has asked for. Changes nothing that a caller sees. */
static void collect(const moec_context *context) {
  moec_model *model = context->model;
  if (!model->device || !is_enabled(context) || model->device->enter(model) != MOEC_OK)
    return;
  (void)model->device->collect_profile((moec_context *)context);
  model->device->leave(model);
}

int32_t rt_profile_read(const moec_context *context, moec_region_time *times, int32_t capacity) {
  if (!context)
    return 0;
  collect(context);
  const rt_profile *profile = &context->profile;
  for (int32_t i = 0; times && i < capacity && i < profile->count; ++i)
    times[i] = profile->times[i];
  return profile->count;
}

void rt_profile_reset(moec_context *context) {
  if (!context)
    return;
  collect(context);
  if (context->profile.capacity)
    memset(context->profile.times, 0, (size_t)context->profile.capacity * sizeof(moec_region_time));
}
