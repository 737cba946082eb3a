// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec-c/Compiler.h"
#include "moec/Compiler/Options.h"
#include "moec/Compiler/Unpack.h"

using namespace mlir::moe;

struct moec_compiler_options {
  CompileOptions options;
};

struct moec_compiler_result {
  CompileResult result;
};

static thread_local std::string lastError;

static int32_t fail(CompileStatus status, const llvm::Twine &message) {
  lastError = message.str();
  return int32_t(status);
}

static void handOn(const CompileDiagnostic &from,
                   void (*function)(void *, const moec_compiler_diagnostic *), void *user) {
  moec_compiler_diagnostic diagnostic{int32_t(from.severity),
                                      from.message.c_str(),
                                      from.file.c_str(),
                                      from.node.c_str(),
                                      from.op.c_str(),
                                      from.line,
                                      from.column};
  function(user, &diagnostic);
  for (const CompileDiagnostic &note : from.notes)
    handOn(note, function, user);
}

const char *moec_compiler_version(void) {
  static const std::string text = getVersionText();
  return text.c_str();
}

const char *moec_compiler_last_error(void) { return lastError.c_str(); }

moec_compiler_options *moec_compiler_options_create(void) { return new moec_compiler_options; }

void moec_compiler_options_destroy(moec_compiler_options *options) { delete options; }

int32_t moec_compiler_options_set(moec_compiler_options *options, const char *name,
                                  const char *value) {
  if (!options || !name || !value)
    return fail(CompileStatus::Usage, "options, name or value is NULL");
  if (llvm::Error error = setOption(options->options, name, value))
    return fail(CompileStatus::Usage, llvm::toString(std::move(error)));
  return 0;
}

void moec_compiler_options_on_diagnostic(moec_compiler_options *options,
                                         void (*function)(void *, const moec_compiler_diagnostic *),
                                         void *user) {
  options->options.onDiagnostic = nullptr;
  if (function)
    options->options.onDiagnostic = [=](const CompileDiagnostic &diagnostic) {
      handOn(diagnostic, function, user);
    };
}

void moec_compiler_options_on_progress(moec_compiler_options *options,
                                       int32_t (*function)(void *, const char *, uint64_t,
                                                           uint64_t),
                                       void *user) {
  options->options.progress = nullptr;
  if (function)
    options->options.progress = [=](llvm::StringRef phase, uint64_t done, uint64_t all) {
      return function(user, phase.str().c_str(), done, all) == 0;
    };
}

int32_t moec_compiler_compile(const moec_compiler_options *options, const char *input,
                              moec_compiler_result **result) {
  if (result)
    *result = nullptr;
  if (!options || !input)
    return fail(CompileStatus::Usage, "options or input is NULL");
  CompileOptions compileOptions = options->options;
  compileOptions.input = input;
  std::string firstError;
  compileOptions.onDiagnostic = [&](const CompileDiagnostic &diagnostic) {
    if (diagnostic.severity == Severity::Error && firstError.empty())
      firstError = diagnostic.message;
    if (options->options.onDiagnostic)
      options->options.onDiagnostic(diagnostic);
    else
      printDiagnostic(llvm::errs(), diagnostic, hasColors(options->options.color));
  };
  CompileResult compiled = compile(compileOptions);
  if (compiled.status == CompileStatus::Interrupted)
    return fail(compiled.status, describeStatus(compiled.status));
  if (compiled.status != CompileStatus::Success)
    return fail(compiled.status, firstError);
  if (result)
    *result = new moec_compiler_result{std::move(compiled)};
  return 0;
}

int32_t moec_compiler_unpack(const char *package, const char *output) {
  if (!package || !output)
    return fail(CompileStatus::Usage, "package or output is NULL");
  std::string message;
  CompileStatus status = unpackPackage(package, output, message);
  return status == CompileStatus::Success ? 0 : fail(status, message);
}

const char *moec_compiler_result_summary(const moec_compiler_result *result) {
  return result ? result->result.summary.c_str() : "";
}

const char *moec_compiler_result_package(const moec_compiler_result *result) {
  return result ? result->result.package.c_str() : "";
}

void moec_compiler_result_destroy(moec_compiler_result *result) { delete result; }
