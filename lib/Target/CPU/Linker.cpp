// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/Linker.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/ObjCopy/CommonConfig.h"
#include "llvm/ObjCopy/ConfigManager.h"
#include "llvm/ObjCopy/ObjCopy.h"
#include "llvm/Object/ArchiveWriter.h"
#include "llvm/Object/Binary.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"

#include <optional>

using namespace llvm;
using namespace mlir::moe;

#define MOEC_TO_TEXT_(text) #text
#define MOEC_TO_TEXT(text) MOEC_TO_TEXT_(text)

StringRef mlir::moe::stringifyThreads(Threads threads) {
  switch (threads) {
  case Threads::OpenMP:
    return "openmp";
  case Threads::None:
    return "none";
  case Threads::Custom:
    return "custom";
  }
  llvm_unreachable("unknown kind of threads");
}

StringRef mlir::moe::stringifySanitizer(Sanitizer sanitizer) {
  switch (sanitizer) {
  case Sanitizer::None:
    return "none";
  case Sanitizer::Address:
    return "address";
  case Sanitizer::Thread:
    return "thread";
  }
  llvm_unreachable("unknown sanitizer");
}

//===----------------------------------------------------------------------===//
// Finding things
//===----------------------------------------------------------------------===//

Expected<std::string> mlir::moe::findLinker() {
  // The one of our LLVM first; PATH may name another version.
  const StringRef own[] = {MOEC_LLVM_TOOLS};
  for (ArrayRef<StringRef> folders : {ArrayRef<StringRef>(own), ArrayRef<StringRef>()})
    for (StringRef name : {"ld.lld-" MOEC_TO_TEXT(LLVM_VERSION_MAJOR), "ld.lld"})
      if (auto path = sys::findProgramByName(name, folders))
        return *path;
  return createStringError(
      "the linker ld.lld was not found in " MOEC_LLVM_TOOLS
      " or PATH; install lld-" MOEC_TO_TEXT(LLVM_VERSION_MAJOR) " (scripts/setup.sh does)");
}

static Expected<std::string> findLibrary(StringRef name, StringRef package) {
  for (StringRef folder : {"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64",
                           "/lib64", "/usr/lib", "/lib", MOEC_LLVM_LIBRARIES}) {
    SmallString<128> path(folder);
    sys::path::append(path, name);
    if (sys::fs::exists(path))
      return std::string(path);
  }
  return createStringError("the library " + name + " was not found; install " + package);
}

Expected<std::vector<std::string>> mlir::moe::findRuntime(const LinkOptions &options) {
  SmallVector<StringRef> names = {stringifyThreads(options.threads)};
  if (options.forCUDA)
    names.push_back("cuda");
  std::vector<std::string> paths;
  for (StringRef name : names) {
    SmallString<128> path(options.runtimeFolder);
    if (options.sanitizer != Sanitizer::None)
      sys::path::append(path, stringifySanitizer(options.sanitizer));
    sys::path::append(path, "runtime_" + name + ".o");
    if (!sys::fs::exists(path))
      return createStringError("the runtime '" + path + "' was not found");
    paths.push_back(std::string(path));
  }
  return paths;
}

Expected<std::vector<std::string>> mlir::moe::findSystemLibraries(Threads threads) {
  SmallVector<std::pair<StringRef, StringRef>> libraries = {
      {"libm.so.6", "libc6"}, {"libc.so.6", "libc6"}, {"ld-linux-x86-64.so.2", "libc6"}};
  if (threads == Threads::OpenMP)
    libraries.insert(libraries.begin(),
                     {"libomp.so.5", "libomp5-" MOEC_TO_TEXT(LLVM_VERSION_MAJOR)});
  std::vector<std::string> paths;
  for (auto [name, package] : libraries) {
    auto path = findLibrary(name, package);
    if (!path)
      return path.takeError();
    paths.push_back(*path);
  }
  return paths;
}

//===----------------------------------------------------------------------===//
// Running the linker
//===----------------------------------------------------------------------===//

namespace {
/// A file that is removed at the end.
struct TemporaryFile {
  SmallString<128> path;
  std::optional<FileRemover> remover;

  static Expected<TemporaryFile> create(StringRef suffix) {
    TemporaryFile file;
    if (std::error_code code = sys::fs::createTemporaryFile("moec", suffix, file.path))
      return createStringError("cannot create a temporary file: " + code.message());
    file.remover.emplace(file.path);
    return std::move(file);
  }
};
} // namespace

static Error runLinker(ArrayRef<std::string> arguments) {
  auto linker = findLinker();
  if (!linker)
    return linker.takeError();
  auto log = TemporaryFile::create("log");
  if (!log)
    return log.takeError();
  SmallVector<StringRef> line = {*linker};
  line.append(arguments.begin(), arguments.end());
  std::optional<StringRef> redirects[] = {std::nullopt, StringRef(log->path), StringRef(log->path)};
  std::string message;
  int status = sys::ExecuteAndWait(*linker, line, std::nullopt, redirects, 0, 0, &message);
  if (status == 0)
    return Error::success();
  if (auto text = MemoryBuffer::getFile(log->path))
    message += (*text)->getBuffer().trim();
  return createStringError(formatv("{0} failed: {1}", *linker, message));
}

static Error writeText(StringRef path, StringRef text) {
  std::error_code code;
  raw_fd_ostream out(path, code);
  if (!code) {
    out << text;
    out.close();
    code = out.error();
    out.clear_error();
  }
  return code ? createStringError(path + ": cannot write: " + code.message()) : Error::success();
}

Error mlir::moe::linkSharedLibrary(ArrayRef<std::string> objects, StringRef output,
                                   const LinkOptions &options) {
  auto runtime = findRuntime(options);
  if (!runtime)
    return runtime.takeError();
  auto script = TemporaryFile::create("map");
  if (!script)
    return script.takeError();
  if (Error error = writeText(
          script->path,
          formatv("{{ global: {0}_moec; moec_library; local: *; };\n", options.name).str()))
    return error;
  std::vector<std::string> line = {
      "-m",
      "elf_x86_64",
      "-shared",
      "-o",
      output.str(),
      "-soname",
      ("lib" + options.name + ".so"),
      "--gc-sections",
      "--strip-all",
      "--hash-style=gnu",
      "--build-id=none",
      "-z",
      "relro",
      "-z",
      "now",
      "-z",
      "noexecstack",
      "-O2",
      "--icf=safe",
      "--version-script=" + std::string(script->path),
  };
  append_range(line, *runtime);
  append_range(line, objects);
  if (options.sanitizer == Sanitizer::None)
    line.push_back("--no-undefined");
  auto libraries = findSystemLibraries(options.threads);
  if (!libraries)
    return libraries.takeError();
  line.push_back("--as-needed");
  append_range(line, *libraries);
  return runLinker(line);
}

/// Writes `object` with all symbols but `visible` made local.
static Expected<std::unique_ptr<MemoryBuffer>> localizeSymbols(StringRef object,
                                                               StringRef visible) {
  auto binary = object::createBinary(object);
  if (!binary)
    return binary.takeError();
  objcopy::ConfigManager config;
  config.Common.InputFilename = object;
  config.Common.StripUnneeded = true;
  config.Common.StripDebug = true;
  auto pattern = objcopy::NameOrPattern::create(visible, objcopy::MatchStyle::Literal,
                                                [](Error error) { return error; });
  if (Error error = config.Common.SymbolsToKeepGlobal.addMatcher(std::move(pattern)))
    return std::move(error);
  SmallString<0> bytes;
  raw_svector_ostream out(bytes);
  if (Error error = objcopy::executeObjcopyOnBinary(config, *binary->getBinary(), out))
    return std::move(error);
  return MemoryBuffer::getMemBufferCopy(bytes);
}

Error mlir::moe::linkStaticLibrary(ArrayRef<std::string> objects, StringRef output,
                                   const LinkOptions &options) {
  auto runtime = findRuntime(options);
  if (!runtime)
    return runtime.takeError();
  auto merged = TemporaryFile::create("o");
  if (!merged)
    return merged.takeError();
  std::vector<std::string> line = {"-m", "elf_x86_64", "-r", "-o", std::string(merged->path)};
  append_range(line, *runtime);
  append_range(line, objects);
  if (Error error = runLinker(line))
    return error;
  auto buffer = localizeSymbols(merged->path, options.name + "_moec");
  if (!buffer)
    return buffer.takeError();
  std::string memberName = options.name + ".o";
  NewArchiveMember member(MemoryBufferRef((*buffer)->getBuffer(), memberName));
  // Not writeArchive, whose temporary file takes over the signals of the whole program.
  auto archive =
      writeArchiveToBuffer(member, SymtabWritingMode::NormalSymtab, object::Archive::K_GNU,
                           /*Deterministic=*/true, /*Thin=*/false);
  if (!archive)
    return archive.takeError();
  return writeText(output, (*archive)->getBuffer());
}
