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

Value KernelBuilder::splatI32(int32_t value) {
  return arith::ConstantOp::create(*this, getLoc(),
                                   DenseElementsAttr::get(vectorType(getI32Type()), value));
}

Value KernelBuilder::firstLanesI32(int64_t count) {
  SmallVector<int32_t> lanes(target.lanes, 0);
  std::fill_n(lanes.begin(), count, 1);
  return arith::ConstantOp::create(
      *this, getLoc(), DenseElementsAttr::get(vectorType(getI32Type()), ArrayRef<int32_t>(lanes)));
}

Value KernelBuilder::firstLanes(Value vector, int64_t count, double otherwise) {
  Value first = vector::ConstantMaskOp::create(*this, getLoc(), vectorType(getI1Type()),
                                               DenseI64ArrayAttr::get(getContext(), {count}));
  return select(first, vector, splat(otherwise));
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

Value KernelBuilder::add(Value a, Value b) { return createOrFold<arith::AddIOp>(a, b); }
Value KernelBuilder::sub(Value a, Value b) { return createOrFold<arith::SubIOp>(a, b); }
Value KernelBuilder::mul(Value a, Value b) { return createOrFold<arith::MulIOp>(a, b); }
Value KernelBuilder::min(Value a, Value b) { return createOrFold<arith::MinSIOp>(a, b); }
Value KernelBuilder::ceilDiv(Value a, Value b) {
  return createOrFold<arith::DivUIOp>(add(a, sub(b, index(1))), b);
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

Value KernelBuilder::like(Value v, double value) {
  Type type = v.getType();
  TypedAttr scalar = getFloatAttr(getElementTypeOrSelf(type), value);
  if (auto vector = dyn_cast<VectorType>(type))
    return arith::ConstantOp::create(*this, getLoc(), DenseElementsAttr::get(vector, scalar));
  return arith::ConstantOp::create(*this, getLoc(), scalar);
}

Value KernelBuilder::sigmoid(Value v) {
  Value negative = mulf(v, like(v, -1.0));
  return divf(like(v, 1.0), addf(like(v, 1.0), exp(negative)));
}

Value KernelBuilder::compare(arith::CmpFPredicate predicate, Value a, Value b) {
  return arith::CmpFOp::create(*this, getLoc(), predicate, a, b);
}

Value KernelBuilder::compare(arith::CmpIPredicate predicate, Value a, Value b) {
  return createOrFold<arith::CmpIOp>(predicate, a, b);
}

Value KernelBuilder::boolean(bool value) {
  return arith::ConstantIntOp::create(*this, getLoc(), getI1Type(), value);
}

Value KernelBuilder::isValid(Value number) {
  Value zero = number.getType().isIndex() ? index(0) : i32(0);
  return compare(arith::CmpIPredicate::sge, number, zero);
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

Value KernelBuilder::bitcast(Value vector, Type element) {
  auto type = cast<VectorType>(vector.getType());
  int64_t bits = type.getNumElements() * type.getElementTypeBitWidth();
  auto result = VectorType::get({bits / int64_t(element.getIntOrFloatBitWidth())}, element);
  return vector::BitCastOp::create(*this, getLoc(), result, vector);
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

Value KernelBuilder::roundTo(Type element, Value value) {
  if (element.isF32())
    return value;
  Type type = element;
  if (auto vector = dyn_cast<VectorType>(value.getType()))
    type = vector.clone(element);
  if (element.isF64())
    return arith::ExtFOp::create(*this, getLoc(), type, value);
  return arith::TruncFOp::create(*this, getLoc(), type, value);
}

void KernelBuilder::storeF32(Value value, Value memref, ValueRange indices) {
  store(roundTo(elementType(memref), value), memref, indices);
}

Value KernelBuilder::increment(Value memref, ValueRange indices) {
  Value count = load(memref, indices);
  store(add(count, i32(1)), memref, indices);
  return count;
}

Value KernelBuilder::stack(int64_t size, Type element) {
  return memref::AllocaOp::create(*this, getLoc(), MemRefType::get({size}, element));
}

void KernelBuilder::storeVector(Value vector, Value memref, ValueRange indices, int64_t count) {
  if (count < target.lanes)
    return storeVector(vector, memref, indices, index(count));
  vector::StoreOp::create(*this, getLoc(), roundTo(elementType(memref), vector), memref, indices);
}

void KernelBuilder::storeVector(Value vector, Value memref, ValueRange indices, Value count) {
  Type element = elementType(memref);
  if (target.isWarp() || element.getIntOrFloatBitWidth() != 16) {
    Value mask =
        vector::CreateMaskOp::create(*this, getLoc(), vectorType(getI1Type()), ValueRange{count});
    vector::MaskedStoreOp::create(*this, getLoc(), memref, indices, mask, roundTo(element, vector));
    return;
  }
  // Without AVX512-BF16 or -FP16, LLVM takes vectors of 16-bit floats apart and rounds each
  // element again, through a library function: round and store them one by one.
  SmallVector<Value> at(indices);
  forLoop(min(count, index(target.lanes)), [&](Value lane) {
    at.back() = add(indices.back(), lane);
    storeF32(vector::ExtractOp::create(*this, getLoc(), vector, OpFoldResult(lane)), memref, at);
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

void KernelBuilder::forTokens(Value tokens, function_ref<void(Value)> body) {
  int64_t perTask = target.taskTokens();
  if (perTask == 1)
    return parallelLoop(tokens, body);
  parallelLoop(ceilDiv(tokens, perTask), [&](Value task) {
    Value first = mul(task, perTask);
    forLoop(first, min(add(first, perTask), tokens), index(1), body);
  });
}

void KernelBuilder::forVectors(int64_t size, function_ref<void(Value, int64_t)> body) {
  int64_t whole = llvm::alignDown(size, target.lanes);
  if (whole == target.lanes)
    body(index(0), target.lanes);
  else if (whole > 0)
    forLoop(index(0), index(whole), index(target.lanes), [&](Value i) { body(i, target.lanes); });
  if (whole < size)
    body(index(whole), size - whole);
}

Value KernelBuilder::foldVectors(int64_t size, Value init,
                                 function_ref<Value(Value, int64_t, Value)> step) {
  int64_t whole = llvm::alignDown(size, target.lanes);
  Value result = init;
  if (whole == target.lanes)
    result = step(index(0), target.lanes, result);
  else if (whole > 0)
    result = forLoop(index(0), index(whole), index(target.lanes), {init},
                     [&](Value i, ValueRange carried) {
                       return SmallVector<Value>{step(i, target.lanes, carried[0])};
                     })[0];
  return whole < size ? step(index(whole), size - whole, result) : result;
}

Value KernelBuilder::fold(Value upper, Value init, function_ref<Value(Value, Value)> step) {
  return forLoop(index(0), upper, index(1), init, [&](Value i, ValueRange carried) {
    return SmallVector<Value>{step(i, carried[0])};
  })[0];
}

SmallVector<Value> KernelBuilder::branch(Value condition, function_ref<SmallVector<Value>()> then,
                                         function_ref<SmallVector<Value>()> otherwise) {
  // The bodies build through this builder, so that its insertion point has to move.
  OpBuilder::InsertionGuard guard(*this);
  auto before = saveInsertionPoint();
  Block thenBlock;
  setInsertionPointToStart(&thenBlock);
  SmallVector<Value> thenValues = then();
  restoreInsertionPoint(before);
  auto op = scf::IfOp::create(*this, getLoc(), ValueRange(thenValues).getTypes(), condition,
                              /*addThenBlock=*/true, /*addElseBlock=*/true);
  op.thenBlock()->getOperations().splice(op.thenBlock()->begin(), thenBlock.getOperations());
  setInsertionPointToEnd(op.thenBlock());
  scf::YieldOp::create(*this, getLoc(), thenValues);
  setInsertionPointToStart(op.elseBlock());
  SmallVector<Value> otherValues = otherwise();
  scf::YieldOp::create(*this, getLoc(), otherValues);
  setInsertionPointAfter(op);
  return SmallVector<Value>(op.getResults());
}

Value KernelBuilder::branch(Value condition, function_ref<Value()> then,
                            function_ref<Value()> otherwise) {
  return branch(
      condition, [&] { return SmallVector<Value>{then()}; },
      [&] { return SmallVector<Value>{otherwise()}; })[0];
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
