/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * threads LIBRARY WORKERS ROWSxCOLUMNS...: several threads run one model, each in
 * contexts of its own, on the same float32 inputs; all must get the same bits. With
 * more than one worker, the loops of each context run in threads of their own.
 */
#include "moec/Runtime/moec.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUM_THREADS 4
#define NUM_RUNS 6
#define MAX_INPUTS 8

static const moec_library *moec;
static moec_model *model;
static int32_t num_workers;
static int num_inputs;
static DLTensor inputs[MAX_INPUTS];
static int64_t input_shapes[MAX_INPUTS][2];

static void check(moec_status status) {
  if (status == MOEC_OK)
    return;
  fprintf(stderr, "threads: %s\n", moec->last_error());
  exit(1);
}

/*===-- A pool ------------------------------------------------------------===*/

typedef struct {
  atomic_llong next;
  int64_t count;
  moec_task_fn body;
  void *ctx;
} loop;

typedef struct {
  loop *work;
  int32_t number;
} worker;

static void *run_tasks(void *data) {
  const worker *self = data;
  int64_t task;
  while ((task = atomic_fetch_add(&self->work->next, 1)) < self->work->count)
    self->work->body(self->work->ctx, task, self->number);
  return NULL;
}

static void parallel_for(void *pool, int64_t count, moec_task_fn body, void *ctx) {
  loop work = {0, count, body, ctx};
  worker workers[16];
  pthread_t threads[16];
  (void)pool;
  for (int32_t i = 0; i < num_workers; ++i) {
    workers[i] = (worker){&work, i};
    if (pthread_create(&threads[i], NULL, run_tasks, &workers[i]))
      exit(1);
  }
  for (int32_t i = 0; i < num_workers; ++i)
    pthread_join(threads[i], NULL);
}

/*===-- Runs --------------------------------------------------------------===*/

typedef struct {
  float *data;
  size_t bytes;
} result;

static result run_once(moec_context *context) {
  const DLTensor *in[MAX_INPUTS];
  DLTensor out = {0};
  DLTensor *outs[1] = {&out};
  result made = {NULL, sizeof(float)};
  for (int i = 0; i < num_inputs; ++i)
    in[i] = &inputs[i];
  check(moec->output_shapes(context, NULL, in, num_inputs, outs, 1));
  for (int32_t i = 0; i < out.ndim; ++i)
    made.bytes *= (size_t)out.shape[i];
  out.data = made.data = malloc(made.bytes);
  check(moec->run(context, NULL, in, num_inputs, outs, 1));
  return made;
}

static moec_context *make_context(void) {
  moec_context_options options = MOEC_CONTEXT_OPTIONS_INIT;
  moec_context *context = NULL;
  if (num_workers > 1) {
    options.num_workers = num_workers;
    options.parallel_for = parallel_for;
  }
  check(moec->context_create(model, &options, &context));
  return context;
}

static void *run_thread(void *expected_result) {
  const result *expected = expected_result;
  for (int run = 0; run < NUM_RUNS; ++run) {
    /* A new context each second time; errors belong to their thread. */
    moec_context *context = make_context();
    for (int again = 0; again < 2; ++again) {
      result got = run_once(context);
      if (got.bytes != expected->bytes || memcmp(got.data, expected->data, got.bytes)) {
        fprintf(stderr, "threads: results differ\n");
        exit(1);
      }
      free(got.data);
    }
    if (moec->run(context, "no such entry", NULL, 0, NULL, 0) != MOEC_ERROR_ARGUMENT ||
        !strstr(moec->last_error(), "no such entry"))
      exit(1);
    moec->context_destroy(context);
  }
  return NULL;
}

/*===-- Program -----------------------------------------------------------===*/

static void make_input(DLTensor *tensor, int64_t *shape, const char *text) {
  unsigned state = 1;
  float *data;
  if (sscanf(text, "%ldx%ld", &shape[0], &shape[1]) != 2)
    exit(2);
  data = malloc(sizeof(float) * (size_t)(shape[0] * shape[1]));
  for (int64_t i = 0; i < shape[0] * shape[1]; ++i) {
    state = state * 1664525u + 1013904223u;
    data[i] = (float)(state >> 8) / (1 << 23) - 1;
  }
  tensor->data = data;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = 2;
  tensor->dtype = (DLDataType){kDLFloat, 32, 1};
  tensor->shape = shape;
}

int main(int argc, char **argv) {
  pthread_t threads[NUM_THREADS];
  void *library;
  moec_context *context;
  result expected;
  if (argc < 4 || argc > 3 + MAX_INPUTS)
    return 2;
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "threads: %s\n", dlerror());
    return 1;
  }
  moec = ((const moec_library *(*)(void))dlsym(library, "moec_library"))();
  num_workers = atoi(argv[2]);
  num_inputs = argc - 3;
  for (int i = 0; i < num_inputs; ++i)
    make_input(&inputs[i], input_shapes[i], argv[3 + i]);
  check(moec->open(NULL, NULL, &model));
  context = make_context();
  expected = run_once(context);
  moec->context_destroy(context);
  for (int i = 0; i < NUM_THREADS; ++i)
    if (pthread_create(&threads[i], NULL, run_thread, &expected))
      return 1;
  for (int i = 0; i < NUM_THREADS; ++i)
    pthread_join(threads[i], NULL);
  moec->close(model);
  free(expected.data);
  for (int i = 0; i < num_inputs; ++i)
    free(inputs[i].data);
  return 0;
}
