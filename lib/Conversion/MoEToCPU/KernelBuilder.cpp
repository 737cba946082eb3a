// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "KernelBuilder.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

//===----------------------------------------------------------------------===//
// Constants
//===----------------------------------------------------------------------===//

Value KernelBuilder::index(int64_t value) {
  return arith::ConstantIndexOp::create(*this, getLoc(), value);
}

Value KernelBuilder::i32(int64_t value) {
  return arith::ConstantIntOp::create(*this, getLoc(), getI32Type(), value);
}

Value KernelBuilder::f32(double value) {
  return arith::ConstantOp::create(*this, getLoc(), getF32FloatAttr(value));
}

Value KernelBuilder::splat(double value) {
  return arith::ConstantOp::create(*this, getLoc(),
                                   DenseElementsAttr::get(vectorType(), float(value)));
}

Value KernelBuilder::splat(Value scalar) {
  return vector::BroadcastOp::create(*this, getLoc(), vectorType(scalar.getType()), scalar);
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

Value KernelBuilder::add(Value a, Value b) { return createOrFold<arith::AddIOp>(a, b); }
Value KernelBuilder::sub(Value a, Value b) { return createOrFold<arith::SubIOp>(a, b); }
Value KernelBuilder::mul(Value a, Value b) { return createOrFold<arith::MulIOp>(a, b); }
Value KernelBuilder::min(Value a, Value b) { return createOrFold<arith::MinSIOp>(a, b); }
Value KernelBuilder::ceilDiv(Value a, int64_t b) {
  return createOrFold<arith::DivUIOp>(add(a, b - 1), index(b));
}
Value KernelBuilder::shiftRight(Value a, int64_t bits) {
  return createOrFold<arith::ShRUIOp>(a, index(bits));
}
Value KernelBuilder::toIndex(Value value) {
  return createOrFold<arith::IndexCastOp>(getIndexType(), value);
}
Value KernelBuilder::toI32(Value value) {
  return createOrFold<arith::IndexCastOp>(getI32Type(), value);
}

Value KernelBuilder::addf(Value a, Value b) { return createOrFold<arith::AddFOp>(a, b); }
Value KernelBuilder::subf(Value a, Value b) { return createOrFold<arith::SubFOp>(a, b); }
Value KernelBuilder::mulf(Value a, Value b) { return createOrFold<arith::MulFOp>(a, b); }
Value KernelBuilder::divf(Value a, Value b) { return createOrFold<arith::DivFOp>(a, b); }
Value KernelBuilder::fma(Value a, Value b, Value c) {
  return math::FmaOp::create(*this, getLoc(), a, b, c);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value KernelBuilder::load(Value memref, ValueRange indices) {
  return memref::LoadOp::create(*this, getLoc(), memref, indices);
}

void KernelBuilder::store(Value value, Value memref, ValueRange indices) {
  memref::StoreOp::create(*this, getLoc(), value, memref, indices);
}

Value KernelBuilder::toF32(Value value) {
  Type type = getElementTypeOrSelf(value);
  if (type.isF32())
    return value;
  Type f32 = getF32Type();
  if (auto vector = dyn_cast<VectorType>(value.getType()))
    f32 = vector.clone(f32);
  if (type.isInteger(8))
    return arith::UIToFPOp::create(*this, getLoc(), f32, value);
  if (type.isF64())
    return arith::TruncFOp::create(*this, getLoc(), f32, value);
  return arith::ExtFOp::create(*this, getLoc(), f32, value);
}

static Type elementType(Value memref) {
  return cast<MemRefType>(memref.getType()).getElementType();
}

Value KernelBuilder::loadVector(Value memref, ValueRange indices) {
  return toF32(
      vector::LoadOp::create(*this, getLoc(), vectorType(elementType(memref)), memref, indices));
}

Value KernelBuilder::loadVectorPart(Value memref, ValueRange indices, int64_t count,
                                    double padding) {
  if (count >= target.lanes)
    return loadVector(memref, indices);
  Type element = elementType(memref);
  Value mask = vector::ConstantMaskOp::create(*this, getLoc(), vectorType(getI1Type()),
                                              DenseI64ArrayAttr::get(getContext(), {count}));
  APFloat value(padding);
  bool losesInfo = false;
  value.convert(cast<FloatType>(element).getFloatSemantics(), APFloat::rmNearestTiesToEven,
                &losesInfo);
  Value passThrough = arith::ConstantOp::create(*this, getLoc(),
                                                DenseElementsAttr::get(vectorType(element), value));
  return toF32(vector::MaskedLoadOp::create(*this, getLoc(), vectorType(element), memref, indices,
                                            mask, passThrough));
}

Value KernelBuilder::roundTo(Type element, Value vector) {
  if (element.isF32())
    return vector;
  if (element.isF64())
    return arith::ExtFOp::create(*this, getLoc(), vectorType(element), vector);
  return arith::TruncFOp::create(*this, getLoc(), vectorType(element), vector);
}

void KernelBuilder::storeVector(Value vector, Value memref, ValueRange indices, int64_t count) {
  if (count < target.lanes)
    return storeVector(vector, memref, indices, index(count));
  vector::StoreOp::create(*this, getLoc(), roundTo(elementType(memref), vector), memref, indices);
}

void KernelBuilder::storeVector(Value vector, Value memref, ValueRange indices, Value count) {
  Type element = elementType(memref);
  vector = roundTo(element, vector);
  if (element.getIntOrFloatBitWidth() != 16) {
    Value mask =
        vector::CreateMaskOp::create(*this, getLoc(), vectorType(getI1Type()), ValueRange{count});
    vector::MaskedStoreOp::create(*this, getLoc(), memref, indices, mask, vector);
    return;
  }
  // Without AVX512-BF16 or -FP16, LLVM takes masked stores of 16-bit floats apart and
  // rounds each element again, through a library function: store bits one by one.
  Value bits = arith::BitcastOp::create(*this, getLoc(), vectorType(getI16Type()), vector);
  SmallVector<Value> at(indices);
  forLoop(min(count, index(target.lanes)), [&](Value lane) {
    Value bit = vector::ExtractOp::create(*this, getLoc(), bits, OpFoldResult(lane));
    at.back() = add(indices.back(), lane);
    store(arith::BitcastOp::create(*this, getLoc(), element, bit), memref, at);
  });
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

void KernelBuilder::forLoop(Value lower, Value upper, Value step, function_ref<void(Value)> body) {
  forLoop(lower, upper, step, {}, [&](Value iv, ValueRange) {
    body(iv);
    return SmallVector<Value>();
  });
}

SmallVector<Value>
KernelBuilder::forLoop(Value lower, Value upper, Value step, ValueRange init,
                       function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  auto loop = scf::ForOp::create(*this, getLoc(), lower, upper, step, init);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(loop.getBody());
  SmallVector<Value> results = body(loop.getInductionVar(), loop.getRegionIterArgs());
  if (!init.empty())
    scf::YieldOp::create(*this, getLoc(), results);
  return SmallVector<Value>(loop.getResults());
}

void KernelBuilder::parallelLoop(Value upper, function_ref<void(Value)> body) {
  auto loop = scf::ParallelOp::create(*this, getLoc(), ValueRange{index(0)}, ValueRange{upper},
                                      ValueRange{index(1)});
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPoint(loop.getBody()->getTerminator());
  body(loop.getInductionVars()[0]);
}

void KernelBuilder::ifThen(Value condition, function_ref<void()> body) {
  auto branch = scf::IfOp::create(*this, getLoc(), condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(branch.thenBlock());
  body();
}

void KernelBuilder::switchOn(Value selector, ArrayRef<int64_t> cases,
                             function_ref<void(int64_t)> body) {
  if (cases.size() == 1)
    return body(cases.front());
  auto choice = scf::IndexSwitchOp::create(*this, getLoc(), TypeRange(), selector,
                                           cases.drop_back(), cases.size() - 1);
  OpBuilder::InsertionGuard guard(*this);
  auto fill = [&](Region &region, int64_t value) {
    setInsertionPointToStart(&region.emplaceBlock());
    body(value);
    scf::YieldOp::create(*this, getLoc());
  };
  for (auto [region, value] : llvm::zip(choice.getCaseRegions(), cases.drop_back()))
    fill(region, value);
  fill(choice.getDefaultRegion(), cases.back());
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

bool mlir::moe::cpu::getOrCreateKernel(
    ModuleOp module, StringRef name, TypeRange arguments, KernelTarget target, func::FuncOp &kernel,
    function_ref<void(KernelBuilder &, Block::BlockArgListType)> body) {
  kernel = module.lookupSymbol<func::FuncOp>(name);
  if (kernel)
    return false;
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  MLIRContext *context = module.getContext();
  Location loc = NameLoc::get(builder.getStringAttr(name));
  SmallVector<Type> types(arguments);
  types.push_back(LLVM::LLVMPointerType::get(context));
  kernel = func::FuncOp::create(builder, loc, name, builder.getFunctionType(types, {}));
  kernel.setPrivate();
  kernel.setArgAttr(types.size() - 1, "moe.call", builder.getUnitAttr());
  Block *entry = kernel.addEntryBlock();
  builder.setInsertionPointToStart(entry);
  KernelBuilder kb(loc, builder, target);
  body(kb, entry->getArguments());
  func::ReturnOp::create(kb, loc);
  return true;
}

std::string mlir::moe::cpu::typeName(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}
