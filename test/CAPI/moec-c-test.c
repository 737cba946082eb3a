// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

/* Compiles through moec-c and prints all that it says:
 *
 *     moec-c-test MODEL [--stop-at=PHASE] [--stop-in=PHASE] [NAME=VALUE ...]
 *     moec-c-test
 *
 * Stops when the phase begins, or at its first progress. Without a model, wrong uses of
 * the interface are tried. */

#include "moec-c/Compiler.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stop {
  const char *phase;
  int inside;
};

static void printDiagnostic(void *user, const moec_compiler_diagnostic *diagnostic) {
  static const char *const names[] = {"error", "warning", "remark", "note"};
  ++*(int *)user;
  printf("%s: file '%s' line %" PRId64 " column %" PRId64 " node '%s' op '%s': %s\n",
         names[diagnostic->severity], diagnostic->file, diagnostic->line, diagnostic->column,
         diagnostic->node, diagnostic->op, diagnostic->message);
}

static int32_t printProgress(void *user, const char *phase, uint64_t done, uint64_t total) {
  const struct stop *stop = user;
  printf("progress: %s %" PRIu64 " of %" PRIu64 "\n", phase, done, total);
  return stop->phase && strcmp(stop->phase, phase) == 0 && (!stop->inside || done > 0);
}

static int tryWrongUses(void) {
  moec_compiler_options *options = moec_compiler_options_create();
  moec_compiler_result *result = (moec_compiler_result *)options;

  assert(moec_compiler_options_set(options, "cpuu", "native") == 1);
  assert(strcmp(moec_compiler_last_error(), "unknown option '--cpuu'; did you mean '--cpu'?") == 0);
  assert(moec_compiler_options_set(options, "O", "4") == 1);
  assert(strcmp(moec_compiler_last_error(), "-O cannot be '4'; it can only be 0, 1, 2, 3") == 0);
  assert(moec_compiler_options_set(options, "dim", "batch") == 1);
  assert(strcmp(moec_compiler_last_error(), "--dim needs name=size, got 'batch'") == 0);
  assert(moec_compiler_options_set(options, "quiet", "perhaps") == 1);
  assert(moec_compiler_options_set(options, NULL, "x") == 1);
  assert(moec_compiler_options_set(options, "cpu", NULL) == 1);
  assert(moec_compiler_options_set(NULL, "cpu", "native") == 1);

  assert(moec_compiler_compile(NULL, "model.onnx", &result) == MOEC_COMPILER_USAGE);
  assert(result == NULL);
  assert(moec_compiler_compile(options, NULL, NULL) == MOEC_COMPILER_USAGE);
  assert(moec_compiler_result_summary(NULL)[0] == '\0');
  assert(moec_compiler_result_package(NULL)[0] == '\0');
  moec_compiler_result_destroy(NULL);
  moec_compiler_options_destroy(NULL);

  /* Where nobody listens, errors go to stderr. */
  assert(moec_compiler_compile(options, "no such model.onnx", &result) == MOEC_COMPILER_BAD_MODEL);
  assert(strstr(moec_compiler_last_error(), "no such model.onnx"));
  moec_compiler_options_destroy(options);
  printf("%s\n", moec_compiler_version());
  return 0;
}

int main(int argc, char **argv) {
  moec_compiler_options *options;
  moec_compiler_result *result = NULL;
  struct stop stop = {NULL, 0};
  int diagnostics = 0;
  int32_t status;
  int i;

  if (argc < 2)
    return tryWrongUses();
  options = moec_compiler_options_create();
  for (i = 2; i < argc; ++i) {
    char *value = strchr(argv[i], '=');
    assert(value);
    *value = '\0';
    if (strncmp(argv[i], "--stop-", 7) == 0) {
      stop.phase = value + 1;
      stop.inside = strcmp(argv[i], "--stop-in") == 0;
    } else if (moec_compiler_options_set(options, argv[i], value + 1) != 0) {
      fprintf(stderr, "%s\n", moec_compiler_last_error());
      return 100;
    }
  }
  moec_compiler_options_on_diagnostic(options, printDiagnostic, &diagnostics);
  moec_compiler_options_on_progress(options, printProgress, &stop);
  status = moec_compiler_compile(options, argv[1], &result);
  moec_compiler_options_destroy(options);

  printf("status %d, %d diagnostics\n", (int)status, diagnostics);
  assert((status == MOEC_COMPILER_SUCCESS) == (result != NULL));
  if (result)
    printf("package %s\nsummary %s\n", moec_compiler_result_package(result),
           moec_compiler_result_summary(result));
  else
    printf("last error: %s\n", moec_compiler_last_error());
  moec_compiler_result_destroy(result);
  return status;
}
