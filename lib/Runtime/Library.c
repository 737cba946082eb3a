/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The table of functions. The compiler emits the accessor that returns it.
 */
#include "Internal.h"

__attribute__((visibility("hidden"))) extern const moec_library moec_runtime_library;

const moec_library moec_runtime_library = {
    .size = sizeof(moec_library),
    .abi_version = MOEC_ABI_VERSION,
    .open = rt_open,
    .context_create = rt_context_create,
    .output_shapes = rt_output_shapes,
    .workspace_size = rt_workspace_size,
    .run = rt_run,
    .info = rt_info,
    .last_error = rt_last_error,
    .context_destroy = rt_context_destroy,
    .close = rt_close,
    .profile = rt_profile_read,
    .profile_reset = rt_profile_reset,
    .num_workers = rt_context_workers,
    .device = rt_model_device,
    .update_graph = rt_update_graph,
    .wait = rt_wait,
    .model_info = rt_model_info,
};
