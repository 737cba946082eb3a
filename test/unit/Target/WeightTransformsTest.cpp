// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Transforms against loops written from the documentation of each attribute.

#include "moec/Target/CPU/WeightTransforms.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>

using namespace mlir;
using namespace mlir::moe;
using Bytes = std::vector<uint8_t>;

namespace {
class WeightTransforms : public ::testing::Test {
protected:
  WeightTransforms() : builder(&context) {
    context.loadDialect<MoEDialect>();
    module = ModuleOp::create(builder, builder.getUnknownLoc());
    builder.setInsertionPointToStart(module->getBody());
  }

  RankedTensorType type(ArrayRef<int64_t> shape, Type element) {
    return RankedTensorType::get(shape, element);
  }
  Type bits(unsigned width) { return builder.getIntegerType(width); }
  Type code() { return builder.getIntegerType(8, /*isSigned=*/false); }

  /// Bytes without a pattern that a wrong index could hit by chance.
  static Bytes random(size_t count) {
    Bytes bytes(count);
    uint32_t state = 12345;
    for (uint8_t &byte : bytes)
      byte = (state = state * 1664525 + 1013904223) >> 24;
    return bytes;
  }

  DenseElementsAttr inlined(RankedTensorType type, const Bytes &bytes) {
    return DenseElementsAttr::getFromRawBuffer(
        type, {reinterpret_cast<const char *>(bytes.data()), bytes.size()});
  }

  /// The packed bytes of all experts.
  Bytes run(ArrayRef<Attribute> sources, ArrayRef<Attribute> transforms, RankedTensorType result) {
    auto weight =
        WeightOp::create(builder, builder.getUnknownLoc(), "w", result, sources, transforms);
    EXPECT_TRUE(succeeded(weight.verify()));
    SourceFiles files(folder);
    auto packer = WeightPacker::create(weight, files);
    Bytes bytes;
    if (!packer) {
      ADD_FAILURE() << llvm::toString(packer.takeError());
      return bytes;
    }
    for (int64_t e = 0; e < packer->getNumExperts(); ++e) {
      ArrayRef<char> expert = packer->pack(e);
      EXPECT_EQ(int64_t(expert.size()), packer->getExpertBytes());
      bytes.insert(bytes.end(), expert.begin(), expert.end());
    }
    const ConversionError *changed = packer->getConversionError();
    error = changed ? std::optional(*changed) : std::nullopt;
    return bytes;
  }

  MLIRContext context;
  OpBuilder builder;
  OwningOpRef<ModuleOp> module;
  std::string folder;
  /// What the last run() changed.
  std::optional<ConversionError> error;
};
} // namespace

template <typename T> static Bytes bytesOf(const std::vector<T> &values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <typename T> static std::vector<T> valuesOf(const Bytes &bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// Row of panel p, column c, as documented for #moe.panels.
static int64_t rowOf(int64_t n, int64_t width, Glu glu, int64_t p, int64_t c) {
  if (glu == Glu::None)
    return p * width + c < n ? p * width + c : -1;
  int64_t i = p * width / 2 + c % (width / 2);
  if (i >= n / 2)
    return -1;
  bool linear = c >= width / 2;
  return glu == Glu::Interleaved ? 2 * i + linear : linear * (n / 2) + i;
}

TEST_F(WeightTransforms, Panels) {
  const int64_t experts = 2;
  for (int64_t size : {1, 2, 4, 8})
    for (int64_t width : {4, 32})
      for (Glu glu : {Glu::None, Glu::Interleaved, Glu::Concat})
        for (auto [n, k] : {std::pair(2, 1), std::pair(38, 5), std::pair(64, 67)}) {
          Bytes in = random(experts * n * k * size);
          int64_t panels = (n + width - 1) / width;
          Bytes expected(experts * panels * k * width * size);
          for (int64_t e = 0; e < experts; ++e)
            for (int64_t p = 0; p < panels; ++p)
              for (int64_t i = 0; i < k; ++i)
                for (int64_t c = 0; c < width; ++c)
                  if (int64_t row = rowOf(n, width, glu, p, c); row >= 0)
                    std::copy_n(&in[((e * n + row) * k + i) * size], size,
                                &expected[(((e * panels + p) * k + i) * width + c) * size]);
          Attribute source = inlined(type({experts, n, k}, bits(8 * size)), in);
          EXPECT_EQ(run(source, PanelsAttr::get(&context, width, glu),
                        type({experts, panels, k, width}, bits(8 * size))),
                    expected)
              << "size " << size << " width " << width << " n " << n << " k " << k;
        }
}

TEST_F(WeightTransforms, CodePanels) {
  const int64_t experts = 2;
  for (int64_t width : {2, 4, 8})
    for (Glu glu : {Glu::None, Glu::Interleaved, Glu::Concat})
      for (auto [n, k] :
           {std::pair(2, 8), std::pair(38, 5), std::pair(64, 67), std::pair(6, 300)}) {
        int64_t rowBytes = (k * width + 7) / 8, group = width == 2 ? 2 : 1;
        int64_t groups = (k + group - 1) / group, block = width == 8 ? 32 : 16;
        int64_t panels = (n + 31) / 32;
        Bytes in = random(experts * n * rowBytes);
        auto code = [&](int64_t e, int64_t row, int64_t i) -> int {
          if (row < 0 || i >= k)
            return 0;
          int byte = in[(e * n + row) * rowBytes + i * width / 8];
          return (byte >> (i * width % 8)) & ((1 << width) - 1);
        };
        Bytes expected(experts * panels * groups * block);
        for (int64_t e = 0; e < experts; ++e)
          for (int64_t p = 0; p < panels; ++p)
            for (int64_t g = 0; g < groups; ++g)
              for (int64_t c = 0; c < block; ++c) {
                int64_t low = rowOf(n, 32, glu, p, c), high = rowOf(n, 32, glu, p, c + 16);
                int value = width == 8 ? code(e, low, g)
                            : width == 4
                                ? code(e, low, g) | code(e, high, g) << 4
                                : code(e, low, 2 * g) | code(e, high, 2 * g) << 2 |
                                      code(e, low, 2 * g + 1) << 4 | code(e, high, 2 * g + 1) << 6;
                expected[((e * panels + p) * groups + g) * block + c] = value;
              }
        Attribute source = inlined(type({experts, n, rowBytes}, this->code()), in);
        EXPECT_EQ(run(source, CodePanelsAttr::get(&context, width, k, glu),
                      type({experts, panels, groups, block}, bits(8))),
                  expected)
            << "bits " << width << " n " << n << " k " << k;
      }
}

TEST_F(WeightTransforms, Permute) {
  const std::vector<int64_t> shape = {2, 3, 37, 1, 33};
  std::vector<int64_t> order = {0, 1, 2, 3, 4};
  int64_t total = 2 * 3 * 37 * 33;
  for (int64_t size : {1, 4}) {
    Bytes in = random(total * size);
    do {
      std::vector<int64_t> resultShape;
      for (int64_t dim : order)
        resultShape.push_back(shape[dim]);
      Bytes expected(in.size());
      for (int64_t flat = 0; flat < total; ++flat) {
        // The index of the result's element, then that of the input.
        int64_t rest = flat, index[5], source = 0;
        for (int d = 4; d >= 0; --d) {
          index[order[d]] = rest % resultShape[d];
          rest /= resultShape[d];
        }
        for (int d = 0; d < 5; ++d)
          source = source * shape[d] + index[d];
        std::copy_n(&in[source * size], size, &expected[flat * size]);
      }
      EXPECT_EQ(run(Attribute(inlined(type(shape, bits(8 * size)), in)),
                    PermuteAttr::get(&context, builder.getDenseI64ArrayAttr(order)),
                    type(resultShape, bits(8 * size))),
                expected);
    } while (std::next_permutation(order.begin() + 1, order.end()));
  }
}

TEST_F(WeightTransforms, Unpack) {
  for (int64_t width : {2, 4, 8})
    for (int64_t axis : {1, 2}) {
      const int64_t count = 13, other = 3;
      int64_t packed = (count * width + 7) / 8;
      std::vector<int64_t> shape = {2, other, other}, resultShape = shape;
      shape[axis] = packed;
      resultShape[axis] = count;
      Bytes in = random(2 * other * packed), expected;
      for (int64_t e = 0; e < 2; ++e)
        for (int64_t i = 0; i < resultShape[1]; ++i)
          for (int64_t j = 0; j < resultShape[2]; ++j) {
            int64_t n = (axis == 1 ? i : j) * width;
            int64_t row = axis == 1 ? n / 8 : i, column = axis == 2 ? n / 8 : j;
            int byte = in[(e * shape[1] + row) * shape[2] + column];
            expected.push_back((byte >> (n % 8)) & ((1 << width) - 1));
          }
      EXPECT_EQ(run(Attribute(inlined(type(shape, code()), in)),
                    UnpackAttr::get(&context, width, axis, count), type(resultShape, bits(8))),
                expected)
          << "bits " << width << " axis " << axis;
    }
}

TEST_F(WeightTransforms, ToUnsigned) {
  for (int64_t width : {2, 4, 8}) {
    Bytes in = random(2 * 3), expected;
    for (char byte : in) {
      int result = 0;
      for (int64_t shift = 0; shift < 8; shift += width) {
        int range = 1 << width, code = (uint8_t(byte) >> shift) & (range - 1);
        int value = code < range / 2 ? code : code - range;
        result |= (value + range / 2) << shift;
      }
      expected.push_back(char(result));
    }
    for (Type element : {bits(8), code()})
      EXPECT_EQ(run(Attribute(inlined(type({2, 3}, element), in)),
                    ToUnsignedAttr::get(&context, width), type({2, 3}, code())),
                expected)
          << "bits " << width;
  }
}

TEST_F(WeightTransforms, ConvertByHand) {
  auto check = [&](Type to, const std::vector<uint32_t> &in, const std::vector<uint16_t> &out) {
    int64_t count = in.size();
    Attribute source = inlined(type({1, count}, builder.getF32Type()), bytesOf(in));
    EXPECT_EQ(valuesOf<uint16_t>(run(source, ConvertAttr::get(&context, to), type({1, count}, to))),
              out);
  };
  // 1, -0; half way to the next number, from an even and an odd one; just above half way;
  // a carry into the exponent; the largest number; what rounds to infinity; infinity; NaN,
  // its payload in the lower half.
  check(builder.getBF16Type(),
        {0x3f800000, 0x80000000, 0x3f808000, 0x3f818000, 0x3f808001, 0x3fff8000, 0x7f7f7fff,
         0x7f7f8000, 0xff800000, 0x7f800001},
        {0x3f80, 0x8000, 0x3f80, 0x3f82, 0x3f81, 0x4000, 0x7f7f, 0x7f80, 0xff80, 0x7fc0});
  // The same; then 65519, 65520, 2^-24, 2^-25 (half way to 0), -3·2^-25, what rounds to the
  // smallest normal number, -infinity, NaN.
  check(builder.getF16Type(),
        {0x3f800000, 0x80000000, 0x3f801000, 0x3f803000, 0x3f801001, 0x3ffff000, 0x477fef00,
         0x477ff000, 0x33800000, 0x33000000, 0xb3c00000, 0x387ff000, 0xff800000, 0x7f800001},
        {0x3c00, 0x8000, 0x3c00, 0x3c02, 0x3c01, 0x4000, 0x7bff, 0x7c00, 0x0001, 0x0000, 0x8002,
         0x0400, 0xfc00, 0x7e00});
}

TEST_F(WeightTransforms, ConvertAsAPFloatDoes) {
  for (Type from :
       {Type(builder.getF32Type()), Type(builder.getF16Type()), Type(builder.getBF16Type())})
    for (Type to : {Type(builder.getF16Type()), Type(builder.getBF16Type())}) {
      int64_t width = from.getIntOrFloatBitWidth() / 8, count = 1 << 16;
      Bytes in = random(count * width);
      // All numbers of two bytes; of four, many exponents around those of float16.
      for (int64_t i = 0; i < count; ++i)
        if (width == 2)
          in[2 * i] = i, in[2 * i + 1] = i >> 8;
        else if (i % 2)
          in[4 * i + 3] = 0x30 + in[4 * i + 3] % 0x20;
      auto out = valuesOf<uint16_t>(run(Attribute(inlined(type({2, count / 2}, from), in)),
                                        ConvertAttr::get(&context, to), type({2, count / 2}, to)));
      for (int64_t i = 0; i < count; ++i) {
        uint64_t bits = 0;
        std::memcpy(&bits, &in[i * width], width);
        llvm::APFloat value(cast<FloatType>(from).getFloatSemantics(),
                            llvm::APInt(8 * width, bits));
        bool loses;
        (void)value.convert(cast<FloatType>(to).getFloatSemantics(),
                            llvm::APFloat::rmNearestTiesToEven, &loses);
        llvm::APFloat actual(cast<FloatType>(to).getFloatSemantics(), llvm::APInt(16, out[i]));
        ASSERT_TRUE(value.isNaN() ? actual.isNaN() : value.bitwiseIsEqual(actual))
            << "bits " << bits;
      }
    }
}

TEST_F(WeightTransforms, ConversionError) {
  // In bf16 1 + 2^-9 is 1, and -3 exact.
  Attribute source = inlined(type({1, 2}, builder.getF32Type()), bytesOf<float>({1 + 0x1p-9f, -3}));
  run(source, ConvertAttr::get(&context, builder.getBF16Type()),
      type({1, 2}, builder.getBF16Type()));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->largest, 0x1p-9);
  EXPECT_DOUBLE_EQ(error->getRelativeRMS(), 0x1p-9 / std::sqrt((1 + 0x1p-9) * (1 + 0x1p-9) + 9));
  run(source, {}, type({1, 2}, builder.getF32Type()));
  EXPECT_FALSE(error);
}

TEST_F(WeightTransforms, QuantizeByHand) {
  auto quantized = [&](const std::vector<float> &row, QuantizedPart part, bool zeroPoints,
                       ArrayRef<int64_t> shape, Type element) {
    Attribute source =
        inlined(type({1, 1, int64_t(row.size())}, builder.getF32Type()), bytesOf(row));
    return run(source, QuantizeAttr::get(&context, part, 4, 16, zeroPoints), type(shape, element));
  };
  using P = QuantizedPart;
  Type f32 = builder.getF32Type();
  // The extreme is -8, so that the scale is 1; then 8, and the scale is -1; then nothing.
  std::vector<float> row = {-8,   7, 0.5, 1.5,  2.5, -0.5, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3,
                            -7.5, 8, 0,   -7.4, 1,   2,    3, 4, 5, 6, 7, 0, 0, 0, 0, 0,
                            0,    0, 0,   0,    0,   0,    0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(valuesOf<float>(quantized(row, P::Scales, false, {1, 1, 3}, f32)),
            (std::vector<float>{1, -1, 0}));
  EXPECT_FALSE(error);
  // The codes 0 15 8 10 10 8 11 …; 15 (16 is clamped) 0 8 15 7 6 5 4 3 2 1 8 …; 8 ….
  EXPECT_EQ(quantized(row, P::Codes, false, {1, 1, 24}, code()),
            (Bytes{0xf0, 0xa8, 0x8a, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb, 0x0f, 0xf8, 0x67, 0x45,
                   0x23, 0x81, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88}));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->largest, 0.5);
  // From -5 to 10 the scale is 1 and the zero point 5; where nothing is negative, 0, and
  // the range begins with 0; then nothing.
  row = {-5, 10, 0.5, 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30, 2, 3, 4, 0, 0, 0, 0,
         0,  0,  0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(valuesOf<float>(quantized(row, P::Scales, true, {1, 1, 3}, f32)),
            (std::vector<float>{1, 2, 0}));
  EXPECT_EQ(quantized(row, P::ZeroPoints, true, {1, 1, 2}, code()), (Bytes{0x05, 0x00}));
  EXPECT_EQ(quantized(row, P::Codes, true, {1, 1, 24}, code()),
            (Bytes{0xf0, 0x75, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x1f, 0x22, 0, 0,
                   0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0, 0}));
}

TEST_F(WeightTransforms, QuantizeNaN) {
  std::vector<float> row(32, 1);
  row[3] = NAN;
  Attribute source = inlined(type({1, 1, 32}, builder.getF32Type()), bytesOf(row));
  for (bool zeroPoints : {false, true}) {
    auto attr = QuantizeAttr::get(&context, QuantizedPart::Scales, 8, 16, zeroPoints);
    auto scales = valuesOf<float>(run(source, attr, type({1, 1, 2}, builder.getF32Type())));
    EXPECT_TRUE(std::isnan(scales[0]) && std::isfinite(scales[1]));
    attr = QuantizeAttr::get(&context, QuantizedPart::Codes, 8, 16, zeroPoints);
    run(source, attr, type({1, 1, 32}, code()));
    EXPECT_TRUE(std::isnan(error->largest) && std::isnan(error->getRelativeRMS()));
  }
}

TEST_F(WeightTransforms, Quantize) {
  const int64_t experts = 2, n = 5, k = 64;
  std::vector<float> weights;
  for (uint8_t byte : random(experts * n * k))
    weights.push_back((byte - 100) / 37.0f);
  Attribute source = inlined(type({experts, n, k}, builder.getF32Type()), bytesOf(weights));
  for (int64_t width : {2, 4, 8})
    for (int64_t block : {0, 16, 32})
      for (bool zeroPoints : {false, true}) {
        int64_t size = block ? block : k, blocks = k / size;
        auto bytesFor = [&](int64_t count) { return (count * width + 7) / 8; };
        Bytes codes(experts * n * bytesFor(k));
        Bytes zeros(experts * (block ? n * bytesFor(blocks) : bytesFor(n)));
        std::vector<float> scales;
        double squaredError = 0, squaredSource = 0;
        for (int64_t row = 0; row < experts * n; ++row)
          for (int64_t b = 0; b < blocks; ++b) {
            const float *w = &weights[row * k + b * size];
            int levels = 1 << width, zero = levels / 2;
            float scale;
            if (zeroPoints) {
              float low = std::min(*std::min_element(w, w + size), 0.0f);
              float high = std::max(*std::max_element(w, w + size), 0.0f);
              scale = (high - low) / (levels - 1);
              zero = std::lrint(-low / scale);
              int64_t bit = block ? row * bytesFor(blocks) * 8 + b * width
                                  : row / n * bytesFor(n) * 8 + row % n * width;
              zeros[bit / 8] |= zero << (bit % 8);
            } else {
              scale = *std::max_element(w, w + size, [](float a, float b) {
                return std::abs(a) < std::abs(b);
              }) / -(levels / 2);
            }
            scales.push_back(scale);
            for (int64_t i = 0; i < size; ++i) {
              int code = std::min(std::max<int>(std::lrint(w[i] / scale) + zero, 0), levels - 1);
              int64_t bit = row * bytesFor(k) * 8 + (b * size + i) * width;
              codes[bit / 8] |= code << (bit % 8);
              double delta = double((code - zero) * scale) - w[i];
              squaredError += delta * delta;
              squaredSource += double(w[i]) * w[i];
            }
          }
        auto check = [&](QuantizedPart part, ArrayRef<int64_t> shape, Type element,
                         const Bytes &expected) {
          EXPECT_EQ(run(source, QuantizeAttr::get(&context, part, width, block, zeroPoints),
                        type(shape, element)),
                    expected)
              << stringifyQuantizedPart(part).str() << " bits " << width << " block " << block
              << " zero points " << zeroPoints;
        };
        check(QuantizedPart::Scales,
              block ? ArrayRef<int64_t>{experts, n, blocks} : ArrayRef<int64_t>{experts, n},
              builder.getF32Type(), bytesOf(scales));
        if (zeroPoints)
          check(QuantizedPart::ZeroPoints,
                block ? ArrayRef<int64_t>{experts, n, bytesFor(blocks)}
                      : ArrayRef<int64_t>{experts, bytesFor(n)},
                code(), zeros);
        check(QuantizedPart::Codes, {experts, n, bytesFor(k)}, code(), codes);
        ASSERT_TRUE(error);
        EXPECT_DOUBLE_EQ(error->getRelativeRMS(), std::sqrt(squaredError / squaredSource));
      }
}

TEST_F(WeightTransforms, StackAndReshape) {
  Bytes a = random(2 * 3 * 4), b = random(2 * 1 * 4), expected;
  for (int64_t e = 0; e < 2; ++e) {
    expected.insert(expected.end(), a.begin() + e * 12, a.begin() + (e + 1) * 12);
    expected.insert(expected.end(), b.begin() + e * 4, b.begin() + (e + 1) * 4);
  }
  Attribute sources[] = {inlined(type({2, 3, 4}, bits(8)), a),
                         inlined(type({2, 1, 4}, bits(8)), b)};
  EXPECT_EQ(run(sources, ReshapeAttr::get(&context, builder.getDenseI64ArrayAttr({2, 2, 8})),
                type({2, 2, 8}, bits(8))),
            expected);
}

TEST_F(WeightTransforms, SplatAndBool) {
  auto splat = DenseElementsAttr::get(type({2, 3}, bits(16)), builder.getI16IntegerAttr(0x0102));
  EXPECT_EQ(run(Attribute(splat), {}, type({2, 3}, bits(16))),
            (Bytes{2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1}));
  auto truth = DenseElementsAttr::get(type({3}, bits(1)), ArrayRef<bool>{true, false, true});
  EXPECT_EQ(run(Attribute(truth), {}, type({3}, bits(1))), (Bytes{1, 0, 1}));
}

TEST_F(WeightTransforms, Files) {
  llvm::SmallString<128> path;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("moec-test", path));
  folder = std::string(path);
  Bytes data = random(64);
  llvm::sys::path::append(path, "data.bin");
  {
    std::error_code code;
    llvm::raw_fd_ostream out(path, code);
    ASSERT_FALSE(code);
    out.write(reinterpret_cast<const char *>(data.data()), data.size());
  }
  auto segment = [&](StringRef file, uint64_t offset) {
    return SegmentAttr::get(&context, builder.getStringAttr(file), offset, 24,
                            type({2, 3}, bits(32)));
  };
  // An odd offset: elements of a model file are not aligned.
  EXPECT_EQ(run(Attribute(segment("data.bin", 7)), {}, type({2, 3}, bits(32))),
            Bytes(data.begin() + 7, data.begin() + 31));
  EXPECT_EQ(run(Attribute(segment("./data.bin", 40)), {}, type({2, 3}, bits(32))),
            Bytes(data.begin() + 40, data.end()));

  // Elements of 4 bits, low half first; each expert by itself.
  auto packed =
      SegmentAttr::get(&context, builder.getStringAttr("data.bin"), 7, 3, type({2, 3}, bits(4)));
  Bytes nibbles;
  for (int64_t i = 0; i < 6; ++i)
    nibbles.push_back((data[7 + i / 2] >> (i % 2 * 4)) & 15);
  EXPECT_EQ(run(Attribute(packed), {}, type({2, 3}, bits(4))), nibbles);

  auto errorOf = [&](SegmentAttr segment) {
    SourceFiles files(folder);
    auto bytes = files.getBytes(segment);
    return bytes ? std::string("none") : llvm::toString(bytes.takeError());
  };
  EXPECT_EQ(errorOf(segment("data.bin", 41)),
            "'data.bin' has 64 bytes, too few for 24 bytes at offset 41");
  EXPECT_EQ(errorOf(segment("data.bin", UINT64_MAX)),
            "'data.bin' has 64 bytes, too few for 24 bytes at offset 18446744073709551615");
  EXPECT_EQ(errorOf(segment("../data.bin", 0)),
            "external data file '../data.bin' is not inside the model's folder");
  EXPECT_EQ(errorOf(segment("/etc/hostname", 0)),
            "external data file '/etc/hostname' is not inside the model's folder");
  EXPECT_NE(errorOf(segment("absent", 0)).find("cannot open"), std::string::npos);
  EXPECT_NE(errorOf(segment(".", 0)).find("cannot"), std::string::npos);
  (void)llvm::sys::fs::remove_directories(folder);
}
