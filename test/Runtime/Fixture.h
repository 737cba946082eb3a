// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// What the runtime tests share: an opened model, contexts, tensors.

#ifndef MOEC_TEST_RUNTIME_FIXTURE_H
#define MOEC_TEST_RUNTIME_FIXTURE_H

#include "FakeWeights.h"
#include "moec/Runtime/moec.h"
#include "gtest/gtest.h"
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

extern "C" const moec_library *fake_moec(void);

/// The parallel layer that this program was linked with.
enum class Flavour { None, Custom, OpenMP };
extern const Flavour flavour;

/// Runs tasks on new threads.
void runOnThreads(void *numThreads, int64_t n, moec_task_fn body, void *ctx);

template <typename T> struct DType;
template <> struct DType<float> { static constexpr DLDataType value{kDLFloat, 32, 1}; };
template <> struct DType<int64_t> { static constexpr DLDataType value{kDLInt, 64, 1}; };
template <> struct DType<uint16_t> { static constexpr DLDataType value{kDLBfloat, 16, 1}; };
template <> struct DType<uint8_t> { static constexpr DLDataType value{kDLBool, 8, 1}; };

/// A tensor that owns its elements.
template <typename T> struct Tensor {
  Tensor(std::vector<int64_t> shape, T first = T(), T step = T()) : shape(std::move(shape)) {
    int64_t n = 1;
    for (int64_t dim : this->shape)
      n *= dim;
    for (int64_t i = 0; i < n; ++i)
      values.push_back(T(first + T(i) * step));
    // One element more: data() of an empty vector may be null.
    values.push_back(T());
    dl.data = values.data();
    dl.device = {kDLCPU, 0};
    dl.ndim = int32_t(this->shape.size());
    dl.dtype = DType<T>::value;
    dl.shape = this->shape.data();
    dl.strides = nullptr;
    dl.byte_offset = 0;
  }
  Tensor(const Tensor &) = delete;

  void setStrides(std::vector<int64_t> newStrides) {
    strides = std::move(newStrides);
    dl.strides = strides.data();
  }

  std::vector<int64_t> shape, strides;
  std::vector<T> values;
  DLTensor dl;
};

class RuntimeTest : public testing::Test {
protected:
  void SetUp() override;
  void TearDown() override;

  /// Options that every flavour of the runtime accepts.
  static moec_context_options makeOptions(int32_t workers = 2);
  moec_context *makeContext(const moec_context_options &options);
  moec_context *makeContext() { return makeContext(makeOptions()); }

  moec_status runMain(moec_context *context, DLTensor &x, DLTensor &b, DLTensor &y,
                      DLTensor &count);
  /// The result of main for the values of x and b.
  static float expectMain(float x, float b, int64_t column) { return 2.0f * x + float(column) + b; }

  const moec_library *library = fake_moec();
  moec_model *model = nullptr;
  std::vector<moec_context *> contexts;
};

/// Expects a status and a part of the message.
testing::AssertionResult failsWith(moec_status found, moec_status expected,
                                   const std::string &part);

#endif // MOEC_TEST_RUNTIME_FIXTURE_H
