// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Conversion/MoEToCPU/MoEToCPU.h"

#include "Kernels.h"
#include "WeightPacking.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Support/Unsupported.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETOCPUPASS
#include "moec/Conversion/MoEToCPU/MoEToCPU.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

namespace {

/// Experts and weights of a routing, token-major.
struct RoutingBuffers {
  Value experts; ///< i32 [T, k]
  Value weights; ///< f32 [T, k]
  Value tokens;  ///< T
};

/// Lowers the fused moe ops of one module.
class Lowering {
public:
  Lowering(ModuleOp module, KernelTarget target)
      : module(module), target(target), packer(module), context(module.getContext()) {
    addRegion("other", "");
  }

  LogicalResult lower(GatingOp op);
  LogicalResult lower(ExpertsOp op);
  LogicalResult lower(LogitsOp op);

private:
  Type i32() { return IntegerType::get(context, 32); }
  Type f32() { return Float32Type::get(context); }
  /// The buffer of a tensor operand, as a kernel sees it (dimension 0 dynamic).
  Value buffer(KernelBuilder &b, Value tensor);
  /// Scratch; dynamic sizes in order.
  Value allocate(KernelBuilder &b, ArrayRef<int64_t> shape, Type element, ValueRange sizes = {});
  /// Memory for a result of `rows` rows, as the kernel sees it.
  Value destination(KernelBuilder &b, Value result, Value rows);
  /// Replaces `op` by the tensor in `memory`.
  void replace(KernelBuilder &b, Operation *op, Value memory);
  void call(KernelBuilder &b, func::FuncOp kernel, ValueRange operands, Operation *source,
            StringRef phase);
  /// Number of a new region of the profile.
  int64_t addRegion(const std::string &name, StringRef op);

  ModuleOp module;
  KernelTarget target;
  WeightPacker packer;
  MLIRContext *context;
  DenseMap<Value, RoutingBuffers> routings;
  SmallVector<Attribute> regions;
  int64_t numBanks = 0;

public:
  int64_t numCalls = 0;
  /// Records the names of the profile's regions.
  void annotate();
};

Value Lowering::buffer(KernelBuilder &b, Value tensor) {
  auto type = cast<RankedTensorType>(tensor.getType());
  Value memref = bufferization::ToBufferOp::create(
      b, b.getLoc(), MemRefType::get(type.getShape(), type.getElementType()), tensor,
      /*read_only=*/true);
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

void Lowering::replace(KernelBuilder &b, Operation *op, Value memory) {
  auto type = cast<RankedTensorType>(op->getResult(0).getType());
  auto memoryType = cast<MemRefType>(memory.getType());
  Value tensor = bufferization::ToTensorOp::create(
      b, b.getLoc(), RankedTensorType::get(memoryType.getShape(), type.getElementType()), memory,
      /*restrict=*/true, /*writable=*/true);
  if (tensor.getType() != type)
    tensor = tensor::CastOp::create(b, b.getLoc(), type, tensor);
  op->getResult(0).replaceAllUsesWith(tensor);
  op->erase();
}

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

/// What of a gating has no kernel; empty when it has one.
static StringRef withoutKernel(GatingOp op) {
  if (op.getFn() == WeighFn::MaskedSoftmax &&
      ((op.getWeighSource() == WeighSource::Score && op.getScore() != ScoreFn::Identity) ||
       op.getMode() != SelectMode::TopK))
    return "a masked softmax over scores";
  if (op.getMode() != SelectMode::TopK && op.getMode() != SelectMode::All)
    return "a selection that is neither topk nor all";
  if (op.getScore() == ScoreFn::LogSigmoid)
    return "a logsigmoid";
  if (op.isGrouped() || op.isMasked())
    return "groups or masks";
  if (op.getTieBreak() != TieBreak::Lower)
    return "tie_break = higher";
  if (op.getSourceBias() || op.getExpertScale() || op.getMagnitude())
    return "a source bias, a scale per expert or magnitudes";
  if (op.getNorm() != WeighNorm::None && op.getNorm() != WeighNorm::Sum)
    return "a norm that is not the sum";
  return op.getCapacity() ? "a capacity" : "";
}

/// The same for experts.
static StringRef withoutKernel(ExpertsOp op) {
  if (op.getKinds() || op.getLayout() != Layout::OutIn)
    return "kinds of experts or transposed weights";
  if (op.getUncoveredRouting() || op.getScaleInput())
    return "uncovered tokens or scaled inputs";
  if (op.getWeight() != CombineWeight::Output || op.getAccum() != Accum::F32 ||
      !op.getPostScale().isExactlyValue(1.0))
    return "a sum that is not the plain weighted one";
  return op.getActivation().getClamp() == ActivationClamp::Post ? "clamp = post" : "";
}

/// The same for logits.
static StringRef withoutKernel(LogitsOp op) {
  return op.getNoise() || op.getSoftcap() ? "noise or a softcap" : "";
}

template <typename OpT> static LogicalResult checkHasKernel(OpT op) {
  StringRef reason = withoutKernel(op);
  return reason.empty() ? success()
                        : emitUnsupported(op)
                              << "has " << reason << ", which has no CPU kernel; compile with -O0";
}

LogicalResult Lowering::lower(GatingOp op) {
  if (failed(checkHasKernel(op)))
    return failure();
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value logits = buffer(b, op.getLogits());
  Value tokens = tensor::DimOp::create(b, b.getLoc(), op.getLogits(), 0);
  int64_t k = op.getK();
  RoutingBuffers routing = {allocate(b, {ShapedType::kDynamic, k}, i32(), tokens),
                            allocate(b, {ShapedType::kDynamic, k}, f32(), tokens), tokens};
  SmallVector<Value> operands = {logits};
  for (Value value : {op.getBias(), op.getSource()})
    if (value)
      operands.push_back(buffer(b, value));
  llvm::append_values(operands, routing.experts, routing.weights);
  call(b, getGatingKernel(module, op, target), operands, op, "gating");
  routings[op.getRouting()] = routing;
  return success();
}

LogicalResult Lowering::lower(ExpertsOp op) {
  if (failed(checkHasKernel(op)))
    return failure();
  auto found = routings.find(op.getRouting());
  if (found == routings.end())
    return emitUnsupported(op) << "has a routing that is not produced by moe.gating: no CPU kernel";
  RoutingBuffers routing = found->second;
  auto bank = StringAttr::get(context, "experts" + Twine(numBanks++));
  ActivationAttr activation = op.getActivation();
  FailureOr<PackedWeight> up =
      packer.pack(op, op.getUp(), op.getUpBias(), op.getGate(), op.getGateBias(),
                  activation.getGlu(), Layout::OutIn, bank);
  FailureOr<PackedWeight> down = packer.pack(op, op.getDown(), op.getDownBias(), Value(), Value(),
                                             Glu::None, Layout::OutIn, bank);
  if (failed(up) || failed(down))
    return failure();

  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingType type = op.getRouting().getType();
  int64_t experts = type.getExperts(), k = type.getK(), dynamic = ShapedType::kDynamic;
  Value rows = b.mul(routing.tokens, k);
  // Rounding a block up to the next variant adds at most this many rows per expert.
  SmallVector<int64_t> variants = target.blockRows();
  int64_t waste = 0;
  for (auto [smaller, larger] : llvm::zip(variants, ArrayRef(variants).drop_front()))
    waste = std::max(waste, larger - smaller - 1);
  Value padded = b.add(rows, b.mul(b.min(rows, b.index(experts)), waste));

  RoutingLists lists = {allocate(b, experts, i32()),
                        allocate(b, experts + 1, i32()),
                        allocate(b, {dynamic, 3}, i32(), rows),
                        allocate(b, dynamic, i32(), rows),
                        allocate(b, {dynamic, k}, i32(), routing.tokens),
                        allocate(b, {2, experts}, i32()),
                        allocate(b, 2, i32())};
  call(b, getRoutingListsKernel(module, experts, k, target),
       {routing.experts, lists.active, lists.first, lists.blocks, lists.rowToken, lists.position,
        lists.cursor, lists.counts},
       op, "lists");

  Value x = buffer(b, op.getInput());
  Value packed = allocate(b, dynamic, f32(), b.mul(padded, up->k));
  call(b, getPackRowsKernel(module, cast<MemRefType>(x.getType()), target),
       {x, lists.blocks, lists.rowToken, lists.counts, packed}, op, "pack");

  int64_t hiddenStride = hiddenColumns(*up, activation);
  Value hidden = allocate(b, dynamic, f32(), b.mul(padded, hiddenStride));
  auto product = [&](func::FuncOp kernel, Value source, Value target, const PackedWeight &weight,
                     StringRef phase) {
    SmallVector<Value> operands = {source,       lists.active, lists.first,
                                   lists.blocks, lists.counts, target};
    llvm::append_range(operands, weight.operands());
    call(b, kernel, operands, op, phase);
  };
  product(getUpKernel(module, *up, activation, target), packed, hidden, *up, "up");

  Value results = allocate(b, {dynamic, down->numPanels() * kPanelWidth}, f32(), padded);
  product(getDownKernel(module, *down, hiddenStride, target), hidden, results, *down, "down");

  Value y = destination(b, op.getResult(), routing.tokens);
  call(b,
       getCombineKernel(module, cast<MemRefType>(results.getType()), cast<MemRefType>(y.getType()),
                        k, target),
       {results, lists.position, routing.weights, y}, op, "combine");
  replace(b, op, y);
  return success();
}

LogicalResult Lowering::lower(LogitsOp op) {
  if (failed(checkHasKernel(op)))
    return failure();
  FailureOr<PackedWeight> weight =
      packer.pack(op, op.getWeight(), op.getBias(), Value(), Value(), Glu::None, op.getLayout(),
                  /*bank=*/StringAttr());
  if (failed(weight))
    return failure();
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value x = buffer(b, op.getX());
  Value tokens = tensor::DimOp::create(b, b.getLoc(), op.getX(), 0);
  Value padded = b.add(tokens, target.blockRows().back());
  Value packed = allocate(b, ShapedType::kDynamic, f32(), b.mul(padded, weight->k));
  Value y = destination(b, op.getLogits(), tokens);
  SmallVector<Value> operands = {x, packed, y};
  llvm::append_range(operands, weight->operands());
  call(b,
       getLinearKernel(module, cast<MemRefType>(x.getType()), cast<MemRefType>(y.getType()),
                       *weight, target),
       operands, op, "logits");
  replace(b, op, y);
  return success();
}

void Lowering::annotate() {
  if (numCalls > 0)
    module->setAttr("moe.regions", ArrayAttr::get(context, regions));
}

struct MoEToCPUPass : public moe::impl::MoEToCPUPassBase<MoEToCPUPass> {
  using MoEToCPUPassBase::MoEToCPUPassBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (vectorBits != 128 && vectorBits != 256 && vectorBits != 512) {
      module.emitError() << "vector-bits = " << vectorBits << ", expected 128, 256 or 512";
      return signalPassFailure();
    }
    Lowering lowering(module, KernelTarget{vectorBits / 32});
    SmallVector<Operation *> ops;
    module.walk([&](Operation *op) {
      if (isa<GatingOp, ExpertsOp, LogitsOp>(op))
        ops.push_back(op);
    });
    bool ok = true;
    SmallVector<GatingOp> gatings;
    for (Operation *op : ops) {
      if (auto gating = dyn_cast<GatingOp>(op)) {
        gatings.push_back(gating);
        ok &= succeeded(lowering.lower(gating));
      } else if (auto experts = dyn_cast<ExpertsOp>(op)) {
        ok &= succeeded(lowering.lower(experts));
      } else {
        ok &= succeeded(lowering.lower(cast<LogitsOp>(op)));
      }
    }
    if (!ok)
      return signalPassFailure();
    for (GatingOp gating : llvm::reverse(gatings))
      if (gating->use_empty())
        gating->erase();
    lowering.annotate();
    numCalls = lowering.numCalls;
    if (failed(eraseAndCheck(module)))
      signalPassFailure();
  }

private:
  /// Dead sources of packed weights go; every other moe op that is left has no kernel.
  LogicalResult eraseAndCheck(ModuleOp module) {
    bool ok = true;
    SmallVector<Operation *> left;
    module.walk([&](Operation *op) { left.push_back(op); });
    for (Operation *op : llvm::reverse(left)) {
      if (op->getNumResults() && op->use_empty() && isMemoryEffectFree(op)) {
        op->erase();
        continue;
      }
      if (isa<ScoreOp, SelectOp, WeighOp, GatingOp, DispatchOp, GroupedMatmulOp, ActivateOp,
              ExpertFFNOp, CombineOp, ExpertsOp, DequantizeOp, GivenOp, FilterOp, CapacityOp,
              ComposeOp, TreeSelectOp, BlendOp, RemapOp, SharedOp, AuxOp, BiasUpdateOp>(op)) {
        emitUnsupported(op) << "has no CPU kernel in this form; compile with -O0";
        ok = false;
      }
    }
    return success(ok);
  }
};

} // namespace
