// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Wrong tensors: each gives an error that names it.

#include "Fixture.h"

namespace {

class ArgumentsTest : public RuntimeTest {
protected:
  void SetUp() override {
    RuntimeTest::SetUp();
    context = makeContext();
  }

  testing::AssertionResult fails(const std::string &part, moec_status status = MOEC_ERROR_TENSOR) {
    return failsWith(runMain(context, x.dl, b.dl, y.dl, count.dl), status, part);
  }

  moec_context *context = nullptr;
  Tensor<float> x{{4, 8}, 0, 1}, b{{4}}, y{{4, 8}};
  Tensor<int64_t> count{{}};
};

TEST_F(ArgumentsTest, Counts) {
  const DLTensor *in[] = {&x.dl, &b.dl};
  DLTensor *out[] = {&y.dl, &count.dl};
  auto run = [&](const char *entry, const DLTensor *const *in, int32_t nIn, DLTensor *const *out,
                 int32_t nOut) { return library->run(context, entry, in, nIn, out, nOut); };
  EXPECT_TRUE(failsWith(run("nothing", in, 2, out, 2), MOEC_ERROR_ARGUMENT,
                        "the library 'fake' has no entry 'nothing'"));
  EXPECT_TRUE(failsWith(run("main", in, 1, out, 2), MOEC_ERROR_ARGUMENT,
                        "main: 1 inputs given, expected 2"));
  EXPECT_TRUE(failsWith(run("main", in, 2, out, 3), MOEC_ERROR_ARGUMENT,
                        "main: 3 outputs given, expected 2"));
  EXPECT_TRUE(failsWith(run("main", nullptr, 2, out, 2), MOEC_ERROR_ARGUMENT,
                        "main: the array of inputs is a null pointer"));
  EXPECT_TRUE(failsWith(run("main", in, 2, nullptr, 2), MOEC_ERROR_ARGUMENT,
                        "main: the array of outputs is a null pointer"));
  in[1] = nullptr;
  EXPECT_TRUE(failsWith(run("main", in, 2, out, 2), MOEC_ERROR_ARGUMENT,
                        "main: input 'b' is a null pointer"));
  in[1] = &b.dl;
  out[0] = nullptr;
  EXPECT_TRUE(failsWith(run("main", in, 2, out, 2), MOEC_ERROR_ARGUMENT,
                        "main: output 'y' is a null pointer"));
  EXPECT_TRUE(failsWith(library->output_shapes(context, "main", in, 2, out, 2), MOEC_ERROR_ARGUMENT,
                        "output 'y' is a null pointer"));
  EXPECT_TRUE(failsWith(library->output_shapes(context, "main", in, 2, nullptr, 2),
                        MOEC_ERROR_ARGUMENT, "array of outputs"));
  EXPECT_TRUE(failsWith(library->output_shapes(context, "main", in, 2, out, 1), MOEC_ERROR_ARGUMENT,
                        "1 outputs given"));
  EXPECT_TRUE(failsWith(library->workspace_size(context, "main", in, 2, nullptr),
                        MOEC_ERROR_ARGUMENT, "bytes is a null pointer"));
}

TEST_F(ArgumentsTest, Device) {
  x.dl.device.device_type = DLDeviceType(2);
  EXPECT_TRUE(fails("main: input 'x' is on a device of DLPack type 2, expected "
                    "the CPU (type 1)"));
}

TEST_F(ArgumentsTest, DType) {
  x.dl.dtype = {kDLFloat, 64, 1};
  EXPECT_TRUE(fails("input 'x' has dtype float64, expected float32"));
  x.dl.dtype = {kDLFloat, 32, 4};
  EXPECT_TRUE(fails("input 'x' has dtype float32x4, expected float32"));
  x.dl.dtype = {kDLBool, 8, 1};
  EXPECT_TRUE(fails("input 'x' has dtype bool, expected float32"));
  x.dl.dtype = {10, 8, 1};
  EXPECT_TRUE(fails("input 'x' has dtype float8_e4m3fn, expected float32"));
  x.dl.dtype = {200, 7, 1};
  EXPECT_TRUE(fails("has dtype type code 200 of 7 bits"));
  x.dl.dtype = {kDLFloat, 32, 1};
  count.dl.dtype = {kDLInt, 32, 1};
  EXPECT_TRUE(fails("output 'count' has dtype int32, expected int64"));
}

TEST_F(ArgumentsTest, Rank) {
  b.dl.ndim = 2;
  EXPECT_TRUE(fails("input 'b' has rank 2, expected 1"));
  b.dl.ndim = -1;
  EXPECT_TRUE(fails("input 'b' has rank -1, expected 1"));
  b.dl.ndim = 1;
  b.dl.shape = nullptr;
  EXPECT_TRUE(fails("the shape of input 'b' is a null pointer"));
}

TEST_F(ArgumentsTest, Shape) {
  x.shape[1] = 7;
  EXPECT_TRUE(fails("dimension 1 of input 'x' is 7, expected 8"));
  x.shape[1] = 8;
  b.shape[0] = 3;
  EXPECT_TRUE(fails("dimension 0 of input 'b' is 3, but dimension 0 of input "
                    "'x' is 4 and both are 'T'"));
  b.shape[0] = -1;
  EXPECT_TRUE(fails("dimension 0 of input 'b' is negative: -1"));
  b.shape[0] = 4;
  y.shape[0] = 5;
  EXPECT_TRUE(fails("dimension 0 of output 'y' is 5, expected 4"));
}

TEST_F(ArgumentsTest, AbsurdSizes) {
  x.shape[0] = INT64_MAX;
  EXPECT_TRUE(fails("input 'x' is larger than any address space"));
  x.shape = {INT64_MAX, 0};
  EXPECT_TRUE(fails("input 'x' is larger than any address space"));
  x.shape = {4, 8};
  x.setStrides({INT64_MAX, 1});
  EXPECT_TRUE(fails("the strides of input 'x' span more"));
  x.setStrides({INT64_MIN, 1});
  EXPECT_TRUE(fails("the strides of input 'x' span more"));
  x.setStrides({int64_t(1) << 44, int64_t(1) << 44});
  EXPECT_TRUE(fails("the strides of input 'x' span more"));
}

TEST_F(ArgumentsTest, Data) {
  x.dl.data = nullptr;
  EXPECT_TRUE(fails("the data of input 'x' is a null pointer"));
  x.dl.data = x.values.data();
  count.dl.data = nullptr;
  EXPECT_TRUE(fails("the data of output 'count' is a null pointer"));
}

TEST_F(ArgumentsTest, OutputsThatOverlapThemselves) {
  y.setStrides({0, 1});
  EXPECT_TRUE(fails("elements of output 'y' overlap each other"));
  y.setStrides({4, 1});
  EXPECT_TRUE(fails("elements of output 'y' overlap each other"));
  y.setStrides({1, 4});
  EXPECT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK);
  y.setStrides({-8, 1});
  y.dl.byte_offset = 24 * sizeof(float);
  EXPECT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK);
}

TEST_F(ArgumentsTest, Overlaps) {
  y.dl.data = x.dl.data;
  EXPECT_TRUE(fails("output 'y' overlaps input 'x'"));
  // The last element of b is the first of y.
  Tensor<float> room({64});
  b.dl.data = room.values.data();
  y.dl.data = room.values.data() + 3;
  EXPECT_TRUE(fails("output 'y' overlaps input 'b'"));
  y.dl.data = room.values.data() + 4;
  EXPECT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
  count.dl.data = room.values.data() + 34;
  EXPECT_TRUE(fails("output 'count' overlaps output 'y'"));
}

/// Columns of one buffer are different memory though their ranges overlap.
TEST_F(ArgumentsTest, ColumnsOfOneBuffer) {
  Tensor<float> room({4, 17}, 0, 1);
  x.dl.data = room.values.data();
  x.setStrides({17, 1});
  b.dl.data = room.values.data() + 16;
  b.setStrides({17});
  y.dl.data = room.values.data() + 8;
  y.setStrides({17, 1});
  ASSERT_EQ(runMain(context, x.dl, b.dl, y.dl, count.dl), MOEC_OK) << library->last_error();
  EXPECT_EQ(room.values[17 + 8 + 2], expectMain(19, 33, 2));
  y.dl.data = room.values.data() + 7;
  EXPECT_TRUE(fails("output 'y' overlaps input 'x'"));
  y.dl.data = room.values.data() + 9;
  EXPECT_TRUE(fails("output 'y' overlaps input 'b'"));
}

TEST_F(ArgumentsTest, NothingIsWrittenAfterAnError) {
  y.values.assign(y.values.size(), 42);
  y.shape[0] = 3;
  EXPECT_TRUE(fails("dimension 0 of output 'y'"));
  EXPECT_EQ(y.values[0], 42);
}

} // namespace
