// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What all kernel generators share: constants, loops, vector loads and stores.
//
// Kernels are private functions on memrefs. They never allocate: scratch comes as an
// argument. Their last argument is the running call (`moe.call`), through which
// `scf.parallel` loops reach the worker pool.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_KERNELBUILDER_H
#define MOEC_LIB_CONVERSION_MOETOCPU_KERNELBUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Target/CPU/CostModel.h"

namespace mlir::moe::cpu {

/// Columns of a weight panel: two AVX-512 registers of f32, the same on every ISA.
constexpr int64_t kPanelWidth = 32;

/// What the products of experts multiply: f32; rows and weights rounded to bf16, by AVX512-BF16;
/// or rows rounded to 8-bit integers with the codes of quantized weights.
enum class Operands { F32, BF16, Int8 };

/// How blocks of many rows are multiplied: as others; by AMX; or as by AMX, with vectors, to test
/// it where there is none.
enum class Tiles { None, AMX, Vectors };

/// What the kernels need to know of the machine.
struct KernelTarget : CostModel {
  Operands operands = Operands::F32;
  /// With operands other than f32.
  Tiles tiles = Tiles::None;
  /// Whether AVX512-VNNI or AVX-VNNI multiplies 8-bit integers.
  bool hasVNNI = false;

  /// For products in f32.
  KernelTarget forF32() const { return {*this, Operands::F32, Tiles::None, hasVNNI}; }
  /// Vector registers that hold one panel row.
  int64_t panelVectors() const { return kPanelWidth / lanes; }
  /// For messages.
  StringRef processor() const { return isWarp() ? "GPU" : "CPU"; }

  /// Numbers of rows that a block may have, rising; the sums of the largest fit into
  /// registers, since a step loads a panel row once for all of them. Up to four rows go without
  /// any padding, more with one row of it at most: arithmetic bounds most products of five and
  /// more rows.
  SmallVector<int64_t> blockRows() const {
    // Half a tile and less is bound by memory, and multiplied as without tiles.
    bool hasTiles = tiles != Tiles::None;
    int64_t most = hasTiles ? 8 : std::max<int64_t>(1, maxAccumulators() / panelVectors());
    SmallVector<int64_t> rows;
    for (int64_t number = 1; number <= most; number += number < 4 ? 1 : 2)
      rows.push_back(number);
    // One or two tiles of rows; with two of columns, sums and operands are all eight tiles of
    // AMX.
    if (hasTiles)
      rows.append({16, 32});
    return rows;
  }
};

/// A builder with a location and the target, and shorthands for what kernels use most.
class KernelBuilder : public ImplicitLocOpBuilder {
public:
  KernelBuilder(Location loc, OpBuilder &builder, KernelTarget target)
      : ImplicitLocOpBuilder(loc, builder), target(target) {}

  const KernelTarget target;

  // Constants.
  Value index(int64_t value);
  Value i32(int64_t value);
  Value f32(double value);
  /// A vector of `lanes` equal f32 values.
  Value splat(double value);
  Value splat(Value scalar);
  Value splatI32(int32_t value);
  /// 1 in the first `count` lanes, 0 in the others.
  Value firstLanesI32(int64_t count);
  /// `otherwise` in all but the first `count` lanes.
  Value firstLanes(Value vector, int64_t count, double otherwise);

  // Index arithmetic.
  Value add(Value a, Value b);
  Value add(Value a, int64_t b) { return b == 0 ? a : add(a, index(b)); }
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value mul(Value a, int64_t b) { return b == 1 ? a : mul(a, index(b)); }
  Value ceilDiv(Value a, int64_t b) { return ceilDiv(a, index(b)); }
  Value ceilDiv(Value a, Value b);
  Value shiftRight(Value a, int64_t bits);
  Value min(Value a, Value b);
  Value toIndex(Value i32);
  Value toI32(Value index);

  // Floating point, scalars or vectors.
  Value addf(Value a, Value b);
  Value subf(Value a, Value b);
  Value mulf(Value a, Value b);
  Value divf(Value a, Value b);
  Value fma(Value a, Value b, Value c);
  Value exp(Value v) { return math::ExpOp::create(*this, getLoc(), v); }
  Value abs(Value v) { return math::AbsFOp::create(*this, getLoc(), v); }
  /// 1 / (1 + exp(-v))
  Value sigmoid(Value v);
  /// The larger number; a NaN is passed over.
  Value maxNumber(Value a, Value b) { return arith::MaxNumFOp::create(*this, getLoc(), a, b); }
  /// The constant `value` in the (float) type of `v`, a scalar or a vector.
  Value like(Value v, double value);

  // Conditions, scalars or vectors.
  Value compare(arith::CmpFPredicate predicate, Value a, Value b);
  Value compare(arith::CmpIPredicate predicate, Value a, Value b);
  Value both(Value a, Value b) { return createOrFold<arith::AndIOp>(a, b); }
  Value either(Value a, Value b) { return createOrFold<arith::OrIOp>(a, b); }
  Value boolean(bool value);
  Value select(Value condition, Value a, Value b) {
    return createOrFold<arith::SelectOp>(condition, a, b);
  }
  /// Whether an i32 or index is not negative.
  Value isValid(Value number);
  Value less(Value a, Value b) { return compare(arith::CmpIPredicate::slt, a, b); }
  Value equal(Value a, Value b) { return compare(arith::CmpIPredicate::eq, a, b); }

  // Types.
  VectorType vectorType(Type element) { return VectorType::get({target.lanes}, element); }
  VectorType vectorType() { return vectorType(getF32Type()); }

  // Memory.
  Value load(Value memref, ValueRange indices);
  void store(Value value, Value memref, ValueRange indices);
  /// `lanes` elements as f32, whatever float or (unsigned) i8 type they have.
  Value loadVector(Value memref, ValueRange indices);
  /// The first `count` of `lanes` elements as f32, the others `padding`.
  Value loadVectorPart(Value memref, ValueRange indices, int64_t count, double padding);
  /// `lanes` f32 values, rounded to the memref's element type; the first `count` only.
  void storeVector(Value vector, Value memref, ValueRange indices, int64_t count);
  /// The same with a number of elements known at run time; nothing when it is ≤ 0.
  void storeVector(Value vector, Value memref, ValueRange indices, Value count);
  /// The bits of a vector as elements of another type, as many as fill them.
  Value bitcast(Value vector, Type element);
  /// f16, bf16 or f32 (scalar or vector) to f32.
  Value toF32(Value value);
  /// One element as f32.
  Value loadF32(Value memref, ValueRange indices) { return toF32(load(memref, indices)); }
  /// One f32 rounded to the memref's element type.
  void storeF32(Value value, Value memref, ValueRange indices);
  /// An element of an i32 or index memref as an index.
  Value loadIndex(Value memref, ValueRange indices) { return toIndex(load(memref, indices)); }
  /// Adds to an i32 in memory; returns what was there.
  Value increment(Value memref, ValueRange indices);
  /// A buffer on the stack of the worker.
  Value stack(int64_t size, Type element);
  Value dim(Value memref, int64_t d) { return memref::DimOp::create(*this, getLoc(), memref, d); }

private:
  Value roundTo(Type element, Value value);

public:
  /// f32 values as they are after rounding to `element`.
  Value roundThrough(Type element, Value value) { return toF32(roundTo(element, value)); }

  // Loops. The body gets the induction variable (and the carried values).
  void forLoop(Value lower, Value upper, Value step, function_ref<void(Value)> body);
  void forLoop(Value upper, function_ref<void(Value)> body) {
    forLoop(index(0), upper, index(1), body);
  }
  SmallVector<Value> forLoop(Value lower, Value upper, Value step, ValueRange init,
                             function_ref<SmallVector<Value>(Value, ValueRange)> body);
  /// Iterations that workers may run at the same time, in any order.
  void parallelLoop(Value upper, function_ref<void(Value)> body);
  /// `body(token)` for all tokens, tasks of several tokens in parallel.
  void forTokens(Value tokens, function_ref<void(Value)> body);
  /// `body(i, count)` for the whole vectors of 0 … size (count = lanes), then for what
  /// is left of it.
  void forVectors(int64_t size, function_ref<void(Value, int64_t)> body);
  /// The same, with a value carried along; all lanes of it.
  Value foldVectors(int64_t size, Value init, function_ref<Value(Value, int64_t, Value)> step);
  /// step(i, value so far), from `init`, for i in 0 … upper.
  Value fold(Value upper, Value init, function_ref<Value(Value, Value)> step);
  void ifThen(Value condition, function_ref<void()> body);
  /// The results of one of two branches.
  SmallVector<Value> branch(Value condition, function_ref<SmallVector<Value>()> then,
                            function_ref<SmallVector<Value>()> otherwise);
  Value branch(Value condition, function_ref<Value()> then, function_ref<Value()> otherwise);
  /// Runs `body(c)` for the case c that equals `selector` (an index).
  void switchOn(Value selector, ArrayRef<int64_t> cases, function_ref<void(int64_t)> body);
};

/// The private function `name` of the module, made by `body(builder, arguments)` when
/// it does not exist yet. Returns whether it was made now.
bool getOrCreateKernel(ModuleOp module, StringRef name, TypeRange arguments, KernelTarget target,
                       func::FuncOp &kernel,
                       function_ref<void(KernelBuilder &, Block::BlockArgListType)> body);

/// Short text of an element type for kernel names: f32, bf16, i8 …
std::string typeName(Type type);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_KERNELBUILDER_H
