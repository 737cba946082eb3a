// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "TileKernel.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

namespace {
/// mma.sync of 16 x 8 x 16, or of 16 x 8 x 8 in tf32. Where a lane's elements are is in the PTX
/// ISA, "Matrix fragments for mma.m16n8k16" and "for mma.m16n8k8".
class MMAKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

private:
  static constexpr int64_t kRows = 16, kColumns = 8;

  /// Elements that a lane has in a register.
  int64_t perRegister() { return type.isF32() ? 1 : 2; }

  int64_t warpsAcross() { return tiling.threads / kLanes / tiling.warpsAlong; }
  int64_t warpRows() { return tiling.rows / tiling.warpsAlong; }
  int64_t warpColumns() { return tiling.columns / warpsAcross(); }
  int64_t groupColumns() override { return warpColumns(); }
  void allocate() override {
    // Eight rows begin in different banks, 16 bytes each.
    int64_t rowSize = tiling.depth + 4 * perRegister();
    rows = b.shared({tiling.stages, tiling.rows, rowSize}, type);
    weights = b.shared({tiling.stages, tiling.columns, rowSize}, type);
  }
  void product() override;
  void fill(Value slice);
  SmallVector<Value> slice(Value stage, ValueRange sums);
  Value loadRegister(Value memory, Value stage, Value row, Value number);
  void store(ValueRange sums);

  Value rows, weights;
  Value firstR, firstC, group, inGroup;
};
} // namespace

/// Starts the copies of slice `slice`, if there is one.
void MMAKernel::fill(Value slice) {
  b.ifThen(b.less(slice, b.index(numSlices())), [&] {
    Value stage = b.mod(slice, tiling.stages), k0 = b.mul(slice, tiling.depth);
    fillRows(rows, stage, k0);
    fillWeights(weights, stage, k0);
  });
  NVVM::CpAsyncCommitGroupOp::create(b, b.getLoc());
}

/// Register `number` of those that a row's elements fill, as mma takes it.
Value MMAKernel::loadRegister(Value memory, Value stage, Value row, Value number) {
  SmallVector<Value> at = {stage, row, b.mul(number, perRegister())};
  if (type.isF32())
    return NVVM::ConvertFloatToTF32Op::create(b, b.getLoc(), b.getI32Type(), b.load(memory, at),
                                              NVVM::FPRoundingMode::RNA);
  Value pair = vector::LoadOp::create(b, b.getLoc(), VectorType::get(2, type), memory, at,
                                      /*nontemporal=*/false, llvm::MaybeAlign(4));
  if (type.isF16())
    return pair;
  return LLVM::BitcastOp::create(b, b.getLoc(), b.getI32Type(), pair);
}

void mlir::moe::cuda::multiplyAdd(GPUBuilder &b, Type element, ArrayRef<Value> a, ArrayRef<Value> w,
                                  MutableArrayRef<Value> sums) {
  Type f32 = b.getF32Type();
  auto result = LLVM::LLVMStructType::getLiteral(b.getContext(), {f32, f32, f32, f32});
  auto ptxType = element.isF16()    ? NVVM::MMATypes::f16
                 : element.isBF16() ? NVVM::MMATypes::bf16
                                    : NVVM::MMATypes::tf32;
  auto op = NVVM::MmaOp::create(
      b, b.getLoc(), result, a, w, ValueRange(ArrayRef<Value>(sums)),
      ArrayRef<int64_t>{16, 8, element.isF32() ? 8 : 16}, /*b1Op=*/std::nullopt,
      /*intOverflow=*/std::nullopt, std::array<NVVM::MMATypes, 2>{ptxType, ptxType},
      std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row, NVVM::MMALayout::col});
  for (auto [i, sum] : llvm::enumerate(sums))
    sum = LLVM::ExtractValueOp::create(b, b.getLoc(), op, int64_t(i));
}

/// Adds the products of a slice in shared memory.
SmallVector<Value> MMAKernel::slice(Value stage, ValueRange before) {
  SmallVector<Value> sums(before);
  int64_t down = warpRows() / kRows, across = warpColumns() / kColumns;
  for (int64_t first = 0; first < tiling.depth / perRegister(); first += 8) {
    Value low = b.add(inGroup, first), high = b.add(inGroup, first + 4);
    SmallVector<SmallVector<Value>> a, w;
    for (int64_t i = 0; i < down; ++i) {
      auto row = [&](int64_t r) { return b.add(b.add(firstR, group), i * kRows + r); };
      a.push_back({loadRegister(rows, stage, row(0), low), loadRegister(rows, stage, row(8), low),
                   loadRegister(rows, stage, row(0), high),
                   loadRegister(rows, stage, row(8), high)});
    }
    for (int64_t j = 0; j < across; ++j) {
      Value column = b.add(b.add(firstC, group), j * kColumns);
      w.push_back(
          {loadRegister(weights, stage, column, low), loadRegister(weights, stage, column, high)});
    }
    for (int64_t i = 0; i < down; ++i)
      for (int64_t j = 0; j < across; ++j)
        multiplyAdd(b, type, a[i], w[j], MutableArrayRef(sums).slice(4 * (i * across + j), 4));
  }
  return sums;
}

void MMAKernel::store(ValueRange sums) {
  int64_t down = warpRows() / kRows, across = warpColumns() / kColumns;
  int64_t results = isGated() ? across / 2 : across;
  Value first = isGated() ? b.div(firstC, 2) : firstC;
  for (int64_t i = 0; i < down; ++i)
    for (int64_t j = 0; j < results; ++j)
      for (int64_t half : {0, 2}) {
        Value r = b.add(b.add(firstR, group), i * kRows + half / 2 * 8);
        Value column = b.add(b.add(first, b.mul(inGroup, 2)), j * kColumns);
        auto pair = [&](int64_t j) -> SmallVector<Value> {
          return sums.slice(4 * (i * across + j) + half, 2);
        };
        storeResults(r, column, pair(j), isGated() ? pair(results + j) : SmallVector<Value>());
      }
}

/// Unrolled, which ptxas would do with few slices, the products of several run out of registers.
static void keepRolled(Operation *loop) {
  MLIRContext *context = loop->getContext();
  auto disable = BoolAttr::get(context, true);
  auto unroll = LLVM::LoopUnrollAttr::get(context, disable, {}, {}, {}, {}, {}, {});
  loop->setAttr("llvm.loop_annotation",
                LLVM::LoopAnnotationAttr::get(context, {}, {}, {}, unroll, {}, {}, {}, {}, {}, {},
                                              {}, {}, {}, {}, {}));
}

void MMAKernel::product() {
  Value warp = b.div(thread(), kLanes), lane = b.mod(thread(), kLanes);
  firstR = b.mul(b.div(warp, warpsAcross()), warpRows());
  firstC = b.mul(b.mod(warp, warpsAcross()), warpColumns());
  group = b.div(lane, 4);
  inGroup = b.mod(lane, 4);
  for (int64_t i = 0; i + 1 < tiling.stages; ++i)
    fill(b.index(i));
  int64_t numSums = warpRows() / kRows * (warpColumns() / kColumns) * 4;
  SmallVector<Value> zeros(numSums, b.f32(0.0));
  SmallVector<Value> sums = b.forLoop(
      b.index(0), b.index(numSlices()), b.index(1), zeros, [&](Value number, ValueRange carried) {
        NVVM::CpAsyncWaitGroupOp::create(b, b.getLoc(), tiling.stages - 2);
        b.barrier();
        fill(b.add(number, tiling.stages - 1));
        return slice(b.mod(number, tiling.stages), carried);
      });
  keepRolled(sums.front().getDefiningOp());
  store(sums);
}

ProductKernel mlir::moe::cuda::getMMAKernel(const Product &product, int64_t rows) {
  if (productType(product).isF32())
    return {"_tf32", rows == 16 ? Tiling{rows, 64, 32, 128, 3, 1} : Tiling{rows, 64, 32, 128, 2, 2},
            makeKernel<MMAKernel>};
  if (rows == 16)
    return {"", {rows, 128, 32, 128, 4, 1}, makeKernel<MMAKernel>};
  return {"", rows == 64 ? Tiling{rows, 128, 32, 128, 3, 2} : Tiling{rows, 128, 32, 256, 2, 4},
          makeKernel<MMAKernel>};
}
