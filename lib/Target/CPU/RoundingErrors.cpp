// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/RoundingErrors.h"

#include "WeightConversions.h"
#include "mlir/IR/Matchers.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>
#include <optional>

using namespace mlir;
using namespace mlir::moe;
using llvm::Error;
using llvm::Expected;

static constexpr int64_t kRows = RoundingError::kRows;

namespace {
/// Numbers [rows, columns].
struct Matrix {
  int64_t rows, columns;
  std::vector<float> values;
  /// Columns with one scale; 0 where there are none.
  int64_t block = 0;
};

/// Rows side by side: element (row, column) is at column · kRows + row.
using Rows = std::vector<double>;

/// The networks' weights, of their first experts.
class Reader {
public:
  Reader(ModuleOp module, StringRef folder) : symbols(module), files(folder) {}

  /// Nullopt where the bytes are known at run time only.
  Expected<std::optional<Matrix>> readMatrix(Value weight, Layout layout);
  /// Empty for null.
  Expected<std::optional<std::vector<float>>> readBias(Value bias, bool hasExperts);

private:
  Expected<std::optional<std::vector<char>>> readBytes(Value value, bool hasExperts);
  Expected<std::optional<std::vector<float>>> readFloats(Value value, bool hasExperts);
  Expected<std::optional<Matrix>> dequantize(DequantizeOp op);

  SymbolTable symbols;
  SourceFiles files;
};
} // namespace

/// The bytes of the first expert, or all where there are no experts.
Expected<std::optional<std::vector<char>>> Reader::readBytes(Value value, bool hasExperts) {
  if (auto load = value.getDefiningOp<LoadWeightOp>()) {
    auto packer = WeightPacker::create(symbols.lookup<WeightOp>(load.getWeight()), files);
    if (!packer)
      return packer.takeError();
    std::vector<char> bytes;
    for (int64_t i = 0, e = hasExperts ? 1 : packer->getNumExperts(); i < e; ++i)
      llvm::append_range(bytes, packer->pack(i));
    return bytes;
  }
  DenseElementsAttr dense = onnx::getConstantValue(value);
  if (!dense && !matchPattern(value, m_Constant(&dense)))
    return std::nullopt;
  std::vector<char> bytes = getElementBytes(dense);
  if (hasExperts)
    bytes.resize(getExpertBytes(cast<RankedTensorType>(dense.getType())));
  return bytes;
}

Expected<std::optional<std::vector<float>>> Reader::readFloats(Value value, bool hasExperts) {
  auto bytes = readBytes(value, hasExperts);
  if (!bytes)
    return bytes.takeError();
  if (!*bytes)
    return std::nullopt;
  Type element = cast<RankedTensorType>(value.getType()).getElementType();
  std::vector<float> values((*bytes)->size() / getElementBytes(element));
  moe::readFloats(element, (*bytes)->data(), 0, values);
  return values;
}

Expected<std::optional<std::vector<float>>> Reader::readBias(Value bias, bool hasExperts) {
  if (!bias)
    return std::vector<float>();
  return readFloats(bias, hasExperts);
}

/// Code `index` of those that lie side by side from `bytes` on.
static int64_t getCode(const char *bytes, int64_t index, int64_t bits) {
  int64_t bit = index * bits;
  return (uint8_t(bytes[bit / 8]) >> (bit % 8)) & ((1 << bits) - 1);
}

Expected<std::optional<Matrix>> Reader::dequantize(DequantizeOp op) {
  auto type = cast<RankedTensorType>(op.getType());
  int64_t rows = type.getDimSize(1), columns = type.getDimSize(2), bits = op.getBits();
  auto codes = readBytes(op.getCodes(), /*hasExperts=*/true);
  if (!codes)
    return codes.takeError();
  auto scales = readFloats(op.getScales(), /*hasExperts=*/true);
  if (!scales)
    return scales.takeError();
  std::optional<std::vector<char>> zeroPoints;
  if (op.getZeroPoints()) {
    auto read = readBytes(op.getZeroPoints(), /*hasExperts=*/true);
    if (!read)
      return read.takeError();
    zeroPoints = std::move(*read);
  }
  if (!*codes || !*scales || (op.getZeroPoints() && !zeroPoints))
    return std::nullopt;
  bool isRowWise = op.getBlock() == 0;
  int64_t block = isRowWise ? columns : op.getBlock(), blocks = columns / block;
  int64_t zeroBytes = llvm::divideCeil(blocks * bits, 8);
  Matrix matrix = {rows, columns, std::vector<float>(rows * columns), block};
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int64_t number = column / block, zero = int64_t(1) << (bits - 1);
      if (zeroPoints)
        zero = isRowWise ? getCode(zeroPoints->data(), row, bits)
                         : getCode(zeroPoints->data() + row * zeroBytes, number, bits);
      int64_t code = getCode((*codes)->data() + row * columns * bits / 8, column, bits);
      matrix.values[row * columns + column] = (code - zero) * (**scales)[row * blocks + number];
    }
  return matrix;
}

Expected<std::optional<Matrix>> Reader::readMatrix(Value weight, Layout layout) {
  if (auto op = weight.getDefiningOp<DequantizeOp>())
    return dequantize(op);
  auto type = cast<RankedTensorType>(weight.getType());
  auto values = readFloats(weight, type.getRank() == 3);
  if (!values)
    return values.takeError();
  if (!*values)
    return std::nullopt;
  int64_t rows = type.getShape().end()[-2], columns = type.getShape().end()[-1];
  if (layout == Layout::OutIn)
    return Matrix{rows, columns, std::move(**values)};
  Matrix matrix = {columns, rows, std::vector<float>(rows * columns)};
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      matrix.values[j * rows + i] = (**values)[i * columns + j];
  return matrix;
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

/// Number `index` of splitmix64 (Steele, Lea, Flood 2014) with seed 0, between 0 and 1.
static double drawUniform(uint64_t index) {
  uint64_t z = (index + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return (double(z >> 11) + 0.5) * 0x1p-53;
}

static Rows drawRows(int64_t columns) {
  Rows rows(columns * kRows);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      uint64_t index = 2 * (row * columns + column);
      rows[column * kRows + row] = float(std::sqrt(-2 * std::log(drawUniform(index))) *
                                         std::cos(2 * M_PI * drawUniform(index + 1)));
    }
  return rows;
}

/// The rows as integers with a scale for each `block` of columns, as IntegerRow says.
static Rows roundToIntegers(Rows rows, int64_t block) {
  int64_t columns = rows.size() / kRows;
  for (int64_t first = 0; first < columns; first += block)
    for (int64_t row = 0; row < kRows; ++row) {
      int64_t end = std::min(first + block, columns);
      float largest = 0;
      for (int64_t i = first; i < end; ++i)
        largest = std::max(largest, std::fabs(float(rows[i * kRows + row])));
      float inverse = largest > 0 ? 127.0f / largest : 0.0f, scale = largest / 127.0f;
      for (int64_t i = first; i < end; ++i) {
        double &value = rows[i * kRows + row];
        value = std::nearbyint(float(value) * inverse) * double(scale);
      }
    }
  return rows;
}

static Rows roundToBF16(Rows rows) {
  for (double &value : rows)
    value = moe::roundToBF16(float(value));
  return rows;
}

/// matrix · rows + bias.
static Rows multiply(const Matrix &matrix, const Rows &rows, ArrayRef<float> bias, bool isBF16) {
  Rows result(matrix.rows * kRows);
  for (int64_t n = 0; n < matrix.rows; ++n) {
    double sums[kRows] = {};
    for (int64_t k = 0; k < matrix.columns; ++k) {
      double w = matrix.values[n * matrix.columns + k];
      if (isBF16)
        w = moe::roundToBF16(float(w));
      for (int64_t row = 0; row < kRows; ++row)
        sums[row] += w * rows[k * kRows + row];
    }
    for (int64_t row = 0; row < kRows; ++row)
      result[n * kRows + row] = sums[row] + (bias.empty() ? 0 : bias[n]);
  }
  return result;
}

static double activate(ActivationAttr activation, double v) {
  switch (activation.getKind()) {
  case ActivationKind::Identity:
    return v;
  case ActivationKind::Relu:
    return std::max(v, 0.0);
  case ActivationKind::Relu2:
    return std::max(v, 0.0) * std::max(v, 0.0);
  case ActivationKind::Gelu:
    return v / 2 * (1 + std::erf(v * M_SQRT1_2));
  case ActivationKind::GeluTanh:
    return v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  case ActivationKind::Silu:
    return v / (1 + std::exp(-activation.getAlphaValue() * v));
  }
  llvm_unreachable("unknown activation");
}

static double activate(ActivationAttr activation, double gate, double linear) {
  double limit = activation.getLimitValue();
  bool post = activation.getClamp() == ActivationClamp::Post;
  if (!post)
    gate = std::min(gate, limit);
  linear = std::clamp(linear, -limit, limit) + activation.getBetaValue();
  double result = activate(activation, gate);
  return (post ? std::min(result, limit) : result) * linear;
}

namespace {
/// A matrix of one expert.
struct Product {
  Matrix matrix;
  std::vector<float> bias;

  /// matrix · rows + bias, with operands rounded to `operands` unless it is empty.
  Rows evaluate(const Rows &rows, StringRef operands) const;
};

/// One expert.
struct Network {
  Product up, down;
  std::optional<Product> gate;
  ActivationAttr activation;

  Rows evaluate(const Rows &x, StringRef operands) const;
};

/// Reads the matrices of one operation.
class ProductReader {
public:
  ProductReader(Reader &reader, Layout layout) : reader(reader), layout(layout) {}

  Product read(Value weight, Value bias);
  /// Whether all that was read are constants, which `operands` can multiply; or the error.
  Expected<bool> finish(StringRef operands);

private:
  /// The constant; a default where it is none, or after an error.
  template <typename T> T take(Expected<std::optional<T>> read);

  Reader &reader;
  Layout layout;
  Error error = Error::success();
  bool isConstant = true, hasScales = true;
};
} // namespace

Rows Product::evaluate(const Rows &rows, StringRef operands) const {
  if (operands == "bf16")
    return multiply(matrix, roundToBF16(rows), bias, /*isBF16=*/true);
  if (operands == "int8")
    return multiply(matrix, roundToIntegers(rows, matrix.block), bias, /*isBF16=*/false);
  return multiply(matrix, rows, bias, /*isBF16=*/false);
}

template <typename T> T ProductReader::take(Expected<std::optional<T>> read) {
  if (!read)
    error = llvm::joinErrors(std::move(error), read.takeError());
  else if (*read)
    return std::move(**read);
  else
    isConstant = false;
  return {};
}

Product ProductReader::read(Value weight, Value bias) {
  bool hasExperts = cast<RankedTensorType>(weight.getType()).getRank() == 3;
  Product product = {take(reader.readMatrix(weight, layout)),
                     take(reader.readBias(bias, hasExperts))};
  hasScales &= product.matrix.block != 0;
  return product;
}

Expected<bool> ProductReader::finish(StringRef operands) {
  if (error)
    return std::move(error);
  return isConstant && (operands != "int8" || hasScales);
}

Rows Network::evaluate(const Rows &x, StringRef operands) const {
  Rows first = up.evaluate(x, operands), gates;
  if (gate)
    gates = gate->evaluate(x, operands);
  Glu glu = activation.getGlu();
  int64_t columns = glu == Glu::None || gate ? up.matrix.rows : up.matrix.rows / 2;
  Rows hidden(columns * kRows);
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t row = 0; row < kRows; ++row) {
      auto at = [&](const Rows &rows, int64_t column) { return rows[column * kRows + row]; };
      double &value = hidden[i * kRows + row];
      switch (glu) {
      case Glu::None:
        value = activate(activation, at(first, i));
        break;
      case Glu::Separate:
        value = activate(activation, at(gates, i), at(first, i));
        break;
      case Glu::Concat:
        value = activate(activation, at(first, i), at(first, columns + i));
        break;
      case Glu::Interleaved:
        value = activate(activation, at(first, 2 * i), at(first, 2 * i + 1));
        break;
      }
    }
  return down.evaluate(hidden, operands);
}

/// What rounding changes in the results of `evaluate(rows, operands)`.
template <typename T>
static double compare(const T &evaluated, int64_t columns, StringRef operands) {
  Rows x = drawRows(columns), exact = evaluated.evaluate(x, ""),
       rounded = evaluated.evaluate(x, operands);
  double squaredError = 0, squared = 0;
  for (auto [y, rounding] : llvm::zip_equal(exact, rounded)) {
    squaredError += (rounding - y) * (rounding - y);
    squared += y * y;
  }
  return squaredError == 0 ? 0 : std::sqrt(squaredError / squared);
}

/// The error of one operation; nullopt where its weights are not constants.
template <typename OpTy>
static Expected<std::optional<double>> measure(OpTy op, Reader &reader, StringRef operands) {
  ProductReader weights(reader, op.getLayout());
  Network network;
  network.activation = op.getActivation();
  network.up = weights.read(op.getUp(), op.getUpBias());
  network.down = weights.read(op.getDown(), op.getDownBias());
  if (op.getGate())
    network.gate = weights.read(op.getGate(), op.getGateBias());
  Expected<bool> isKnown = weights.finish(operands);
  if (!isKnown)
    return isKnown.takeError();
  if (!*isKnown)
    return std::nullopt;
  return compare(network, network.up.matrix.columns, operands);
}

static Expected<std::optional<double>> measure(GroupedMatmulOp op, Reader &reader,
                                               StringRef operands) {
  ProductReader weights(reader, op.getLayout());
  Product product = weights.read(op.getWeight(), op.getBias());
  Expected<bool> isKnown = weights.finish(operands);
  if (!isKnown)
    return isKnown.takeError();
  if (!*isKnown)
    return std::nullopt;
  return compare(product, product.matrix.columns, operands);
}

Expected<std::vector<RoundingError>>
mlir::moe::measureRounding(ModuleOp module, StringRef modelFolder, StringRef operands) {
  Reader reader(module, modelFolder);
  std::vector<RoundingError> errors;
  Error failure = Error::success();
  WalkResult walked = module.walk([&](Operation *op) {
    auto add = [&](auto op) {
      auto error = measure(op, reader, operands);
      if (!error)
        failure = error.takeError();
      else if (*error)
        errors.push_back({op, **error});
    };
    llvm::TypeSwitch<Operation *>(op).Case<ExpertsOp, ExpertFFNOp, SharedOp, GroupedMatmulOp>(add);
    return failure ? WalkResult::interrupt() : WalkResult::advance();
  });
  if (walked.wasInterrupted())
    return failure;
  return errors;
}
