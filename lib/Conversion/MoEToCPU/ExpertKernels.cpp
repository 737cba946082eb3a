// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// moe.experts and moe.logits: routing lists, row packing, panel products, combine.

#include "BF16.h"
#include "IntegerProduct.h"
#include "TileProduct.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/bit.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

namespace {

constexpr int64_t kDynamic = ShapedType::kDynamic;

MemRefType bufferType(ArrayRef<int64_t> shape, Type element) {
  return MemRefType::get(shape, element);
}
Type i32Type(MLIRContext *context) { return IntegerType::get(context, 32); }
Type f32Type(MLIRContext *context) { return Float32Type::get(context); }

/// Columns `blocks` has: first row, first padded row, number of rows.
enum BlockField { FirstRow = 0, FirstPaddedRow = 1, NumRows = 2 };

Value loadIndex(KernelBuilder &b, Value memref, ValueRange indices) {
  return b.loadIndex(memref, indices);
}

/// A block of `rows` rows is stored with the next larger number that there is code for.
Value roundUpRows(KernelBuilder &b, Value rows) {
  SmallVector<int64_t> variants = b.target.blockRows();
  Value result = b.index(variants.back());
  for (int64_t variant : llvm::reverse(ArrayRef(variants).drop_back())) {
    Value fits =
        arith::CmpIOp::create(b, b.getLoc(), arith::CmpIPredicate::ule, rows, b.index(variant));
    result = arith::SelectOp::create(b, b.getLoc(), fits, b.index(variant), result);
  }
  return result;
}

/// A panel of a weight: number `panel` of `expert` in `weight`.
struct Panel {
  PackedWeight weight;
  Value expert, panel;
  Value biasExpert = expert, biasPanel = panel;
};

/// Packs panel `panel` of `expert` of an unpacked weight into row `to` of its scratch.
Panel emitPackPanel(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel,
                    Value to);

/// Makes floats of panel `panel` of `expert` of a quantized weight in the worker's scratch.
Panel emitFloatPanel(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel);

/// Makes `work(panel, number of the panel, block)` of every task of a grouped product:
/// tasks are (active expert × panel group), within a task panels outermost, so that a
/// panel stays in cache while the expert's row blocks pass by.
void emitGroupedTasks(KernelBuilder &b, const PackedWeight &weight, Value active, Value first,
                      Value counts, function_ref<void(const Panel &, Value, Value)> work) {
  int64_t group = panelsPerTask(weight, b.target), panels = weight.numPanels();
  int64_t groups = llvm::divideCeil(panels, group);
  Value numActive = loadIndex(b, counts, b.index(0));
  b.parallelLoop(b.mul(numActive, groups), [&](Value task) {
    Value slot = arith::DivUIOp::create(b, b.getLoc(), task, b.index(groups));
    Value part = arith::RemUIOp::create(b, b.getLoc(), task, b.index(groups));
    Value expert = loadIndex(b, active, slot);
    Value firstBlock = loadIndex(b, first, slot), lastBlock = loadIndex(b, first, b.add(slot, 1));
    Value firstPanel = b.mul(part, group);
    Value lastPanel = b.min(b.add(firstPanel, group), b.index(panels));
    b.forLoop(firstPanel, lastPanel, b.index(1), [&](Value number) {
      auto workOnAll = [&](const Panel &panel) {
        b.forLoop(firstBlock, lastBlock, b.index(1),
                  [&](Value block) { work(panel, number, block); });
        return SmallVector<Value>();
      };
      if (weight.raw)
        workOnAll(emitPackPanel(b, weight, expert, number, WorkerIdOp::create(b, b.getLoc())));
      else if (weight.floats)
        // Codes become floats once for all blocks where there are several.
        b.branch(
            b.less(b.add(firstBlock, 1), lastBlock),
            [&] { return workOnAll(emitFloatPanel(b, weight, expert, number)); },
            [&] {
              return workOnAll({weight, expert, number});
            });
      else
        workOnAll({weight, expert, number});
    });
  });
}

/// Copies row `source` of x, times `scale` if there is one, to row `row` of `packed`.
void emitPackRow(KernelBuilder &b, Value x, Value source, Value packed, Value row, int64_t columns,
                 RowFormat format, Value scale = {}) {
  int64_t stride = format.stride(columns);
  Value start = b.mul(row, stride);
  if (format.operands == Operands::Int8)
    return emitIntegerRow(b, {x, source, scale}, packed, start, {columns, format.block});
  b.forVectors(columns, [&](Value k, int64_t count) {
    Value values = b.loadVectorPart(x, {source, k}, count, 0.0);
    if (scale)
      values = b.mulf(values, b.splat(scale));
    b.storeVector(values, packed, b.add(start, k), count);
  });
  // The other half of the last pair counts.
  if (format.operands == Operands::BF16 && stride > columns)
    b.storeF32(b.f32(0.0), packed, b.add(start, columns));
}

/// What the codes of a range of columns with one scale have in common: vectors for the
/// columns of the panel. Nothing for floats.
struct Coding {
  SmallVector<Value> scale; ///< f32
  SmallVector<Value> zero;  ///< f32, where codes become floats through a table; else i32
  /// Whether codes of a table that are not a lane's lowest bits become floats without it, which
  /// takes three registers more.
  bool adds = false;
};

/// Whether a code of 4 bits becomes a float through a table in a register, which
/// AVX-512 looks up in one instruction, whatever the other bits of the lane.
bool usesTable(const KernelBuilder &b, const PackedWeight &weight) {
  return weight.bits == 4 && b.target.lanes == 16;
}

Coding emitCoding(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel,
                  Value column, bool adds) {
  Coding coding;
  coding.adds = adds && usesTable(b, weight);
  if (!weight.bits)
    return coding;
  int64_t lanes = b.target.lanes;
  Value block = arith::DivUIOp::create(b, b.getLoc(), column, b.index(weight.block));
  for (int64_t v = 0; v < b.target.panelVectors(); ++v) {
    SmallVector<Value> at = {expert, panel, block, b.index(v * lanes)};
    coding.scale.push_back(b.loadVector(weight.scales, at));
    if (!weight.zeroPoints)
      continue;
    if (usesTable(b, weight)) {
      coding.zero.push_back(b.loadVector(weight.zeroPoints, at));
      continue;
    }
    Value bytes =
        vector::LoadOp::create(b, b.getLoc(), b.vectorType(b.getI8Type()), weight.zeroPoints, at);
    coding.zero.push_back(
        arith::ExtUIOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), bytes));
  }
  return coding;
}

/// Entry (index mod 16) of a table of 16 floats, in each lane.
Value emitLookUp(KernelBuilder &b, Value table, Value indices) {
  return LLVM::CallIntrinsicOp::create(b, b.getLoc(), Type(b.vectorType()),
                                       b.getStringAttr("llvm.x86.avx512.permvar.sf.512"),
                                       ValueRange{table, indices})
      .getResults();
}

/// Fields from bit `firstBit` on, exactly, as f32 without their zero points: as the last bits of
/// the fraction of 2^(23 - firstBit), which is then subtracted. No shift, and no port of the
/// shuffles, which look-ups need.
Value emitAdded(KernelBuilder &b, const PackedWeight &weight, const Coding &coding, int64_t v,
                Value word, int64_t firstBit) {
  int64_t exponent = 23 - firstBit, mask = ((int64_t(1) << weight.bits) - 1) << firstBit;
  double base = double(int64_t(1) << exponent);
  Value field = arith::AndIOp::create(b, b.getLoc(), word, b.splatI32(mask));
  Value bits = arith::OrIOp::create(b, b.getLoc(), field, b.splatI32((127 + exponent) << 23));
  Value zero = b.splat(base + double(int64_t(1) << (weight.bits - 1)));
  if (weight.zeroPoints)
    zero = b.addf(coding.zero[v], b.splat(base));
  return b.subf(b.bitcast(bits, b.getF32Type()), zero);
}

/// Codes without their zero points, exactly, as f32. `word` has the code from bit
/// `firstBit` on, and other fields, or zeros, around it.
Value emitCentered(KernelBuilder &b, const PackedWeight &weight, const Coding &coding, int64_t v,
                   Value word, int64_t firstBit) {
  int64_t middle = int64_t(1) << (weight.bits - 1);
  if (firstBit > 0 && coding.adds)
    return emitAdded(b, weight, coding, v, word, firstBit);
  if (firstBit > 0)
    word = arith::ShRUIOp::create(b, b.getLoc(), word, b.splatI32(firstBit));
  if (usesTable(b, weight)) {
    SmallVector<float> entries;
    for (int64_t code = 0; code < 16; ++code)
      entries.push_back(weight.zeroPoints ? code : code - middle);
    Value table = arith::ConstantOp::create(
        b, b.getLoc(), DenseElementsAttr::get(b.vectorType(), ArrayRef<float>(entries)));
    Value value = emitLookUp(b, table, word);
    return weight.zeroPoints ? b.subf(value, coding.zero[v]) : value;
  }
  if (weight.bits < 8)
    word = arith::AndIOp::create(b, b.getLoc(), word, b.splatI32(2 * middle - 1));
  word = arith::SubIOp::create(b, b.getLoc(), word,
                               weight.zeroPoints ? coding.zero[v] : b.splatI32(middle));
  // Small numbers: the signed conversion is one instruction on every ISA.
  return arith::SIToFPOp::create(b, b.getLoc(), b.vectorType(), word);
}

/// bf16 [2·lanes]: two rows of K of the columns of vector `v`, side by side.
Value emitPairs(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel, Value step,
                int64_t v) {
  int64_t width = 2 * b.target.lanes;
  auto type = VectorType::get({width}, b.getBF16Type());
  return vector::LoadOp::create(b, b.getLoc(), type, weight.panels,
                                ValueRange{expert, panel, step, b.index(v * width)});
}

/// One step of a panel product: the panel row(s) at `step` as f32 vectors, codes without
/// zero points and scales; rowsPerStep() of them.
SmallVector<SmallVector<Value>> emitPanelRows(KernelBuilder &b, const PackedWeight &weight,
                                              const Coding &coding, Value expert, Value panel,
                                              Value step) {
  int64_t lanes = b.target.lanes, vectors = b.target.panelVectors();
  SmallVector<SmallVector<Value>> rows(weight.rowsPerStep());
  auto column = [&](int64_t v) {
    return SmallVector<Value>{expert, panel, step, b.index(v * lanes)};
  };
  if (weight.pairs) {
    for (int64_t v = 0; v < vectors; ++v) {
      Value words = b.bitcast(emitPairs(b, weight, expert, panel, step, v), b.getI32Type());
      Value low = arith::ShLIOp::create(b, b.getLoc(), words, b.splatI32(16));
      Value high = arith::AndIOp::create(b, b.getLoc(), words, b.splatI32(~0xffff));
      rows[0].push_back(b.bitcast(low, b.getF32Type()));
      rows[1].push_back(b.bitcast(high, b.getF32Type()));
    }
    return rows;
  }
  if (weight.bits == 0) {
    for (int64_t v = 0; v < vectors; ++v)
      rows[0].push_back(b.loadVector(weight.panels, column(v)));
    return rows;
  }
  // A byte of 8 bits is a column. Else byte c holds columns c and c + 16; field f of a
  // byte is row f / 2, half f % 2.
  int64_t halves = weight.bits == 8 ? 1 : 2, perHalf = vectors / halves;
  SmallVector<Value> words;
  for (int64_t v = 0; v < perHalf; ++v) {
    Value bytes = vector::LoadOp::create(b, b.getLoc(), b.vectorType(b.getI8Type()), weight.panels,
                                         column(v));
    words.push_back(arith::ExtUIOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), bytes));
  }
  for (int64_t field = 0, fields = halves * rows.size(); field < fields; ++field)
    for (Value word : words) {
      SmallVector<Value> &row = rows[field / halves];
      row.push_back(emitCentered(b, weight, coding, row.size(), word, field * weight.bits));
    }
  return rows;
}

/// acc[r][v] += a[r, k] · w[v] for one row of K; `at` is the place of a[0, k].
void emitAccumulate(KernelBuilder &b, Value a, Value at, int64_t stride, int64_t rows,
                    ArrayRef<Value> w, MutableArrayRef<Value> acc) {
  for (int64_t r = 0; r < rows; ++r) {
    Value element = b.splat(b.load(a, b.add(at, r * stride)));
    for (auto [v, panelRow] : llvm::enumerate(w)) {
      Value &sum = acc[r * w.size() + v];
      sum = b.fma(element, panelRow, sum);
    }
  }
}

} // namespace

void mlir::moe::cpu::emitPrefetch(KernelBuilder &b, Value panels, Value expert, Value panel,
                                  Value row, int64_t count) {
  auto type = cast<MemRefType>(panels.getType());
  int64_t columns = type.getDimSize(3);
  int64_t perLine = kLineBytes * 8 / type.getElementTypeBitWidth();
  for (int64_t element = 0; element < count * columns; element += perLine)
    memref::PrefetchOp::create(
        b, b.getLoc(), panels,
        ValueRange{expert, panel, b.add(row, element / columns), b.index(element % columns)},
        /*isWrite=*/false, /*localityHint=*/2, /*isDataCache=*/true);
}

//===----------------------------------------------------------------------===//
// PackedWeight
//===----------------------------------------------------------------------===//

SmallVector<Value> PackedWeight::operands() const {
  SmallVector<Value> values = {panels};
  for (Value value : {scales, zeroPoints, bias, raw, rawGate, rawBias, rawGateBias, floats})
    if (value)
      values.push_back(value);
  return values;
}

PackedWeight PackedWeight::withArguments(Block::BlockArgListType arguments) const {
  PackedWeight result = *this;
  unsigned next = 0;
  result.panels = arguments[next++];
  for (Value *value : {&result.scales, &result.zeroPoints, &result.bias, &result.raw,
                       &result.rawGate, &result.rawBias, &result.rawGateBias, &result.floats})
    if (*value)
      *value = arguments[next++];
  return result;
}

std::string PackedWeight::key() const {
  std::string text;
  llvm::raw_string_ostream os(text);
  auto element = [](Value v) { return typeName(cast<MemRefType>(v.getType()).getElementType()); };
  os << experts << "x" << n << "x" << k << "_" << RowFormat{productOf}.key();
  if (bits)
    os << "int" << bits << "_block" << block << "_" << element(scales) << (zeroPoints ? "_zp" : "");
  else
    os << element(panels) << (pairs ? "_pairs" : "");
  if (raw) {
    os << "_raw_" << stringifyLayout(layout) << "_" << stringifyGlu(glu);
    for (Value value : {raw, rawGate, rawBias, rawGateBias})
      os << "_" << (value ? element(value) : "none");
  } else if (bias) {
    os << "_bias_" << element(bias);
  }
  return text;
}

int64_t mlir::moe::cpu::panelsPerTask(const PackedWeight &weight, KernelTarget target) {
  int64_t bits = weight.bits ? weight.bits
                             : cast<MemRefType>(weight.panels.getType()).getElementTypeBitWidth();
  int64_t panelBytes = std::max<int64_t>(1, weight.k * kPanelWidth * bits / 8);
  return std::min<int64_t>(weight.numPanels(), llvm::divideCeil(target.taskBytes(), panelBytes));
}

int64_t PackedWeight::numPanels() const {
  if (!raw)
    return cast<MemRefType>(panels.getType()).getDimSize(1);
  return glu == Glu::None ? llvm::divideCeil(n, kPanelWidth)
                          : llvm::divideCeil(n / 2, kPanelWidth / 2);
}

Type RowFormat::getElementType(MLIRContext *context) const {
  switch (operands) {
  case Operands::F32:
    return Float32Type::get(context);
  case Operands::BF16:
    return BFloat16Type::get(context);
  case Operands::Int8:
    return IntegerType::get(context, 8);
  }
  llvm_unreachable("unknown operands");
}

int64_t RowFormat::stride(int64_t columns) const {
  constexpr int64_t perLine = kLineBytes / sizeof(float);
  switch (operands) {
  case Operands::F32:
    return (llvm::divideCeil(columns, perLine) | 1) * perLine;
  case Operands::BF16:
    return llvm::alignTo(columns, 2);
  case Operands::Int8:
    return IntegerRow{columns, block}.stride();
  }
  llvm_unreachable("unknown operands");
}

std::string RowFormat::key() const {
  switch (operands) {
  case Operands::F32:
    return "";
  case Operands::BF16:
    return "rounded_";
  case Operands::Int8:
    return block ? "int8_rows" + std::to_string(block) + "_" : "int8_rows_";
  }
  llvm_unreachable("unknown operands");
}

int64_t mlir::moe::cpu::hiddenColumns(const PackedWeight &up, ActivationAttr activation) {
  return up.numPanels() * (activation.getGlu() == Glu::None ? kPanelWidth : kPanelWidth / 2);
}

namespace {
/// The product of `rows` rows of `a` and a panel. Sums are over chunks of K, which are
/// then added in order: the rounding error of one long chain grows with K. Several chunks
/// may be under way side by side, as chains; that changes no result.
struct PanelProduct {
  KernelBuilder &b;
  const PackedWeight &weight;
  Value expert, panel, a, aBase;
  int64_t stride, rows;

  SmallVector<Value> emit();

private:
  int64_t numAccumulators() { return rows * b.target.panelVectors(); }
  bool roundsToBF16() { return weight.productOf == Operands::BF16; }
  /// Whether making floats of codes takes as long as the multiply-adds of a step, or longer.
  bool isBoundByCodes() { return numAccumulators() <= b.target.minAccumulators(); }
  bool scalesSums();
  int64_t numChains();
  SmallVector<Value> zeros(int64_t chains) {
    return SmallVector<Value>(chains * numAccumulators(), b.splat(0.0));
  }
  SmallVector<Value> range(ArrayRef<Value> begins, Value length, Value ahead, ValueRange init);
  SmallVector<SmallVector<Value>> panelRows(const Coding &coding, Value k);
  SmallVector<Value> roundedPairs(const Coding &coding, Value k);
  SmallVector<Value> tiles();
  SmallVector<Value> chunks(ArrayRef<Value> begins, Value length);
  SmallVector<Value> overChunks(Value begin, Value end, int64_t chains, ValueRange init);
};
} // namespace

/// Whether the sum of a range with one scale is made first, and multiplied with the scale
/// then: saves a multiplication of every weight, but takes twice the accumulators.
bool PanelProduct::scalesSums() {
  return weight.bits && !roundsToBF16() && 2 * numAccumulators() <= b.target.maxAccumulators();
}

/// Few sums alone cannot hide the latency of a multiply-add. That matters where memory
/// could deliver faster: weights of less than 16 bits.
int64_t PanelProduct::numChains() {
  if (!weight.bits)
    return 1;
  int64_t wanted = llvm::divideCeil(b.target.minAccumulators(), numAccumulators());
  int64_t registers = numAccumulators() * (scalesSums() ? 2 : 1);
  int64_t fitting = std::max<int64_t>(1, b.target.maxAccumulators() / registers);
  return std::min({wanted, fitting, std::max<int64_t>(1, weight.k / kColumnsPerChunk)});
}

/// The panel's rows from row k of K on that a step takes, times their scales unless these come
/// later.
SmallVector<SmallVector<Value>> PanelProduct::panelRows(const Coding &coding, Value k) {
  Value step = weight.rowsPerStep() == 1 ? k : b.shiftRight(k, 1);
  auto rows = emitPanelRows(b, weight, coding, expert, panel, step);
  if (weight.bits && !scalesSums())
    for (SmallVector<Value> &row : rows)
      for (auto [v, value] : llvm::enumerate(row))
        value = b.mulf(value, coding.scale[v]);
  return rows;
}

/// Rows k and k + 1 of the panel in bf16, side by side.
SmallVector<Value> PanelProduct::roundedPairs(const Coding &coding, Value k) {
  SmallVector<Value> pairs;
  if (weight.pairs) {
    for (int64_t v = 0; v < b.target.panelVectors(); ++v)
      pairs.push_back(emitPairs(b, weight, expert, panel, b.shiftRight(k, 1), v));
    return pairs;
  }
  auto rows = panelRows(coding, k);
  if (rows.size() == 1) {
    // The row behind the last of an odd number is zero.
    Value next = b.add(k, 1), last = b.index(weight.k - 1);
    rows.push_back(panelRows(coding, b.min(next, last)).front());
    if (weight.k % 2 != 0)
      for (Value &value : rows[1])
        value = b.select(b.less(last, next), b.splat(0.0), value);
  }
  for (auto [low, high] : llvm::zip_equal(rows[0], rows[1]))
    pairs.push_back(emitRoundedPairs(b, low, high));
  return pairs;
}

/// init + a · w over `length` columns from each of `begins` on; those of one range share
/// their scale. From `ahead` on are the columns that are used some time later.
SmallVector<Value> PanelProduct::range(ArrayRef<Value> begins, Value length, Value ahead,
                                       ValueRange init) {
  int64_t chains = begins.size();
  SmallVector<Coding> codings;
  for (Value begin : begins)
    codings.push_back(emitCoding(b, weight, expert, panel, begin, /*adds=*/isBoundByCodes()));
  if (weight.bits)
    emitPrefetch(b, weight.scales, expert, panel,
                 arith::DivUIOp::create(b, b.getLoc(), ahead, b.index(weight.block)), chains);
  int64_t columnsPerStep = roundsToBF16() ? 2 : weight.rowsPerStep(),
          vectors = b.target.panelVectors();
  SmallVector<Value> start = scalesSums() ? zeros(begins.size()) : SmallVector<Value>(init);
  SmallVector<Value> sums = b.forLoop(
      b.index(0), length, b.index(columnsPerStep), start, [&](Value i, ValueRange carried) {
        SmallVector<Value> acc(carried);
        auto rowOf = [&](Value k) { return weight.rowsPerStep() == 1 ? k : b.shiftRight(k, 1); };
        if (!weight.isCached)
          emitPrefetch(b, weight.panels, expert, panel, rowOf(b.add(ahead, b.mul(i, chains))),
                       chains * columnsPerStep / weight.rowsPerStep());
        for (auto [chain, begin] : llvm::enumerate(begins)) {
          Value k = b.add(begin, i);
          auto sums = MutableArrayRef(acc).slice(chain * numAccumulators(), numAccumulators());
          if (roundsToBF16()) {
            emitAccumulatePairs(b, a, b.add(aBase, k), stride, rows,
                                roundedPairs(codings[chain], k), sums);
            continue;
          }
          for (auto [n, row] : llvm::enumerate(panelRows(codings[chain], k)))
            emitAccumulate(b, a, b.add(aBase, b.add(k, int64_t(n))), stride, rows, row, sums);
        }
        return acc;
      });
  if (!scalesSums())
    return sums;
  for (auto [i, sum] : llvm::enumerate(sums)) {
    Value scale = codings[i / numAccumulators()].scale[i % vectors];
    sum = b.fma(sum, scale, init[i]);
  }
  return sums;
}

/// The sums over one chunk of `length` columns from each of `begins` on.
SmallVector<Value> PanelProduct::chunks(ArrayRef<Value> begins, Value length) {
  int64_t chains = begins.size();
  SmallVector<Value> init = zeros(chains);
  // Chains go through a part of the panel at once: the one after it is asked for in order.
  auto type = cast<MemRefType>(weight.panels.getType());
  int64_t distance = b.target.prefetchBytes() * 8 /
                     (kPanelWidth * (weight.bits ? weight.bits : type.getElementTypeBitWidth()));
  Value ahead = b.add(begins[0], chains > 1 ? chains * kColumnsPerChunk : distance);
  if (!weight.bits || weight.block >= kColumnsPerChunk)
    return range(begins, length, ahead, init);
  return b.forLoop(
      b.index(0), length, b.index(weight.block), init, [&](Value first, ValueRange carried) {
        SmallVector<Value> starts;
        for (Value begin : begins)
          starts.push_back(b.add(begin, first));
        return range(starts, b.index(weight.block), b.add(ahead, b.mul(first, chains)), carried);
      });
}

/// init + the sums of the chunks of [begin, end), `chains` of them at a time.
SmallVector<Value> PanelProduct::overChunks(Value begin, Value end, int64_t chains,
                                            ValueRange init) {
  Value step = b.index(chains * kColumnsPerChunk);
  return b.forLoop(begin, end, step, init, [&](Value k, ValueRange carried) {
    SmallVector<Value> begins, totals(carried);
    for (int64_t chain = 0; chain < chains; ++chain)
      begins.push_back(b.add(k, chain * kColumnsPerChunk));
    Value length = b.index(kColumnsPerChunk);
    if (chains == 1 && weight.k % kColumnsPerChunk != 0)
      length = b.min(length, b.sub(end, k));
    SmallVector<Value> sums = chunks(begins, length);
    for (auto [i, sum] : llvm::enumerate(sums)) {
      Value &total = totals[i % totals.size()];
      total = b.addf(total, sum);
    }
    return totals;
  });
}

/// By tiles, from the panel itself or, where it is not of bf16, from a part of it that is made.
SmallVector<Value> PanelProduct::tiles() {
  auto scratchType = MemRefType::get({kTileColumns / 2, 2 * kPanelWidth}, b.getBF16Type());
  Value scratch;
  if (!weight.pairs)
    scratch = memref::AllocaOp::create(b, b.getLoc(), scratchType, b.getI64IntegerAttr(64));
  auto findPanel = [&](Value k, int64_t pairs) -> std::pair<Value, SmallVector<Value>> {
    if (weight.pairs)
      return {weight.panels, {expert, panel, b.shiftRight(k, 1)}};
    b.forLoop(b.index(pairs), [&](Value pair) {
      Value column = b.add(k, b.mul(pair, 2));
      Coding coding = emitCoding(b, weight, expert, panel, column, /*adds=*/true);
      for (auto [v, vector] : llvm::enumerate(roundedPairs(coding, column)))
        vector::StoreOp::create(b, b.getLoc(), vector, scratch,
                                ValueRange{pair, b.index(v * 2 * b.target.lanes)});
    });
    return {scratch, {b.index(0)}};
  };
  return emitTileProduct(b, {a, aBase, stride, rows, weight.k, findPanel});
}

SmallVector<Value> PanelProduct::emit() {
  if (weight.productOf == Operands::Int8)
    return emitIntegerProduct(b, weight, {expert, panel, a, aBase, stride, rows});
  if (roundsToBF16() && b.target.tiles != Tiles::None && rows % kTileRows == 0)
    return tiles();
  if (weight.k <= kColumnsPerChunk)
    return chunks({b.index(0)}, b.index(weight.k));
  int64_t chains = numChains();
  int64_t together = llvm::alignDown(weight.k, chains * kColumnsPerChunk);
  if (chains == 1)
    together = weight.k;
  SmallVector<Value> totals = overChunks(b.index(0), b.index(together), chains, zeros(1));
  if (together == weight.k)
    return totals;
  return overChunks(b.index(together), b.index(weight.k), 1, totals);
}

SmallVector<Value> mlir::moe::cpu::emitPanelProduct(KernelBuilder &b, const PackedWeight &weight,
                                                    Value expert, Value panel, Value a, Value aBase,
                                                    int64_t stride, int64_t rows) {
  return PanelProduct{b, weight, expert, panel, a, aBase, stride, rows}.emit();
}

/// Adds the bias of a panel's columns to every row.
static void emitBias(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel,
                     MutableArrayRef<Value> acc) {
  if (!weight.bias)
    return;
  int64_t vectors = b.target.panelVectors();
  for (int64_t v = 0; v < vectors; ++v) {
    Value bias =
        b.loadVector(weight.bias, {expert, panel, b.index(0), b.index(v * b.target.lanes)});
    for (size_t i = v; i < acc.size(); i += vectors)
      acc[i] = b.addf(acc[i], bias);
  }
}

//===----------------------------------------------------------------------===//
// Unpacked weights
//===----------------------------------------------------------------------===//

/// Where rows of a panel come from: columns `first` … of the panel are the rows
/// row(0), row(1), … of `weight` and `bias`, `limit` in all.
struct PanelPart {
  Value weight, bias;
  int64_t first, width, limit, stride, offset;
};

static SmallVector<PanelPart> panelParts(const PackedWeight &weight) {
  int64_t n = weight.n, half = kPanelWidth / 2;
  switch (weight.glu) {
  case Glu::None:
    return {{weight.raw, weight.rawBias, 0, kPanelWidth, n, 1, 0}};
  case Glu::Interleaved:
    return {{weight.raw, weight.rawBias, 0, half, n / 2, 2, 0},
            {weight.raw, weight.rawBias, half, half, n / 2, 2, 1}};
  case Glu::Concat:
    return {{weight.raw, weight.rawBias, 0, half, n / 2, 1, 0},
            {weight.raw, weight.rawBias, half, half, n / 2, 1, n / 2}};
  case Glu::Separate:
    return {{weight.rawGate, weight.rawGateBias, 0, half, n / 2, 1, 0},
            {weight.raw, weight.rawBias, half, half, n / 2, 1, 0}};
  }
  llvm_unreachable("unknown glu");
}

/// Element (row, k) of expert `e`; a weight of rank 2 has one expert.
static Value loadRaw(KernelBuilder &b, Value weight, Layout layout, Value e, Value row, Value k) {
  SmallVector<Value> at = {row, k};
  if (layout == Layout::InOut)
    std::swap(at[0], at[1]);
  if (cast<MemRefType>(weight.getType()).getRank() == 3)
    at.insert(at.begin(), e);
  return b.loadF32(weight, at);
}

static void emitPackPart(KernelBuilder &b, const PackedWeight &weight, const PanelPart &part,
                         Value e, Value panel, Value to) {
  Value zero = b.index(0), first = b.mul(panel, part.width);
  Value count = b.min(b.sub(b.index(part.limit), first), b.index(part.width));
  auto row = [&](Value c) { return b.add(b.mul(b.add(first, c), part.stride), part.offset); };
  auto column = [&](Value c) { return b.add(c, part.first); };
  // Runs along K of a line of each source row, so that the lines of the scratch stay in cache in
  // between.
  constexpr int64_t kRun = kLineBytes / sizeof(float);
  b.forLoop(zero, b.index(weight.k), b.index(kRun), [&](Value begin) {
    Value end = b.min(b.add(begin, kRun), b.index(weight.k));
    b.forLoop(count, [&](Value c) {
      b.forLoop(begin, end, b.index(1), [&](Value k) {
        Value value = loadRaw(b, part.weight, weight.layout, e, row(c), k);
        b.store(value, weight.panels, {to, zero, k, column(c)});
      });
    });
    b.forLoop(count, b.index(part.width), b.index(1), [&](Value c) {
      b.forLoop(begin, end, b.index(1), [&](Value k) {
        b.store(b.f32(0.0), weight.panels, {to, zero, k, column(c)});
      });
    });
  });
  if (!weight.bias)
    return;
  b.forLoop(b.index(part.width), [&](Value c) {
    Value value = b.f32(0.0);
    if (part.bias)
      value = b.branch(
          b.less(c, count),
          [&] {
            SmallVector<Value> at = {row(c)};
            if (cast<MemRefType>(part.bias.getType()).getRank() == 2)
              at.insert(at.begin(), e);
            return b.loadF32(part.bias, at);
          },
          [&] { return b.f32(0.0); });
    b.store(value, weight.bias, {to, zero, zero, column(c)});
  });
}

namespace {
Panel emitPackPanel(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel,
                    Value to) {
  for (const PanelPart &part : panelParts(weight))
    emitPackPart(b, weight, part, expert, panel, to);
  PackedWeight packed = weight;
  packed.raw = Value();
  packed.isCached = true;
  return {packed, to, b.index(0)};
}

Panel emitFloatPanel(KernelBuilder &b, const PackedWeight &weight, Value expert, Value panel) {
  Value to = WorkerIdOp::create(b, b.getLoc()), zero = b.index(0);
  int64_t perStep = weight.rowsPerStep();
  int64_t distance = b.target.prefetchBytes() * 8 / (kPanelWidth * weight.bits);
  b.forLoop(zero, b.index(weight.k), b.index(weight.block), [&](Value first) {
    Coding coding = emitCoding(b, weight, expert, panel, first, /*adds=*/true);
    b.forLoop(zero, b.index(weight.block), b.index(perStep), [&](Value i) {
      Value k = b.add(first, i);
      emitPrefetch(b, weight.panels, expert, panel, b.shiftRight(b.add(k, distance), perStep / 2),
                   1);
      auto rows = emitPanelRows(b, weight, coding, expert, panel, b.shiftRight(k, perStep / 2));
      for (auto [n, row] : llvm::enumerate(rows))
        for (auto [v, value] : llvm::enumerate(row))
          b.storeVector(b.mulf(value, coding.scale[v]), weight.floats,
                        {to, zero, b.add(k, int64_t(n)), b.index(v * b.target.lanes)},
                        b.target.lanes);
    });
  });
  PackedWeight floats = weight;
  floats.panels = weight.floats;
  floats.scales = floats.zeroPoints = floats.floats = Value();
  floats.bits = floats.block = 0;
  floats.isCached = true;
  return {floats, to, zero, expert, panel};
}
} // namespace

//===----------------------------------------------------------------------===//
// Routing lists
//===----------------------------------------------------------------------===//

func::FuncOp mlir::moe::cpu::getRoutingListsKernel(ModuleOp module, int64_t experts, int64_t k,
                                                   bool full, KernelTarget target) {
  MLIRContext *context = module.getContext();
  Type i32 = i32Type(context);
  SmallVector<Type> types = {bufferType({kDynamic, k}, i32), bufferType({experts}, i32),
                             bufferType({experts + 1}, i32), bufferType({kDynamic, 3}, i32),
                             bufferType({kDynamic}, i32),    bufferType({kDynamic, k}, i32),
                             bufferType({2, experts}, i32),  bufferType({2}, i32)};
  std::string name =
      ("moec_routing_lists_" + Twine(experts) + "_" + Twine(k) + (full ? "" : "_partial")).str();
  func::FuncOp kernel;
  getOrCreateKernel(module, name, types, target, kernel, [&](KernelBuilder &b, auto args) {
    Value chosen = args[0];
    RoutingLists lists = {args[1], args[2], args[3], args[4], args[5], args[6], args[7]};
    Value zero = b.index(0), one = b.index(1), maxRows = b.index(target.blockRows().back());
    Value tokens = memref::DimOp::create(b, b.getLoc(), chosen, zero);

    // Rows of each expert.
    b.forLoop(b.index(experts), [&](Value e) { b.store(b.i32(0), lists.cursor, {zero, e}); });
    auto forRoutes = [&](function_ref<void(Value, Value, Value)> body) {
      b.forLoop(tokens, [&](Value token) {
        b.forLoop(b.index(k), [&](Value slot) {
          Value e = loadIndex(b, chosen, {token, slot});
          if (full)
            body(token, slot, e);
          else
            b.ifThen(b.isValid(e), [&] { body(token, slot, e); });
        });
      });
    };
    forRoutes([&](Value, Value, Value e) {
      Value count = b.load(lists.cursor, {zero, e});
      b.store(b.add(count, b.i32(1)), lists.cursor, {zero, e});
    });

    // Active experts, their blocks, and where their rows start.
    auto atLeastOne = [&](Value count) {
      return arith::CmpIOp::create(b, b.getLoc(), arith::CmpIPredicate::ne, count, zero)
          .getResult();
    };
    SmallVector<Value> totals = b.forLoop(
        zero, b.index(experts), one, {zero, zero, zero, zero},
        [&](Value e, ValueRange carried) -> SmallVector<Value> {
          Value count = loadIndex(b, lists.cursor, {zero, e});
          auto branch = scf::IfOp::create(b, b.getLoc(), carried.getTypes(), atLeastOne(count),
                                          /*withElseRegion=*/true);
          OpBuilder::InsertionGuard guard(b);
          b.setInsertionPointToStart(branch.elseBlock());
          scf::YieldOp::create(b, b.getLoc(), carried);
          b.setInsertionPointToStart(branch.thenBlock());
          Value active = carried[0], block = carried[1], row = carried[2], padded = carried[3];
          b.store(b.toI32(e), lists.active, active);
          b.store(b.toI32(block), lists.first, active);
          // All blocks of an expert but its last are full, so that its padded rows are
          // its rows shifted by a constant.
          b.store(b.toI32(b.sub(padded, row)), lists.cursor, {zero, e});
          b.store(b.toI32(row), lists.cursor, {one, e});
          Value end = b.add(row, count);
          SmallVector<Value> after =
              b.forLoop(row, end, maxRows, {block, padded},
                        [&](Value firstRow, ValueRange inner) -> SmallVector<Value> {
                          Value rows = b.min(b.sub(end, firstRow), maxRows);
                          Value values[] = {firstRow, inner[1], rows};
                          for (auto [field, value] : llvm::enumerate(values))
                            b.store(b.toI32(value), lists.blocks, {inner[0], b.index(field)});
                          return {b.add(inner[0], one), b.add(inner[1], roundUpRows(b, rows))};
                        });
          scf::YieldOp::create(b, b.getLoc(),
                               ValueRange{b.add(active, one), after[0], end, after[1]});
          b.setInsertionPointAfter(branch);
          return SmallVector<Value>(branch.getResults());
        });
    b.store(b.toI32(totals[1]), lists.first, totals[0]);
    b.store(b.toI32(totals[0]), lists.counts, zero);
    b.store(b.toI32(totals[1]), lists.counts, one);

    // Place the rows: token order within an expert.
    forRoutes([&](Value token, Value slot, Value e) {
      Value row = b.load(lists.cursor, {one, e});
      b.store(b.add(row, b.i32(1)), lists.cursor, {one, e});
      b.store(b.toI32(token), lists.rowToken, b.toIndex(row));
      Value shift = b.load(lists.cursor, {zero, e});
      b.store(b.add(row, shift), lists.position, {token, slot});
    });
  });
  return kernel;
}

//===----------------------------------------------------------------------===//
// Packing, products, combine
//===----------------------------------------------------------------------===//

func::FuncOp mlir::moe::cpu::getPackRowsKernel(ModuleOp module, MemRefType x, bool scaled,
                                               RowFormat format, KernelTarget target) {
  MLIRContext *context = module.getContext();
  Type i32 = i32Type(context);
  int64_t columns = x.getDimSize(1);
  SmallVector<Type> types = {x, bufferType({kDynamic, 3}, i32), bufferType({kDynamic}, i32),
                             bufferType({2}, i32),
                             bufferType({kDynamic}, format.getElementType(context))};
  if (scaled)
    types.push_back(bufferType({kDynamic}, f32Type(context)));
  std::string name = ("moec_pack_rows_" + Twine(columns) + "_" + typeName(x.getElementType()) +
                      (scaled ? "_scaled" : "") + "_" + format.key())
                         .str();
  func::FuncOp kernel;
  getOrCreateKernel(module, name, types, target, kernel, [&](KernelBuilder &b, auto args) {
    Value x = args[0], blocks = args[1], rowToken = args[2], counts = args[3], packed = args[4];
    b.parallelLoop(loadIndex(b, counts, b.index(1)), [&](Value block) {
      Value firstRow = loadIndex(b, blocks, {block, b.index(FirstRow)});
      Value padded = loadIndex(b, blocks, {block, b.index(FirstPaddedRow)});
      Value rows = loadIndex(b, blocks, {block, b.index(NumRows)});
      Value stored = roundUpRows(b, rows), last = b.sub(rows, b.index(1));
      // Rows past the last repeat it: their products are never read.
      b.forLoop(stored, [&](Value r) {
        Value row = b.add(firstRow, b.min(r, last));
        Value scale = scaled ? b.load(args[5], row) : Value();
        Value token = loadIndex(b, rowToken, row);
        emitPackRow(b, x, token, packed, b.add(padded, r), columns, format, scale);
      });
    });
  });
  return kernel;
}

func::FuncOp mlir::moe::cpu::getRoundRowsKernel(ModuleOp module, MemRefType x, int64_t columns,
                                                RowFormat format, KernelTarget target) {
  MLIRContext *context = module.getContext();
  Type i32 = i32Type(context);
  SmallVector<Type> types = {x, bufferType({kDynamic, 3}, i32), bufferType({2}, i32),
                             bufferType({kDynamic}, format.getElementType(context))};
  std::string name =
      ("moec_round_rows_" + Twine(columns) + "_of_" + Twine(x.getDimSize(1)) + "_" + format.key())
          .str();
  func::FuncOp kernel;
  getOrCreateKernel(module, name, types, target, kernel, [&](KernelBuilder &b, auto args) {
    Value x = args[0], blocks = args[1], counts = args[2], packed = args[3];
    b.parallelLoop(loadIndex(b, counts, b.index(1)), [&](Value block) {
      Value padded = loadIndex(b, blocks, {block, b.index(FirstPaddedRow)});
      Value rows = roundUpRows(b, loadIndex(b, blocks, {block, b.index(NumRows)}));
      b.forLoop(rows, [&](Value r) {
        Value row = b.add(padded, r);
        emitPackRow(b, x, row, packed, row, columns, format);
      });
    });
  });
  return kernel;
}

/// Arguments common to both grouped products, then the weight's.
static SmallVector<Type> productTypes(MLIRContext *context, int64_t experts, Type source,
                                      Type destination, const PackedWeight &weight) {
  Type i32 = i32Type(context);
  SmallVector<Type> types = {source,
                             bufferType({experts}, i32),
                             bufferType({experts + 1}, i32),
                             bufferType({kDynamic, 3}, i32),
                             bufferType({2}, i32),
                             destination};
  llvm::append_range(types, ValueRange(weight.operands()).getTypes());
  return types;
}

func::FuncOp mlir::moe::cpu::getUpKernel(ModuleOp module, const PackedWeight &weight,
                                         ActivationAttr activation, RowFormat hiddenFormat,
                                         KernelTarget target) {
  MLIRContext *context = module.getContext();
  RowFormat format = RowFormat::of(weight);
  Type source = bufferType({kDynamic}, format.getElementType(context));
  Type destination = bufferType({kDynamic}, hiddenFormat.getElementType(context));
  std::string name = "moec_up_" + weight.key();
  llvm::raw_string_ostream text(name);
  text << "_" << stringifyActivationKind(activation.getKind()) << "_"
       << stringifyGlu(activation.getGlu());
  if (activation.getClamp() == ActivationClamp::Post)
    text << "_post";
  for (double value :
       {activation.getAlphaValue(), activation.getBetaValue(), activation.getLimitValue()})
    text << "_" << llvm::utohexstr(llvm::bit_cast<uint64_t>(value));

  bool gated = activation.getGlu() != Glu::None;
  int64_t columnsPerPanel = gated ? kPanelWidth / 2 : kPanelWidth;
  int64_t hiddenStride = hiddenFormat.stride(hiddenColumns(weight, activation));
  func::FuncOp kernel;
  getOrCreateKernel(
      module, name, productTypes(context, weight.experts, source, destination, weight), target,
      kernel, [&](KernelBuilder &b, Block::BlockArgListType args) {
        Value packed = args[0], blocks = args[3], hidden = args[5];
        PackedWeight w = weight.withArguments(args.drop_front(6));
        emitGroupedTasks(
            b, w, args[1], args[2], args[4], [&](const Panel &p, Value panel, Value block) {
              Value padded = loadIndex(b, blocks, {block, b.index(FirstPaddedRow)});
              Value stored = roundUpRows(b, loadIndex(b, blocks, {block, b.index(NumRows)}));
              Value source = b.mul(padded, format.stride(w.k));
              Value destination = b.mul(padded, hiddenStride);
              b.switchOn(stored, target.blockRows(), [&](int64_t rows) {
                SmallVector<Value> acc = emitPanelProduct(b, p.weight, p.expert, p.panel, packed,
                                                          source, format.stride(w.k), rows);
                emitBias(b, p.weight, p.biasExpert, p.biasPanel, acc);
                int64_t vectors = target.panelVectors(), results = gated ? vectors / 2 : vectors;
                Value firstColumn = b.mul(panel, columnsPerPanel);
                for (int64_t r = 0; r < rows; ++r)
                  for (int64_t v = 0; v < results; ++v) {
                    Value linear = gated ? acc[r * vectors + results + v] : Value();
                    Value h = emitActivation(b, activation, acc[r * vectors + v], linear);
                    Value start = b.add(destination, b.add(firstColumn, r * hiddenStride));
                    b.storeVector(h, hidden, b.add(start, v * target.lanes), target.lanes);
                  }
              });
            });
      });
  return kernel;
}

func::FuncOp mlir::moe::cpu::getDownKernel(ModuleOp module, const PackedWeight &weight,
                                           int64_t hiddenStride, KernelTarget target) {
  MLIRContext *context = module.getContext();
  Type f32 = f32Type(context);
  RowFormat format = RowFormat::of(weight);
  std::string name = ("moec_down_" + weight.key() + "_stride" + Twine(hiddenStride)).str();
  func::FuncOp kernel;
  getOrCreateKernel(
      module, name,
      productTypes(context, weight.experts, bufferType({kDynamic}, format.getElementType(context)),
                   bufferType({kDynamic, weight.numPanels() * kPanelWidth}, f32), weight),
      target, kernel, [&](KernelBuilder &b, Block::BlockArgListType args) {
        Value hidden = args[0], blocks = args[3], out = args[5];
        PackedWeight w = weight.withArguments(args.drop_front(6));
        emitGroupedTasks(
            b, w, args[1], args[2], args[4], [&](const Panel &p, Value panel, Value block) {
              Value padded = loadIndex(b, blocks, {block, b.index(FirstPaddedRow)});
              Value stored = roundUpRows(b, loadIndex(b, blocks, {block, b.index(NumRows)}));
              Value source = b.mul(padded, format.stride(hiddenStride));
              b.switchOn(stored, target.blockRows(), [&](int64_t rows) {
                SmallVector<Value> acc =
                    emitPanelProduct(b, p.weight, p.expert, p.panel, hidden, source,
                                     format.stride(hiddenStride), rows);
                emitBias(b, p.weight, p.biasExpert, p.biasPanel, acc);
                int64_t vectors = target.panelVectors();
                Value firstColumn = b.mul(panel, kPanelWidth);
                for (int64_t i = 0; i < rows * vectors; ++i)
                  b.storeVector(acc[i], out,
                                {b.add(padded, i / vectors),
                                 b.add(firstColumn, (i % vectors) * target.lanes)},
                                target.lanes);
              });
            });
      });
  return kernel;
}

func::FuncOp mlir::moe::cpu::getCombineKernel(ModuleOp module, MemRefType rows, MemRefType y,
                                              int64_t k, KernelTarget target) {
  MLIRContext *context = module.getContext();
  int64_t columns = y.getDimSize(1);
  SmallVector<Type> types = {rows, bufferType({kDynamic, k}, i32Type(context)),
                             bufferType({kDynamic, k}, f32Type(context)), y};
  std::string name = ("moec_combine_" + Twine(columns) + "_" + Twine(rows.getDimSize(1)) + "_" +
                      Twine(k) + "_" + typeName(y.getElementType()))
                         .str();
  func::FuncOp kernel;
  getOrCreateKernel(module, name, types, target, kernel, [&](KernelBuilder &b, auto args) {
    Value rows = args[0], position = args[1], weights = args[2], y = args[3];
    Value tokens = memref::DimOp::create(b, b.getLoc(), y, b.index(0));
    auto emitColumns = [&](Value token, Value column, int64_t count) {
      Value sum = b.forLoop(b.index(0), b.index(k), b.index(1), b.splat(0.0),
                            [&](Value slot, ValueRange carried) -> SmallVector<Value> {
                              Value row = loadIndex(b, position, {token, slot});
                              Value weight = b.splat(b.load(weights, {token, slot}));
                              Value v = b.loadVector(rows, {row, column});
                              return {b.fma(weight, v, carried[0])};
                            })[0];
      b.storeVector(sum, y, {token, column}, count);
    };
    int64_t perTask = target.taskTokens((k + 1) * columns * sizeof(float));
    b.parallelLoop(b.ceilDiv(tokens, perTask), [&](Value task) {
      Value first = b.mul(task, perTask);
      Value last = b.min(b.add(first, perTask), tokens);
      b.forLoop(first, last, b.index(1), [&](Value token) {
        int64_t whole = llvm::alignDown(columns, target.lanes);
        b.forLoop(b.index(0), b.index(whole), b.index(target.lanes),
                  [&](Value column) { emitColumns(token, column, target.lanes); });
        if (whole < columns)
          emitColumns(token, b.index(whole), columns - whole);
      });
    });
  });
  return kernel;
}

namespace {
/// The parts of a linear product, inside of its kernel.
struct LinearKernel {
  KernelBuilder &b;
  const PackedWeight &weight;
  Value x, packed, y, tokens;

  int64_t maxRows() { return b.target.blockRows().back(); }
  Value numBlocks() { return b.ceilDiv(tokens, maxRows()); }
  Value rowsFrom(Value firstRow) { return b.min(b.sub(tokens, firstRow), b.index(maxRows())); }

  void packBlock(Value block);
  void product(const Panel &panel, Value number, Value block);
  /// body(number) for each of `count` things, tasks of `perTask` of them in parallel.
  void inTasks(Value count, int64_t perTask, function_ref<void(Value)> body);

private:
  void storeRow(ArrayRef<Value> row, Value index, Value firstColumn, int64_t columns);
};
} // namespace

void LinearKernel::packBlock(Value block) {
  Value firstRow = b.mul(block, maxRows()), rows = rowsFrom(firstRow);
  Value stored = roundUpRows(b, rows), last = b.sub(rows, b.index(1));
  b.forLoop(stored, [&](Value r) {
    emitPackRow(b, x, b.add(firstRow, b.min(r, last)), packed, b.add(firstRow, r), weight.k,
                RowFormat());
  });
}

void LinearKernel::storeRow(ArrayRef<Value> row, Value index, Value firstColumn, int64_t columns) {
  for (auto [v, vector] : llvm::enumerate(row)) {
    int64_t first = v * b.target.lanes;
    if (first < columns)
      b.storeVector(vector, y, {index, b.add(firstColumn, first)}, columns - first);
  }
}

void LinearKernel::product(const Panel &panel, Value number, Value block) {
  Value firstRow = b.mul(block, maxRows()), numRows = rowsFrom(firstRow);
  int64_t stride = RowFormat().stride(weight.k);
  Value base = b.mul(firstRow, stride), firstColumn = b.mul(number, kPanelWidth);
  int64_t vectors = b.target.panelVectors();
  b.switchOn(roundUpRows(b, numRows), b.target.blockRows(), [&](int64_t rows) {
    SmallVector<Value> acc =
        emitPanelProduct(b, weight, panel.expert, panel.panel, packed, base, stride, rows);
    emitBias(b, weight, panel.expert, panel.panel, acc);
    auto storeRows = [&](int64_t columns) {
      for (int64_t r = 0; r < rows; ++r)
        b.ifThen(b.less(b.index(r), numRows), [&] {
          storeRow(ArrayRef(acc).slice(r * vectors, vectors), b.add(firstRow, r), firstColumn,
                   columns);
        });
      return SmallVector<Value>();
    };
    int64_t whole = weight.n / kPanelWidth, rest = weight.n % kPanelWidth;
    if (rest == 0)
      storeRows(kPanelWidth);
    else if (whole == 0)
      storeRows(rest);
    else
      b.branch(
          b.less(number, b.index(whole)), [&] { return storeRows(kPanelWidth); },
          [&] { return storeRows(rest); });
  });
}

void LinearKernel::inTasks(Value count, int64_t perTask, function_ref<void(Value)> body) {
  b.parallelLoop(b.ceilDiv(count, perTask), [&](Value task) {
    Value first = b.mul(task, perTask);
    b.forLoop(first, b.min(b.add(first, perTask), count), b.index(1), body);
  });
}

func::FuncOp mlir::moe::cpu::getLinearKernel(ModuleOp module, MemRefType x, MemRefType y,
                                             const PackedWeight &weight, KernelTarget target) {
  SmallVector<Type> types = {x, bufferType({kDynamic}, f32Type(module.getContext())), y};
  llvm::append_range(types, ValueRange(weight.operands()).getTypes());
  std::string name = "moec_linear_" + typeName(x.getElementType()) + "_" +
                     typeName(y.getElementType()) + "_" + weight.key();
  func::FuncOp kernel;
  getOrCreateKernel(
      module, name, types, target, kernel, [&](KernelBuilder &b, Block::BlockArgListType args) {
        PackedWeight w = weight.withArguments(args.drop_front(3));
        LinearKernel linear = {b, w, args[0], args[1], args[2], b.dim(args[0], 0)};
        int64_t blockSize = linear.maxRows() * w.k, panels = w.numPanels();
        Value blocks = linear.numBlocks();
        linear.inTasks(blocks, llvm::divideCeil(target.taskElements(), blockSize),
                       [&](Value block) { linear.packBlock(block); });
        if (w.raw)
          b.parallelLoop(b.index(panels), [&](Value panel) {
            emitPackPanel(b, w, b.index(0), panel, /*to=*/panel);
          });
        // A task reads its panels from memory once and its rows from cache: panels are
        // the slower number.
        int64_t panelsAtOnce = panelsPerTask(w, b.target),
                groups = llvm::divideCeil(panels, panelsAtOnce);
        int64_t blocksAtOnce =
            llvm::divideCeil(target.taskProducts(), panelsAtOnce * kPanelWidth * blockSize);
        Value parts = b.ceilDiv(blocks, blocksAtOnce);
        b.parallelLoop(b.mul(parts, groups), [&](Value task) {
          Value group = arith::DivUIOp::create(b, b.getLoc(), task, parts);
          Value part = arith::RemUIOp::create(b, b.getLoc(), task, parts);
          Value firstPanel = b.mul(group, panelsAtOnce), firstBlock = b.mul(part, blocksAtOnce);
          Value lastPanel = b.min(b.add(firstPanel, panelsAtOnce), b.index(panels));
          Value lastBlock = b.min(b.add(firstBlock, blocksAtOnce), blocks);
          b.forLoop(firstPanel, lastPanel, b.index(1), [&](Value number) {
            // Scratch of an unpacked weight has a row for each panel.
            Panel panel = {w, w.raw ? number : b.index(0), w.raw ? b.index(0) : number};
            b.forLoop(firstBlock, lastBlock, b.index(1),
                      [&](Value block) { linear.product(panel, number, block); });
          });
        });
      });
  return kernel;
}
