// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The CPU pipelines.

#include "moec/Pipelines/Pipelines.h"
#include "moec/Conversion/LinalgToGPU/LinalgToGPU.h"
#include "moec/Conversion/LinalgToVector/LinalgToVector.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h"
#include "moec/Conversion/ParallelToRuntime/ParallelToRuntime.h"
#include "moec/Conversion/PlanMemory/PlanMemory.h"
#include "moec/Pipelines/Passes.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace mlir::moe;

static void addCleanup(OpPassManager &pm) {
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

void moe::buildBufferizePipeline(OpPassManager &pm, const CPUOptions &options) {
  pm.addPass(createLowerEntry());
  addCleanup(pm);
  if (options.optLevel >= 1) {
    pm.addNestedPass<func::FuncOp>(createLinalgElementwiseOpFusionPass());
    addCleanup(pm);
  }
  pm.addNestedPass<func::FuncOp>(createPrepareBufferization());
  pm.addPass(bufferization::createEmptyTensorEliminationPass());
  bufferization::OneShotBufferizePassOptions bufferize;
  bufferize.bufferizeFunctionBoundaries = false;
  pm.addPass(bufferization::createOneShotBufferizePass(bufferize));
  addCleanup(pm);
}

void moe::buildMemoryPipeline(OpPassManager &pm, const CPUOptions &options) {
  pm.addNestedPass<func::FuncOp>(createExpandCopies());
  pm.addNestedPass<func::FuncOp>(createOrderLoops());
  if (options.optLevel >= 1)
    pm.addNestedPass<func::FuncOp>(createLinalgToVector({options.vectorBits}));
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToLoopsPass());
  pm.addPass(memref::createResolveShapedTypeResultDimsPass());
  addCleanup(pm);
  pm.addPass(createPlanMemory());
  addCleanup(pm);
  pm.addPass(createOutlineLoops());
}

void moe::buildCUDAMemoryPipeline(OpPassManager &pm, const CPUOptions &options) {
  // Kernels call no functions.
  pm.addPass(createInlinerPass());
  pm.addNestedPass<func::FuncOp>(createExpandCopies());
  pm.addPass(memref::createResolveShapedTypeResultDimsPass());
  addCleanup(pm);
  pm.addPass(createLinalgToGPU());
  addCleanup(pm);
  pm.addPass(createPlanMemory());
  addCleanup(pm);
}

/// Vectors become one-dimensional, and their mathematics arithmetic.
static void addVectorLowering(OpPassManager &pm) {
  pm.addNestedPass<func::FuncOp>(createConvertVectorToSCFPass());
  pm.addPass(createLowerAffinePass());
  pm.addPass(math::createMathExtendToSupportedTypes());
  pm.addNestedPass<func::FuncOp>(createApproximateVectorMath());
  arith::ArithEmulateUnsupportedFloatsOptions emulate;
  emulate.sourceTypeStrs = {"bf16", "f16"};
  pm.addPass(arith::createArithEmulateUnsupportedFloats(emulate));
  pm.addPass(createRoundToBFloat16());
  arith::ArithExpandOpsPassOptions expand;
  // Otherwise calls of functions that older libgcc does not have.
  expand.includeBf16 = true;
  pm.addPass(arith::createArithExpandOpsPass(expand));
}

void moe::buildLLVMPipeline(OpPassManager &pm, const CPUOptions &options) {
  pm.addPass(memref::createFoldMemRefAliasOpsPass());
  addCleanup(pm);
  addVectorLowering(pm);
  pm.addPass(createParallelToRuntime());
  pm.addNestedPass<func::FuncOp>(createHoistStackBuffers());
  pm.addPass(memref::createExpandOpsPass());
  pm.addPass(createResolveExpandShape());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  addCleanup(pm);
  pm.addPass(createMoEToLLVM());
  pm.addPass(createSCFToControlFlowPass());
  // Of the reference lowerings none has vectors.
  if (options.optLevel >= 1)
    pm.addPass(createConvertVectorToLLVMPass());
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createConvertMathToLibmPass());
  pm.addPass(createConvertToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  addCleanup(pm);
}

void moe::buildLowerToLLVMPipeline(OpPassManager &pm, const CPUOptions &options) {
  buildBufferizePipeline(pm, options);
  buildMemoryPipeline(pm, options);
  buildLLVMPipeline(pm, options);
}

void moe::registerPipelines() {
  registerPipelinesPasses();
  PassPipelineRegistration<CPUOptions>("moec-bufferize", "Entry functions on tensors to memrefs",
                                       buildBufferizePipeline);
  PassPipelineRegistration<CPUOptions>(
      "moec-memory", "linalg to loops, temporaries to the workspace", buildMemoryPipeline);
  PassPipelineRegistration<CPUOptions>("moec-cuda-memory",
                                       "linalg to kernels, temporaries to the workspace",
                                       buildCUDAMemoryPipeline);
  PassPipelineRegistration<CPUOptions>("moec-llvm", "Loops on memrefs to the LLVM dialect",
                                       buildLLVMPipeline);
  PassPipelineRegistration<CPUOptions>("moec-lower-to-llvm",
                                       "Entry functions on tensors to the LLVM dialect",
                                       buildLowerToLLVMPipeline);
}
