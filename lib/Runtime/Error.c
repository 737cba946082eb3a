/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The message of the last failure of each thread.
 */
#include "Internal.h"
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[1024];

moec_status rt_fail(moec_status status, const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof(message), format, values);
  va_end(values);
  return status;
}

const char *rt_last_error(void) { return message; }
