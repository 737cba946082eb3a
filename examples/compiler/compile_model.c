// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

/* compile_model MODEL PACKAGE [NAME=VALUE ...]: compiles a model through moec-c. The
 * names are those of moec's options, without dashes. */

#include <moec-c/Compiler.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void print_diagnostic(void *user, const moec_compiler_diagnostic *diagnostic) {
  static const char *const names[] = {"error", "warning", "remark", "note"};
  (void)user;
  fprintf(stderr, "%s: %s\n", names[diagnostic->severity], diagnostic->message);
  if (diagnostic->node[0] != '\0')
    fprintf(stderr, "  at node %" PRId64 " of %s, '%s', operator %s\n", diagnostic->line,
            diagnostic->file, diagnostic->node, diagnostic->op);
}

static int32_t print_progress(void *user, const char *phase, uint64_t done, uint64_t total) {
  (void)user;
  if (total == 0)
    printf("%s\n", phase);
  else
    printf("%s: %" PRIu64 " of %" PRIu64 " bytes of weights\n", phase, done, total);
  return 0; /* anything else would stop the compilation */
}

static int set_option(moec_compiler_options *options, char *text) {
  char *value = strchr(text, '=');
  if (!value) {
    fprintf(stderr, "'%s' is not of the form NAME=VALUE\n", text);
    return 1;
  }
  *value = '\0';
  if (moec_compiler_options_set(options, text, value + 1) == 0)
    return 0;
  fprintf(stderr, "%s\n", moec_compiler_last_error());
  return 1;
}

static int compile_model(moec_compiler_options *options, int argc, char **argv) {
  moec_compiler_result *result = NULL;
  int32_t status;
  int i;

  if (moec_compiler_options_set(options, "o", argv[2]) != 0)
    return MOEC_COMPILER_USAGE;
  for (i = 3; i < argc; ++i)
    if (set_option(options, argv[i]) != 0)
      return MOEC_COMPILER_USAGE;
  moec_compiler_options_on_diagnostic(options, print_diagnostic, NULL);
  moec_compiler_options_on_progress(options, print_progress, NULL);
  status = moec_compiler_compile(options, argv[1], &result);
  if (status == MOEC_COMPILER_SUCCESS)
    printf("%s\n", moec_compiler_result_summary(result));
  moec_compiler_result_destroy(result);
  return status;
}

int main(int argc, char **argv) {
  moec_compiler_options *options;
  int status;

  if (argc < 3) {
    fprintf(stderr, "usage: compile_model MODEL PACKAGE [NAME=VALUE ...]\n");
    return MOEC_COMPILER_USAGE;
  }
  options = moec_compiler_options_create();
  status = compile_model(options, argc, argv);
  moec_compiler_options_destroy(options);
  return status;
}
