// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "BF16.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

Value mlir::moe::cpu::emitRoundedPairs(KernelBuilder &b, Value low, Value high) {
  int64_t lanes = b.target.lanes;
  // LLVM makes some 20 instructions of a conversion of two vectors that are put together.
  auto type = VectorType::get({2 * lanes}, b.getBF16Type());
  Value halves =
      LLVM::CallIntrinsicOp::create(b, b.getLoc(), Type(type),
                                    b.getStringAttr("llvm.x86.avx512bf16.cvtne2ps2bf16.512"),
                                    ValueRange{high, low})
          .getResults();
  SmallVector<int64_t> order;
  for (int64_t lane = 0; lane < lanes; ++lane)
    order.append({lane, lanes + lane});
  return vector::ShuffleOp::create(b, b.getLoc(), halves, halves, order);
}

/// The pair at element `index` of `a` in every lane.
static Value emitBroadcastPair(KernelBuilder &b, Value a, Value index) {
  auto type = VectorType::get({2}, b.getBF16Type());
  Value pair = vector::LoadOp::create(b, b.getLoc(), type, a, index);
  Value word = vector::ExtractOp::create(b, b.getLoc(), b.bitcast(pair, b.getI32Type()), 0);
  Value words = vector::BroadcastOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), word);
  return b.bitcast(words, b.getBF16Type());
}

void mlir::moe::cpu::emitAccumulatePairs(KernelBuilder &b, Value a, Value pair, int64_t stride,
                                         int64_t rows, ArrayRef<Value> w,
                                         MutableArrayRef<Value> acc) {
  for (int64_t r = 0; r < rows; ++r) {
    Value element = emitBroadcastPair(b, a, b.add(pair, r * stride));
    for (auto [v, panelPairs] : llvm::enumerate(w)) {
      Value &sum = acc[r * w.size() + v];
      sum = LLVM::CallIntrinsicOp::create(b, b.getLoc(), Type(b.vectorType()),
                                          b.getStringAttr("llvm.x86.avx512bf16.dpbf16ps.512"),
                                          ValueRange{sum, element, panelPairs})
                .getResults();
    }
  }
}
