// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "BF16.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

/// f32 rounded to bf16, in the lower half of each lane.
static Value emitRoundedWords(KernelBuilder &b, Value vector) {
  auto type = VectorType::get({b.target.lanes}, b.getBF16Type());
  Value rounded = arith::TruncFOp::create(b, b.getLoc(), type, vector);
  Value bits = b.bitcast(rounded, b.getIntegerType(16));
  return arith::ExtUIOp::create(b, b.getLoc(), b.vectorType(b.getI32Type()), bits);
}

Value mlir::moe::cpu::emitRoundedPairs(KernelBuilder &b, Value low, Value high) {
  Value shifted = arith::ShLIOp::create(b, b.getLoc(), emitRoundedWords(b, high), b.splatI32(16));
  Value words = arith::OrIOp::create(b, b.getLoc(), emitRoundedWords(b, low), shifted);
  return b.bitcast(words, b.getBF16Type());
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
