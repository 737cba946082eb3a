/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What the runtime asks of a device that is not the CPU.
 */
#ifndef MOEC_LIB_RUNTIME_DEVICE_H
#define MOEC_LIB_RUNTIME_DEVICE_H

#include "Internal.h"

#pragma GCC visibility push(hidden)

/* All functions need the device to be entered, unless they say otherwise. */
struct moec_device {
  /* Is there one? Also when it cannot be used. */
  bool (*is_present)(void);
  /* Finds the device and puts kernels and weights on it: sets model->level, model->on_device and
   * model->weights. On an error nothing is left behind. */
  moec_status (*open)(moec_model *model, const moec_options *options);
  void (*close)(moec_model *model);

  /* Makes the device current in this thread; leave makes current what was so before. */
  moec_status (*enter)(moec_model *model);
  void (*leave)(moec_model *model);

  /* Sets and frees context->on_device. Not entered. */
  moec_status (*create_context)(moec_context *context);
  void (*destroy_context)(moec_context *context);

  /* Around each run, before its workspace is made and after its last launch. What begins with a
   * graph changes that instead. */
  moec_status (*begin_run)(moec_context *context, void *graph_exec);
  moec_status (*end_run)(moec_context *context);
  /* Waits for the profiled run, if there is one, and adds its times to the context's profile. */
  moec_status (*collect_profile)(moec_context *context);
  /* Waits for all runs, and reports what failed in them. */
  moec_status (*wait)(moec_context *context);

  /* Makes the buffer on the device at least that large; its content is lost when it grows.
   * Waits for the context's stream then. */
  moec_status (*grow)(moec_context *context, rt_buffer *buffer, size_t bytes, const char *what);
  /* Frees it when the context's stream no longer uses it. */
  void (*release)(moec_context *context, rt_buffer *buffer);
};

#pragma GCC visibility pop

#endif /* MOEC_LIB_RUNTIME_DEVICE_H */
