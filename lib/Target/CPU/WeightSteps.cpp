// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "WeightSteps.h"
#include "WeightConversions.h"

#include "mlir/Support/DebugStringHelper.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;
using llvm::Expected;

//===----------------------------------------------------------------------===//
// Transforms on the bytes of one expert
//===----------------------------------------------------------------------===//

namespace {
/// An element at any address: tensors inside a model file are not aligned.
template <typename T> struct __attribute__((packed)) Element { T value; };
} // namespace

/// Calls `body(T())` with an element type of that many bytes.
template <typename Body> static void dispatchBytes(int64_t elementBytes, Body body) {
  switch (elementBytes) {
  case 1:
    return body(uint8_t());
  case 2:
    return body(Element<uint16_t>());
  case 4:
    return body(Element<uint32_t>());
  default:
    assert(elementBytes == 8 && "checked by WeightPacker::create");
    return body(Element<uint64_t>());
  }
}

/// Square block that fits the first-level cache in source and destination.
static constexpr int64_t blockSize = 32;

/// out[c · outStride + r] = in[r · inStride + c] for all r < rows, c < columns.
template <typename T>
static void transpose(const T *in, int64_t inStride, T *out, int64_t outStride, int64_t rows,
                      int64_t columns) {
  for (int64_t r0 = 0; r0 < rows; r0 += blockSize)
    for (int64_t c0 = 0; c0 < columns; c0 += blockSize) {
      int64_t rEnd = std::min(rows, r0 + blockSize), cEnd = std::min(columns, c0 + blockSize);
      for (int64_t r = r0; r < rEnd; ++r)
        for (int64_t c = c0; c < cEnd; ++c)
          out[c * outStride + r] = in[r * inStride + c];
    }
}

namespace {
/// A permutation of an expert's dimensions, as strides of its result.
struct Permutation {
  Permutation(ArrayRef<int64_t> inputShape, ArrayRef<int64_t> order) {
    int64_t rank = order.size();
    SmallVector<int64_t> inputStrides(rank, 1), outputStrides(rank, 1);
    for (int64_t i = rank - 2; i >= 0; --i)
      inputStrides[i] = inputStrides[i + 1] * inputShape[i + 1];
    for (int64_t i = rank - 2; i >= 0; --i)
      outputStrides[i] = outputStrides[i + 1] * inputShape[order[i + 1]];
    for (int64_t i = 0; i < rank; ++i)
      add(inputShape[order[i]], inputStrides[order[i]], outputStrides[i]);
  }

  /// One dimension of the result, with its strides in elements.
  struct Dim {
    int64_t size, in, out;
  };
  SmallVector<Dim> dims;

private:
  /// Skips dimensions of size 1 and merges those that stay neighbours.
  void add(int64_t size, int64_t in, int64_t out) {
    if (size == 1)
      return;
    if (!dims.empty() && dims.back().in == size * in && dims.back().out == size * out)
      dims.back() = {dims.back().size * size, in, out};
    else
      dims.push_back({size, in, out});
  }
};
} // namespace

/// Walks all dimensions but the last of the result and the fastest of the input,
/// which are transposed (or copied, when they are the same) block by block.
template <typename T> static void permute(ArrayRef<Permutation::Dim> dims, const T *in, T *out) {
  if (dims.empty()) {
    *out = *in;
    return;
  }
  Permutation::Dim last = dims.back();
  if (dims.size() == 1) {
    for (int64_t i = 0; i < last.size; ++i)
      out[i * last.out] = in[i * last.in];
    return;
  }
  const Permutation::Dim *fast =
      std::find_if(dims.begin(), dims.end(), [](const auto &dim) { return dim.in == 1; });
  if (dims.size() == 2 && last.in != 1 && fast != dims.end()) {
    transpose(in, last.in, out, fast->out, last.size, fast->size);
    return;
  }
  // The outermost dimension that is neither of the two.
  size_t outer = 0;
  while (&dims[outer] == fast && outer + 2 < dims.size())
    ++outer;
  SmallVector<Permutation::Dim> rest(dims);
  rest.erase(rest.begin() + outer);
  for (int64_t i = 0; i < dims[outer].size; ++i)
    permute<T>(rest, in + i * dims[outer].in, out + i * dims[outer].out);
}

void mlir::moe::unpackCodes(const char *in, char *out, int64_t bits, int64_t outer, int64_t count,
                            int64_t inner) {
  int64_t perByte = 8 / bits, bytes = llvm::divideCeil(count, perByte);
  unsigned mask = (1u << bits) - 1;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < count; ++i) {
      const char *source = in + (o * bytes + i / perByte) * inner;
      char *destination = out + (o * count + i) * inner;
      unsigned shift = (i % perByte) * bits;
      for (int64_t j = 0; j < inner; ++j)
        destination[j] = char((uint8_t(source[j]) >> shift) & mask);
    }
}

namespace {
/// Which source row each column of each panel comes from (see `#moe.panels`).
struct PanelColumns {
  int64_t numRows, width;
  Glu glu;

  int64_t getNumPanels() const { return llvm::divideCeil(numRows, width); }
  /// The source row of column c of panel p, or -1 for padding.
  int64_t getRow(int64_t p, int64_t c) const {
    if (glu == Glu::None) {
      int64_t row = p * width + c;
      return row < numRows ? row : -1;
    }
    int64_t half = width / 2, inner = numRows / 2;
    int64_t i = p * half + c % half;
    bool linear = c >= half;
    if (i >= inner)
      return -1;
    return glu == Glu::Interleaved ? 2 * i + linear : i + linear * inner;
  }
};
} // namespace

/// [N, K] to [P, K, width].
template <typename T>
static void packPanels(const PanelColumns &columns, int64_t k, const T *in, T *out) {
  int64_t width = columns.width;
  for (int64_t p = 0, end = columns.getNumPanels(); p < end; ++p) {
    T *panel = out + p * k * width;
    for (int64_t k0 = 0; k0 < k; k0 += 2 * blockSize) {
      int64_t kEnd = std::min(k, k0 + 2 * blockSize);
      for (int64_t c = 0; c < width; ++c) {
        int64_t row = columns.getRow(p, c);
        for (int64_t i = k0; i < kEnd; ++i)
          panel[i * width + c] = row < 0 ? T() : in[row * k + i];
      }
    }
  }
}

/// [N, K·bits/8] to [P, ceil(K / g), B], see `#moe.code_panels`.
static void packCodePanels(const PanelColumns &columns, int64_t bits, int64_t k, const uint8_t *in,
                           uint8_t *out) {
  if (bits == 8)
    return packPanels<uint8_t>(columns, k, in, out);
  int64_t perByte = 8 / bits, rowBytes = llvm::divideCeil(k, perByte);
  int64_t group = bits == 2 ? 2 : 1, groups = llvm::divideCeil(k, group);
  uint8_t mask = (1u << bits) - 1;
  auto code = [&](int64_t row, int64_t i) -> uint8_t {
    if (row < 0 || i >= k)
      return 0;
    return (in[row * rowBytes + i / perByte] >> (i % perByte * bits)) & mask;
  };
  for (int64_t p = 0, end = columns.getNumPanels(); p < end; ++p) {
    uint8_t *panel = out + p * groups * 16;
    for (int64_t g0 = 0; g0 < groups; g0 += 4 * blockSize)
      for (int64_t c = 0; c < 16; ++c) {
        int64_t low = columns.getRow(p, c), high = columns.getRow(p, c + 16);
        for (int64_t g = g0, gEnd = std::min(groups, g0 + 4 * blockSize); g < gEnd; ++g) {
          uint8_t byte = 0;
          for (int64_t j = 0; j < group; ++j) {
            byte |= code(low, g * group + j) << (2 * j * bits);
            byte |= code(high, g * group + j) << ((2 * j + 1) * bits);
          }
          panel[g * 16 + c] = byte;
        }
      }
  }
}

Expected<WeightStep> WeightStep::create(Attribute transform, RankedTensorType input,
                                        RankedTensorType result,
                                        std::shared_ptr<ConversionError> &conversionError) {
  int64_t width = getElementBytes(input.getElementType());
  auto shape = llvm::to_vector(input.getShape().drop_front());
  WeightStep step{nullptr, moe::getExpertBytes(result)};
  if (isa<ReshapeAttr>(transform))
    return step;
  if (auto attr = dyn_cast<PermuteAttr>(transform)) {
    SmallVector<int64_t> order;
    for (int64_t dim : attr.getPermutation().asArrayRef().drop_front())
      order.push_back(dim - 1);
    step.apply = [width, dims = Permutation(shape, order).dims](const char *in, char *out) {
      dispatchBytes(width, [&](auto zero) {
        using T = decltype(zero);
        permute<T>(dims, reinterpret_cast<const T *>(in), reinterpret_cast<T *>(out));
      });
    };
  } else if (auto attr = dyn_cast<UnpackAttr>(transform)) {
    auto dims = ArrayRef(shape);
    int64_t outer = ShapedType::getNumElements(dims.take_front(attr.getAxis() - 1));
    int64_t inner = ShapedType::getNumElements(dims.drop_front(attr.getAxis()));
    step.apply = [bits = attr.getBits(), count = attr.getCount(), outer, inner](const char *in,
                                                                                char *out) {
      unpackCodes(in, out, bits, outer, count, inner);
    };
  } else if (auto attr = dyn_cast<ToUnsignedAttr>(transform)) {
    // Adding half of the range flips the topmost bit of each code.
    char mask = char(attr.getBits() == 8 ? 0x80 : attr.getBits() == 4 ? 0x88 : 0xaa);
    step.apply = [mask, bytes = step.resultBytes](const char *in, char *out) {
      std::transform(in, in + bytes, out, [&](char byte) { return char(byte ^ mask); });
    };
  } else if (auto attr = dyn_cast<PanelsAttr>(transform)) {
    PanelColumns columns{shape[0], attr.getWidth(), attr.getGlu()};
    step.apply = [columns, width, k = shape[1]](const char *in, char *out) {
      dispatchBytes(width, [&](auto zero) {
        using T = decltype(zero);
        packPanels<T>(columns, k, reinterpret_cast<const T *>(in), reinterpret_cast<T *>(out));
      });
    };
  } else if (auto attr = dyn_cast<CodePanelsAttr>(transform)) {
    PanelColumns columns{shape[0], 32, attr.getGlu()};
    step.apply = [columns, bits = attr.getBits(), k = attr.getColumns()](const char *in,
                                                                         char *out) {
      packCodePanels(columns, bits, k, reinterpret_cast<const uint8_t *>(in),
                     reinterpret_cast<uint8_t *>(out));
    };
  } else if (auto attr = dyn_cast<ConvertAttr>(transform)) {
    conversionError = std::make_shared<ConversionError>();
    step.apply = [from = input.getElementType(), to = attr.getType(),
                  count = ShapedType::getNumElements(shape),
                  error = conversionError](const char *in, char *out) {
      convertElements(from, to, in, count, out, *error);
    };
  } else if (auto attr = dyn_cast<QuantizeAttr>(transform)) {
    if (attr.getPart() == QuantizedPart::Codes)
      conversionError = std::make_shared<ConversionError>();
    step.apply = [attr, from = input.getElementType(), rows = shape[0], k = shape[1],
                  bytes = step.resultBytes, error = conversionError](const char *in, char *out) {
      std::fill_n(out, bytes, 0);
      quantize(attr, from, in, rows, k, out, error.get());
    };
  } else {
    return createStringError("cannot execute the weight transform " + debugString(transform));
  }
  return step;
}

//===----------------------------------------------------------------------===//
// Their inverses
//===----------------------------------------------------------------------===//

void mlir::moe::packCodes(const char *in, char *out, int64_t bits, int64_t outer, int64_t count,
                          int64_t inner) {
  int64_t perByte = 8 / bits, bytes = llvm::divideCeil(count, perByte);
  std::fill_n(out, outer * bytes * inner, 0);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < count; ++i) {
      const char *source = in + (o * count + i) * inner;
      char *destination = out + (o * bytes + i / perByte) * inner;
      unsigned shift = (i % perByte) * bits;
      for (int64_t j = 0; j < inner; ++j)
        destination[j] |= char(source[j] << shift);
    }
}

/// [P, K, width] to [N, K].
template <typename T>
static void unpackPanels(const PanelColumns &columns, int64_t k, const T *in, T *out) {
  int64_t width = columns.width;
  for (int64_t p = 0, end = columns.getNumPanels(); p < end; ++p)
    for (int64_t c = 0; c < width; ++c)
      if (int64_t row = columns.getRow(p, c); row >= 0)
        for (int64_t i = 0; i < k; ++i)
          out[row * k + i] = in[(p * k + i) * width + c];
}

/// [P, ceil(K / g), B] to [N, K·bits/8].
static void unpackCodePanels(const PanelColumns &columns, int64_t bits, int64_t k,
                             const uint8_t *in, uint8_t *out) {
  if (bits == 8)
    return unpackPanels<uint8_t>(columns, k, in, out);
  int64_t perByte = 8 / bits, rowBytes = llvm::divideCeil(k, perByte);
  int64_t group = bits == 2 ? 2 : 1, groups = llvm::divideCeil(k, group);
  uint8_t mask = (1u << bits) - 1;
  std::fill_n(out, columns.numRows * rowBytes, 0);
  for (int64_t p = 0, end = columns.getNumPanels(); p < end; ++p)
    for (int64_t c = 0; c < columns.width; ++c) {
      int64_t row = columns.getRow(p, c);
      for (int64_t i = 0; row >= 0 && i < k; ++i) {
        uint8_t byte = in[(p * groups + i / group) * 16 + c % 16];
        uint8_t code = (byte >> ((2 * (i % group) + c / 16) * bits)) & mask;
        out[row * rowBytes + i / perByte] |= code << (i % perByte * bits);
      }
    }
}

/// Where dimension i of the input is in the result.
static SmallVector<int64_t> invert(ArrayRef<int64_t> order) {
  SmallVector<int64_t> inverse(order.size());
  for (auto [i, dim] : llvm::enumerate(order))
    inverse[dim] = i;
  return inverse;
}

Expected<WeightStep> WeightStep::createInverse(Attribute transform, RankedTensorType input,
                                               RankedTensorType result) {
  int64_t width = getElementBytes(input.getElementType());
  auto shape = llvm::to_vector(input.getShape().drop_front());
  WeightStep step{nullptr, moe::getExpertBytes(input)};
  std::shared_ptr<ConversionError> none;
  if (isa<ReshapeAttr, ToUnsignedAttr>(transform)) // the latter flips bits
    return create(transform, input, result, none);
  if (auto attr = dyn_cast<PermuteAttr>(transform)) {
    auto inverse = PermuteAttr::get(
        attr.getContext(),
        DenseI64ArrayAttr::get(attr.getContext(), invert(attr.getPermutation().asArrayRef())));
    return create(inverse, result, input, none);
  }
  if (auto attr = dyn_cast<UnpackAttr>(transform)) {
    auto dims = ArrayRef(shape);
    int64_t outer = ShapedType::getNumElements(dims.take_front(attr.getAxis() - 1));
    int64_t inner = ShapedType::getNumElements(dims.drop_front(attr.getAxis()));
    step.apply = [bits = attr.getBits(), count = attr.getCount(), outer, inner](
                     const char *in, char *out) { packCodes(in, out, bits, outer, count, inner); };
  } else if (auto attr = dyn_cast<PanelsAttr>(transform)) {
    PanelColumns columns{shape[0], attr.getWidth(), attr.getGlu()};
    step.apply = [columns, width, k = shape[1]](const char *in, char *out) {
      dispatchBytes(width, [&](auto zero) {
        using T = decltype(zero);
        unpackPanels<T>(columns, k, reinterpret_cast<const T *>(in), reinterpret_cast<T *>(out));
      });
    };
  } else if (auto attr = dyn_cast<CodePanelsAttr>(transform)) {
    PanelColumns columns{shape[0], 32, attr.getGlu()};
    step.apply = [columns, bits = attr.getBits(), k = attr.getColumns()](const char *in,
                                                                         char *out) {
      unpackCodePanels(columns, bits, k, reinterpret_cast<const uint8_t *>(in),
                       reinterpret_cast<uint8_t *>(out));
    };
  } else {
    return createStringError("the weight transform " + debugString(transform) +
                             " cannot be undone");
  }
  return step;
}
