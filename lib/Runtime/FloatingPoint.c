/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The SSE control register. Results must not depend on what the caller or a
 * thread pool left there.
 */
#include "Internal.h"
#include <xmmintrin.h>

/* Round to nearest, denormals kept, all exceptions masked, no flags. */
#define DEFAULT_MXCSR 0x1f80u

uint32_t rt_enter_float_state(void) {
  uint32_t state = _mm_getcsr();
  _mm_setcsr(DEFAULT_MXCSR);
  return state;
}

void rt_leave_float_state(uint32_t state) { _mm_setcsr(state); }
