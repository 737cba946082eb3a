# The target moec_llvm: how LLVM and MLIR are compiled against, as found by
# find_package(MLIR). Used by moec's build and by those who use its libraries.
add_library(moec_llvm INTERFACE IMPORTED)
target_include_directories(moec_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
separate_arguments(moec_llvm_definitions NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_options(moec_llvm INTERFACE ${moec_llvm_definitions})
