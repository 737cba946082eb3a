/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Runs one MoE layer: hidden_states [tokens, hidden] float32 -> output of the
 * same shape. MODEL is the name of the package, the first argument the number
 * of tokens.
 */
#include "moec.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifndef MODEL
#define MODEL layer0_moe
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

/* As in NAME.h, which a program for one model would include. */
const moec_library *JOIN(MODEL, _moec)(void);

#define HIDDEN 128

static int fail(const moec_library *moec, const char *what) {
  fprintf(stderr, "%s: %s\n", what, moec->last_error());
  return 1;
}

static int64_t count_elements(const DLTensor *tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor->ndim; ++i)
    count *= tensor->shape[i];
  return count;
}

/* Runs the layer and prints what it found. */
static int run_layer(const moec_library *moec, moec_context *context, DLTensor *input) {
  const DLTensor *inputs[1];
  DLTensor output = {0};
  DLTensor *outputs[1];
  inputs[0] = input;
  outputs[0] = &output;

  /* The library says how large the output will be; the memory is ours. */
  if (moec->output_shapes(context, NULL, inputs, 1, outputs, 1) != MOEC_OK)
    return fail(moec, "output_shapes");
  int64_t count = count_elements(&output);
  float *values = malloc((size_t)(count ? count : 1) * sizeof(float));
  if (!values) {
    fprintf(stderr, "out of memory\n");
    return 1;
  }
  output.data = values;

  /* The first run at a size allocates the workspace, later ones nothing. */
  if (moec->run(context, NULL, inputs, 1, outputs, 1) != MOEC_OK) {
    free(values);
    return fail(moec, "run");
  }
  clock_t begin = clock();
  moec_status status = moec->run(context, NULL, inputs, 1, outputs, 1);
  double ms = 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC;

  float largest = 0;
  for (int64_t i = 0; i < count; ++i)
    if (fabsf(values[i]) > largest)
      largest = fabsf(values[i]);
  free(values);
  if (status != MOEC_OK)
    return fail(moec, "run");
  printf("output [%lld, %lld], largest value %g, %.3f ms of CPU time\n", (long long)output.shape[0],
         (long long)output.shape[1], (double)largest, ms);
  return 0;
}

/* One context, one input tensor. */
static int run_model(const moec_library *moec, moec_model *model, int64_t tokens) {
  moec_context *context = NULL;
  if (moec->context_create(model, NULL, &context) != MOEC_OK)
    return fail(moec, "context_create");

  int64_t shape[2];
  shape[0] = tokens;
  shape[1] = HIDDEN;
  float *values = malloc((size_t)(tokens * HIDDEN + 1) * sizeof(float));
  if (!values) {
    fprintf(stderr, "out of memory\n");
    moec->context_destroy(context);
    return 1;
  }
  for (int64_t i = 0; i < tokens * HIDDEN; ++i)
    values[i] = (float)rand() / (float)RAND_MAX - 0.5f;

  DLTensor input = {0};
  input.data = values;
  input.device.device_type = kDLCPU;
  input.dtype.code = kDLFloat;
  input.dtype.bits = 32;
  input.dtype.lanes = 1;
  input.ndim = 2;
  input.shape = shape;

  int result = run_layer(moec, context, &input);
  free(values);
  moec->context_destroy(context);
  return result;
}

int main(int argc, char **argv) {
  const moec_library *moec = JOIN(MODEL, _moec)();
  long tokens = argc > 1 ? strtol(argv[1], NULL, 10) : 4;
  if (tokens < 0 || tokens > 1000000) {
    fprintf(stderr, "usage: %s [tokens]\n", argv[0]);
    return 2;
  }
  /* NULL: the weights beside the library, default options. */
  moec_model *model = NULL;
  if (moec->open(NULL, NULL, &model) != MOEC_OK)
    return fail(moec, "open");
  int result = run_model(moec, model, tokens);
  moec->close(model);
  return result;
}
