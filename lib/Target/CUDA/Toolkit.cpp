// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// ptxas and fatbinary.

#include "moec/Target/CUDA/Kernels.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/Regex.h"

using namespace llvm;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Where the programs are
//===----------------------------------------------------------------------===//

static std::string programIn(StringRef folder, StringRef name) {
  SmallString<128> path(folder);
  sys::path::append(path, "bin", name);
  return sys::fs::can_execute(path) ? path.str().str() : "";
}

static std::string findProgram(StringRef folder, StringRef name) {
  if (!folder.empty())
    return programIn(folder, name);
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"})
    if (std::optional<std::string> home = sys::Process::GetEnv(variable))
      if (std::string path = programIn(*home, name); !path.empty())
        return path;
  if (ErrorOr<std::string> path = sys::findProgramByName(name))
    return *path;
  return programIn("/usr/local/cuda", name);
}

Expected<CUDAToolkit> CUDAToolkit::find(StringRef folder) {
  CUDAToolkit toolkit = {findProgram(folder, "ptxas"), findProgram(folder, "fatbinary")};
  for (auto [name, path] : {std::pair("ptxas", toolkit.ptxas), {"fatbinary", toolkit.fatbinary}})
    if (path.empty())
      return createStringError(formatv(
          "no {0} of a CUDA Toolkit {1}; install the toolkit, set CUDA_HOME to its folder, or "
          "choose --gpu-format=ptx, which needs none",
          name,
          folder.empty() ? "on the PATH, below CUDA_HOME or in /usr/local/cuda"
                         : ("in " + folder + "/bin").str()));
  return toolkit;
}

//===----------------------------------------------------------------------===//
// Running them
//===----------------------------------------------------------------------===//

namespace {
/// A file that goes away with this object.
class TemporaryFile {
public:
  static Expected<TemporaryFile> create(StringRef suffix, StringRef contents = "") {
    TemporaryFile file;
    int descriptor;
    if (std::error_code code = sys::fs::createTemporaryFile("moec", suffix, descriptor, file.path))
      return createStringError(code, "cannot create a temporary file: " + code.message());
    raw_fd_ostream out(descriptor, /*shouldClose=*/true);
    out << contents;
    out.close();
    if (out.has_error())
      return createStringError("cannot write " + Twine(file.path) + ": " + out.error().message());
    return file;
  }
  TemporaryFile(TemporaryFile &&other) : path(std::move(other.path)) { other.path.clear(); }
  ~TemporaryFile() {
    if (!path.empty())
      sys::fs::remove(path);
  }

  Expected<std::string> read() const {
    auto buffer = MemoryBuffer::getFile(path);
    if (!buffer)
      return createStringError("cannot read " + Twine(path) + ": " + buffer.getError().message());
    return (*buffer)->getBuffer().str();
  }

  SmallString<64> path;

private:
  TemporaryFile() = default;
};
} // namespace

/// Runs a program; what it printed, or an error with that.
static Expected<std::string> runProgram(StringRef program, ArrayRef<std::string> arguments) {
  auto output = TemporaryFile::create("txt");
  if (!output)
    return output.takeError();
  SmallVector<StringRef> line = {program};
  line.append(arguments.begin(), arguments.end());
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(output->path),
                                          StringRef(output->path)};
  std::string message;
  int status = sys::ExecuteAndWait(program, line, std::nullopt, redirects, 0, 0, &message);
  auto text = output->read();
  if (!text || status == 0)
    return text;
  return createStringError(sys::path::filename(program) + " failed: " +
                           (message.empty() ? StringRef(*text).rtrim() : StringRef(message)));
}

/// Reads the lines that ptxas -v prints about each kernel.
static std::vector<GPUResources> parseResources(StringRef text) {
  static const Regex entry("Compiling entry function '([^']+)'");
  static const Regex frame(
      "([0-9]+) bytes stack frame, ([0-9]+) bytes spill stores, ([0-9]+) bytes "
      "spill loads");
  static const Regex used("Used ([0-9]+) registers"), shared("([0-9]+) bytes smem");
  auto number = [](StringRef digits) {
    int64_t value = 0;
    (void)digits.getAsInteger(10, value);
    return value;
  };
  std::vector<GPUResources> resources;
  SmallVector<StringRef> found;
  for (StringRef line : split(text, '\n')) {
    if (entry.match(line, &found))
      resources.emplace_back().kernel = found[1].str();
    if (resources.empty())
      continue;
    GPUResources &last = resources.back();
    if (frame.match(line, &found)) {
      last.stackBytes = number(found[1]);
      last.spillBytes = number(found[2]) + number(found[3]);
    }
    if (used.match(line, &found))
      last.registers = number(found[1]);
    if (shared.match(line, &found))
      last.sharedBytes = number(found[1]);
  }
  // Said before the kernel's own lines.
  static const Regex serialized("wgmma.* are serialized .* function '([^']+)'");
  for (StringRef line : split(text, '\n'))
    if (serialized.match(line, &found))
      for (GPUResources &kernel : resources)
        kernel.serializesProducts |= kernel.kernel == found[1];
  return resources;
}

Expected<GPUCode> CUDAToolkit::assemble(const GPUCode &ptx,
                                        std::vector<GPUResources> *resources) const {
  auto source = TemporaryFile::create("ptx", ptx.bytes);
  if (!source)
    return source.takeError();
  auto cubin = TemporaryFile::create("cubin");
  if (!cubin)
    return cubin.takeError();
  auto printed = runProgram(ptxas, {"-v", "-O3", "--gpu-name=" + ptx.machine.name.str(),
                                    source->path.str().str(), "-o", cubin->path.str().str()});
  if (!printed)
    return printed.takeError();
  if (resources)
    *resources = parseResources(*printed);
  auto bytes = cubin->read();
  if (!bytes)
    return bytes.takeError();
  return GPUCode{ptx.machine, /*isPTX=*/false, std::move(*bytes)};
}

Expected<std::string> CUDAToolkit::bundle(ArrayRef<GPUCode> codes) const {
  auto result = TemporaryFile::create("fatbin");
  if (!result)
    return result.takeError();
  std::vector<std::string> arguments = {"-64", "--create=" + result->path.str().str()};
  std::vector<TemporaryFile> files;
  for (const GPUCode &code : codes) {
    auto file = TemporaryFile::create(code.isPTX ? "ptx" : "cubin", code.bytes);
    if (!file)
      return file.takeError();
    arguments.push_back(formatv("--image3=kind={0},sm={1},file={2}", code.isPTX ? "ptx" : "elf",
                                code.machine.name.drop_front(3), file->path));
    files.push_back(std::move(*file));
  }
  if (auto printed = runProgram(fatbinary, arguments); !printed)
    return printed.takeError();
  return result->read();
}
