# The only place that knows how moec is linked against LLVM and MLIR: always
# against the shared libLLVM and libMLIR. Mixing them with the static MLIR*
# archives registers command-line options twice and aborts at start.

set(MOEC_LLVM_MAJOR 22)

find_program(MOEC_LLVM_CONFIG NAMES llvm-config-${MOEC_LLVM_MAJOR})
if(MOEC_LLVM_CONFIG)
  execute_process(COMMAND ${MOEC_LLVM_CONFIG} --cmakedir
                  OUTPUT_VARIABLE MOEC_LLVM_CMAKE_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
  get_filename_component(MOEC_MLIR_CMAKE_DIR "${MOEC_LLVM_CMAKE_DIR}/../mlir" ABSOLUTE)
endif()
find_package(MLIR CONFIG QUIET HINTS ${MOEC_MLIR_CMAKE_DIR})
if(NOT MLIR_FOUND OR NOT LLVM_VERSION_MAJOR EQUAL ${MOEC_LLVM_MAJOR})
  message(FATAL_ERROR
    "moec needs LLVM and MLIR ${MOEC_LLVM_MAJOR} (found: '${LLVM_PACKAGE_VERSION}'). On Debian: "
    "apt-get install libmlir-22-dev mlir-22-tools llvm-22-dev llvm-22-tools llvm-22-linker-tools, "
    "or run scripts/setup.sh")
endif()

# mlir-doc writes below this folder; unset, it would be the filesystem root.
set(MLIR_BINARY_DIR ${CMAKE_BINARY_DIR})
list(APPEND CMAKE_MODULE_PATH ${LLVM_CMAKE_DIR} ${MLIR_CMAKE_DIR})
include(TableGen)
include(AddLLVM)
include(AddMLIR)

set(MOEC_LLVM_TOOLS ${LLVM_TOOLS_BINARY_DIR})

# Everything under `lib` and `bin` whatever the platform's habits are: the compiler
# finds its runtime in ../lib/moec. What is installed finds libMLIR where the build did.
set(CMAKE_INSTALL_LIBDIR lib)
set(CMAKE_INSTALL_BINDIR bin)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

# What moec's libraries need of LLVM and MLIR. Where these are is not exported:
# MoecConfig.cmake finds them again.
include(MoecLLVM)
add_library(moec_mlir INTERFACE)
target_include_directories(moec_mlir INTERFACE $<INSTALL_INTERFACE:include>)
target_compile_features(moec_mlir INTERFACE cxx_std_17)
target_link_libraries(moec_mlir INTERFACE $<BUILD_INTERFACE:moec_llvm> MLIR LLVM)
set_target_properties(moec_mlir PROPERTIES EXPORT_NAME MLIR)
install(TARGETS moec_mlir EXPORT MoecLibraries COMPONENT Development)

set(MOEC_SANITIZE "" CACHE STRING "Sanitizers for our own code, as for -fsanitize=")
if(MOEC_SANITIZE)
  add_compile_options(-fsanitize=${MOEC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize=vptr,function)
  add_link_options(-fsanitize=${MOEC_SANITIZE})
endif()

# moec_add_library(NAME SOURCES... [DEPENDS targets...] [LINK libraries...])
# A static library of compiler code. DEPENDS names the tablegen targets whose
# headers it includes.
function(moec_add_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC moec_mlir ${ARG_LINK})
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
  # MoecCompiler is exported as Moec::Compiler.
  string(REGEX REPLACE "^Moec" "" export_name ${name})
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${export_name})
  install(TARGETS ${name} EXPORT MoecLibraries COMPONENT Development)
  set_property(GLOBAL APPEND PROPERTY MOEC_LIBRARIES ${name})
endfunction()

# moec_add_tool(NAME SOURCES... [LINK libraries...])
function(moec_add_tool name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE moec_mlir ${ARG_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  install(TARGETS ${name} EXPORT MoecTools COMPONENT Tools)
endfunction()

# moec_export_only(NAME SCRIPT)
# Makes a shared library export what the version script names. All else must resolve,
# but for the sanitizers, which the program brings.
function(moec_export_only name script)
  set(script ${CMAKE_CURRENT_SOURCE_DIR}/${script})
  target_link_options(${name} PRIVATE -Wl,--version-script=${script})
  if(NOT MOEC_SANITIZE)
    target_link_options(${name} PRIVATE -Wl,--no-undefined)
  endif()
  set_target_properties(${name} PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib LINK_DEPENDS ${script})
endfunction()

# moec_add_subdirectories(DIR...)
function(moec_add_subdirectories)
  foreach(dir ${ARGN})
    add_subdirectory(${dir})
  endforeach()
endfunction()
