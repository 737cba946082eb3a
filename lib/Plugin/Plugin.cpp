// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// MoecPlugin.so: moec's dialects and passes for any mlir-opt of the same LLVM that is
// linked with the shared libMLIR.
//
//   mlir-opt-22 --load-dialect-plugin=MoecPlugin.so --load-pass-plugin=MoecPlugin.so …

#include "moec/InitAll.h"

#include "mlir/Tools/Plugins/DialectPlugin.h"
#include "mlir/Tools/Plugins/PassPlugin.h"

using namespace mlir;

extern "C" LLVM_ATTRIBUTE_VISIBILITY_DEFAULT DialectPluginLibraryInfo mlirGetDialectPluginInfo() {
  return {MLIR_PLUGIN_API_VERSION, "moec", MOEC_VERSION,
          [](DialectRegistry *registry) { moe::registerAllDialects(*registry); }};
}

extern "C" LLVM_ATTRIBUTE_VISIBILITY_DEFAULT PassPluginLibraryInfo mlirGetPassPluginInfo() {
  return {MLIR_PLUGIN_API_VERSION, "moec", MOEC_VERSION, [] { moe::registerAllPasses(); }};
}
