// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Lowering of a gpu.module, and its PTX.

#include "moec/Target/CUDA/Kernels.h"

#include "moec/Runtime/model_abi.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/GPUToNVVM/GPUToNVVMPass.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/MemRefToLLVM/MemRefToLLVM.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVM.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <mutex>

namespace mlir::moe {
#define GEN_PASS_DEF_EMITPTX
#define GEN_PASS_DEF_KERNELSTONVVM
#include "moec/Target/CUDA/Kernels.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;

void moe::buildLowerGPUModulePipeline(OpPassManager &pm) {
  pm.addPass(createExpandGPUMath());
  pm.addPass(memref::createExpandOpsPass());
  pm.addPass(memref::createFoldMemRefAliasOpsPass());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  pm.addPass(arith::createArithExpandOpsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createConvertNVGPUToNVVMPass());
  pm.addPass(createKernelsToNVVM());
  pm.addPass(createConvertNVVMToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

namespace {
struct KernelsToNVVMPass : moe::impl::KernelsToNVVMBase<KernelsToNVVMPass> {
  void runOnOperation() override {
    MLIRContext *context = &getContext();
    LowerToLLVMOptions options(context);
    options.overrideIndexBitwidth(64);
    LLVMTypeConverter converter(context, options);
    configureGpuToNVVMTypeConverter(converter);
    converter.addConversion([&](nvgpu::TensorMapDescriptorType) -> Type {
      return LLVM::LLVMPointerType::get(context);
    });
    llvm::StringMap<SmallVector<unsigned>> maps = findTensorMaps(converter);
    RewritePatternSet patterns(context);
    populateGpuToNVVMConversionPatterns(converter, patterns);
    // Rather than those for libdevice.
    populateMathToLLVMConversionPatterns(converter, patterns, /*approximateLog1p=*/false,
                                         /*benefit=*/10);
    arith::populateArithToLLVMConversionPatterns(converter, patterns);
    cf::populateControlFlowToLLVMConversionPatterns(converter, patterns);
    populateFinalizeMemRefToLLVMConversionPatterns(converter, patterns);
    populateVectorToLLVMConversionPatterns(converter, patterns);
    LLVMConversionTarget target(*context);
    target.addLegalDialect<NVVM::NVVMDialect>();
    target.addLegalOp<gpu::GPUModuleOp>();
    target.addIllegalDialect<gpu::GPUDialect>();
    target.addLegalOp<gpu::GPUModuleOp, UnrealizedConversionCastOp>();
    if (failed(applyPartialConversion(getOperation(), target, std::move(patterns))))
      return signalPassFailure();
    for (auto kernel : getOperation().getOps<LLVM::LLVMFuncOp>()) {
      for (unsigned parameter : maps.lookup(kernel.getName()))
        passByValue(kernel, parameter);
      kernel.walk(takeAnnotation);
    }
  }

private:
  /// That of a loop comes as an attribute, which the translation does not read.
  static void takeAnnotation(LLVM::BrOp branch) {
    constexpr StringLiteral kName = "llvm.loop_annotation";
    if (auto annotation = branch->getAttrOfType<LLVM::LoopAnnotationAttr>(kName))
      branch.setLoopAnnotationAttr(annotation);
    branch->removeAttr(kName);
  }

  /// By kernel, the parameters that are tensor maps.
  llvm::StringMap<SmallVector<unsigned>> findTensorMaps(const LLVMTypeConverter &converter) {
    llvm::StringMap<SmallVector<unsigned>> maps;
    for (auto kernel : getOperation().getOps<gpu::GPUFuncOp>()) {
      unsigned next = 0;
      for (Type type : kernel.getArgumentTypes()) {
        if (isa<nvgpu::TensorMapDescriptorType>(type))
          maps[kernel.getName()].push_back(next);
        auto memref = dyn_cast<MemRefType>(type);
        next += memref ? 3 + 2 * memref.getRank() : 1;
      }
    }
    return maps;
  }

  /// The 128 bytes of a tensor map are in the kernel's parameters, where copies find them.
  static void passByValue(LLVM::LLVMFuncOp kernel, unsigned parameter) {
    Builder builder(kernel.getContext());
    auto bytes = LLVM::LLVMArrayType::get(builder.getI8Type(), 128);
    kernel.setArgAttr(parameter, LLVM::LLVMDialect::getByValAttrName(), TypeAttr::get(bytes));
    kernel.setArgAttr(parameter, LLVM::LLVMDialect::getAlignAttrName(),
                      builder.getI64IntegerAttr(64));
    kernel.setArgAttr(parameter, NVVM::NVVMDialect::getGridConstantAttrName(),
                      builder.getUnitAttr());
  }
};
} // namespace

//===----------------------------------------------------------------------===//
// PTX
//===----------------------------------------------------------------------===//

void moe::registerGPUTranslations(DialectRegistry &registry) {
  registerBuiltinDialectTranslation(registry);
  registerGPUDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerNVVMDialectTranslation(registry);
}

static std::unique_ptr<llvm::TargetMachine> createTargetMachine(const GPUMachine &machine) {
  // The registry has no lock, and programs may compile in several threads.
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  });
  std::string error;
  llvm::Triple triple("nvptx64-nvidia-cuda");
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!target)
    return nullptr;
  std::string features = "+ptx" + llvm::itostr(machine.ptxVersion);
  return std::unique_ptr<llvm::TargetMachine>(
      target->createTargetMachine(triple, machine.name, features, llvm::TargetOptions(),
                                  std::nullopt, std::nullopt, llvm::CodeGenOptLevel::Aggressive));
}

static void optimize(llvm::Module &module, llvm::TargetMachine &target) {
  llvm::PassBuilder builder(&target);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(module, modules);
}

/// For the runtime.
static void addNothing(llvm::Module &module) {
  llvm::LLVMContext &context = module.getContext();
  auto *type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), /*isVarArg=*/false);
  auto *function =
      llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, MOEC_NOTHING_KERNEL, module);
  function->setCallingConv(llvm::CallingConv::PTX_Kernel);
  llvm::ReturnInst::Create(context, llvm::BasicBlock::Create(context, "", function));
}

/// The first function that ptxas would not find.
static llvm::Function *findUndefined(llvm::Module &module) {
  for (llvm::Function &function : module)
    if (function.isDeclaration() && !function.isIntrinsic() && !function.use_empty())
      return &function;
  return nullptr;
}

llvm::Expected<std::string> moe::emitPTX(gpu::GPUModuleOp module, const GPUMachine &machine) {
  auto target = createTargetMachine(machine);
  if (!target)
    return createStringError("this build of LLVM has no NVPTX target");
  llvm::LLVMContext context;
  auto translated = translateModuleToLLVMIR(module, context, module.getName());
  if (!translated)
    return createStringError("the translation of the kernels to LLVM IR failed");
  // Dynamic shared memory begins where the static one ends only if it is declared so.
  for (llvm::GlobalVariable &global : translated->globals())
    if (global.getName().starts_with("__dynamic_shmem__")) {
      global.setInitializer(nullptr);
      global.setLinkage(llvm::GlobalValue::ExternalLinkage);
    }
  addNothing(*translated);
  translated->setTargetTriple(target->getTargetTriple());
  translated->setDataLayout(target->createDataLayout());
  optimize(*translated, *target);
  if (llvm::Function *missing = findUndefined(*translated))
    return createStringError("a kernel calls '" + missing->getName() +
                             "', which is not defined: this mathematics has no GPU form");
  llvm::SmallVector<char, 0> text;
  llvm::raw_svector_ostream out(text);
  llvm::legacy::PassManager passes;
  if (target->addPassesToEmitFile(passes, out, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return createStringError("this build of LLVM cannot write PTX");
  passes.run(*translated);
  return std::string(text.begin(), text.end());
}

//===----------------------------------------------------------------------===//
// --emit-ptx
//===----------------------------------------------------------------------===//

namespace {
struct EmitPTXPass : moe::impl::EmitPTXBase<EmitPTXPass> {
  using EmitPTXBase::EmitPTXBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    EmitPTXBase::getDependentDialects(registry);
    OpPassManager pipeline(gpu::GPUModuleOp::getOperationName());
    buildLowerGPUModulePipeline(pipeline);
    pipeline.getDependentDialects(registry);
    registerGPUTranslations(registry);
  }

  void runOnOperation() override {
    auto machine = GPUMachine::get(arch);
    if (!machine)
      return fail(getOperation(), machine.takeError());
    for (gpu::GPUModuleOp module : getOperation().getOps<gpu::GPUModuleOp>()) {
      OpPassManager pipeline(gpu::GPUModuleOp::getOperationName());
      buildLowerGPUModulePipeline(pipeline);
      if (failed(runPipeline(pipeline, module)))
        return signalPassFailure();
      auto ptx = emitPTX(module, *machine);
      if (!ptx)
        return fail(module, ptx.takeError());
      module->setAttr("moe.ptx", StringAttr::get(&getContext(), *ptx));
      if (check)
        assemble(module, {*machine, /*isPTX=*/true, *ptx});
    }
  }

private:
  void fail(Operation *op, llvm::Error error) {
    op->emitError() << toString(std::move(error));
    signalPassFailure();
  }

  void assemble(gpu::GPUModuleOp module, const GPUCode &ptx) {
    auto toolkit = CUDAToolkit::find();
    if (!toolkit)
      return fail(module, toolkit.takeError());
    std::vector<GPUResources> resources;
    if (auto cubin = toolkit->assemble(ptx, &resources); !cubin)
      return fail(module, cubin.takeError());
    for (const GPUResources &kernel : resources) {
      module.emitRemark() << kernel.kernel << ": " << kernel.registers << " registers, "
                          << kernel.sharedBytes << " bytes of shared memory, " << kernel.stackBytes
                          << " of stack, " << kernel.spillBytes << " of spills";
      if (kernel.spillBytes > 0)
        fail(module, createStringError("kernel '" + kernel.kernel + "' spills registers"));
      if (kernel.serializesProducts)
        fail(module, createStringError("kernel '" + kernel.kernel + "' serializes its products"));
    }
  }
};
} // namespace
