// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Links a model's object with the runtime into libraries.

#ifndef MOEC_TARGET_CPU_LINKER_H
#define MOEC_TARGET_CPU_LINKER_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>
#include <vector>

namespace mlir::moe {

/// The parallel layer of a library: OpenMP's, none (one worker), or a hook of
/// the program.
enum class Threads { OpenMP, None, Custom };
llvm::StringRef stringifyThreads(Threads threads);

/// What watches the memory accesses of a library: nothing, AddressSanitizer, or
/// ThreadSanitizer, whose runtime must be in the program that loads it.
enum class Sanitizer { None, Address, Thread };
llvm::StringRef stringifySanitizer(Sanitizer sanitizer);

struct LinkOptions {
  /// Name of the model: NAME_moec is the function that stays visible.
  std::string name;
  /// Folder of runtime_{openmp,none,custom,cuda}.o; below it, `address` and `thread`
  /// with the same under those sanitizers.
  std::string runtimeFolder;
  Threads threads = Threads::OpenMP;
  Sanitizer sanitizer = Sanitizer::None;
  /// The model runs on CUDA devices.
  bool forCUDA = false;
};

/// The program that links. The error says what to install.
llvm::Expected<std::string> findLinker();
/// The objects of the runtime: that of `options.threads`, and that for CUDA.
llvm::Expected<std::vector<std::string>> findRuntime(const LinkOptions &options);
/// The paths of the libraries that a shared library is linked with, the OpenMP runtime
/// first if it is among them. The error says what to install.
llvm::Expected<std::vector<std::string>> findSystemLibraries(Threads threads);

/// A stripped shared library that exports NAME_moec and moec_library only and
/// needs libc and libm (and the OpenMP runtime). All symbols must resolve, but
/// those of a sanitizer: the program has them.
llvm::Error linkSharedLibrary(llvm::ArrayRef<std::string> objects, llvm::StringRef output,
                              const LinkOptions &options);

/// An archive of one object in which everything but NAME_moec is local, so that
/// several models can be linked into one program.
llvm::Error linkStaticLibrary(llvm::ArrayRef<std::string> objects, llvm::StringRef output,
                              const LinkOptions &options);

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_LINKER_H
