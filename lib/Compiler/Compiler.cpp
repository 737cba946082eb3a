// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Options.h"
#include "Compilation.h"
#include "Diagnostics.h"
#include "Package.h"
#include "Report.h"
#include "Text.h"

#include "mlir/IR/Remarks.h"
#include "mlir/IR/Verifier.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllExtensions.h"
#include "mlir/Target/LLVMIR/Dialect/All.h"
#include "moec/Conversion/RaiseMoE/RaiseMoE.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Frontend/ONNX/Importer.h"
#include "moec/InitAll.h"
#include "moec/Target/CPU/ResolveWeights.h"
#include "moec/Target/CPU/UnpackWeights.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

#include <chrono>
#include <cmath>
#include <dlfcn.h>
#include <link.h>
#include <map>
#include <sys/resource.h>

using namespace mlir;
using namespace mlir::moe;
namespace path = llvm::sys::path;

StringRef mlir::moe::describeStatus(CompileStatus status) {
  switch (status) {
  case CompileStatus::Success:
    return "success";
  case CompileStatus::Usage:
    return "a wrong option";
  case CompileStatus::BadModel:
    return "the model is missing, broken or not valid";
  case CompileStatus::Unsupported:
    return "the model uses something that is not supported";
  case CompileStatus::Output:
    return "the result could not be written or linked";
  case CompileStatus::Internal:
    return "an error of moec itself";
  case CompileStatus::Interrupted:
    return "interrupted before the package was finished";
  }
  llvm_unreachable("unknown status");
}

std::string mlir::moe::getVersionText() {
  return "moec " MOEC_VERSION " (LLVM " LLVM_VERSION_STRING ")";
}

/// The file that this code was loaded from.
static std::string findOwnFile() {
  static const char anchor = 0;
  Dl_info info{};
  link_map *map = nullptr;
  // A library's link map has its path; the executable's has none.
  if (dladdr1(&anchor, &info, reinterpret_cast<void **>(&map), RTLD_DL_LINKMAP) && map &&
      map->l_name && *map->l_name)
    return map->l_name;
  return llvm::sys::fs::getMainExecutable("", nullptr);
}

std::string mlir::moe::getRuntimeFolder() {
  std::string file = findOwnFile();
  SmallString<256> folder;
  if (llvm::sys::fs::real_path(file, folder))
    folder = file;
  path::remove_filename(folder);
  path::append(folder, "..", "lib", "moec");
  path::remove_dots(folder, /*remove_dot_dot=*/true);
  return std::string(folder);
}

//===----------------------------------------------------------------------===//
// The driver
//===----------------------------------------------------------------------===//

namespace {
using Clock = std::chrono::steady_clock;

class Driver {
public:
  Driver(const CompileOptions &options, MLIRContext &context, DiagnosticHandler &diagnostics)
      : options(options), compilation(options, context), diagnostics(diagnostics) {}
  CompileResult run();

private:
  LogicalResult checkOptions();
  LogicalResult checkWeightOptions();
  LogicalResult checkTarget();
  LogicalResult addLevels(StringRef cpu, std::vector<GPUMachine> gpus);
  LogicalResult addGPULevels();
  LogicalResult chooseLevels();
  std::string listLevels();
  LogicalResult checkCompute();
  LogicalResult choosePaths();
  LogicalResult loadModule(size_t &first);
  LogicalResult findFirstPhase(size_t &first);
  LogicalResult checkHooks(size_t first);
  LogicalResult runHooks(const Phase &phase);
  LogicalResult runPhase(size_t index);
  LogicalResult runPhaseOnModule(size_t index);
  LogicalResult dump(size_t index);
  LogicalResult writeReport();
  const Phase &getLastPhase() const;
  bool emitsONNX() const { return options.emit == Emit::ONNX; }
  std::string print() const;
  std::string getSummary();
  std::string summarizeTarget();
  std::string describeRequest(const Phase &phase) const;

  const CompileOptions &options;
  Compilation compilation;
  DiagnosticHandler &diagnostics;
  /// Until they are in the compilation.
  std::vector<Level> levels;
  Clock::time_point start = Clock::now();
};
} // namespace

static double millisecondsSince(Clock::time_point start) {
  std::chrono::duration<double, std::milli> time = Clock::now() - start;
  return time.count();
}

static const Phase *findPhase(StringRef name) {
  const Phase *phase =
      llvm::find_if(getPhases(), [&](const Phase &phase) { return phase.name == name; });
  return phase == getPhases().end() ? nullptr : phase;
}

/// The phase that writes what was asked for.
const Phase &Driver::getLastPhase() const {
  return *llvm::find_if(llvm::reverse(getPhases()),
                        [&](const Phase &phase) { return phase.isRequested(options); });
}

LogicalResult Driver::checkWeightOptions() {
  bool isQuantized = options.weightType == "int8" || options.weightType == "int4";
  if (!isQuantized && (options.weightBlock || options.weightZeroPoints))
    return compilation.fail(
        CompileStatus::Usage,
        "--weight-block and --weight-zero-points need --weight-type=int8 or int4");
  if (!options.weightType.empty() && emitsONNX())
    return compilation.fail(CompileStatus::Usage,
                            "--weight-type converts the weights of a package, which --emit=onnx "
                            "does not write");
  return success();
}

/// With what a phase does not run, which a level alone does not say.
std::string Driver::describeRequest(const Phase &phase) const {
  if (emitsONNX())
    return " with --emit=onnx";
  if (phase.target && !hasTarget(options, phase.target))
    return " with --target=" + options.target;
  return phase.isAskedFor ? " with these options" : "";
}

LogicalResult Driver::checkOptions() {
  // What was set without setOption is checked here.
  std::string level = std::to_string(options.optLevel);
  std::string block = options.weightBlock ? std::to_string(*options.weightBlock) : "";
  for (auto [name, value] : {std::pair<StringRef, StringRef>("target", options.target),
                             {"O", level},
                             {"weight-type", options.weightType},
                             {"weight-block", block},
                             {"compute", options.compute},
                             {"activation-type", options.activationType},
                             {"gpu-format", options.gpuFormat},
                             {"compile-to", options.compileTo}})
    if (!value.empty())
      if (llvm::Error error = checkChoice(name, value))
        return compilation.fail(CompileStatus::Usage, std::move(error));
  if (failed(checkWeightOptions()))
    return failure();
  if (!options.compileTo.empty() && !findPhase(options.compileTo)->isRequested(options))
    return compilation.fail(CompileStatus::Usage,
                            "phase '" + options.compileTo + "' does not run at -O" + level +
                                describeRequest(*findPhase(options.compileTo)));
  if (!isONNXFileName(options.input) && !(options.dims.empty() && options.keep.empty()))
    return compilation.fail(CompileStatus::Usage, "--dim and --keep need an .onnx model");
  if (isONNXFileName(options.input) && !options.weightsFile.empty())
    return compilation.fail(CompileStatus::Usage, "--weights needs an .mlir input");
  return checkTarget();
}

/// The machines that code is for.
LogicalResult Driver::checkTarget() {
  bool isCUDA = hasTarget(options, "cuda");
  if (emitsONNX() && options.target != "cpu")
    return compilation.fail(CompileStatus::Usage, "--emit=onnx has no target: leave out --target");
  if (!isCUDA && (!options.gpuArchs.empty() || !options.gpuFormat.empty() || options.tf32))
    return compilation.fail(CompileStatus::Usage,
                            "--gpu-arch, --gpu-format and --tf32 need --target=cuda");
  return chooseLevels();
}

LogicalResult Driver::checkCompute() {
  StringRef operands = options.getOperands();
  if (operands == "f32")
    return success();
  if (operands == "int8" && options.compute == "bf16")
    return compilation.fail(CompileStatus::Usage,
                            "--compute=bf16 and --activation-type exclude each other");
  std::string option = operands == "int8" ? "--activation-type" : "--compute=bf16";
  if (emitsONNX() || options.optLevel == 0 || !hasTarget(options, "cpu"))
    return compilation.fail(CompileStatus::Usage, option + " is about CPU kernels, which " +
                                                      (emitsONNX()             ? "--emit=onnx"
                                                       : options.optLevel == 0 ? "-O0"
                                                                               : "--target=cuda") +
                                                      " does not make");
  if (operands == "int8")
    return success();
  return compilation.forEachLevel([&]() -> LogicalResult {
    // With both targets it is about the code for the CPU.
    if (compilation.isForCUDA() || compilation.machine.hasAVX512BF16)
      return success();
    return compilation.fail(CompileStatus::Usage,
                            "--compute=bf16 needs AVX512-BF16, which '" + compilation.machine.name +
                                "' lacks; choose --cpu=sapphirerapids, znver4 or another that has "
                                "it");
  });
}

LogicalResult Driver::addLevels(StringRef cpu, std::vector<GPUMachine> gpus) {
  auto machines = Machine::getLevels(cpu);
  if (!machines)
    return compilation.fail(CompileStatus::Usage, machines.takeError());
  for (Machine &machine : *machines)
    levels.push_back({std::move(machine), gpus, nullptr});
  return success();
}

/// GPUs that have the same kernels are one level.
LogicalResult Driver::addGPULevels() {
  if (!hasTarget(options, "cpu") && (options.cpu != "native" || options.threads != Threads::OpenMP))
    return compilation.fail(CompileStatus::Usage, "--cpu and --threads need --target=cpu");
  std::vector<GPUMachine> gpus;
  for (StringRef name : options.gpuArchs) {
    auto machine = GPUMachine::get(name);
    if (!machine)
      return compilation.fail(CompileStatus::Usage, machine.takeError());
    if (llvm::any_of(gpus, [&](const GPUMachine &gpu) { return gpu.name == name; }))
      return compilation.fail(CompileStatus::Usage, "--gpu-arch names '" + name + "' twice");
    gpus.push_back(*machine);
  }
  llvm::sort(gpus, [](const GPUMachine &a, const GPUMachine &b) {
    return std::make_pair(a.capability, a.onlyThis) < std::make_pair(b.capability, b.onlyThis);
  });
  // The reference lowering knows no architecture.
  auto getKey = [&](const GPUMachine &gpu) {
    bool isOne = options.optLevel == 0;
    return std::make_pair(!isOne && gpu.hasTensorCopies(), !isOne && gpu.hasWarpgroupProducts());
  };
  while (!gpus.empty()) {
    auto key = getKey(gpus.front());
    auto isSame = [&](const GPUMachine &gpu) { return getKey(gpu) == key; };
    std::vector<GPUMachine> group;
    llvm::copy_if(gpus, std::back_inserter(group), isSame);
    llvm::erase_if(gpus, isSame);
    // On the host nothing is worth more than the least common CPU.
    if (failed(addLevels("x86-64", std::move(group))))
      return failure();
  }
  return success();
}

LogicalResult Driver::chooseLevels() {
  if ((hasTarget(options, "cpu") && failed(addLevels(options.cpu, {}))) ||
      (hasTarget(options, "cuda") && failed(addGPULevels())))
    return failure();
  compilation.machine = std::move(levels.front().machine);
  compilation.gpus = std::move(levels.front().gpus);
  compilation.otherLevels.assign(std::make_move_iterator(std::next(levels.begin())),
                                 std::make_move_iterator(levels.end()));
  if (failed(checkCompute()))
    return failure();
  const Phase *last = options.compileTo.empty() ? nullptr : findPhase(options.compileTo);
  if (last && last->isPerLevel() && !compilation.otherLevels.empty())
    return compilation.fail(CompileStatus::Usage, "phase '" + options.compileTo +
                                                      "' has a program for each of " +
                                                      listLevels() +
                                                      "; choose one by --target, --cpu and "
                                                      "--gpu-arch, or --dump-phases");
  return success();
}

/// "x86-64-v3, sm_80".
std::string Driver::listLevels() {
  std::vector<std::string> names;
  (void)compilation.forEachLevel([&] {
    names.push_back(compilation.getLevelName().str());
    return success();
  });
  return llvm::join(names, ", ");
}

/// The nearest C identifier.
static std::string makeIdentifier(StringRef text) {
  std::string name;
  for (char c : text)
    name += llvm::isAlnum(c) ? c : '_';
  if (name.empty() || llvm::isDigit(name.front()))
    name.insert(0, "m");
  return name;
}

LogicalResult Driver::choosePaths() {
  // "X.moec/" is the folder X.moec.
  StringRef output = options.output;
  while (output.size() > 1 && path::is_separator(output.back()))
    output = output.drop_back();
  std::string stem = path::stem(options.input).str();
  StringRef extension = emitsONNX() ? ".moec.onnx" : ".moec";
  compilation.outputPath = output.empty() ? stem + extension.str() : output.str();
  StringRef folderName = path::filename(compilation.outputPath);
  if (folderName.empty() || folderName == "." || folderName == "..")
    return compilation.fail(CompileStatus::Usage,
                            emitsONNX()
                                ? "-o needs the name of a file, such as 'model.moec.onnx'"
                                : "-o needs the name of a package folder, such as 'model.moec'");
  folderName.consume_back(".moec");
  compilation.name = makeIdentifier(folderName);
  return success();
}

/// Where to continue: after the phase that a dumped module names. One that names
/// none is taken as imported.
LogicalResult Driver::findFirstPhase(size_t &first) {
  auto done = (*compilation.module)->getAttrOfType<StringAttr>(kPhaseAttr);
  const Phase *phase = done ? findPhase(done) : getPhases().begin();
  if (!phase)
    return compilation.fail(CompileStatus::BadModel,
                            "'" + options.input + "' was written after phase '" + done.getValue() +
                                "', which this moec does not have");
  first = phase - getPhases().begin() + 1;
  auto target = (*compilation.module)->getAttrOfType<StringAttr>(kTargetAttr);
  StringRef lowered = target ? target.getValue() : "cpu";
  // What comes before is the same for all.
  bool isLowered = target || phase->isPerLevel();
  if (isLowered && lowered != options.target)
    return compilation.fail(CompileStatus::Usage, "'" + options.input +
                                                      "' was lowered for --target=" + lowered +
                                                      ", not " + options.target);
  for (const Phase &asked : getPhases().take_front(first))
    if (asked.isAskedFor && asked.isAskedFor(options))
      return compilation.fail(CompileStatus::Usage, "'" + options.input +
                                                        "' already is past phase '" + asked.name +
                                                        "', which an option asks for");
  if (phase->isPerLevel() && !compilation.otherLevels.empty())
    return compilation.fail(
        CompileStatus::Usage,
        "'" + options.input + "' was lowered for one machine; the options ask for " + listLevels());
  const Phase *last = options.compileTo.empty() ? &getLastPhase() : findPhase(options.compileTo);
  if (phase >= last)
    return compilation.fail(CompileStatus::Usage,
                            "'" + options.input + "' already is past phase '" + last->name + "'");
  return success();
}

LogicalResult Driver::loadModule(size_t &first) {
  first = 0;
  if (isONNXFileName(options.input))
    return success();
  compilation.failure = CompileStatus::BadModel;
  compilation.module = moe::loadModule(options.input, &compilation.context);
  if (!compilation.module)
    return failure();
  if (!options.weightsFile.empty() &&
      failed(resolveWeights(*compilation.module, options.modelFolder, options.weightsFile)))
    return failure();
  compilation.report["operators"] = countOperators(*compilation.module);
  recordTensors(*compilation.module);
  return findFirstPhase(first);
}

std::string Driver::print() const {
  std::string text;
  llvm::raw_string_ostream os(text);
  OpPrintingFlags flags;
  flags.enableDebugInfo();
  (*compilation.module)->print(os, flags);
  os << '\n';
  return text;
}

LogicalResult Driver::dump(size_t index) {
  if (options.dumpFolder.empty() || &getPhases()[index] == &getLastPhase())
    return success();
  if (std::error_code code = llvm::sys::fs::create_directories(
          options.dumpFolder, /*IgnoreExisting=*/true, llvm::sys::fs::perms::all_all))
    return compilation.fail(CompileStatus::Output, "cannot create the folder '" +
                                                       options.dumpFolder + "': " + code.message());
  SmallString<256> file(options.dumpFolder);
  size_t number = llvm::count_if(getPhases().take_front(index),
                                 [&](const Phase &phase) { return phase.isPossible(options); });
  bool isOfLevel = getPhases()[index].isPerLevel() && !compilation.otherLevels.empty();
  path::append(file,
               llvm::formatv("{0,0+2}-{1}{2}{3}.mlir", number, getPhases()[index].name,
                             isOfLevel ? "." : "", isOfLevel ? compilation.getLevelName() : "")
                   .str());
  if (llvm::Error error = writeTextFile(file, print()))
    return compilation.fail(CompileStatus::Output, std::move(error));
  return success();
}

/// A hook that would not run must not pass in silence.
LogicalResult Driver::checkHooks(size_t first) {
  for (const PhaseHook &hook : options.hooks) {
    if (llvm::Error error = checkChoice("compile-to", hook.after))
      return compilation.fail(CompileStatus::Usage,
                              "a hook names an unknown phase: " + llvm::toString(std::move(error)));
    const Phase *phase = findPhase(hook.after);
    StringRef reason;
    if (phase == &getLastPhase())
      reason = "which is the last";
    else if (!phase->isRequested(options))
      reason = "which does not run at this optimization level or for what is emitted";
    else if (phase < getPhases().begin() + first)
      reason = "which the input already is past";
    if (!reason.empty())
      return compilation.fail(CompileStatus::Usage,
                              "a hook runs after phase '" + hook.after + "', " + reason);
  }
  return success();
}

LogicalResult Driver::runHooks(const Phase &phase) {
  for (const PhaseHook &hook : options.hooks) {
    if (hook.after != phase.name)
      continue;
    compilation.failure = CompileStatus::Unsupported;
    PassManager pm(&compilation.context, ModuleOp::getOperationName());
    hook.addPasses(pm);
    if (failed(pm.run(*compilation.module)))
      return failure();
  }
  return success();
}

LogicalResult Driver::runPhase(size_t index) {
  const Phase &phase = getPhases()[index];
  Clock::time_point begin = Clock::now();
  compilation.failure = phase.failure;
  compilation.phase = phase.name;
  if (failed(compilation.advance()))
    return failure();
  auto runOnModule = [&] { return runPhaseOnModule(index); };
  if (failed(phase.isPerLevel() ? compilation.forEachLevel(runOnModule) : runOnModule()))
    return failure();
  compilation.timings.push_back(
      llvm::json::Object{{"phase", phase.name}, {"ms", millisecondsSince(begin)}});
  return success();
}

LogicalResult Driver::runPhaseOnModule(size_t index) {
  const Phase &phase = getPhases()[index];
  bool isOfLevel = phase.isPerLevel();
  if (isOfLevel && phase.target && phase.target != compilation.getLevelTarget())
    return success();
  if (failed(phase.run(compilation)) || failed(runHooks(phase)))
    return failure();
  ModuleOp module = *compilation.module;
  module->setAttr(kPhaseAttr, StringAttr::get(&compilation.context, phase.name));
  if (isOfLevel && compilation.isForCUDA())
    module->setAttr(kTargetAttr, StringAttr::get(&compilation.context, "cuda"));
  // What the report tells of the model, as the hooks left it.
  if (phase.name == "import") {
    compilation.report["operators"] = countOperators(module);
    recordTensors(module);
  }
  if (phase.name == "raise-moe" || phase.name == "convert-weights")
    recordBlocks(module);
  if (failed(mlir::verify(module))) {
    compilation.failure = CompileStatus::Internal;
    return failure();
  }
  return dump(index);
}

//===----------------------------------------------------------------------===//
// What was done
//===----------------------------------------------------------------------===//

/// "2 MoE blocks (E=16 k=4 H=128 I=64)", blocks of one shape together.
static std::string summarizeBlocks(const llvm::json::Array &blocks) {
  if (blocks.empty())
    return "no MoE block";
  std::vector<std::string> shapes;
  for (const llvm::json::Value &block : blocks) {
    const llvm::json::Object *object = block.getAsObject();
    auto size = [&](StringRef key) { return object ? object->getInteger(key).value_or(0) : 0; };
    std::string shape =
        llvm::formatv("E={0} k={1} H={2} I={3}", size("E"), size("k"), size("H"), size("I"));
    if (!llvm::is_contained(shapes, shape))
      shapes.push_back(shape);
  }
  return llvm::formatv("{0} MoE block{1} ({2})", blocks.size(), blocks.size() == 1 ? "" : "s",
                       llvm::join(shapes, "; "));
}

/// "com.microsoft.MoE 2, com.microsoft.QMoE 1", of the nodes that stand for blocks.
static std::string summarizeContribNodes(ModuleOp module) {
  std::map<StringRef, int64_t> counts;
  module.walk([&](onnx::NodeOp node) {
    if (isContribMoE(node))
      ++counts[node.getOpType()];
  });
  std::string text;
  for (auto [opType, count] : counts)
    text += llvm::formatv(", {0} {1}", opType, count);
  return text.empty() ? ", no MoE node" : text;
}

std::string Driver::getSummary() {
  ModuleOp module = *compilation.module;
  if (emitsONNX())
    return llvm::formatv("{0}: {1}{2}, weights {3}, {4:f1} s", compilation.outputPath,
                         summarizeBlocks(listToJSON(module, kBlocksAttr)),
                         summarizeContribNodes(module), formatBytes(compilation.weightsBytes),
                         millisecondsSince(start) / 1000);
  return llvm::formatv("{0}: {1}, {2}, library {3}, weights {4}, {5:f1} s", compilation.outputPath,
                       summarizeBlocks(listToJSON(module, kBlocksAttr)), summarizeTarget(),
                       formatBytes(compilation.libraryBytes), formatBytes(compilation.weightsBytes),
                       millisecondsSince(start) / 1000);
}

std::string Driver::summarizeTarget() {
  std::string machines, gpus;
  if (hasTarget(options, "cuda"))
    gpus = llvm::formatv("CUDA {0} ({1})", llvm::join(options.gpuArchs, " "), options.gpuFormat);
  if (!hasTarget(options, "cpu"))
    return gpus;
  (void)compilation.forEachLevel([&] {
    const Machine &machine = compilation.machine;
    if (!compilation.isForCUDA())
      machines += llvm::formatv("{0} ({1}-bit vectors), ", machine.name, machine.vectorBits);
    return success();
  });
  return llvm::formatv("{0}threads {1}{2}{3}", machines, stringifyThreads(options.threads),
                       gpus.empty() ? "" : ", ", gpus);
}

static llvm::json::Array describePacking(ModuleOp module,
                                         const llvm::StringMap<ConversionError> &errors) {
  llvm::json::Array weights;
  for (WeightOp weight : module.getOps<WeightOp>()) {
    RankedTensorType type = weight.getTensorType();
    llvm::json::Object object{{"weight", llvm::json::fixUTF8(weight.getSymName())},
                              {"type", llvm::formatv("{0}", type).str()},
                              {"bytes", getExpertBytes(type) * getNumExperts(type)},
                              {"transforms", attributeToJSON(weight.getTransforms())}};
    if (weight.getBankAttr())
      object["bank"] = llvm::json::fixUTF8(*weight.getBank());
    if (auto error = errors.find(weight.getSymName()); error != errors.end()) {
      object["relative_rms_error"] = finiteOrNull(error->second.getRelativeRMS());
      object["largest_error"] = finiteOrNull(error->second.largest);
    }
    weights.push_back(std::move(object));
  }
  return weights;
}

static llvm::json::Object describeFiles(StringRef folder) {
  llvm::json::Object files;
  std::error_code code;
  for (llvm::sys::fs::directory_iterator it(folder, code), end; it != end && !code;
       it.increment(code))
    if (auto status = it->status())
      files[llvm::json::fixUTF8(path::filename(it->path()))] = int64_t(status->getSize());
  return files;
}

static llvm::json::Object describeLevel(const Machine &machine, ArrayRef<GPUMachine> gpus) {
  llvm::json::Object level{{"cpu", machine.name},
                           {"vector_bits", machine.vectorBits},
                           {"l1_bytes", machine.l1Bytes},
                           {"l2_bytes", machine.l2Bytes},
                           {"features", llvm::json::Array(machine.features)}};
  if (!gpus.empty())
    level["gpus"] = llvm::json::Array(
        llvm::map_range(gpus, [](const GPUMachine &gpu) { return gpu.name.str(); }));
  return level;
}

LogicalResult Driver::writeReport() {
  if (options.reportFile.empty())
    return success();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  llvm::json::Object &report = compilation.report;
  report["model"] = llvm::json::fixUTF8(path::filename(options.input));
  llvm::json::Object target = describeLevel(compilation.machine, compilation.gpus);
  target["name"] = options.target;
  target["compute"] = options.getOperands();
  llvm::json::Array others;
  for (const Level &level : compilation.otherLevels)
    others.push_back(describeLevel(level.machine, level.gpus));
  target["other_levels"] = std::move(others);
  report["target"] = std::move(target);
  report["opt_level"] = int64_t(options.optLevel);
  report["moe_blocks"] = listToJSON(*compilation.module, kBlocksAttr);
  report["lowerings"] = std::move(compilation.lowerings);
  report["packing"] = describePacking(*collectWeights(compilation), compilation.conversionErrors);
  report["rounding"] = std::move(compilation.roundings);
  report["memory"] = llvm::json::Object{{"activations", std::move(compilation.activations)},
                                        {"weights_bytes", int64_t(compilation.weightsBytes)},
                                        {"compiler_peak_bytes", int64_t(usage.ru_maxrss) * 1024}};
  report["timings"] = std::move(compilation.timings);
  if (options.compileTo.empty() && !emitsONNX())
    report["files"] = describeFiles(compilation.outputPath);
  report["seconds"] = millisecondsSince(start) / 1000;
  std::string text = llvm::formatv("{0:2}\n", llvm::json::Value(std::move(report)));
  if (llvm::Error error = writeTextFile(options.reportFile, text))
    return compilation.fail(CompileStatus::Output, std::move(error));
  return success();
}

CompileResult Driver::run() {
  auto failed = [&](StringRef where) {
    if (compilation.interrupted)
      return CompileResult{CompileStatus::Interrupted, "", ""};
    CompileStatus status = compilation.failure;
    // Errors of the model itself and of its support come from the same phases.
    if (diagnostics.hadUnsupported())
      status = CompileStatus::Unsupported;
    if (status == CompileStatus::Internal || !diagnostics.hadError())
      emitError(UnknownLoc::get(&compilation.context)) << "internal error in " << where;
    return CompileResult{status, "", ""};
  };
  size_t first = 0;
  if (mlir::failed(checkOptions()) || mlir::failed(choosePaths()) ||
      mlir::failed(loadModule(first)) || mlir::failed(checkHooks(first)))
    return failed("the options");
  bool toEnd = options.compileTo.empty() || options.compileTo == getLastPhase().name;
  for (size_t i = first; i < getPhases().size(); ++i) {
    const Phase &phase = getPhases()[i];
    if (phase.isRequested(options) && mlir::failed(runPhase(i)))
      return failed(("phase '" + phase.name + "'").str());
    if (phase.name == options.compileTo)
      break;
  }
  if (!toEnd)
    if (llvm::Error error = writeTextFile(options.output.empty() ? "-" : options.output, print()))
      if (mlir::failed(compilation.fail(CompileStatus::Output, std::move(error))))
        return failed("writing");
  if (mlir::failed(writeReport()))
    return failed("writing the report");
  if (!toEnd)
    return {CompileStatus::Success, "", ""};
  return {CompileStatus::Success, options.quiet ? "" : getSummary(), compilation.outputPath};
}

/// What passes could not do becomes diagnostics.
static void enableRemarks(MLIRContext &context) {
  remark::RemarkCategories categories;
  categories.missed = ".*";
  bool enabled = succeeded(remark::enableOptimizationRemarks(
      context, /*streamer=*/nullptr, std::make_unique<remark::RemarkEmittingPolicyAll>(),
      categories, /*printAsEmitRemarks=*/true));
  assert(enabled && "a new context has no remark engine");
  (void)enabled;
}

/// What is left of the target's options when they were not given.
static void completeGPUOptions(CompileOptions &options) {
  if (!hasTarget(options, "cuda"))
    return;
  if (options.gpuArchs.empty())
    options.gpuArchs = {"sm_80", "sm_90a"};
  if (options.gpuFormat.empty())
    options.gpuFormat = "fatbin";
}

CompileResult mlir::moe::compile(const CompileOptions &given) {
  CompileOptions options = given;
  completeGPUOptions(options);
  if (options.modelFolder.empty())
    options.modelFolder = path::parent_path(options.input).str();
  if (options.runtimeFolder.empty())
    options.runtimeFolder = getRuntimeFolder();
  DialectRegistry registry;
  mlir::registerAllDialects(registry);
  registerAllExtensions(registry);
  registerAllToLLVMIRTranslations(registry);
  moe::registerAllDialects(registry);
  if (options.registerDialects)
    options.registerDialects(registry);
  MLIRContext context(registry);
  context.printOpOnDiagnostic(false);
  DiagnosticHandler diagnostics(&context, options);
  if (options.logLevel >= Severity::Remark)
    enableRemarks(context);
  return Driver(options, context, diagnostics).run();
}
