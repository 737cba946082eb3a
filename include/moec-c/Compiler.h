/* Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * The compiler as a library: C99 and C++. Link with libmoec-c.so.
 *
 *     moec_compiler_options *options = moec_compiler_options_create();
 *     moec_compiler_result *result = NULL;
 *     if (moec_compiler_options_set(options, "cpu", "x86-64-v3") != 0)
 *       puts(moec_compiler_last_error());
 *     if (moec_compiler_compile(options, "model.onnx", &result) == 0)
 *       puts(moec_compiler_result_summary(result));
 *     moec_compiler_result_destroy(result);
 *     moec_compiler_options_destroy(options);
 *
 * All texts are UTF-8. The functions may be called by several threads, but one
 * object only by one thread at a time; compilations may share options that no
 * thread changes.
 */
#ifndef MOEC_C_COMPILER_H
#define MOEC_C_COMPILER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MOEC_COMPILER_API __attribute__((visibility("default")))
#else
#define MOEC_COMPILER_API
#endif

/* What moec_compiler_compile returns: the exit statuses of `moec`. */
enum {
  MOEC_COMPILER_SUCCESS = 0,
  MOEC_COMPILER_USAGE = 1,       /* an option is wrong or does not fit the input */
  MOEC_COMPILER_BAD_MODEL = 2,   /* the model or one of its files is missing or broken */
  MOEC_COMPILER_UNSUPPORTED = 3, /* the model uses what moec does not support */
  MOEC_COMPILER_OUTPUT = 4,      /* the result could not be written or linked */
  MOEC_COMPILER_INTERNAL = 5,    /* an error of moec itself */
  MOEC_COMPILER_INTERRUPTED = 6  /* the progress function wanted to stop */
};

/* The severity of a diagnostic. */
enum {
  MOEC_COMPILER_ERROR = 0,
  MOEC_COMPILER_WARNING = 1,
  MOEC_COMPILER_REMARK = 2,
  MOEC_COMPILER_NOTE = 3 /* says more about the diagnostic before it */
};

/* No text is NULL; one that is not known is "". The texts live as long as the
 * call that gets them. */
typedef struct {
  int32_t severity;
  const char *message;
  const char *file; /* the model or MLIR file */
  const char *node; /* name of the ONNX node */
  const char *op;   /* its operator, such as "com.microsoft.MoE" */
  int64_t line;     /* index of the node in an ONNX graph, or line of an MLIR file; */
  int64_t column;   /* line and column 0: the file as a whole */
} moec_compiler_diagnostic;

typedef struct moec_compiler_options moec_compiler_options;
typedef struct moec_compiler_result moec_compiler_result;

/* "moec 0.1.0 (LLVM 22.1.8)". */
MOEC_COMPILER_API const char *moec_compiler_version(void);

/* What was wrong in this thread's last call that failed: the text of an option's
 * error, or of the first error of a compilation. Valid until the next call. */
MOEC_COMPILER_API const char *moec_compiler_last_error(void);

/* Options with their defaults. */
MOEC_COMPILER_API moec_compiler_options *moec_compiler_options_create(void);
MOEC_COMPILER_API void moec_compiler_options_destroy(moec_compiler_options *options);

/* Sets an option by its name on moec's command line, without dashes: "cpu", "O",
 * "o". The value of a flag is "true" or "false". A repeatable option ("dim",
 * "keep") gets one more value, another one a new value. Returns 0; or 1 for an
 * unknown name or a wrong value, and nothing is changed then. */
MOEC_COMPILER_API int32_t moec_compiler_options_set(moec_compiler_options *options,
                                                    const char *name, const char *value);

/* `function` gets each diagnostic once, as soon as it is known, its notes after it.
 * One thread calls it at a time, which need not be the one that compiles. NULL, the
 * default, prints to stderr. */
MOEC_COMPILER_API void moec_compiler_options_on_diagnostic(
    moec_compiler_options *options,
    void (*function)(void *user, const moec_compiler_diagnostic *diagnostic), void *user);

/* `function` is called by the thread that compiles: when a phase begins, with 0 and
 * 0, and while the weights are written, with the bytes done and in all. A result
 * other than 0 stops the compilation there. */
MOEC_COMPILER_API void moec_compiler_options_on_progress(
    moec_compiler_options *options,
    int32_t (*function)(void *user, const char *phase, uint64_t done, uint64_t total), void *user);

/* Compiles a model (.onnx) or a dumped phase (.mlir). A package appears as a whole
 * or not at all. Returns one of the values above. On success *result, when `result`
 * is not NULL, is to be destroyed by the caller; else it is NULL. */
MOEC_COMPILER_API int32_t moec_compiler_compile(const moec_compiler_options *options,
                                                const char *input, moec_compiler_result **result);

/* One line: what was found, target, sizes, time. */
MOEC_COMPILER_API const char *moec_compiler_result_summary(const moec_compiler_result *result);
/* The package's folder; "" when "compile-to" wrote a phase instead. Both: "" for NULL. */
MOEC_COMPILER_API const char *moec_compiler_result_package(const moec_compiler_result *result);
MOEC_COMPILER_API void moec_compiler_result_destroy(moec_compiler_result *result);

/* Writes the tensors of the model that a package was compiled from to the
 * safetensors file `output`, bit for bit and under their names. Constants of at most
 * 4 KiB are in the package's code and not among them. Returns 0,
 * MOEC_COMPILER_BAD_MODEL for a package that is missing or damaged,
 * MOEC_COMPILER_UNSUPPORTED when its weights were converted while compiling, or
 * MOEC_COMPILER_OUTPUT. */
MOEC_COMPILER_API int32_t moec_compiler_unpack(const char *package, const char *output);

#ifdef __cplusplus
}
#endif

#endif /* MOEC_C_COMPILER_H */
