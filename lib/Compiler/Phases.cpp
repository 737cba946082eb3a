// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The table of phases. `--compile-to`, `--dump-phases`, the report and the
// documentation follow it.

#include "Compilation.h"
#include "Interface.h"
#include "Report.h"

#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "moec/Frontend/ONNX/Importer.h"
#include "moec/InitAll.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Target/CPU/PlanWeights.h"
#include "moec/Target/CPU/RoundingErrors.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <mutex>

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Compilation
//===----------------------------------------------------------------------===//

LogicalResult Compilation::fail(CompileStatus status, const Twine &message) {
  failure = status;
  return emitError(UnknownLoc::get(&context)) << message;
}

LogicalResult Compilation::fail(CompileStatus status, llvm::Error error) {
  return fail(status, llvm::toString(std::move(error)));
}

LogicalResult Compilation::advance(uint64_t done, uint64_t all) {
  if (!interrupted && options.progress)
    interrupted = !options.progress(phase, done, all);
  return mlir::failure(interrupted);
}

LogicalResult Compilation::forEachLevel(llvm::function_ref<LogicalResult()> run) {
  for (Level &other : otherLevels)
    if (module && !other.module)
      other.module = module->clone();
  if (failed(run()))
    return mlir::failure();
  for (auto [i, other] : llvm::enumerate(otherLevels)) {
    auto swapLevels = [&, &other = other] {
      std::swap(machine, other.machine);
      std::swap(gpus, other.gpus);
      std::swap(module, other.module);
    };
    swapLevels();
    level = i + 1;
    LogicalResult result = run();
    swapLevels();
    level = 0;
    if (failed(result))
      return mlir::failure();
  }
  return success();
}

LogicalResult Compilation::runPasses(StringRef pipeline) {
  static std::once_flag once;
  std::call_once(once, [] {
    registerTransformsPasses();
    moe::registerAllPasses();
  });
  PassManager pm(&context, ModuleOp::getOperationName());
  pm.enableVerifier(options.verifyEach);
  std::string error;
  llvm::raw_string_ostream stream(error);
  if (failed(parsePassPipeline(pipeline, pm, stream)))
    return fail(CompileStatus::Internal, "cannot build the pipeline '" + pipeline + "': " + error);
  return pm.run(*module);
}

//===----------------------------------------------------------------------===//
// Phases
//===----------------------------------------------------------------------===//

/// Runs passes and notes which operations they lowered.
static LogicalResult lower(Compilation &compilation, StringRef pipeline, StringRef lowering) {
  Operations before = collectOperations(*compilation.module);
  if (failed(compilation.runPasses(pipeline)))
    return failure();
  Operations after = collectOperations(*compilation.module);
  // The same at each level.
  if (compilation.level == 0)
    appendLowerings(before, after, lowering, compilation.lowerings);
  recordLowerings(*compilation.module, before, after, lowering);
  return success();
}

static LogicalResult import(Compilation &compilation) {
  ImportOptions options;
  options.dims = compilation.options.dims;
  options.keep = compilation.options.keep;
  bool badOption = false;
  options.badOption = &badOption;
  compilation.module = importONNX(compilation.options.input, &compilation.context, options);
  if (badOption)
    compilation.failure = CompileStatus::Usage;
  return success(bool(compilation.module));
}

static LogicalResult normalize(Compilation &compilation) {
  return compilation.runPasses("normalize-onnx");
}

static LogicalResult raise(Compilation &compilation) {
  const CompileOptions &options = compilation.options;
  auto flag = [](bool value) { return value ? "true" : "false"; };
  return compilation.runPasses(llvm::formatv("raise-moe{{contrib-only={0} allow-frozen-routing={1}}"
                                             ",canonicalize,cse{2}",
                                             flag(options.noRaise),
                                             flag(options.allowFrozenRouting),
                                             options.traceRouting ? ",moe-trace-routing" : "")
                                   .str());
}

static LogicalResult lowerToONNX(Compilation &compilation) {
  return compilation.runPasses("moe-fuse-experts,moe-to-onnx,normalize-onnx,canonicalize,cse");
}

static LogicalResult fuse(Compilation &compilation) {
  return compilation.runPasses("moe-fuse-gating,moe-fuse-experts,raise-linear,canonicalize,cse");
}

static bool convertsWeights(const CompileOptions &options) { return !options.weightType.empty(); }

static LogicalResult convertWeights(Compilation &compilation) {
  const CompileOptions &options = compilation.options;
  return compilation.runPasses(llvm::formatv("convert-weights{{type={0} block={1} zero-points={2}}",
                                             options.weightType, options.weightBlock.value_or(32),
                                             options.weightZeroPoints ? "true" : "false")
                                   .str());
}

static LogicalResult lowerToReference(Compilation &compilation) {
  return lower(compilation, "moe-to-reference", "reference");
}

/// What rounding changes, for the report: the same at each level.
static LogicalResult measureRoundings(Compilation &compilation, StringRef operands) {
  const CompileOptions &options = compilation.options;
  if (operands == "f32" || options.reportFile.empty() || compilation.level != 0)
    return success();
  auto errors = measureRounding(*compilation.module, options.modelFolder, operands);
  if (!errors)
    return compilation.fail(CompileStatus::BadModel, errors.takeError());
  for (const RoundingError &error : *errors)
    compilation.roundings.push_back(
        llvm::json::Object{{"op", error.op->getName().getStringRef()},
                           {"node", llvm::json::fixUTF8(getNodeName(error.op->getLoc()))},
                           {"compute", operands},
                           {"relative_rms_error", finiteOrNull(error.relativeRMS)}});
  return success();
}

static LogicalResult lowerToCPU(Compilation &compilation) {
  if (!compilation.machine.hasFMA)
    return compilation.fail(CompileStatus::Unsupported,
                            "the CPU kernels need fused multiply-adds, which '" +
                                compilation.machine.name +
                                "' lacks; choose --cpu=x86-64-v3 or newer, or -O0");
  const Machine &machine = compilation.machine;
  StringRef operands = compilation.options.getOperands();
  if (failed(measureRoundings(compilation, operands)))
    return failure();
  bool hasTiles =
      operands == "bf16" ? machine.hasAMXBF16 : operands == "int8" && machine.hasAMXInt8;
  // AVX-VNNI has its own encoding of the instruction that AVX512-VNNI has for all widths.
  bool hasVNNI = machine.vectorBits == 512 ? machine.hasAVX512VNNI : machine.hasAVXVNNI;
  std::string pipeline = llvm::formatv(
      "moe-to-cpu{{vector-bits={0} operands={1} tiles={2} vnni={3} l1-bytes={4} l2-bytes={5}}",
      machine.vectorBits, operands, hasTiles ? "amx" : "none", hasVNNI ? "true" : "false",
      machine.l1Bytes, machine.l2Bytes);
  return lower(compilation, pipeline, "cpu-kernel");
}

static LogicalResult lowerToGPU(Compilation &compilation) {
  StringRef arch = compilation.gpus.front().name;
  std::string pipeline = llvm::formatv("moe-to-gpu{{arch={0} tf32={1}}", arch,
                                       compilation.options.tf32 ? "true" : "false");
  return lower(compilation, pipeline, "gpu-kernel");
}

static LogicalResult lowerToLinalg(Compilation &compilation) {
  bool optimize = compilation.options.optLevel >= 1;
  // A GPU's vectors are its warps.
  int64_t vectorBits = compilation.isForCUDA() ? 1024 : compilation.machine.vectorBits;
  if (optimize && failed(compilation.runPasses("fuse-attention")))
    return failure();
  std::string pipeline =
      llvm::formatv("onnx-to-linalg{{vector-bits={0}},canonicalize,cse", optimize ? vectorBits : 0);
  return lower(compilation, pipeline, "linalg");
}

static LogicalResult planInterface(Compilation &compilation) {
  return recordInterface(*compilation.module);
}

/// For all levels together.
static LogicalResult planWeights(Compilation &compilation) {
  if (compilation.level != 0)
    return success();
  auto plan = [&] { return compilation.runPasses("plan-weights"); };
  if (failed(compilation.forEachLevel(plan)))
    return failure();
  return shareWeights(compilation);
}

static LogicalResult runCPUPipeline(Compilation &compilation, StringRef name) {
  return compilation.runPasses(llvm::formatv("{0}{{opt-level={1} vector-bits={2}}", name,
                                             compilation.options.optLevel,
                                             compilation.machine.vectorBits)
                                   .str());
}

static LogicalResult bufferize(Compilation &compilation) {
  return runCPUPipeline(compilation, "moec-bufferize");
}

static LogicalResult planMemory(Compilation &compilation) {
  if (failed(runCPUPipeline(compilation,
                            compilation.isForCUDA() ? "moec-cuda-memory" : "moec-memory")))
    return failure();
  return recordWorkspace(*compilation.module);
}

static LogicalResult lowerLaunches(Compilation &compilation) {
  if (failed(compilation.runPasses("gpu-to-runtime")))
    return failure();
  return compileKernels(compilation);
}

static LogicalResult lowerToLLVM(Compilation &compilation) {
  return runCPUPipeline(compilation, "moec-llvm");
}

ArrayRef<Phase> mlir::moe::getPhases() {
  using S = CompileStatus;
  static const Phase phases[] = {
      {"import", "every node of the ONNX model becomes an onnx.node", 0, 3, S::BadModel, import,
       std::nullopt},
      {"normalize-onnx", "one canonical version and spelling of each operator, shapes inferred", 0,
       3, S::BadModel, normalize, std::nullopt},
      {"raise-moe", "MoE operators become operations of the moe dialect", 0, 3, S::BadModel, raise,
       std::nullopt},
      {"moe-to-onnx", "moe operations become nodes again (--emit=onnx)", 0, 3, S::Unsupported,
       lowerToONNX, Emit::ONNX},
      {"export-onnx", "the nodes and weights are written as an ONNX model (--emit=onnx)", 0, 3,
       S::Unsupported, writeONNXModel, Emit::ONNX},
      {"fuse-moe", "gating, experts and products with constants become one operation each", 1, 3,
       S::Internal, fuse},
      {"convert-weights", "expert weights are converted to a smaller type (--weight-type)", 0, 3,
       S::Internal, convertWeights, Emit::Package, convertsWeights},
      {"moe-to-reference", "moe operations become plain loops (-O0)", 0, 0, S::Unsupported,
       lowerToReference},
      {"moe-to-cpu", "moe operations become calls of generated CPU kernels", 1, 3, S::Unsupported,
       lowerToCPU, Emit::Package, nullptr, "cpu"},
      {"moe-to-gpu", "moe operations become launches of generated kernels (--target=cuda)", 1, 3,
       S::Unsupported, lowerToGPU, Emit::Package, nullptr, "cuda"},
      {"onnx-to-linalg", "all other nodes become linalg", 0, 3, S::BadModel, lowerToLinalg},
      {"interface", "names, types and symbolic sizes of the entries are recorded", 0, 3,
       S::BadModel, planInterface},
      {"plan-weights", "every used weight gets its place in the weights file", 0, 3, S::Internal,
       planWeights},
      {"bufferize", "tensors become memory", 0, 3, S::Unsupported, bufferize},
      {"plan-memory", "temporaries become slices of one workspace", 0, 3, S::Internal, planMemory},
      {"gpu-to-runtime", "kernels are compiled, launches become calls (--target=cuda)", 0, 3,
       S::Internal, lowerLaunches, Emit::Package, nullptr, "cuda"},
      {"llvm", "everything becomes the LLVM dialect", 0, 3, S::Internal, lowerToLLVM},
      {"package", "weights are written, code is generated and linked", 0, 3, S::Internal,
       writePackage},
  };
  return phases;
}

bool Phase::isPerLevel() const {
  // From the first that lowers what the program means to code; all levels are one package.
  static const Phase *first =
      llvm::find_if(getPhases(), [](const Phase &phase) { return phase.run == lowerToReference; });
  return this >= first && run != writePackage;
}

std::vector<PhaseDescription> mlir::moe::getPhaseDescriptions() {
  std::vector<PhaseDescription> descriptions;
  for (const Phase &phase : getPhases())
    descriptions.push_back({phase.name, phase.description});
  return descriptions;
}

std::string mlir::moe::getPhaseHelp() {
  std::string text = "\nPHASES:\n\n";
  for (const Phase &phase : getPhases())
    text += llvm::formatv("  {0,-18}{1}\n", phase.name, phase.description);
  return text;
}
