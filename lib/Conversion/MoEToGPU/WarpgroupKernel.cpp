// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "TileKernel.h"

#include "mlir/Dialect/NVGPU/IR/NVGPUDialect.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cuda;

namespace {
/// wgmma of 64 x 256 x 16, both operands in shared memory with K contiguous. The layouts of the
/// 128-byte swizzle, of matrix descriptors and of the sums: PTX ISA, "Asynchronous warpgroup
/// level matrix instructions".
///
/// Weights come by bulk copies of a tensor map, as do rows that follow each other. Rows that are
/// gathered come by cp.async, 16 bytes at a time.
class WarpgroupKernel : public TileKernel {
public:
  using TileKernel::TileKernel;

  /// Warpgroup 0 copies, 1 and 2 multiply.
  static constexpr int64_t kThreads = 384, kRows = 64, kColumns = 256, kDepth = 16;
  static constexpr int64_t kSliceColumns = 64, kStages = 4;

  static int64_t sharedBytes(int64_t rows) {
    return kStages * (rows + kColumns) * kRowBytes + kAtomBytes;
  }

  void emit() override;

private:
  static constexpr int64_t kGroup = 128; ///< threads of a warpgroup
  static constexpr int64_t kSums = kRows * kColumns / kGroup;
  static constexpr int64_t kRowBytes = 2 * kSliceColumns;
  static constexpr int64_t kAtomBytes = 8 * kRowBytes; ///< what is swizzled together
  /// Slices that are on their way while the next one is asked for.
  static constexpr int64_t kBehind = 2;

  /// Whether rows have to be copied one by one.
  bool gathers() { return !p.sourceMap; }
  void waitForFillers() override {
    // Barrier 0 is that of the block. What MLIR 22 prints of nvvm.barrier with a location, it does
    // not read.
    LLVM::CallIntrinsicOp::create(b, b.getLoc(),
                                  b.getStringAttr("llvm.nvvm.barrier.cta.sync.aligned.count"),
                                  ValueRange{b.i32(1), b.i32(kGroup)});
  }
  int64_t numFillers() override { return kGroup; }
  SmallVector<Value> placeOf(Value stage, Value r, Value k, bool isWeight) override;
  void allocate() override;
  void product() override {}

  Value addressOf(Value memory, Value byte);
  Value pointerTo(Value memory, Value byte);
  Value barrierAt(Value number, bool full);
  void makeBarriers();
  void wait(Value number, bool full);
  void arrive(Value number, bool full);
  void publish(Value number);
  Value startOf(Value number);
  void copyBox(Value map, Value number, int64_t row, ValueRange at);
  void copyWeights(Value number, Value k0);
  void copyMapped(Value number, Value k0);
  void copyTiles();
  void publishLast(Value total);
  Value descriptor(Value byte);
  Value multiplySlice(Value number, Value sums);
  Value multiplyTile(Value before);
  void multiply();
  void store(Value sums);

  Value slices;   ///< [stages, rows and weights, 64] in dynamic shared memory
  Value barriers; ///< i64 [2, stages]: full, free
  LLVM::LLVMStructType sumsType;
};
} // namespace

void WarpgroupKernel::allocate() {
  barriers = b.shared({2, kStages}, b.getI64Type());
  auto space =
      gpu::AddressSpaceAttr::get(b.getContext(), gpu::GPUDialect::getWorkgroupAddressSpace());
  MemRefLayoutAttrInterface plain;
  auto bytesType = MemRefType::get(ShapedType::kDynamic, b.getI8Type(), plain, space);
  Value bytes = gpu::DynamicSharedMemoryOp::create(b, b.getLoc(), bytesType);
  Value start = memref::ExtractAlignedPointerAsIndexOp::create(b, b.getLoc(), bytes);
  Value shift = b.mod(b.sub(b.index(kAtomBytes), b.mod(start, kAtomBytes)), kAtomBytes);
  auto slicesType =
      MemRefType::get({kStages, tiling.rows + tiling.columns, kSliceColumns}, type, plain, space);
  slices = memref::ViewOp::create(b, b.getLoc(), slicesType, bytes, shift, ValueRange());
  sumsType =
      LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(kSums, b.getF32Type()));
}

/// A row's chunks of 16 bytes are in another order in each of 8 rows.
SmallVector<Value> WarpgroupKernel::placeOf(Value stage, Value r, Value k, bool isWeight) {
  Value row = isWeight ? b.add(r, tiling.rows) : r;
  Value chunk = arith::XOrIOp::create(b, b.getLoc(), b.div(k, kChunk), b.mod(r, 8));
  return {stage, row, b.mul(chunk, kChunk)};
}

/// As i64.
Value WarpgroupKernel::addressOf(Value memory, Value byte) {
  Value base = memref::ExtractAlignedPointerAsIndexOp::create(b, b.getLoc(), memory);
  return b.createOrFold<arith::IndexCastOp>(b.getI64Type(), b.add(base, byte));
}

Value WarpgroupKernel::pointerTo(Value memory, Value byte) {
  return LLVM::IntToPtrOp::create(b, b.getLoc(), LLVM::LLVMPointerType::get(b.getContext(), 3),
                                  addressOf(memory, byte));
}

Value WarpgroupKernel::barrierAt(Value number, bool full) {
  return pointerTo(barriers, b.mul(b.add(b.mod(number, kStages), full ? 0 : kStages), 8));
}

void WarpgroupKernel::makeBarriers() {
  // A slice is full when the threads that gather have their copies and one has asked for the bulk
  // copies; it is free when all threads that multiply say so: a branch around that would serialize
  // products.
  int64_t fillers = gathers() ? kGroup + 1 : 1, readers = 2 * kGroup;
  b.ifThen(b.equal(thread(), b.index(0)), [&] {
    for (int64_t stage = 0; stage < kStages; ++stage)
      for (bool full : {true, false})
        NVVM::MBarrierInitOp::create(b, b.getLoc(), barrierAt(b.index(stage), full),
                                     b.i32(full ? fillers : readers), /*predicate=*/Value());
    NVVM::FenceProxyOp::create(
        b, b.getLoc(), NVVM::ProxyKind::async_shared,
        NVVM::SharedSpaceAttr::get(b.getContext(), NVVM::SharedSpace::shared_cta));
  });
  b.barrier();
}

/// Waits until slice `number` is full, or its place is free.
void WarpgroupKernel::wait(Value number, bool full) {
  // At first all places are free: the phase before the first one counts as completed.
  Value parity = b.both(b.toI32(b.div(number, kStages)), b.i32(1));
  if (!full)
    parity = arith::XOrIOp::create(b, b.getLoc(), parity, b.i32(1));
  NVVM::MBarrierTryWaitParityOp::create(b, b.getLoc(), barrierAt(number, full), parity,
                                        /*ticks=*/b.i32(10000000));
}

void WarpgroupKernel::arrive(Value number, bool full) {
  NVVM::MBarrierArriveOp::create(b, b.getLoc(), b.getI64Type(), barrierAt(number, full),
                                 /*count=*/Value());
}

/// The byte of the slices where slice `number` is.
Value WarpgroupKernel::startOf(Value number) {
  return b.mul(b.mod(number, kStages), (tiling.rows + tiling.columns) * kRowBytes);
}

//===----------------------------------------------------------------------===//
// Copying
//===----------------------------------------------------------------------===//

/// The box of a tensor map at these coordinates, slowest first, to row `row` of a slice.
void WarpgroupKernel::copyBox(Value map, Value number, int64_t row, ValueRange at) {
  auto pointerType = LLVM::LLVMPointerType::get(b.getContext());
  Value pointer = UnrealizedConversionCastOp::create(b, b.getLoc(), pointerType, map).getResult(0);
  SmallVector<Value> coordinates;
  for (Value index : llvm::reverse(at))
    coordinates.push_back(b.toI32(index));
  NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp::create(
      b, b.getLoc(),
      LLVM::AddrSpaceCastOp::create(b, b.getLoc(), LLVM::LLVMPointerType::get(b.getContext(), 7),
                                    pointerTo(slices, b.add(startOf(number), row * kRowBytes))),
      pointer, coordinates, barrierAt(number, /*full=*/true), /*im2colOffsets=*/ValueRange(),
      /*multicastMask=*/Value(), /*l2CacheHint=*/Value(), NVVM::TMALoadMode::TILE,
      /*isCTAOnly=*/false, NVVM::CTAGroupKindAttr(), /*predicate=*/Value());
}

void WarpgroupKernel::copyWeights(Value number, Value k0) {
  Glu glu = isGated() ? p.activation.getGlu() : Glu::None;
  int64_t first = tiling.rows, second = first + kColumns / 2;
  Value zero = b.index(0), one = b.index(1);
  switch (glu) {
  case Glu::None:
    return copyBox(p.weightMap, number, first, {expert, firstColumn, k0});
  case Glu::Separate:
    copyBox(p.gateMap, number, first, {expert, firstColumn, k0});
    return copyBox(p.weightMap, number, second, {expert, firstColumn, k0});
  case Glu::Concat:
    copyBox(p.weightMap, number, first, {expert, zero, firstColumn, k0});
    return copyBox(p.weightMap, number, second, {expert, one, firstColumn, k0});
  case Glu::Interleaved:
    copyBox(p.weightMap, number, first, {expert, firstColumn, zero, k0});
    return copyBox(p.weightMap, number, second, {expert, firstColumn, one, k0});
  }
}

/// What tensor maps give of a slice; one thread asks for it.
void WarpgroupKernel::copyMapped(Value number, Value k0) {
  int64_t rows = kColumns + (gathers() ? 0 : tiling.rows);
  NVVM::MBarrierArriveExpectTxOp::create(b, b.getLoc(), /*res=*/Type(),
                                         barrierAt(number, /*full=*/true), b.i32(rows * kRowBytes),
                                         NVVM::MemScopeKind::CTA,
                                         /*relaxed=*/false, /*predicate=*/Value());
  copyWeights(number, k0);
  if (!gathers())
    copyBox(p.sourceMap, number, 0, {firstRow, k0});
}

/// The copies of slice `number` by this thread have arrived: wgmma may read them.
void WarpgroupKernel::publish(Value number) {
  NVVM::FenceProxyOp::create(
      b, b.getLoc(), NVVM::ProxyKind::async_shared,
      NVVM::SharedSpaceAttr::get(b.getContext(), NVVM::SharedSpace::shared_cta));
  arrive(number, /*full=*/true);
}

/// Publishes what is on its way after slice `total - 1`.
void WarpgroupKernel::publishLast(Value total) {
  NVVM::CpAsyncWaitGroupOp::create(b, b.getLoc(), 0);
  Value first = b.createOrFold<arith::MaxSIOp>(b.sub(total, b.index(kBehind)), b.index(0));
  b.forLoop(first, total, b.index(1), [&](Value number) { publish(number); });
}

/// By all threads of the warpgroup when rows are gathered, else by one.
void WarpgroupKernel::copyTiles() {
  // Slices are numbered through all tiles of the block.
  auto copySlice = [&](Value slice, ValueRange carried) -> SmallVector<Value> {
    Value number = carried[0], k0 = b.mul(slice, tiling.depth);
    wait(number, /*full=*/false);
    if (!gathers()) {
      copyMapped(number, k0);
      return {b.add(number, 1)};
    }
    b.ifThen(b.equal(thread(), b.index(0)), [&] { copyMapped(number, k0); });
    fillRows(slices, b.mod(number, kStages), k0);
    NVVM::CpAsyncCommitGroupOp::create(b, b.getLoc());
    b.ifThen(b.less(b.index(kBehind - 1), number), [&] {
      NVVM::CpAsyncWaitGroupOp::create(b, b.getLoc(), kBehind);
      publish(b.sub(number, b.index(kBehind)));
    });
    return {b.add(number, 1)};
  };
  auto copyTile = [&](Value tile, ValueRange carried) {
    locate(tile);
    if (gathers())
      findRows();
    return b.forLoop(b.index(0), b.index(numSlices()), b.index(1), carried, copySlice);
  };
  Value total = b.forLoop(b.block(), numTiles(), b.numBlocks(), {b.index(0)}, copyTile)[0];
  if (gathers())
    publishLast(total);
}

//===----------------------------------------------------------------------===//
// Multiplying
//===----------------------------------------------------------------------===//

/// Of the matrix that begins at `byte` of the slices: 8 rows of 128 bytes follow each other.
Value WarpgroupKernel::descriptor(Value byte) {
  auto i64 = [&](int64_t value) {
    return arith::ConstantIntOp::create(b, b.getLoc(), b.getI64Type(), value).getResult();
  };
  Value address = b.both(addressOf(slices, byte), i64(0x3FFFF));
  address = arith::ShRUIOp::create(b, b.getLoc(), address, i64(4));
  // Leading offset 16 bytes (not used), stride of an atom, swizzle of 128 bytes.
  uint64_t rest = uint64_t(1) << 16 | uint64_t(kAtomBytes / 16) << 32 | uint64_t(1) << 62;
  return b.either(address, i64(int64_t(rest)));
}

/// Starts the products of slice `number`, and waits for those of the slice before.
Value WarpgroupKernel::multiplySlice(Value number, Value sums) {
  Value group = b.sub(b.div(thread(), kGroup), b.index(1));
  Value start = startOf(number);
  Value rows = b.add(start, b.mul(group, kRows * kRowBytes));
  Value weights = b.add(start, tiling.rows * kRowBytes);
  auto element = type.isF16() ? NVVM::WGMMATypes::f16 : NVVM::WGMMATypes::bf16;
  auto shape = NVVM::MMAShapeAttr::get(b.getContext(), kRows, kColumns, kDepth);
  wait(number, /*full=*/true);
  NVVM::WgmmaFenceAlignedOp::create(b, b.getLoc());
  for (int64_t k = 0; k < kSliceColumns; k += kDepth)
    sums = NVVM::WgmmaMmaAsyncOp::create(
        b, b.getLoc(), sumsType, sums, descriptor(b.add(rows, 2 * k)),
        descriptor(b.add(weights, 2 * k)), shape, element, element, NVVM::WGMMATypes::f32,
        NVVM::WGMMAScaleOut::one, NVVM::WGMMAScaleIn::one, NVVM::WGMMAScaleIn::one,
        NVVM::MMALayout::row, NVVM::MMALayout::col, NVVM::MMAIntOverflowAttr());
  NVVM::WgmmaGroupSyncAlignedOp::create(b, b.getLoc());
  NVVM::WgmmaWaitGroupSyncOp::create(b, b.getLoc(), 1);
  return sums;
}

/// `before`: the number of the tile's first slice.
Value WarpgroupKernel::multiplyTile(Value before) {
  Value sums = multiplySlice(before, LLVM::ZeroOp::create(b, b.getLoc(), sumsType));
  sums = b.forLoop(b.index(1), b.index(numSlices()), b.index(1), {sums},
                   [&](Value slice, ValueRange carried) -> SmallVector<Value> {
                     Value number = b.add(before, slice);
                     Value next = multiplySlice(number, carried[0]);
                     arrive(b.sub(number, b.index(1)), /*full=*/false);
                     return {next};
                   })[0];
  NVVM::WgmmaWaitGroupSyncOp::create(b, b.getLoc(), 0);
  arrive(b.add(before, numSlices() - 1), /*full=*/false);
  return sums;
}

void WarpgroupKernel::multiply() {
  b.forLoop(b.block(), numTiles(), b.numBlocks(), {b.index(0)},
            [&](Value tile, ValueRange carried) -> SmallVector<Value> {
              locate(tile);
              store(multiplyTile(carried[0]));
              return {b.add(carried[0], numSlices())};
            });
}

void WarpgroupKernel::store(Value sums) {
  // Warps have 16 rows each, and sums are where mma.sync has them.
  Value inGroups = b.sub(thread(), b.index(kGroup)), lane = b.mod(thread(), kLanes);
  Value firstR = b.add(b.mul(b.div(inGroups, kLanes), 16), b.div(lane, 4));
  Value firstC = b.mul(b.mod(lane, 4), 2);
  int64_t fragments = kColumns / 8, results = isGated() ? fragments / 2 : fragments;
  auto pair = [&](int64_t fragment, int64_t half) {
    SmallVector<Value> elements;
    for (int64_t i : {0, 1})
      elements.push_back(
          LLVM::ExtractValueOp::create(b, b.getLoc(), sums, 4 * fragment + 2 * half + i));
    return elements;
  };
  for (int64_t j = 0; j < results; ++j)
    for (int64_t half : {0, 1})
      storeResults(b.add(firstR, 8 * half), b.add(firstC, 8 * j), pair(j, half),
                   isGated() ? pair(results + j, half) : SmallVector<Value>());
}

void WarpgroupKernel::emit() {
  rowIndex = gathers() ? b.shared(tiling.rows, b.getI32Type()) : Value();
  allocate();
  makeBarriers();
  // 168 registers of each thread at first. Addresses of gathered rows take some.
  int64_t forCopies = gathers() ? 88 : 40, forProducts = gathers() ? 208 : 232;
  auto copy = [&] {
    NVVM::SetMaxRegisterOp::create(b, b.getLoc(), forCopies, NVVM::SetMaxRegisterAction::decrease);
    if (gathers())
      copyTiles();
    else
      b.ifThen(b.equal(thread(), b.index(0)), [&] { copyTiles(); });
    return SmallVector<Value>();
  };
  b.branch(b.less(thread(), b.index(kGroup)), copy, [&] {
    NVVM::SetMaxRegisterOp::create(b, b.getLoc(), forProducts,
                                   NVVM::SetMaxRegisterAction::increase);
    multiply();
    return SmallVector<Value>();
  });
}

ProductKernel mlir::moe::cuda::getWarpgroupKernel(int64_t rows) {
  using Kernel = WarpgroupKernel;
  ProductKernel result;
  result.name = "_wgmma";
  result.tiling = {rows, Kernel::kColumns, Kernel::kSliceColumns, Kernel::kThreads,
                   Kernel::kStages};
  result.make = makeKernel<WarpgroupKernel>;
  result.sharedBytes = Kernel::sharedBytes(rows);
  result.perMultiprocessor = 1;
  result.hasMaps = true;
  return result;
}

//===----------------------------------------------------------------------===//
// Tensor maps
//===----------------------------------------------------------------------===//

/// A map of boxes of `rows` rows of 64 columns along dimension `dimension`.
static Value makeMap(cpu::KernelBuilder &b, Value memref, int64_t dimension, int64_t rows) {
  MemRefType type = typeOf(memref);
  SmallVector<int64_t> box(type.getRank(), 1);
  box[dimension] = rows;
  box.back() = WarpgroupKernel::kSliceColumns;
  SmallVector<Value> sizes;
  for (int64_t size : box)
    sizes.push_back(b.index(size));
  auto space =
      gpu::AddressSpaceAttr::get(b.getContext(), gpu::GPUDialect::getWorkgroupAddressSpace());
  auto mapType = nvgpu::TensorMapDescriptorType::get(
      b.getContext(),
      MemRefType::get(box, type.getElementType(), MemRefLayoutAttrInterface(), space),
      nvgpu::TensorMapSwizzleKind::SWIZZLE_128B, nvgpu::TensorMapL2PromoKind::L2PROMO_256B,
      nvgpu::TensorMapOOBKind::OOB_ZERO, nvgpu::TensorMapInterleaveKind::INTERLEAVE_NONE);
  auto unranked = UnrankedMemRefType::get(type.getElementType(), type.getMemorySpace());
  Value cast = memref::CastOp::create(b, b.getLoc(), unranked, memref);
  return nvgpu::TmaCreateDescriptorOp::create(b, b.getLoc(), mapType, cast, sizes);
}

/// Weights [E, N, K], gates and linear parts in a dimension of their own.
static Value makeWeightMap(cpu::KernelBuilder &b, Value weights, const Product &product) {
  if (typeOf(weights).getRank() == 2)
    weights = memref::ExpandShapeOp::create(
        b, b.getLoc(), ArrayRef<int64_t>{1, typeOf(weights).getDimSize(0), product.k}, weights,
        ArrayRef<ReassociationIndices>{{0, 1}, {2}});
  Glu glu = product.activation ? product.activation.getGlu() : Glu::None;
  int64_t columns = WarpgroupKernel::kColumns;
  if (glu == Glu::None)
    return makeMap(b, weights, 1, columns);
  if (glu == Glu::Separate)
    return makeMap(b, weights, 1, columns / 2);
  bool isConcat = glu == Glu::Concat;
  SmallVector<int64_t> shape = {product.experts, 2, product.n, product.k};
  if (!isConcat)
    std::swap(shape[1], shape[2]);
  weights = memref::ExpandShapeOp::create(b, b.getLoc(), shape, weights,
                                          ArrayRef<ReassociationIndices>{{0}, {1, 2}, {3}});
  return makeMap(b, weights, isConcat ? 2 : 1, columns / 2);
}

void mlir::moe::cuda::addTensorMaps(cpu::KernelBuilder &b, Product &product, int64_t rows) {
  product.weightMap = makeWeightMap(b, product.weight.values, product);
  if (product.gate.values)
    product.gateMap = makeWeightMap(b, product.gate.values, product);
  if (!product.rowOfSource)
    product.sourceMap = makeMap(b, product.source, 0, rows);
}
