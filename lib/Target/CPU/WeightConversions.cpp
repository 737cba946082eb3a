// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "WeightConversions.h"

#include "llvm/ADT/bit.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// ConversionError
//===----------------------------------------------------------------------===//

void ConversionError::add(float source, float converted) {
  // Infinity may stay what it is.
  double error = converted == source ? 0 : double(converted) - double(source);
  squaredError += error * error;
  squaredSource += double(source) * double(source);
  // Once NaN, it stays that.
  if (std::isnan(error) || std::fabs(error) > largest)
    largest = std::fabs(error);
}

double ConversionError::getRelativeRMS() const {
  return squaredError == 0 ? 0 : std::sqrt(squaredError / squaredSource);
}

//===----------------------------------------------------------------------===//
// Floating-point types
//===----------------------------------------------------------------------===//

// Formats: IEEE 754 binary16; bfloat16 is the upper half of binary32.

static float fromBF16(uint16_t bits) { return llvm::bit_cast<float>(uint32_t(bits) << 16); }

static uint16_t toBF16(float value) {
  uint32_t bits = llvm::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return (bits >> 16) | 0x40; // a quiet one, whose payload may be in the lower half
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static float fromF16(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31,
           mantissa = bits & 0x3ff;
  if (exponent == 0) {
    float magnitude = float(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  exponent = exponent == 31 ? 255 : exponent + 127 - 15;
  return llvm::bit_cast<float>(sign | exponent << 23 | mantissa << 13);
}

static uint16_t toF16(float value) {
  uint32_t bits = llvm::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
  uint16_t sign = (bits >> 16) & 0x8000;
  if (std::isnan(value))
    return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff);
  // 65520 is half way between the largest number and what would follow it.
  if (std::fabs(value) >= 65520.0f)
    return sign | 0x7c00;
  // Below 2^-14 numbers are multiples of 2^-24; 1024 of these is the first normal number.
  if (std::fabs(value) < 0x1p-14f)
    return sign | uint16_t(std::nearbyint(std::fabs(value) * 0x1p24f));
  magnitude += 0xfff + ((magnitude >> 13) & 1);
  return sign | ((magnitude - ((127u - 15u) << 23)) >> 13);
}

float mlir::moe::roundToBF16(float value) { return fromBF16(toBF16(value)); }

void mlir::moe::readFloats(Type type, const char *in, int64_t first, MutableArrayRef<float> out) {
  if (type.isF32()) {
    std::memcpy(out.data(), in + first * sizeof(float), out.size() * sizeof(float));
    return;
  }
  bool isBF16 = type.isBF16();
  in += first * sizeof(uint16_t);
  for (float &value : out) {
    uint16_t bits;
    std::memcpy(&bits, in, sizeof(bits));
    in += sizeof(bits);
    value = isBF16 ? fromBF16(bits) : fromF16(bits);
  }
}

void mlir::moe::convertElements(Type from, Type to, const char *in, int64_t count, char *out,
                                ConversionError &error) {
  bool isBF16 = to.isBF16();
  float values[256];
  for (int64_t first = 0; first < count; first += std::size(values)) {
    MutableArrayRef<float> some(values, std::min<int64_t>(std::size(values), count - first));
    readFloats(from, in, first, some);
    for (float value : some) {
      uint16_t bits = isBF16 ? toBF16(value) : toF16(value);
      std::memcpy(out, &bits, sizeof(bits));
      out += sizeof(bits);
      error.add(value, isBF16 ? fromBF16(bits) : fromF16(bits));
    }
  }
}

//===----------------------------------------------------------------------===//
// Quantization, as documented for #moe.quantize
//===----------------------------------------------------------------------===//

namespace {
/// The numbers that the codes of a block stand for: (code - zero) · scale.
struct Grid {
  float scale;
  int zero, largestCode;

  int getCode(float value) const {
    // Zeros, or NaN: then the scale is NaN, and every code stands for it.
    if (scale == 0 || std::isnan(scale))
      return zero;
    float code = std::nearbyint(value / scale) + float(zero);
    return int(std::clamp(code, 0.0f, float(largestCode)));
  }
  float getValue(int code) const { return float(code - zero) * scale; }
};
} // namespace

static Grid getSymmetricGrid(ArrayRef<float> block, int64_t bits) {
  int half = 1 << (bits - 1);
  float extreme = 0;
  for (float value : block)
    if (std::fabs(value) > std::fabs(extreme))
      extreme = value;
  return {extreme / float(-half), half, 2 * half - 1};
}

static Grid getGrid(ArrayRef<float> block, int64_t bits) {
  int largestCode = (1 << bits) - 1;
  float low = 0, high = 0;
  for (float value : block) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  float scale = (high - low) / float(largestCode);
  if (scale == 0)
    return {0, 0, largestCode};
  float zero = std::nearbyint(-low / scale);
  return {scale, int(std::clamp(zero, 0.0f, float(largestCode))), largestCode};
}

static Grid getGrid(QuantizeAttr attr, ArrayRef<float> block) {
  if (!llvm::all_of(block, [](float value) { return std::isfinite(value); }))
    return {std::nanf(""), 0, 0};
  return attr.getZeroPoints() ? getGrid(block, attr.getBits())
                              : getSymmetricGrid(block, attr.getBits());
}

/// Sets code i of codes that are packed low bits first, and zero until now.
static void setCode(char *codes, int64_t bits, int64_t i, int code) {
  int64_t perByte = 8 / bits;
  codes[i / perByte] |= char(code << (i % perByte * bits));
}

void mlir::moe::quantize(QuantizeAttr attr, Type from, const char *in, int64_t rows, int64_t k,
                         char *out, ConversionError *error) {
  int64_t bits = attr.getBits(), size = attr.getBlock() ? attr.getBlock() : k;
  int64_t blocks = k / size, rowBytes = llvm::divideCeil(k * bits, 8);
  int64_t zeroBytes = llvm::divideCeil(blocks * bits, 8);
  std::vector<float> values(size);
  auto quantizeBlock = [&](int64_t row, int64_t b) {
    readFloats(from, in, row * k + b * size, values);
    Grid grid = getGrid(attr, values);
    switch (attr.getPart()) {
    case QuantizedPart::Codes:
      for (int64_t i = 0; i < size; ++i) {
        int code = grid.getCode(values[i]);
        setCode(out + row * rowBytes, bits, b * size + i, code);
        if (error)
          error->add(values[i], grid.getValue(code));
      }
      return;
    case QuantizedPart::Scales:
      std::memcpy(out + (row * blocks + b) * sizeof(float), &grid.scale, sizeof(float));
      return;
    case QuantizedPart::ZeroPoints:
      // Of whole rows the zero points of neighbouring rows share bytes.
      if (attr.getBlock() == 0)
        setCode(out, bits, row, grid.zero);
      else
        setCode(out + row * zeroBytes, bits, b, grid.zero);
      return;
    }
  };
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t b = 0; b < blocks; ++b)
      quantizeBlock(row, b);
}
