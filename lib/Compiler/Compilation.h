// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The state of one compilation, and its phases.

#ifndef MOEC_LIB_COMPILER_COMPILATION_H
#define MOEC_LIB_COMPILER_COMPILATION_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Pass/PassManager.h"
#include "moec/Compiler/Compiler.h"
#include "moec/Target/CPU/Machine.h"
#include "moec/Target/CPU/ObjectFile.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "moec/Target/CUDA/Machine.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"

#include <optional>

namespace mlir::moe {

/// Module attributes of the driver: the last finished phase, the entries'
/// signatures (see Interface.h), the MoE blocks that were found (a list of
/// dictionaries, as in the report).
inline constexpr llvm::StringLiteral kPhaseAttr = "moe.phase";
inline constexpr llvm::StringLiteral kInterfaceAttr = "moe.interface";
inline constexpr llvm::StringLiteral kBlocksAttr = "moe.blocks";
/// How many operations of each kind took which lowering: {op, lowering, count}.
inline constexpr llvm::StringLiteral kLoweringsAttr = "moe.lowerings";
/// Names of the blocks whose routings are outputs: see `--moe-trace-routing`.
inline constexpr llvm::StringLiteral kTracedAttr = "moe.traced";
/// What the IR was lowered for, when that is not the CPU: "cuda".
inline constexpr llvm::StringLiteral kTargetAttr = "moe.target";
/// Code of the kernels (see GPUImages.h).
inline constexpr llvm::StringLiteral kImagesAttr = "moe.images";

/// A level of instructions, or GPUs with the same kernels, that the library has code for: the
/// machine, and the program from the first phase on that depends on it.
struct Level {
  /// On which the entries, or the host code of GPUs, run.
  Machine machine;
  /// What kernels are compiled for, by rising capability; empty for the CPU.
  std::vector<GPUMachine> gpus;
  OwningOpRef<ModuleOp> module;
};

/// Whether code for "cpu" or "cuda" is asked for.
inline bool hasTarget(const CompileOptions &options, llvm::StringRef target) {
  return llvm::is_contained(llvm::split(options.target, ','), target);
}

struct Compilation {
  const CompileOptions &options;
  MLIRContext &context;
  /// The first level, and, until there is a module of each level, the program of all.
  Machine machine;
  std::vector<GPUMachine> gpus;
  OwningOpRef<ModuleOp> module;
  /// The others. Their modules are null until they are needed.
  std::vector<Level> otherLevels;
  /// Number of the level that `machine`, `gpus` and `module` are now: see forEachLevel.
  unsigned level = 0;

  /// The model's name (a C identifier), and the package's folder or the ONNX file.
  std::string name, outputPath;
  /// What the report says, key by key.
  llvm::json::Object report;
  llvm::json::Array lowerings, activations, roundings;
  llvm::json::Array timings;
  /// What a failure of the running phase means; a phase may say so itself.
  CompileStatus failure = CompileStatus::Internal;
  /// The caller wanted to stop.
  bool interrupted = false;
  /// Name of the running phase.
  llvm::StringRef phase;
  uint64_t libraryBytes = 0, weightsBytes = 0;
  /// Of each converted weight, by its name.
  llvm::StringMap<ConversionError> conversionErrors;

  Compilation(const CompileOptions &options, MLIRContext &context)
      : options(options), context(context) {}

  /// "x86-64-v3"; for GPUs that of the oldest: "sm_80".
  llvm::StringRef getLevelName() const {
    return gpus.empty() ? llvm::StringRef(machine.name) : llvm::StringRef(gpus.front().name);
  }
  bool isForCUDA() const { return !gpus.empty(); }
  /// "cpu" or "cuda".
  llvm::StringRef getLevelTarget() const { return isForCUDA() ? "cuda" : "cpu"; }

  /// Calls `run` for each level, with its machine and module in place of the first one's.
  LogicalResult forEachLevel(llvm::function_ref<LogicalResult()> run);
  /// Runs a pass pipeline as written for `moe-opt --pass-pipeline`.
  LogicalResult runPasses(llvm::StringRef pipeline);
  /// Tells the caller how far the phase is; fails when it wants to stop.
  LogicalResult advance(uint64_t done = 0, uint64_t all = 0);
  /// Emits an error without a place in the model.
  LogicalResult fail(CompileStatus status, const llvm::Twine &message);
  LogicalResult fail(CompileStatus status, llvm::Error error);
};

/// A phase: a row of the table in Phases.cpp.
struct Phase {
  llvm::StringLiteral name, description;
  /// Optimization levels at which it runs.
  unsigned minLevel, maxLevel;
  /// What it means when it fails.
  CompileStatus failure;
  LogicalResult (*run)(Compilation &);
  /// What it helps to make; nullopt: both.
  std::optional<Emit> emit = Emit::Package;
  /// Whether options ask for it; null: always.
  bool (*isAskedFor)(const CompileOptions &) = nullptr;
  /// The only target that it is for; null: any.
  const char *target = nullptr;

  /// Whether its result depends on the machine: it runs on the module of each level.
  bool isPerLevel() const;
  /// Whether it runs with these options at some optimization level.
  bool isPossible(const CompileOptions &options) const {
    return emit.value_or(options.emit) == options.emit && (!isAskedFor || isAskedFor(options)) &&
           (!target || hasTarget(options, target));
  }
  /// Whether it runs with these options.
  bool isRequested(const CompileOptions &options) const {
    return options.optLevel >= minLevel && options.optLevel <= maxLevel && isPossible(options);
  }
};
llvm::ArrayRef<Phase> getPhases();

/// Compiles the kernels and replaces them by their images, the attribute `moe.images`: a list of
/// {capability, exact, kind, data} as in moec_image_desc (GPUImages.cpp).
LogicalResult compileKernels(Compilation &compilation);
/// Reads the attribute and `moe.kernels`.
CUDADescription readImages(ModuleOp module);

/// Gives each weight of each level its place in the one weights file (SharedWeights.cpp). What
/// levels have in common is there once. Called when all modules have places of their own.
LogicalResult shareWeights(Compilation &compilation);
/// The weights of all levels, by their places, in a module of their own.
OwningOpRef<ModuleOp> collectWeights(Compilation &compilation);

/// Turns the lowered module into a package (Package.cpp).
LogicalResult writePackage(Compilation &compilation);

/// Writes the module, which consists of nodes, as an ONNX model (ONNXModel.cpp).
LogicalResult writeONNXModel(Compilation &compilation);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_COMPILATION_H
