# Python with the pinned `onnx` package: its onnx-ml.proto is what the reader
# is generated from, and tests write their models with it. scripts/setup.sh
# makes the virtual environment that is preferred here.
if(NOT DEFINED Python3_EXECUTABLE AND EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  set(Python3_EXECUTABLE ${CMAKE_SOURCE_DIR}/.venv/bin/python)
endif()
find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
