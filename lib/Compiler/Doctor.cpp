// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Doctor.h"
#include "Package.h"
#include "Text.h"

#include "moec/Compiler/Compiler.h"
#include "moec/Runtime/moec.h"
#include "moec/Target/CPU/Machine.h"
#include "llvm-c/Core.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/TargetParser/Host.h"

#include <dlfcn.h>
#include <link.h>
#include <thread>
#include <unistd.h>

using namespace llvm;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// What a compilation needs
//===----------------------------------------------------------------------===//

static Finding good(StringRef name, const Twine &text) {
  return {Finding::Good, name.str(), text.str()};
}
static Finding fact(StringRef name, const Twine &text) {
  return {Finding::Fact, name.str(), text.str()};
}
static Finding problem(StringRef name, const Twine &text) {
  return {Finding::Problem, name.str(), text.str()};
}
static Finding problem(StringRef name, Error error) {
  return problem(name, toString(std::move(error)));
}

/// libMLIR comes with libLLVM and has no version of its own to ask.
static Finding examineLLVM() {
  unsigned major, minor, patch;
  LLVMGetVersion(&major, &minor, &patch);
  std::string loaded = formatv("{0}.{1}.{2}", major, minor, patch);
  if (major != LLVM_VERSION_MAJOR)
    return problem("LLVM", "moec was built with LLVM " LLVM_VERSION_STRING ", but loads " + loaded);
  return good("LLVM", "LLVM and MLIR " + loaded);
}

static Finding examineRuntime() {
  std::string folder = getRuntimeFolder();
  for (Threads threads : {Threads::OpenMP, Threads::None, Threads::Custom})
    if (auto object = findRuntime({"", folder, threads, Sanitizer::None}); !object)
      return problem("runtime", object.takeError());
  SmallString<128> header(folder);
  sys::path::append(header, "moec.h");
  if (!sys::fs::exists(header))
    return problem("runtime", "'" + header + "' was not found");
  return good("runtime", folder);
}

/// The first line that a program prints for --version; empty when it does not run.
static std::string askVersion(StringRef program) {
  SmallString<128> output;
  if (sys::fs::createTemporaryFile("moec-doctor", "txt", output))
    return "";
  scope_exit remove([&] { (void)sys::fs::remove(output); });
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(output), StringRef()};
  if (sys::ExecuteAndWait(program, {program, "--version"}, std::nullopt, redirects) != 0)
    return "";
  auto text = MemoryBuffer::getFile(output);
  return text ? (*text)->getBuffer().split('\n').first.str() : "";
}

static Finding examineLinker() {
  auto linker = findLinker();
  if (!linker)
    return problem("linker", linker.takeError());
  std::string version = askVersion(*linker);
  if (version.empty())
    return problem("linker", *linker + " does not run");
  return good("linker", *linker + " (" + version + ")");
}

static Finding examineLibraries() {
  auto libraries = findSystemLibraries(Threads::None);
  return libraries ? good("libraries", join(*libraries, ", "))
                   : problem("libraries", libraries.takeError());
}

/// Found by the linker, and by the loader under the name that libraries ask for.
static Finding examineOpenMP() {
  auto libraries = findSystemLibraries(Threads::OpenMP);
  if (!libraries)
    return problem("OpenMP", toString(libraries.takeError()) + ", or compile with --threads=none");
  void *handle = dlopen("libomp.so.5", RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return problem("OpenMP", Twine("libomp.so.5 cannot be loaded: ") + dlerror());
  link_map *loaded = nullptr;
  dlinfo(handle, RTLD_DI_LINKMAP, &loaded);
  auto getThreads = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_max_threads"));
  if (!getThreads)
    return problem("OpenMP", Twine(loaded->l_name) + " is not an OpenMP runtime");
  return good("OpenMP", Twine(loaded->l_name) + ", " + Twine(getThreads()) + " threads");
}

static Finding examineCPU() {
  auto machine = Machine::get("native");
  if (!machine)
    return problem("CPU", machine.takeError());
  std::string features = machine->features.empty() ? "no features" : join(machine->features, " ");
  if (!machine->hasFMA)
    return problem("CPU", "no fused multiply-add: only -O0 works (" + features + ")");
  return good("CPU", formatv("kernels with {0}-bit vectors ({1})", machine->vectorBits, features));
}

//===----------------------------------------------------------------------===//
// A compilation
//===----------------------------------------------------------------------===//

static const char testModel[] =
    R"(func.func @main(%x: tensor<4xf32> {onnx.name = "x"}) -> (tensor<4xf32> {onnx.name = "y"}) {
  %y = onnx.node "Relu"(%x) {outputs = ["y"], version = 14 : i64} : (tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}
)";

/// Opens the library and runs it once; what went wrong, or nothing.
static std::string runModel(StringRef library) {
  void *handle = dlopen(library.str().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return dlerror();
  auto get = reinterpret_cast<moec_library_fn>(dlsym(handle, MOEC_LIBRARY_SYMBOL));
  if (!get)
    return "the library has no symbol " MOEC_LIBRARY_SYMBOL;
  const moec_library &moec = *get();
  moec_model *model = nullptr;
  moec_context *context = nullptr;
  float x[] = {-2, -1, 1, 2}, y[] = {9, 9, 9, 9};
  int64_t shape[] = {4};
  DLTensor in{x, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, shape, nullptr, 0}, out = in;
  out.data = y;
  const DLTensor *ins[] = {&in};
  DLTensor *outs[] = {&out};
  bool ran = moec.open(nullptr, nullptr, &model) == MOEC_OK &&
             moec.context_create(model, nullptr, &context) == MOEC_OK &&
             moec.run(context, nullptr, ins, 1, outs, 1) == MOEC_OK;
  std::string message = ran ? "" : moec.last_error();
  moec.context_destroy(context);
  moec.close(model);
  // The library stays loaded: OpenMP threads may live in it.
  bool right = y[0] == 0 && y[1] == 0 && y[2] == 1 && y[3] == 2;
  return ran && !right ? "it computed wrong values" : message;
}

static Finding examineCompilation() {
  SmallString<128> folder;
  if (std::error_code code = sys::fs::createUniqueDirectory("moec-doctor", folder))
    return problem("compile", "cannot create a temporary folder: " + code.message());
  scope_exit remove([&] { (void)sys::fs::remove_directories(folder); });
  CompileOptions options;
  options.input = (folder + "/test.mlir").str();
  options.output = (folder + "/test.moec").str();
  options.quiet = true;
  if (Error error = writeTextFile(options.input, testModel))
    return problem("compile", std::move(error));
  std::string message;
  options.onDiagnostic = [&](const CompileDiagnostic &diagnostic) {
    if (diagnostic.severity == Severity::Error && message.empty())
      message = diagnostic.message;
  };
  if (compile(options).status != CompileStatus::Success)
    return problem("compile", "a small model was not compiled: " + message);
  message = runModel(options.output + "/libtest.so");
  if (!message.empty())
    return problem("compile", "a small model was compiled, but does not run: " + message);
  return good("compile", "a small model was compiled, linked, opened and run");
}

//===----------------------------------------------------------------------===//
// Good to know
//===----------------------------------------------------------------------===//

static Finding examineProcessors() {
  Machine machine = cantFail(Machine::get("native"));
  return fact("processors",
              formatv("{0}, {1} of them for this process; caches of a core: L1 {2} KiB, L2 {3} KiB",
                      sysconf(_SC_NPROCESSORS_ONLN), std::thread::hardware_concurrency(),
                      machine.l1Bytes >> 10, machine.l2Bytes >> 10));
}

/// The choice in brackets of a file such as "always [madvise] never".
static std::string readChoice(StringRef file) {
  auto text = MemoryBuffer::getFileAsStream(file);
  if (!text)
    return "not there";
  return (*text)->getBuffer().split('[').second.split(']').first.str();
}

static Finding examineMemory() {
  uint64_t page = sys::Process::getPageSizeEstimate(), pages = sysconf(_SC_PHYS_PAGES);
  return fact("memory", formatBytes(page * pages) + " in pages of " + Twine(page) +
                            " bytes; transparent huge pages: " +
                            readChoice("/sys/kernel/mm/transparent_hugepage/enabled"));
}

static std::string describeCUDADriver() {
  void *handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return "no driver (libcuda.so.1)";
  int version = 0;
  auto getVersion = reinterpret_cast<int (*)(int *)>(dlsym(handle, "cuDriverGetVersion"));
  if (!getVersion || getVersion(&version) != 0)
    return "a driver that does not tell its version";
  return formatv("driver for CUDA {0}.{1}", version / 1000, version % 1000 / 10);
}

static std::string describeCUDAToolkit() {
  std::vector<std::string> folders;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
    if (auto folder = sys::Process::GetEnv(variable))
      folders.push_back(*folder + "/bin");
  folders.push_back("/usr/local/cuda/bin");
  SmallVector<StringRef> paths(folders.begin(), folders.end());
  for (ArrayRef<StringRef> where : {ArrayRef<StringRef>(paths), ArrayRef<StringRef>()})
    if (auto program = sys::findProgramByName("ptxas", where))
      return "toolkit in " + sys::path::parent_path(*program).str();
  return "no toolkit (ptxas)";
}

static Finding examineCUDA() {
  return fact("CUDA", describeCUDADriver() + ", " + describeCUDAToolkit() +
                          "; needed for --target=cuda only: the driver to run, the toolkit unless "
                          "--gpu-format=ptx");
}

std::vector<Finding> mlir::moe::examineMachine() {
  return {examineLLVM(),   examineRuntime(),    examineLinker(),     examineLibraries(),
          examineOpenMP(), examineCPU(),        examineProcessors(), examineMemory(),
          examineCUDA(),   examineCompilation()};
}

void mlir::moe::printFindings(raw_ostream &os, const std::vector<Finding> &findings) {
  static const char *const kinds[] = {"ok", "", "PROBLEM"};
  for (const Finding &finding : findings)
    os << formatv("{0,-9}{1,-12}{2}\n", kinds[finding.kind], finding.name, finding.text);
}
