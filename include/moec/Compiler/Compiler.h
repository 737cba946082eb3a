// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The driver as a library: a model file in, a package (or a phase's IR) out.

#ifndef MOEC_COMPILER_COMPILER_H
#define MOEC_COMPILER_COMPILER_H

#include "moec/Compiler/Diagnostic.h"
#include "moec/Target/CPU/Linker.h"
#include "llvm/ADT/StringRef.h"
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mlir {
class DialectRegistry;
class OpPassManager;
} // namespace mlir

namespace mlir::moe {

/// What a compilation ends with; also the exit status of `moec`.
enum class CompileStatus {
  Success = 0,
  /// A wrong option, or an option that does not fit the input.
  Usage = 1,
  /// The model or one of its files is missing, broken or not valid.
  BadModel = 2,
  /// The model is valid but uses something that moec does not support.
  Unsupported = 3,
  /// The result could not be written: permissions, a full disk, a folder in the
  /// way that is no package; or the linker or the runtime is not installed.
  Output = 4,
  /// An error of moec itself.
  Internal = 5,
  /// The caller wanted to stop: CompileOptions::progress said so, or `moec` got
  /// SIGINT or SIGTERM. No package was written.
  Interrupted = 6,
};

/// One line about each status, for documentation.
llvm::StringRef describeStatus(CompileStatus status);

/// Passes of the caller between two phases.
struct PhaseHook {
  /// Name of the phase that they run after; every phase but the last has such a place.
  std::string after;
  /// Adds the passes. They run on the module, as the phases do.
  std::function<void(OpPassManager &)> addPasses;
};

/// What a compilation writes.
enum class Emit {
  /// A package: library, headers, weights.
  Package,
  /// The raised model as an ONNX file, with a file of weights beside it.
  ONNX,
};

struct CompileOptions {
  /// A model (.onnx) or MLIR (.mlir: any dumped phase; compilation continues
  /// after the phase that its module attribute `moe.phase` names).
  std::string input;
  Emit emit = Emit::Package;
  /// Package folder, ONNX file, or the file for `compileTo` ("-" is stdout). Default:
  /// NAME.moec or NAME.moec.onnx in the current folder, or stdout.
  std::string output;
  /// Safetensors file, relative to `modelFolder`, that holds the named tensors
  /// (`#moe.tensor`) of an .mlir input.
  std::string weightsFile;
  /// Folder that weight files are relative to. Default: the folder of `input`.
  std::string modelFolder;
  /// "cpu", "cuda" or "cpu,cuda".
  std::string target = "cpu";
  /// cuda: architectures that kernels are compiled for, as GPUMachine names them. Default: sm_80,
  /// sm_90a.
  std::vector<std::string> gpuArchs;
  /// cuda: "ptx", "cubin" or "fatbin"; the last two need the CUDA Toolkit. Default: fatbin.
  std::string gpuFormat;
  /// cuda: products of experts in f32 are made in tf32.
  bool tf32 = false;
  /// See Machine::getLevels.
  std::string cpu = "native";
  /// 0: the reference lowering of each MoE op; 1 to 3: the CPU kernels, and
  /// LLVM's levels.
  unsigned optLevel = 3;
  Threads threads = Threads::OpenMP;
  /// Instruments the generated code and takes the runtime that is built alike.
  Sanitizer sanitizer = Sanitizer::None;
  /// Sizes of symbolic dimensions.
  std::vector<std::pair<std::string, int64_t>> dims;
  /// Values of the graph that become outputs.
  std::vector<std::string> keep;
  /// Leaves MoE blocks that are written in standard operators as these.
  bool noRaise = false;
  /// Accepts blocks whose routing was frozen when the model was traced.
  bool allowFrozenRouting = false;
  /// bf16, f16, int8 or int4: what constant expert weights are converted to. Empty: they
  /// stay as they are.
  std::string weightType;
  /// int8 and int4: consecutive elements of a row that share a scale, 32 or 128; 0 is the
  /// whole row. Default: 32.
  std::optional<unsigned> weightBlock;
  /// int8 and int4: a zero point beside each scale.
  bool weightZeroPoints = false;
  /// "f32": experts compute in f32 with weights as they are. "bf16": their products round rows
  /// and weights to bfloat16. Empty: f32.
  std::string compute;
  /// "int8": products of experts, whose weights are quantized, round their rows to 8-bit integers
  /// and multiply these with the weights' codes. Empty: they do not.
  std::string activationType;
  /// What products of experts multiply: "f32", "bf16" or "int8".
  llvm::StringRef getOperands() const {
    return !activationType.empty() ? "int8" : compute == "bf16" ? "bf16" : "f32";
  }
  /// The routing of every block becomes outputs, which `moe-run --trace-routing` records.
  bool traceRouting = false;
  /// Stop after this phase and write the IR.
  std::string compileTo;
  /// Write NN-PHASE.mlir after each phase into this folder.
  std::string dumpFolder;
  /// Verify the IR after each pass, not only after each phase.
  bool verifyEach = false;
  /// Write what was found and decided as JSON to this file.
  std::string reportFile;
  /// The least severe diagnostics that are reported. Remarks say, for example, why
  /// operations were not fused.
  Severity logLevel = Severity::Warning;
  /// For diagnostics that are printed to stderr.
  ColorMode color = ColorMode::Auto;
  /// Leaves CompileResult::summary empty; the command line shows no progress either.
  bool quiet = false;
  /// Folder of runtime_*.o and moec.h. Default: see getRuntimeFolder.
  std::string runtimeFolder;

  /// Gets each diagnostic of `logLevel` or worse once, as soon as it is known. Called by one
  /// thread at a time, which need not be the caller's. Default: printed to stderr.
  std::function<void(const CompileDiagnostic &)> onDiagnostic;
  /// Called by the thread of `compile` when a phase begins, with 0, 0, and while the
  /// weights are written, with the bytes done and in all. False stops the compilation
  /// there.
  std::function<bool(llvm::StringRef phase, uint64_t done, uint64_t all)> progress;

  /// Run in this order where they belong; those after `compileTo` are left out. One of
  /// a phase that does not run is an error. A pass that fails ends the compilation with
  /// Unsupported.
  std::vector<PhaseHook> hooks;
  /// Adds dialects, extensions and translations of the caller to the upstream ones and
  /// moec's.
  std::function<void(DialectRegistry &)> registerDialects;
};

struct CompileResult {
  CompileStatus status = CompileStatus::Internal;
  /// One line about a finished compilation: what was found, target, sizes, time.
  std::string summary;
  /// The package's folder or the ONNX file; empty when none was written.
  std::string package;
};

/// Compiles. An existing package is only replaced when everything succeeded; nothing
/// half-written stays. May be called by several threads at a time.
CompileResult compile(const CompileOptions &options);

/// A step of the compilation, as documented and as named by `--compile-to`.
struct PhaseDescription {
  llvm::StringRef name, description;
};
/// All phases in order; some only run at some optimization levels.
std::vector<PhaseDescription> getPhaseDescriptions();
/// The same as a section of a help text.
std::string getPhaseHelp();

/// "moec 0.1.0 (LLVM 22.1.8)".
std::string getVersionText();

/// Folder of the runtime in a build or installation: ../lib/moec as seen from the
/// executable or shared library that this function is linked into.
std::string getRuntimeFolder();

} // namespace mlir::moe

#endif // MOEC_COMPILER_COMPILER_H
