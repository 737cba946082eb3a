// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Compiles modules with the phases of moec into this process, for the differential
// test. LLVM optimizes nothing: what is tested are moec's lowerings.
//
// Loaded by jit.py. One program after the other; not for several threads.

#include "Compilation.h"
#include "Emulator.h"

#include "mlir/IR/Verifier.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "moec/Frontend/ONNX/Importer.h"
#include "moec/InitAll.h"
#include "moec/Runtime/model_abi.h"
#include "moec/Target/CPU/ResolveWeights.h"
#include "moec/Target/CPU/WeightsFile.h"
#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/ExecutionUtils.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"

using namespace mlir;
using namespace mlir::moe;
namespace orc = llvm::orc;

//===----------------------------------------------------------------------===//
// The runtime that programs call
//===----------------------------------------------------------------------===//

// Tasks run one after the other, each as another worker: what one keeps for itself
// must not reach the next.
static constexpr int32_t numWorkers = 3;

int32_t moec_num_workers(void *) { return numWorkers; }

void moec_parallel_for(void *, int64_t n, void (*body)(void *, int64_t, int32_t), void *ctx) {
  if (isEmulatedLaunch())
    return runEmulatedLaunch(body, ctx);
  for (int64_t task = 0; task < n; ++task)
    body(ctx, task, task % numWorkers);
}

/// `call` is where the first failure is noted.
void moec_check(void *call, bool ok, const char *message) {
  auto *failure = static_cast<const char **>(call);
  if (!ok && !*failure)
    *failure = message;
}

const char **moec_check_place(void *call) { return static_cast<const char **>(call); }

/// Every kernel has to leave them as they are at first, so that the next one begins with zeros.
void *moec_counters(void *, int64_t bytes) {
  static std::array<char, 1 << 16> counters;
  if (bytes > int64_t(counters.size()) ||
      llvm::any_of(counters, [](char byte) { return byte != 0; }))
    llvm::report_fatal_error("emulated kernel: counters are too many, or not 0",
                             /*gen_crash_diag=*/false);
  return counters.data();
}

void moec_profile_mark(void *, int32_t) {}

//===----------------------------------------------------------------------===//
// Compilation
//===----------------------------------------------------------------------===//

namespace {
struct Program {
  std::unique_ptr<orc::LLJIT> jit;
  std::unique_ptr<llvm::sys::fs::mapped_file_region> weights;
};
} // namespace

static std::string lastError;

static llvm::Error fail(const llvm::Twine &message) {
  return llvm::createStringError(message.str());
}

/// For CUDA, the kernels are emulated instead of compiled.
static llvm::Error lower(Compilation &compilation) {
  // The first phase imports ONNX.
  for (const Phase &phase : getPhases().drop_front().drop_back()) {
    if (!phase.isRequested(compilation.options))
      continue;
    bool isEmulated = phase.name == "gpu-to-runtime";
    LogicalResult result =
        isEmulated ? compilation.runPasses("emulate-gpu") : phase.run(compilation);
    if (failed(result) || failed(verify(*compilation.module)))
      return fail("phase '" + phase.name + "' failed");
  }
  return llvm::Error::success();
}

/// The object file of the lowered module.
static llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>> emitObject(Compilation &compilation) {
  llvm::LLVMContext context;
  auto module = translateForMachine(*compilation.module, context, compilation.machine);
  if (!module)
    return fail("the translation to LLVM IR failed");
  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream out(bytes);
  if (llvm::Error error =
          mlir::moe::emitObject(*module, compilation.machine, /*level=*/0, Sanitizer::None, out))
    return error;
  return std::make_unique<llvm::SmallVectorMemoryBuffer>(std::move(bytes));
}

static llvm::Expected<std::unique_ptr<orc::LLJIT>>
load(std::unique_ptr<llvm::MemoryBuffer> object) {
  auto jit = orc::LLJITBuilder().setPlatformSetUp(orc::setUpInactivePlatform).create();
  if (!jit)
    return jit;
  orc::JITDylib &library = (*jit)->getMainJITDylib();
  orc::SymbolMap symbols;
  auto add = [&](StringRef name, auto *function) {
    symbols[(*jit)->mangleAndIntern(name)] =
        orc::ExecutorSymbolDef::fromPtr(function, llvm::JITSymbolFlags::Exported);
  };
  add("moec_num_workers", moec_num_workers);
  add("moec_parallel_for", moec_parallel_for);
  add("moec_check", moec_check);
  add("moec_check_place", moec_check_place);
  add("moec_counters", moec_counters);
  add("moec_profile_mark", moec_profile_mark);
  forEachEmulatorFunction(
      [&](StringRef name, void *function) { add(name, static_cast<char *>(function)); });
  if (llvm::Error error = library.define(orc::absoluteSymbols(std::move(symbols))))
    return error;
  // Mathematics and memory of the C library.
  auto process = orc::DynamicLibrarySearchGenerator::GetForCurrentProcess(
      (*jit)->getDataLayout().getGlobalPrefix());
  if (!process)
    return process.takeError();
  library.addGenerator(std::move(*process));
  if (llvm::Error error = (*jit)->addObjectFile(std::move(object)))
    return error;
  return jit;
}

/// Packs the weights as a package has them, and maps them.
static llvm::Error loadWeights(Compilation &compilation, const std::string &path,
                               Program &program) {
  bool sourceFailed;
  auto info = writeWeightsFile(*compilation.module, compilation.options.modelFolder, path,
                               sourceFailed, [](uint64_t, uint64_t) { return true; });
  if (!info || !info->fileBytes)
    return info.takeError();
  auto file = llvm::sys::fs::openNativeFileForRead(path);
  if (!file)
    return file.takeError();
  std::error_code code;
  using Region = llvm::sys::fs::mapped_file_region;
  program.weights =
      std::make_unique<Region>(*file, Region::readonly, info->dataBytes, info->dataOffset, code);
  llvm::sys::fs::closeFile(*file);
  return llvm::errorCodeToError(code);
}

static llvm::Expected<std::unique_ptr<Program>> makeProgram(const CompileOptions &options) {
  DialectRegistry registry;
  mlir::registerAllDialects(registry);
  registerAllExtensions(registry);
  registerAllToLLVMIRTranslations(registry);
  moe::registerAllDialects(registry);
  // The test runs one such process for each core.
  MLIRContext context(registry, MLIRContext::Threading::DISABLED);
  std::string messages;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    messages += diagnostic.str() + "\n";
    return success();
  });
  auto explained = [&](llvm::Error error) { return fail(messages + toString(std::move(error))); };

  Compilation compilation(options, context);
  auto machine = Machine::get(options.cpu);
  if (!machine)
    return machine.takeError();
  compilation.machine = std::move(*machine);
  for (const std::string &name : options.gpuArchs) {
    auto gpu = GPUMachine::get(name);
    if (!gpu)
      return gpu.takeError();
    compilation.gpus.push_back(*gpu);
  }
  compilation.module = loadModule(options.input, &context);
  if (!compilation.module ||
      (!options.weightsFile.empty() &&
       failed(resolveWeights(*compilation.module, options.modelFolder, options.weightsFile))))
    return explained(fail("the module is not valid"));
  if (llvm::Error error = lower(compilation))
    return explained(std::move(error));
  auto program = std::make_unique<Program>();
  if (llvm::Error error = loadWeights(compilation, options.output, *program))
    return explained(std::move(error));
  auto object = emitObject(compilation);
  if (!object)
    return explained(object.takeError());
  auto jit = load(std::move(*object));
  if (!jit)
    return jit.takeError();
  program->jit = std::move(*jit);
  return program;
}

//===----------------------------------------------------------------------===//
// For ctypes
//===----------------------------------------------------------------------===//

extern "C" {

/// Compiles FOLDER/layers.mlir with the weights of FOLDER/w.safetensors, if `weights`,
/// at this optimization level for this CPU, for an emulated GPU of the architecture `gpu` unless
/// that is empty, with or without tf32; writes FOLDER/packed.safetensors. Null: see moec_jit_error.
void *moec_jit_compile(const char *folder, bool weights, unsigned level, const char *cpu,
                       const char *gpu, bool tf32) {
  llvm::InitializeNativeTarget();
  [[maybe_unused]] static bool once = (registerEmulateGPU(), true);
  CompileOptions options;
  options.modelFolder = folder;
  options.input = options.modelFolder + "/layers.mlir";
  options.output = options.modelFolder + "/packed.safetensors";
  options.weightsFile = weights ? "w.safetensors" : "";
  options.optLevel = level;
  options.cpu = cpu;
  if (*gpu) {
    options.target = "cuda";
    options.gpuArchs = {gpu};
    options.tf32 = tf32;
  }
  auto program = makeProgram(options);
  if (program)
    return program->release();
  lastError = toString(program.takeError());
  return nullptr;
}

const char *moec_jit_error() { return lastError.c_str(); }

/// The address of a function; null when there is none.
void *moec_jit_find(void *program, const char *name) {
  auto address = static_cast<Program *>(program)->jit->lookup(name);
  if (address)
    return address->toPtr<void *>();
  consumeError(address.takeError());
  return nullptr;
}

/// The packed weights, aligned to a page; null when there are none.
const void *moec_jit_weights(void *program) {
  auto &weights = static_cast<Program *>(program)->weights;
  return weights ? weights->const_data() : nullptr;
}

int32_t moec_jit_workers() { return numWorkers; }

void moec_jit_destroy(void *program) { delete static_cast<Program *>(program); }

} // extern "C"
