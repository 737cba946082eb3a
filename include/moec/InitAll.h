// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Registration of all dialects and passes of moec. Upstream ones are not
// included: see mlir/InitAllDialects.h and mlir/InitAllPasses.h.

#ifndef MOEC_INITALL_H
#define MOEC_INITALL_H

#include "mlir/IR/DialectRegistry.h"

#include "moec/Conversion/GPUToRuntime/GPUToRuntime.h"
#include "moec/Conversion/LinalgToGPU/LinalgToGPU.h"
#include "moec/Conversion/LinalgToVector/LinalgToVector.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Conversion/MoEToCPU/MoEToCPU.h"
#include "moec/Conversion/MoEToGPU/MoEToGPU.h"
#include "moec/Conversion/MoEToReference/MoEToReference.h"
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h"
#include "moec/Conversion/MoEToONNX/MoEToONNX.h"
#include "moec/Conversion/ONNXToLinalg/ONNXToLinalg.h"
#include "moec/Conversion/ParallelToRuntime/ParallelToRuntime.h"
#include "moec/Conversion/PlanMemory/PlanMemory.h"
#include "moec/Conversion/RaiseLinear/RaiseLinear.h"
#include "moec/Conversion/RaiseMoE/RaiseMoE.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/MoE/Transforms/Passes.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Dialect/ONNX/Transforms/Passes.h"
#include "moec/Pipelines/Pipelines.h"
#include "moec/Target/CPU/PlanWeights.h"
#include "moec/Target/CPU/ResolveWeights.h"
#include "moec/Target/CUDA/Kernels.h"

namespace mlir::moe {

inline void registerAllDialects(DialectRegistry &registry) {
  registry.insert<MoEDialect>();
  registry.insert<onnx::ONNXDialect>();
  registerWeightBufferization(registry);
}

inline void registerAllPasses() {
  registerCUDAKernelsPasses();
  registerONNXTransformsPasses();
  registerMoETransformsPasses();
  registerGPUToRuntimePass();
  registerLinalgToGPUPass();
  registerLinalgToVectorPass();
  registerLowerEntryPass();
  registerMoEToCPUPass();
  registerMoEToGPUPass();
  registerMoEToReferencePass();
  registerMoEToLLVMPass();
  registerMoEToONNXPass();
  registerONNXToLinalgPasses();
  registerParallelToRuntimePass();
  registerPipelines();
  registerPlanMemoryPass();
  registerPlanWeightsPass();
  registerRaiseLinearPass();
  registerRaiseMoEPass();
  registerResolveWeightsPass();
}

} // namespace mlir::moe

#endif // MOEC_INITALL_H
