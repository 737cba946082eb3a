// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Package.h"
#include "Compilation.h"
#include "Interface.h"
#include "Report.h"

#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Runtime/model_abi.h"
#include "moec/Target/CPU/PlanWeights.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "mlir/Support/DebugStringHelper.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

using namespace mlir;
using namespace mlir::moe;
using llvm::json::Array;
using llvm::json::Object;

namespace {
/// The steps that make a package of the lowered module.
class PackageWriter {
public:
  PackageWriter(Compilation &compilation, PackageFolder &folder)
      : compilation(compilation), folder(folder), module(*compilation.module),
        weights(collectWeights(compilation)) {}
  LogicalResult write();

private:
  LogicalResult writeWeights();
  LogicalResult writeObject();
  LogicalResult writeObject(llvm::Module &llvmModule, const Machine &used);
  LogicalResult describeModel(const LevelDescription &level, StringRef text,
                              llvm::Module &llvmModule);
  LogicalResult link();
  LogicalResult writeHeaders();
  Object getInfo(const LevelDescription &level, const Machine &used);
  Object getTargetInfo(const LevelDescription &level, const Machine &used);
  bool hasCUDA() const { return hasTarget(compilation.options, "cuda"); }
  /// The host of a GPU has nothing to do in parallel.
  Threads getThreads() const {
    return hasTarget(compilation.options, "cpu") ? compilation.options.threads : Threads::None;
  }
  Array getGPUCodeInfo();
  void describeCUDA(LevelDescription &level);
  Object getWeightsInfo();
  Array getBlocksInfo();
  llvm::json::Value getTracedInfo();

  std::string file(StringRef name) { return folder.getPath(name); }
  /// Of the current level.
  std::string object() {
    return file(compilation.name + "." + std::to_string(compilation.level) + ".o");
  }

  Compilation &compilation;
  PackageFolder &folder;
  /// Of the first level.
  ModuleOp module;
  OwningOpRef<ModuleOp> weights;
  ModelDescription description;
  std::vector<std::string> levels, objects;
  llvm::json::Value gpuCode = nullptr;
};
} // namespace

//===----------------------------------------------------------------------===//
// NAME.json
//===----------------------------------------------------------------------===//

/// Where the experts of each bank are: what may be read or moved alone.
Array PackageWriter::getBlocksInfo() {
  Array blocks;
  llvm::StringSet<> banks;
  for (WeightOp weight : weights->getOps<WeightOp>())
    // The first member of a bank lies where its experts start.
    if (weight.getBankAttr() && banks.insert(*weight.getBank()).second)
      blocks.push_back(Object{{"name", llvm::json::fixUTF8(*weight.getBank())},
                              {"experts", getNumExperts(weight.getTensorType())},
                              {"offset", int64_t(*weight.getOffset())},
                              {"bytes", int64_t(*weight.getExpertStride())}});
  return blocks;
}

Object PackageWriter::getWeightsInfo() {
  Array tensors;
  for (WeightOp weight : weights->getOps<WeightOp>()) {
    Object tensor{{"name", llvm::json::fixUTF8(weight.getSymName())},
                  {"type", debugString(weight.getType())},
                  {"offset", int64_t(*weight.getOffset())},
                  {"expert_stride", int64_t(*weight.getExpertStride())}};
    if (weight.getBankAttr())
      tensor["block"] = llvm::json::fixUTF8(*weight.getBank());
    tensors.push_back(std::move(tensor));
  }
  const WeightsFileInfo &info = description.weights;
  return Object{{"file", info.fileBytes ? llvm::json::Value(compilation.name + ".safetensors")
                                        : llvm::json::Value(nullptr)},
                {"bytes", int64_t(info.fileBytes)},
                {"data_offset", int64_t(info.dataOffset)},
                {"digest", info.digest},
                {"tensors", std::move(tensors)},
                {"blocks", getBlocksInfo()}};
}

/// Null unless routings are outputs.
llvm::json::Value PackageWriter::getTracedInfo() {
  if (!module->hasAttr(kTracedAttr))
    return nullptr;
  return listToJSON(module, kTracedAttr);
}

/// The kernels of each group of GPUs.
Array PackageWriter::getGPUCodeInfo() {
  Array code;
  (void)compilation.forEachLevel([&] {
    if (!compilation.isForCUDA())
      return success();
    Array architectures;
    for (const GPUMachine &gpu : compilation.gpus)
      architectures.push_back(gpu.name.str());
    code.push_back(Object{{"architectures", std::move(architectures)},
                          {"kernels", Array(readImages(*compilation.module).kernels)}});
    return success();
  });
  return code;
}

Object PackageWriter::getTargetInfo(const LevelDescription &level, const Machine &used) {
  const CompileOptions &options = compilation.options;
  const Machine &machine = compilation.machine;
  Object target{{"name", options.target},
                {"cpu", machine.name},
                {"levels", Array(levels)},
                {"features", Array(used.features)},
                {"vector_bits", machine.vectorBits},
                {"compute", options.getOperands()},
                {"threads", stringifyThreads(getThreads())}};
  if (hasCUDA())
    target["cuda"] = Object{{"architectures", Array(options.gpuArchs)},
                            {"format", options.gpuFormat},
                            {"code", gpuCode}};
  return target;
}

/// The regions of the profile, those of one operation as one object: the names in a region
/// are "source: phase".
static Array groupRegions(const Array &regions) {
  Array groups;
  for (const llvm::json::Value &value : regions) {
    const Object *region = value.getAsObject();
    StringRef name = region ? region->getString("name").value_or("") : "";
    StringRef op = region ? region->getString("op").value_or("") : "";
    auto [source, phase] = name.rsplit(": ");
    Object *last = groups.empty() ? nullptr : groups.back().getAsObject();
    Array *phases = last ? last->getArray("phases") : nullptr;
    bool continues = phases && !phase.empty() && last->getString("name") == source &&
                     last->getString("op").value_or(source) == op;
    if (!continues) {
      Object group{{"name", source.str()}};
      if (!op.empty() && op != source)
        group["op"] = op.str();
      if (!phase.empty())
        group["phases"] = Array();
      groups.push_back(std::move(group));
      phases = groups.back().getAsObject()->getArray("phases");
    }
    if (phases)
      phases->push_back(phase.str());
  }
  return groups;
}

/// Target, lowerings and regions are the current level's; the rest is the same for all.
Object PackageWriter::getInfo(const LevelDescription &level, const Machine &used) {
  Object source;
  if (auto model = module->getAttrOfType<StringAttr>("onnx.model"))
    source["model"] = attributeToJSON(model);
  if (Attribute version = module->getAttr("onnx.ir_version"))
    source["ir_version"] = attributeToJSON(version);
  if (Attribute opsets = module->getAttr("onnx.opsets"))
    source["opsets"] = attributeToJSON(opsets);
  return Object{{"name", compilation.name},
                {"version", MOEC_VERSION},
                {"abi", int64_t(MOEC_MODEL_ABI_VERSION)},
                {"target", getTargetInfo(level, used)},
                {"opt_level", int64_t(compilation.options.optLevel)},
                {"entries", entriesToJSON(level.entries)},
                {"weights", getWeightsInfo()},
                {"moe_blocks", listToJSON(module, kBlocksAttr)},
                {"traced", getTracedInfo()},
                {"lowerings", listToJSON(*compilation.module, kLoweringsAttr)},
                {"regions", groupRegions(listToJSON(*compilation.module, kRegionsAttr))},
                {"source", std::move(source)}};
}

/// What no run asks for and what grows with the model stays out of the library.
static void removeCompileTimeInfo(Object &info) {
  info.erase("moe_blocks");
  info.erase("lowerings");
  Object *weights = info.getObject("weights");
  weights->erase("tensors");
  weights->erase("blocks");
}

//===----------------------------------------------------------------------===//
// Files
//===----------------------------------------------------------------------===//

LogicalResult PackageWriter::writeWeights() {
  auto progress = [&](uint64_t done, uint64_t all) {
    return succeeded(compilation.advance(done, all));
  };
  bool sourceFailed;
  auto info = writeWeightsFile(*weights, compilation.options.modelFolder,
                               file(compilation.name + ".safetensors"), sourceFailed, progress);
  if (compilation.interrupted) {
    consumeError(info.takeError());
    return failure();
  }
  if (!info)
    return compilation.fail(sourceFailed ? CompileStatus::BadModel : CompileStatus::Output,
                            info.takeError());
  compilation.weightsBytes = info->fileBytes;
  compilation.conversionErrors = std::move(info->conversionErrors);
  description.weights = std::move(*info);
  return success();
}

LogicalResult PackageWriter::writeObject(llvm::Module &llvmModule, const Machine &used) {
  std::error_code code;
  llvm::raw_fd_ostream out(object(), code);
  if (code)
    return compilation.fail(CompileStatus::Output,
                            "cannot write '" + object() + "': " + code.message());
  unsigned level = std::max(1u, compilation.options.optLevel);
  if (llvm::Error error = emitObject(llvmModule, used, level, compilation.options.sanitizer, out))
    return compilation.fail(CompileStatus::Internal, std::move(error));
  out.flush();
  code = out.error();
  out.clear_error();
  if (code)
    return compilation.fail(CompileStatus::Output,
                            "cannot write '" + object() + "': " + code.message());
  objects.push_back(object());
  return compilation.advance();
}

/// The object of the current level; the first one's has the model's tables, too.
LogicalResult PackageWriter::writeObject() {
  auto entries = readInterface(*compilation.module);
  if (failed(entries)) {
    compilation.failure = CompileStatus::BadModel;
    return failure();
  }
  llvm::LLVMContext context;
  auto llvmModule = translateForMachine(*compilation.module, context, compilation.machine);
  if (!llvmModule)
    return failure();
  Machine used = getUsedMachine(*llvmModule, compilation.machine);
  LevelDescription level{compilation.level, compilation.getLevelName().str(), "",
                         std::move(*entries), std::nullopt};
  if (compilation.isForCUDA())
    describeCUDA(level);
  llvm::json::Value info(getInfo(level, used));
  std::string text = llvm::formatv("{0}\n", info);
  removeCompileTimeInfo(*info.getAsObject());
  level.infoJSON = llvm::formatv("{0}", info);
  if (llvm::Error error = addLevelDescription(*llvmModule, level, used))
    return compilation.fail(CompileStatus::Internal, std::move(error));
  if (level.number == 0 && failed(describeModel(level, text, *llvmModule)))
    return failure();
  return writeObject(*llvmModule, used);
}

/// Also the part of the weights from the first to the last one that the level needs.
void PackageWriter::describeCUDA(LevelDescription &level) {
  level.cuda = readImages(*compilation.module);
  uint64_t begin = UINT64_MAX, end = 0;
  for (WeightOp weight : compilation.module->getOps<WeightOp>()) {
    uint64_t offset = *weight.getOffset();
    begin = std::min(begin, offset);
    end = std::max<uint64_t>(end, offset + *weight.getExpertStride() *
                                               getNumExperts(weight.getTensorType()));
  }
  // The last member of a bank ends before its last expert's range does.
  begin = end ? llvm::alignDown(begin, kExpertAlignment) : 0;
  level.cuda->weightsBegin = begin;
  level.cuda->weightsBytes = end ? std::min(end, description.weights.dataBytes) - begin : 0;
}

/// What is once in a package.
LogicalResult PackageWriter::describeModel(const LevelDescription &level, StringRef text,
                                           llvm::Module &llvmModule) {
  for (const EntryDescription &entry : level.entries) {
    Object activations = workspaceToJSON(entry);
    activations["entry"] = entry.name;
    compilation.activations.push_back(std::move(activations));
  }
  if (llvm::Error error = folder.writeFile(compilation.name + ".json", text))
    return compilation.fail(CompileStatus::Output, std::move(error));
  addModelDescription(llvmModule, description);
  return success();
}

LogicalResult PackageWriter::link() {
  LinkOptions options{compilation.name, compilation.options.runtimeFolder, getThreads(),
                      compilation.options.sanitizer, hasCUDA()};
  std::string shared = file("lib" + compilation.name + ".so");
  std::string archive = file("lib" + compilation.name + ".a");
  llvm::Error error = linkSharedLibrary(objects, shared, options);
  if (!error)
    error = linkStaticLibrary(objects, archive, options);
  // The interrupt of a terminal also ends the linker.
  if (failed(compilation.advance())) {
    consumeError(std::move(error));
    return failure();
  }
  if (error)
    return compilation.fail(CompileStatus::Output, std::move(error));
  for (const std::string &object : objects)
    (void)llvm::sys::fs::remove(object);
  (void)llvm::sys::fs::file_size(shared, compilation.libraryBytes);
  return success();
}

static std::string getHeader(StringRef name) {
  std::string guard = name.upper() + "_MOEC_H";
  return llvm::formatv(R"(/* Made by moec {0}. */
#ifndef {1}
#define {1}

#include "moec.h"

#ifdef __cplusplus
extern "C" {{
#endif

const moec_library *{2}_moec(void);

#ifdef __cplusplus
}
#endif

#endif /* {1} */
)",
                       MOEC_VERSION, guard, name);
}

LogicalResult PackageWriter::writeHeaders() {
  SmallString<128> header(compilation.options.runtimeFolder);
  llvm::sys::path::append(header, "moec.h");
  auto text = llvm::MemoryBuffer::getFile(header);
  if (!text)
    return compilation.fail(CompileStatus::Output,
                            "cannot read '" + header + "': " + text.getError().message());
  if (llvm::Error error = folder.writeFile("moec.h", (*text)->getBuffer()))
    return compilation.fail(CompileStatus::Output, std::move(error));
  if (llvm::Error error = folder.writeFile(compilation.name + ".h", getHeader(compilation.name)))
    return compilation.fail(CompileStatus::Output, std::move(error));
  return success();
}

LogicalResult PackageWriter::write() {
  description.name = compilation.name;
  description.numLevels = 1 + compilation.otherLevels.size();
  (void)compilation.forEachLevel([&] {
    levels.push_back(compilation.getLevelName().str());
    return success();
  });
  gpuCode = getGPUCodeInfo();
  auto writeLevel = [&] { return writeObject(); };
  if (failed(writeWeights()) || failed(compilation.advance()) ||
      failed(compilation.forEachLevel(writeLevel)) || failed(link()) || failed(writeHeaders()))
    return failure();
  // The last chance to stop.
  if (failed(compilation.advance()))
    return failure();
  if (llvm::Error error = folder.commit())
    return compilation.fail(CompileStatus::Output, std::move(error));
  return success();
}

LogicalResult mlir::moe::writePackage(Compilation &compilation) {
  auto folder = PackageFolder::create(compilation.outputPath);
  if (!folder)
    return compilation.fail(CompileStatus::Output, folder.takeError());
  return PackageWriter(compilation, *folder).write();
}
