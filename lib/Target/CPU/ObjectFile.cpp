// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/ObjectFile.h"

#include "mlir/Target/LLVMIR/Export.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Runtime/model_abi.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/Constants.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Analysis/LoopInfo.h"
#include "llvm/IR/Dominators.h"
#include "llvm/Transforms/IPO/MergeFunctions.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Instrumentation/AddressSanitizer.h"
#include "llvm/Transforms/Instrumentation/ThreadSanitizer.h"
#include "llvm/Transforms/Scalar/Scalarizer.h"
#include "llvm/Transforms/Utils/Local.h"

#include <cstddef>
#include <mutex>

using namespace mlir;
using namespace mlir::moe;
using llvm::Constant;
using llvm::createStringError;
using llvm::Error;

/// What the libraries are for; independent of the machine that compiles them.
static constexpr StringLiteral targetTriple = "x86_64-unknown-linux-gnu";

static std::unique_ptr<llvm::TargetMachine> createTargetMachine(const Machine &machine,
                                                                unsigned level) {
  // The registry has no lock, and programs may compile in several threads.
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
  });
  std::string error;
  llvm::Triple triple(targetTriple);
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!target)
    return nullptr;
  llvm::TargetOptions options;
  options.FunctionSections = true;
  options.DataSections = true;
  auto codegenLevel = llvm::CodeGenOpt::getLevel(level);
  return std::unique_ptr<llvm::TargetMachine>(
      target->createTargetMachine(triple, "x86-64", machine.getFeatureString(), options,
                                  llvm::Reloc::PIC_, std::nullopt, *codegenLevel));
}

/// Every function is compiled for the machine, and no exception passes through.
static void setFunctionAttributes(llvm::Module &module, const Machine &machine) {
  for (llvm::Function &function : module) {
    function.setDoesNotThrow();
    if (function.isDeclaration())
      continue;
    function.setUWTableKind(llvm::UWTableKind::None);
    function.addFnAttr("target-cpu", "x86-64");
    function.addFnAttr("tune-cpu", machine.tuneCPU);
    if (!machine.features.empty())
      function.addFnAttr("target-features", machine.getFeatureString());
    function.addFnAttr("prefer-vector-width", llvm::itostr(machine.vectorBits));
  }
}

std::unique_ptr<llvm::Module> mlir::moe::translateForMachine(ModuleOp module,
                                                             llvm::LLVMContext &context,
                                                             const Machine &machine) {
  auto targetMachine = createTargetMachine(machine, /*level=*/2);
  if (!targetMachine) {
    module.emitError() << "this build of LLVM has no x86 target";
    return nullptr;
  }
  OwningOpRef<ModuleOp> copy = module.clone();
  for (WeightOp weight : llvm::make_early_inc_range(copy->getOps<WeightOp>()))
    weight.erase();
  auto result = translateModuleToLLVMIR(*copy, context, "model");
  if (!result)
    return nullptr;
  result->setTargetTriple(targetMachine->getTargetTriple());
  result->setDataLayout(targetMachine->createDataLayout());
  result->setPICLevel(llvm::PICLevel::BigPIC);
  setFunctionAttributes(*result, machine);
  return result;
}

Machine mlir::moe::getUsedMachine(const llvm::Module &module, const Machine &machine) {
  bool usesTiles = llvm::any_of(module, [](const llvm::Function &function) {
    StringRef name = function.getName();
    return name.starts_with("llvm.x86.tile") || name.starts_with("llvm.x86.tdp") ||
           name.starts_with("llvm.x86.ldtile");
  });
  Machine used = machine;
  if (usesTiles)
    return used;
  llvm::erase_if(used.features, [](StringRef feature) { return feature.starts_with("amx"); });
  used.hasAMXBF16 = used.hasAMXInt8 = false;
  return used;
}

//===----------------------------------------------------------------------===//
// Tables
//===----------------------------------------------------------------------===//

namespace {
/// Builds the constants of moec/Runtime/model_abi.h. Field by field in the
/// order of the C structures, whose layout LLVM's unpacked structures share.
class Tables {
public:
  explicit Tables(llvm::Module &module)
      : module(module), context(module.getContext()), i8(llvm::Type::getInt8Ty(context)),
        i16(llvm::Type::getInt16Ty(context)), i32(llvm::Type::getInt32Ty(context)),
        i64(llvm::Type::getInt64Ty(context)), pointer(llvm::PointerType::get(context, 0)) {}

  Error addLevel(const LevelDescription &description, const Machine &used);
  void addModel(const ModelDescription &description);
  void addAccessor(StringRef name);

private:
  Constant *integer(llvm::Type *type, int64_t value) {
    return llvm::ConstantInt::get(type, value, /*isSigned=*/true);
  }
  /// A private constant, and its address.
  Constant *global(Constant *value) {
    return new llvm::GlobalVariable(module, value->getType(), /*isConstant=*/true,
                                    llvm::GlobalValue::PrivateLinkage, value, "");
  }
  Constant *text(StringRef value) {
    Constant *&known = texts[value];
    if (!known)
      known = global(llvm::ConstantDataArray::getString(context, value));
    return known;
  }
  /// Address of an array; null when it is empty.
  Constant *array(llvm::Type *type, ArrayRef<Constant *> values) {
    if (values.empty())
      return llvm::ConstantPointerNull::get(pointer);
    return global(llvm::ConstantArray::get(llvm::ArrayType::get(type, values.size()), values));
  }
  Constant *structure(ArrayRef<Constant *> fields) {
    return llvm::ConstantStruct::getAnon(context, fields);
  }
  Constant *structures(ArrayRef<Constant *> values) {
    return array(values.empty() ? pointer : values.front()->getType(), values);
  }
  Constant *strings(ArrayRef<std::string> values) {
    SmallVector<Constant *> pointers;
    for (const std::string &value : values)
      pointers.push_back(text(value));
    return array(pointer, pointers);
  }

  /// The table of a level, in whatever object it is.
  llvm::GlobalVariable *level(unsigned number);
  /// A table that other objects refer to.
  llvm::GlobalVariable *hiddenGlobal(Twine name, llvm::Type *type, Constant *value);
  llvm::Expected<Constant *> tensor(const TensorDescription &tensor);
  llvm::Expected<Constant *> tensors(ArrayRef<TensorDescription> tensors);
  llvm::Expected<Constant *> function(StringRef entry, StringRef suffix);
  llvm::Expected<Constant *> entry(const EntryDescription &entry);
  Constant *image(const ImageDescription &image);
  /// Null for a model without.
  Constant *cuda(const std::optional<CUDADescription> &cuda);

  llvm::Module &module;
  llvm::LLVMContext &context;
  llvm::Type *i8, *i16, *i32, *i64;
  llvm::PointerType *pointer;
  llvm::StringMap<Constant *> texts;
};
} // namespace

llvm::Expected<Constant *> Tables::tensor(const TensorDescription &tensor) {
  uint8_t code, bits;
  if (!getDLPackType(tensor.elementType, code, bits))
    return createStringError("tensor '" + tensor.name + "' has element type " +
                             getDTypeName(tensor.elementType) +
                             ", which cannot cross the library's interface");
  SmallVector<Constant *> dims;
  for (int64_t dim : tensor.dims)
    dims.push_back(integer(i64, dim));
  return structure({text(tensor.name), integer(i8, code), integer(i8, bits), integer(i16, 1),
                    integer(i32, tensor.dims.size()), array(i64, dims)});
}

llvm::Expected<Constant *> Tables::tensors(ArrayRef<TensorDescription> descriptions) {
  SmallVector<Constant *> values;
  for (const TensorDescription &description : descriptions) {
    auto value = tensor(description);
    if (!value)
      return value.takeError();
    values.push_back(*value);
  }
  return structures(values);
}

llvm::Expected<Constant *> Tables::function(StringRef entry, StringRef suffix) {
  std::string name = ("moec_entry_" + entry + "_" + suffix).str();
  llvm::Function *function = module.getFunction(name);
  if (!function || function->isDeclaration())
    return createStringError("the lowered program has no function '" + name + "'");
  function->setLinkage(llvm::GlobalValue::InternalLinkage);
  return function;
}

llvm::Expected<Constant *> Tables::entry(const EntryDescription &entry) {
  auto inputs = tensors(entry.inputs);
  if (!inputs)
    return inputs;
  auto outputs = tensors(entry.outputs);
  if (!outputs)
    return outputs;
  SmallVector<Constant *> functions;
  for (StringRef suffix : {"shapes", "workspace", "run"}) {
    auto value = function(entry.name, suffix);
    if (!value)
      return value;
    functions.push_back(*value);
  }
  SmallVector<Constant *> extends;
  for (const TensorDescription &output : entry.outputs)
    extends.push_back(integer(i32, output.extends));
  return structure({text(entry.name), integer(i32, entry.inputs.size()),
                    integer(i32, entry.outputs.size()), integer(i32, entry.symbols.size()),
                    integer(i32, 0), *inputs, *outputs, strings(entry.symbols), functions[0],
                    functions[1], functions[2], array(i32, extends)});
}

llvm::GlobalVariable *Tables::hiddenGlobal(Twine name, llvm::Type *type, Constant *value) {
  auto *global = new llvm::GlobalVariable(module, type, /*isConstant=*/true,
                                          llvm::GlobalValue::ExternalLinkage, value, name);
  global->setVisibility(llvm::GlobalValue::HiddenVisibility);
  return global;
}

Constant *Tables::image(const ImageDescription &image) {
  // PTX ends with a zero byte, which does no harm to the others.
  auto *data =
      cast<llvm::GlobalVariable>(global(llvm::ConstantDataArray::getString(context, image.bytes)));
  data->setAlignment(llvm::Align(16));
  return structure({integer(i32, image.capability), integer(i32, image.isExact),
                    integer(i32, image.kind), integer(i32, 0), data,
                    integer(i64, image.bytes.size())});
}

Constant *Tables::cuda(const std::optional<CUDADescription> &cuda) {
  static_assert(sizeof(moec_cuda_desc) == 56 && sizeof(moec_image_desc) == 32,
                "a structure of model_abi.h changed: change the tables too");
  if (!cuda)
    return llvm::ConstantPointerNull::get(pointer);
  SmallVector<Constant *> images;
  for (const ImageDescription &description : cuda->images)
    images.push_back(image(description));
  return global(
      structure({hiddenGlobal("moec_cuda_device", i8, nullptr), integer(i32, images.size()),
                 integer(i32, cuda->kernels.size()), structures(images), strings(cuda->kernels),
                 integer(i64, cuda->weightsBegin), integer(i64, cuda->weightsBytes),
                 integer(i32, cuda->numTensorMaps), integer(i32, 0)}));
}

static std::string getLevelName(unsigned number) { return "moec_level_" + llvm::utostr(number); }

Error Tables::addLevel(const LevelDescription &description, const Machine &used) {
  SmallVector<Constant *> entries;
  for (const EntryDescription &source : description.entries) {
    auto value = entry(source);
    if (!value)
      return value.takeError();
    entries.push_back(*value);
  }
  Constant *value =
      structure({text(description.name), text(description.infoJSON), integer(i32, entries.size()),
                 integer(i32, used.features.size()), structures(entries), strings(used.features),
                 cuda(description.cuda)});
  static_assert(sizeof(moec_level_desc) == 48 && sizeof(moec_entry_desc) == 80 &&
                    sizeof(moec_tensor_desc) == 24,
                "a structure of model_abi.h changed: change the tables too");
  assert(module.getDataLayout().getTypeAllocSize(value->getType()) == sizeof(moec_level_desc));
  hiddenGlobal(getLevelName(description.number), value->getType(), value);
  return Error::success();
}

llvm::GlobalVariable *Tables::level(unsigned number) {
  std::string name = getLevelName(number);
  llvm::GlobalVariable *known = module.getNamedGlobal(name);
  return known ? known : hiddenGlobal(name, i8, nullptr);
}

void Tables::addModel(const ModelDescription &description) {
  SmallVector<Constant *> levels;
  for (unsigned i = 0; i < description.numLevels; ++i)
    levels.push_back(level(i));
  const WeightsFileInfo &weights = description.weights;
  Constant *value =
      structure({integer(i32, MOEC_MODEL_ABI_VERSION), integer(i32, levels.size()),
                 array(pointer, levels), text(description.name), integer(i64, weights.fileBytes),
                 integer(i64, weights.dataOffset), text(weights.digest)});
  static_assert(sizeof(moec_model_desc) == 48,
                "a structure of model_abi.h changed: change the tables too");
  assert(module.getDataLayout().getTypeAllocSize(value->getType()) == sizeof(moec_model_desc));
  hiddenGlobal("moec_model_description", value->getType(), value);
}

/// const moec_library *NAME_moec(void), and the alias for generic loaders.
void Tables::addAccessor(StringRef name) {
  llvm::GlobalVariable *table = hiddenGlobal("moec_runtime_library", i8, nullptr);
  auto *function =
      llvm::Function::Create(llvm::FunctionType::get(pointer, /*isVarArg=*/false),
                             llvm::GlobalValue::ExternalLinkage, name + "_moec", module);
  function->setDoesNotThrow();
  llvm::IRBuilder<> builder(llvm::BasicBlock::Create(context, "", function));
  builder.CreateRet(table);
  llvm::GlobalAlias::create("moec_library", function);
}

/// What the runtime does not call by name stays inside the object.
static void hideFunctions(llvm::Module &module) {
  for (llvm::Function &function : module)
    if (!function.isDeclaration())
      function.setLinkage(llvm::GlobalValue::InternalLinkage);
    else if (function.getName().starts_with("moec_"))
      function.setVisibility(llvm::GlobalValue::HiddenVisibility);
  for (llvm::GlobalVariable &global : module.globals())
    if (global.hasInitializer())
      global.setLinkage(llvm::GlobalValue::InternalLinkage);
}

Error mlir::moe::addLevelDescription(llvm::Module &module, const LevelDescription &description,
                                     const Machine &used) {
  hideFunctions(module);
  if (Error error = Tables(module).addLevel(description, used))
    return error;
  // The features are exactly what is checked when the library is opened.
  setFunctionAttributes(module, used);
  return Error::success();
}

void mlir::moe::addModelDescription(llvm::Module &module, const ModelDescription &description) {
  Tables tables(module);
  tables.addModel(description);
  // Without attributes of a machine: it must run on any x86-64.
  tables.addAccessor(description.name);
}

//===----------------------------------------------------------------------===//
// Code generation
//===----------------------------------------------------------------------===//

/// As clang does: after the optimizations, in functions that ask for it.
static void addSanitizer(llvm::Module &module, Sanitizer sanitizer, llvm::PassBuilder &builder) {
  if (sanitizer == Sanitizer::None)
    return;
  bool address = sanitizer == Sanitizer::Address;
  for (llvm::Function &function : module)
    if (!function.isDeclaration())
      function.addFnAttr(address ? llvm::Attribute::SanitizeAddress
                                 : llvm::Attribute::SanitizeThread);
  builder.registerOptimizerLastEPCallback([address](llvm::ModulePassManager &passes,
                                                    llvm::OptimizationLevel,
                                                    llvm::ThinOrFullLTOPhase) {
    if (address) {
      passes.addPass(llvm::AddressSanitizerPass(llvm::AddressSanitizerOptions()));
      return;
    }
    // ThreadSanitizer passes over accesses of more than 16 bytes.
    llvm::ScalarizerPassOptions options;
    options.ScalarizeLoadStore = true;
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(llvm::ScalarizerPass(options)));
    passes.addPass(llvm::ModuleThreadSanitizerPass());
    passes.addPass(llvm::createModuleToFunctionPassAdaptor(llvm::ThreadSanitizerPass()));
  });
}

/// Layers of the same sizes share their kernels, which are not copied to each call, and have the
/// same loops. The address of no function matters.
static void shareFunctions(llvm::Module &module, llvm::PassBuilder &builder) {
  for (llvm::Function &function : module) {
    if (!function.hasInternalLinkage())
      continue;
    function.setUnnamedAddr(llvm::GlobalValue::UnnamedAddr::Global);
    if (function.hasNUsesOrMore(2))
      function.addFnAttr(llvm::Attribute::NoInline);
  }
  builder.registerPipelineStartEPCallback(
      [](llvm::ModulePassManager &passes, llvm::OptimizationLevel level) {
        if (level != llvm::OptimizationLevel::O0)
          passes.addPass(llvm::MergeFunctionsPass());
      });
}

static void optimize(llvm::Module &module, llvm::TargetMachine &target, unsigned level,
                     Sanitizer sanitizer) {
  llvm::PipelineTuningOptions tuning;
  tuning.LoopVectorization = level >= 2;
  tuning.SLPVectorization = level >= 2;
  llvm::PassBuilder builder(&target, tuning);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  shareFunctions(module, builder);
  addSanitizer(module, sanitizer, builder);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  static const llvm::OptimizationLevel levels[] = {
      llvm::OptimizationLevel::O0, llvm::OptimizationLevel::O1, llvm::OptimizationLevel::O2,
      llvm::OptimizationLevel::O3};
  builder.buildPerModuleDefaultPipeline(levels[level]).run(module, modules);
}

/// A function without a loop mostly calls others, such as the layers' kernels one after another.
static void shortenCalls(llvm::Module &module) {
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    llvm::DominatorTree dominators(function);
    if (!llvm::LoopInfo(dominators).empty())
      continue;
    function.addFnAttr(llvm::Attribute::OptimizeForSize);
    function.addFnAttr(llvm::Attribute::MinSize);
  }
}

/// A bfloat16 that goes from one block to another is a float between them for a CPU without its
/// instructions, and LLVM calls __truncsfbf2, which older libgccs lack, to have it back. Memory
/// keeps it as it is. Optimizations make integers of such values; the checks of a sanitizer come
/// between them and their stores.
static void keepBFloat16InMemory(llvm::Module &module) {
  using llvm::Instruction;
  auto forEach = [&](llvm::function_ref<bool(Instruction &)> isOne,
                     llvm::function_ref<void(Instruction &)> body) {
    llvm::SmallVector<Instruction *> found;
    for (llvm::Function &function : module)
      for (Instruction &instruction : llvm::instructions(function))
        if (instruction.getType()->isBFloatTy() && isOne(instruction))
          found.push_back(&instruction);
    for (Instruction *instruction : found)
      body(*instruction);
  };
  forEach([](Instruction &value) { return llvm::isa<llvm::PHINode>(value); },
          [](Instruction &value) { llvm::DemotePHIToStack(llvm::cast<llvm::PHINode>(&value)); });
  // Among them the loads that phis have become.
  forEach([](Instruction &value) { return value.isUsedOutsideOfBlock(value.getParent()); },
          [](Instruction &value) { llvm::DemoteRegToStack(value); });
}

Error mlir::moe::emitObject(llvm::Module &module, const Machine &machine, unsigned level,
                            Sanitizer sanitizer, llvm::raw_pwrite_stream &out) {
  assert(level <= 3 && "LLVM's levels are 0 to 3");
  auto target = createTargetMachine(machine, level);
  if (!target)
    return createStringError("this build of LLVM has no x86 target");
  optimize(module, *target, level, sanitizer);
  shortenCalls(module);
  if (!machine.hasAVX512BF16)
    keepBFloat16InMemory(module);
  llvm::legacy::PassManager passes;
  if (target->addPassesToEmitFile(passes, out, nullptr, llvm::CodeGenFileType::ObjectFile))
    return createStringError("this build of LLVM cannot write x86 object files");
  passes.run(module);
  return Error::success();
}
