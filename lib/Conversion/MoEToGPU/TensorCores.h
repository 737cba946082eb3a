// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Products of small matrices by the 32 lanes of a warp: mma.sync of 16 x 8 x 16. Where a lane's
// elements are is in the PTX ISA, "Matrix fragments for mma.m16n8k16".

#ifndef MOEC_LIB_CONVERSION_MOETOGPU_TENSORCORES_H
#define MOEC_LIB_CONVERSION_MOETOGPU_TENSORCORES_H

#include "GPUBuilder.h"

namespace mlir::moe::cuda {

class TensorCores {
public:
  static constexpr int64_t kRows = 16, kColumns = 8, kDepth = 16;

  /// `type`: f16 or bf16.
  TensorCores(GPUBuilder &b, Type type)
      : type(type), group(b.div(b.mod(b.thread(), kLanes), 4)),
        inGroup(b.mod(b.mod(b.thread(), kLanes), 4)), b(b) {}

  /// The fragment of 16 rows from (row, k) on, of rows with contiguous k; `memory` is in shared
  /// memory, [rows, depth], each row at a multiple of 4 bytes.
  SmallVector<Value> loadRows(Value memory, Value row, Value k) {
    Value r = b.add(row, group), at = b.add(k, b.mul(inGroup, 2));
    return {loadPair(memory, r, at), loadPair(memory, b.add(r, 8), at),
            loadPair(memory, r, b.add(at, 8)), loadPair(memory, b.add(r, 8), b.add(at, 8))};
  }

  /// The fragment of 8 columns, each with contiguous k: `memory` is [columns, depth].
  SmallVector<Value> loadColumns(Value memory, Value column, Value k) {
    Value c = b.add(column, group), at = b.add(k, b.mul(inGroup, 2));
    return {loadPair(memory, c, at), loadPair(memory, c, b.add(at, 8))};
  }

  /// Two f32 numbers as neighbours in a fragment.
  Value pack(Value first, Value second) {
    Value pair = vector::FromElementsOp::create(b, b.getLoc(), VectorType::get(2, b.getF32Type()),
                                                ValueRange{first, second});
    return fragment(
        arith::TruncFOp::create(b, b.getLoc(), VectorType::get(2, type), pair).getResult());
  }

  /// Adds the product of two fragments to the four sums of a lane: those of rows `group` and
  /// group + 8, columns 2 inGroup and 2 inGroup + 1.
  void multiply(ArrayRef<Value> rows, ArrayRef<Value> columns, MutableArrayRef<Value> sums) {
    Type f32 = b.getF32Type();
    auto result = LLVM::LLVMStructType::getLiteral(b.getContext(), {f32, f32, f32, f32});
    auto element = type.isF16() ? NVVM::MMATypes::f16 : NVVM::MMATypes::bf16;
    auto op = NVVM::MmaOp::create(
        b, b.getLoc(), result, rows, columns, ValueRange(ArrayRef<Value>(sums)),
        ArrayRef<int64_t>{kRows, kColumns, kDepth}, /*b1Op=*/std::nullopt,
        /*intOverflow=*/std::nullopt, std::array<NVVM::MMATypes, 2>{element, element},
        std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row, NVVM::MMALayout::col});
    for (auto [i, sum] : llvm::enumerate(sums))
      sum = LLVM::ExtractValueOp::create(b, b.getLoc(), op, int64_t(i));
  }

  const Type type;
  /// Where a lane's sums are.
  const Value group, inGroup;

private:
  Value fragment(Value pair) {
    if (type.isF16())
      return pair;
    return LLVM::BitcastOp::create(b, b.getLoc(), b.getI32Type(), pair);
  }
  Value loadPair(Value memory, Value row, Value k) {
    return fragment(vector::LoadOp::create(b, b.getLoc(), VectorType::get(2, type), memory,
                                           ValueRange{row, k}, /*nontemporal=*/false,
                                           llvm::MaybeAlign(4)));
  }

  GPUBuilder &b;
};

} // namespace mlir::moe::cuda

#endif // MOEC_LIB_CONVERSION_MOETOGPU_TENSORCORES_H
