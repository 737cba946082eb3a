// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Pipelines/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace mlir::moe {
#define GEN_PASS_DEF_RESOLVEEXPANDSHAPE
#include "moec/Pipelines/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;

/// True when one dimension is split into several of unknown size.
static bool splitsDynamically(memref::ExpandShapeOp expand) {
  MemRefType type = expand.getResultType();
  return llvm::any_of(expand.getReassociationIndices(), [&](ArrayRef<int64_t> group) {
    return llvm::count_if(group, [&](int64_t dim) { return type.isDynamicDim(dim); }) > 1;
  });
}

/// What the type says where it says something, else the computed value.
static OpFoldResult known(OpBuilder &builder, int64_t fromType, OpFoldResult computed,
                          Location loc) {
  if (!ShapedType::isDynamic(fromType))
    return builder.getIndexAttr(fromType);
  return getValueOrCreateConstantIndexOp(builder, loc, computed);
}

/// The same memory through `memref.reinterpret_cast`.
static void resolve(memref::ExpandShapeOp expand) {
  OpBuilder builder(expand);
  Location loc = expand.getLoc();
  auto metadata = memref::ExtractStridedMetadataOp::create(builder, loc, expand.getSrc());
  MemRefType type = expand.getResultType();
  auto [typeStrides, typeOffset] = type.getStridesAndOffset();

  SmallVector<OpFoldResult> shape = expand.getMixedOutputShape(), sizes, strides(shape.size());
  for (auto [dim, size] : llvm::enumerate(shape))
    sizes.push_back(known(builder, type.getDimSize(dim), size, loc));
  for (auto [dim, group] : llvm::enumerate(expand.getReassociationIndices())) {
    Value stride = metadata.getStrides()[dim];
    for (int64_t inner : llvm::reverse(group)) {
      strides[inner] = known(builder, typeStrides[inner], stride, loc);
      Value size = getValueOrCreateConstantIndexOp(builder, loc, sizes[inner]);
      stride = builder.createOrFold<arith::MulIOp>(loc, stride, size);
    }
  }
  OpFoldResult offset = known(builder, typeOffset, metadata.getOffset(), loc);
  Value result = memref::ReinterpretCastOp::create(builder, loc, type, metadata.getBaseBuffer(),
                                                   offset, sizes, strides);
  expand.replaceAllUsesWith(result);
  expand.erase();
}

namespace {
struct ResolveExpandShapePass : moe::impl::ResolveExpandShapeBase<ResolveExpandShapePass> {
  void runOnOperation() override {
    SmallVector<memref::ExpandShapeOp> found;
    getOperation()->walk([&](memref::ExpandShapeOp expand) {
      if (splitsDynamically(expand))
        found.push_back(expand);
    });
    for (memref::ExpandShapeOp expand : found)
      resolve(expand);
  }
};
} // namespace
