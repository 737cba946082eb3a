# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# lit + FileCheck tests of the IR and of the tools. The C++ unit tests run through
# ctest and the end-to-end tests through pytest: see scripts/test.sh.

import os
import shutil

import lit.formats
from lit.llvm import llvm_config
from lit.llvm.subst import ToolSubst

config.name = "MOEC"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs", "Integration", "models", "references", "unit", "Runtime", "Systems"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.moec_build_dir, "test")

# A CUDA Toolkit, in the places where moec looks for one.
cuda = [os.path.join(os.environ[name], "bin") for name in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"] if name in os.environ]
if shutil.which("ptxas", path=os.pathsep.join([*cuda, os.environ.get("PATH", ""), "/usr/local/cuda/bin"])):
    config.available_features.add("ptxas")
if config.moec_sanitize:
    config.available_features.add("sanitizer")
config.substitutions.append(("%python", config.python_executable))
config.substitutions.append(("%moec_lib", os.path.join(config.moec_build_dir, "lib")))
config.substitutions.append(("%models", os.path.join(config.test_source_root, "models")))

llvm_config.with_system_environment(["HOME", "TMP", "TEMP", "ASAN_OPTIONS", "UBSAN_OPTIONS", "MOEC_MODELS", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"])
llvm_config.use_default_substitutions()
llvm_config.add_tool_substitutions(
    [
        ToolSubst(name, unresolved="ignore")
        for name in ["moe-opt", "moe-translate", "moec", "moec-c-test", "moe-run", "moe-lsp-server", "mlir-opt", "mlir-translate", "split-file", "llvm-nm", "llvm-readelf"]
    ],
    [os.path.join(config.moec_build_dir, "bin"), config.llvm_tools_dir],
)
