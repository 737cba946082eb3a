// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Lowering.h"

#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Unsupported.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

Lowering::Lowering(ModuleOp module, KernelTarget target)
    : module(module), target(target), packer(module), context(module.getContext()) {
  addRegion("other", "");
}

template <typename Visitor> static auto dispatchOp(Operation *op, Visitor &&visitor) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<ActivateOp, AuxOp, BiasUpdateOp, BlendOp, CapacityOp, CombineOp, ComposeOp, DispatchOp,
            ExpertFFNOp, ExpertsOp, FilterOp, GatingOp, GivenOp, GroupedMatmulOp, LinearOp,
            LogitsOp, RemapOp, ScoreOp, SelectOp, SharedOp, TreeSelectOp, WeighOp>(visitor)
      .Default([](Operation *) { return failure(); });
}

bool Lowering::handles(Operation *op) {
  return isa<EntriesOp>(op) || succeeded(dispatchOp(op, [](auto) { return success(); }));
}

LogicalResult Lowering::lower(Operation *op) {
  if (!isa<func::FuncOp>(op->getParentOp()))
    return emitUnsupported(op) << "is inside of a region: no " << target.processor() << " kernel";
  for (Type type : llvm::concat<const Type>(op->getOperandTypes(), op->getResultTypes()))
    if (isa<TensorType>(type) && getElementTypeOrSelf(type).isF64())
      return emitUnsupported(op) << "computes in float64, which has no " << target.processor()
                                 << " kernel; compile with -O0";
  if (auto entries = dyn_cast<EntriesOp>(op)) {
    // The memory of the routing already is what is asked for.
    OpBuilder builder(op);
    KernelBuilder b(op->getLoc(), builder, target);
    RoutingBuffers routing = routingOf(entries.getRouting());
    replace(b, entries.getIds(), routing.experts);
    if (entries.getWeights())
      replace(b, entries.getWeights(), routing.weights);
    return success();
  }
  return dispatchOp(op, [&](auto op) { return lowerOp(op); });
}

//===----------------------------------------------------------------------===//
// Buffers
//===----------------------------------------------------------------------===//

Value Lowering::numTokens(KernelBuilder &b, Value tensor) {
  return b.createOrFold<tensor::DimOp>(tensor, 0);
}

Value Lowering::raw(KernelBuilder &b, Value tensor) {
  if (!tensor)
    return Value();
  auto type = cast<RankedTensorType>(tensor.getType());
  return bufferization::ToBufferOp::create(
      b, b.getLoc(), MemRefType::get(type.getShape(), type.getElementType()), tensor,
      /*read_only=*/true);
}

Value Lowering::buffer(KernelBuilder &b, Value tensor) {
  Value memref = raw(b, tensor);
  if (!memref)
    return Value();
  auto type = cast<RankedTensorType>(tensor.getType());
  if (type.getRank() < 2)
    return memref;
  SmallVector<int64_t> shape(type.getShape());
  shape[0] = ShapedType::kDynamic;
  auto seen = MemRefType::get(shape, type.getElementType());
  return memref.getType() == seen ? memref
                                  : memref::CastOp::create(b, b.getLoc(), seen, memref).getResult();
}

Value Lowering::allocate(KernelBuilder &b, ArrayRef<int64_t> shape, Type element,
                         ValueRange sizes) {
  auto type = MemRefType::get(shape, element);
  return memref::AllocOp::create(b, b.getLoc(), type, sizes, b.getI64IntegerAttr(64));
}

Value Lowering::destination(KernelBuilder &b, Value result, Value rows) {
  auto type = cast<RankedTensorType>(result.getType());
  return allocate(b, {ShapedType::kDynamic, type.getDimSize(1)}, type.getElementType(), rows);
}

void Lowering::replace(KernelBuilder &b, Value result, Value memory) {
  auto type = cast<RankedTensorType>(result.getType());
  auto memoryType = cast<MemRefType>(memory.getType());
  Value tensor = bufferization::ToTensorOp::create(
      b, b.getLoc(), RankedTensorType::get(memoryType.getShape(), type.getElementType()), memory,
      /*restrict=*/true, /*writable=*/true);
  if (tensor.getType() != type)
    tensor = tensor::CastOp::create(b, b.getLoc(), type, tensor);
  result.replaceAllUsesWith(tensor);
}

RoutingBuffers Lowering::newRouting(KernelBuilder &b, Value routing, Value tokens, Value bound) {
  auto type = cast<RoutingType>(routing.getType());
  int64_t k = type.getK(), dynamic = ShapedType::kDynamic;
  RoutingBuffers buffers;
  buffers.experts = allocate(b, {dynamic, k}, i32(), tokens);
  if (type.getWeighted())
    buffers.weights = allocate(b, {dynamic, k}, f32(), tokens);
  buffers.tokens = tokens;
  buffers.bound = b.mul(tokens, k);
  if (bound)
    buffers.bound = b.min(buffers.bound, bound);
  routings[routing] = buffers;
  return buffers;
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

/// The source nodes that raising recorded, or the op's own name.
static std::string describe(Operation *op) {
  auto sources = op->getAttrOfType<ArrayAttr>("moe.sources");
  if (!sources)
    return op->getName().getStringRef().str();
  std::string text;
  for (auto name : sources.getAsRange<StringAttr>())
    text += (text.empty() ? "" : "+") + name.str();
  return text;
}

int64_t Lowering::addRegion(const std::string &name, StringRef op) {
  Builder builder(context);
  regions.push_back(
      builder.getDictionaryAttr({builder.getNamedAttr("name", builder.getStringAttr(name)),
                                 builder.getNamedAttr("op", builder.getStringAttr(op))}));
  return regions.size() - 1;
}

void Lowering::annotate() {
  if (numCalls > 0)
    module->setAttr("moe.regions", ArrayAttr::get(context, regions));
}

void Lowering::call(KernelBuilder &b, func::FuncOp kernel, ValueRange operands, Operation *source,
                    StringRef phase) {
  Value current = CurrentCallOp::create(b, b.getLoc(), LLVM::LLVMPointerType::get(context));
  int64_t region =
      addRegion(describe(source) + ": " + phase.str(), source->getName().getStringRef());
  ProfileMarkOp::create(b, b.getLoc(), current, region);
  SmallVector<Value> arguments(operands);
  arguments.push_back(current);
  func::CallOp::create(b, b.getLoc(), kernel, arguments);
  ProfileMarkOp::create(b, b.getLoc(), current, 0);
  ++numCalls;
}

/// Names a kernel after the op and the phase; what its code depends on is in the hash.
static std::string kernelName(Operation *op, StringRef phase, ValueRange operands,
                              ArrayRef<Value> given) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << op->getPropertiesAsAttribute();
  for (Type type : llvm::concat<const Type>(op->getOperandTypes(), op->getResultTypes()))
    os << type;
  for (Value operand : given)
    os << (operand ? '1' : '0');
  for (Value operand : operands)
    os << operand.getType();
  std::string name = "moec_" + op->getName().stripDialect().str();
  if (phase != op->getName().stripDialect())
    name += "_" + phase.str();
  return name + "_" + llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true, 16);
}

void Lowering::kernel(KernelBuilder &b, Operation *op, StringRef phase, ArrayRef<Value> operands,
                      function_ref<void(KernelBuilder &, ArrayRef<Value>)> body) {
  SmallVector<Value> present;
  llvm::copy_if(operands, std::back_inserter(present), [](Value v) { return bool(v); });
  func::FuncOp kernel;
  getOrCreateKernel(module, kernelName(op, phase, present, operands),
                    ValueRange(present).getTypes(), target, kernel,
                    [&](KernelBuilder &b, Block::BlockArgListType arguments) {
                      SmallVector<Value> values;
                      for (Value operand : operands)
                        values.push_back(operand ? Value(arguments.consume_front()) : Value());
                      body(b, values);
                    });
  call(b, kernel, present, op, phase);
}

//===----------------------------------------------------------------------===//
// Routings of functions
//===----------------------------------------------------------------------===//

static SmallVector<Type> routingTensors(RoutingType type) {
  int64_t shape[] = {ShapedType::kDynamic, type.getK()};
  MLIRContext *context = type.getContext();
  SmallVector<Type> types = {RankedTensorType::get(shape, IntegerType::get(context, 32))};
  if (type.getWeighted())
    types.push_back(RankedTensorType::get(shape, Float32Type::get(context)));
  return types;
}

void Lowering::takeRoutings(func::FuncOp function) {
  if (function.isDeclaration())
    return;
  OpBuilder builder = OpBuilder::atBlockBegin(&function.front());
  KernelBuilder b(function.getLoc(), builder, target);
  for (unsigned i = 0; i < function.getNumArguments(); ++i) {
    auto type = dyn_cast<RoutingType>(function.getArgument(i).getType());
    if (!type)
      continue;
    SmallVector<Value> tensors;
    for (Type tensor : routingTensors(type)) {
      (void)function.insertArgument(i, tensor, DictionaryAttr(), function.getLoc());
      tensors.push_back(function.getArgument(i++));
    }
    RoutingBuffers routing;
    routing.experts = buffer(b, tensors[0]);
    if (tensors.size() == 2)
      routing.weights = buffer(b, tensors[1]);
    routing.tokens = numTokens(b, tensors[0]);
    routing.bound = b.mul(routing.tokens, type.getK());
    routings[function.getArgument(i)] = routing;
  }
}

void Lowering::returnRoutings(func::FuncOp function) {
  if (function.isDeclaration() || !function.getBody().hasOneBlock())
    return;
  Operation *terminator = function.front().getTerminator();
  OpBuilder builder(terminator);
  SmallVector<Value> results;
  SmallVector<DictionaryAttr> attributes;
  for (auto [i, result] : llvm::enumerate(terminator->getOperands())) {
    auto type = dyn_cast<RoutingType>(result.getType());
    if (!type) {
      results.push_back(result);
      attributes.push_back(function.getResultAttrDict(i));
      continue;
    }
    RoutingBuffers routing = routingOf(result);
    Value memories[] = {routing.experts, routing.weights};
    for (auto [tensor, memory] : llvm::zip(routingTensors(type), memories)) {
      results.push_back(bufferization::ToTensorOp::create(builder, function.getLoc(), tensor,
                                                          memory, /*restrict=*/true,
                                                          /*writable=*/true));
      attributes.push_back(DictionaryAttr());
    }
  }
  terminator->setOperands(results);
  function.setType(
      builder.getFunctionType(function.getArgumentTypes(), ValueRange(results).getTypes()));
  function.setAllResultAttrs(attributes);
}

void Lowering::eraseRoutingArguments(func::FuncOp function) {
  for (unsigned i = function.getNumArguments(); i-- > 0;)
    if (isa<RoutingType>(function.getArgumentTypes()[i]))
      (void)function.eraseArgument(i);
}
