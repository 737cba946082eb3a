// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --convert-weights: constant expert weights to a smaller type.

#include "moec/Dialect/MoE/Transforms/Passes.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "llvm/Support/FormatVariadic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTWEIGHTSPASS
#include "moec/Dialect/MoE/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// What a constant bank is made from.
struct Constant {
  std::string name;
  SmallVector<Attribute> sources, transforms;
  RankedTensorType type;
  /// New weights stand before this one; null: at the top.
  WeightOp origin;

  void add(Attribute transform) {
    auto unexpected = [&] { return emitError(UnknownLoc::get(transform.getContext())); };
    type = cast<WeightTransformInterface>(transform).getResultType(type, unexpected);
    assert(type && "checked by whyNot");
    transforms.push_back(transform);
  }
};

/// Banks that are converted together.
using Group = SmallVector<OpOperand *, 2>;

struct ConvertWeightsPass : moe::impl::ConvertWeightsPassBase<ConvertWeightsPass> {
  using ConvertWeightsPassBase::ConvertWeightsPassBase;

  void runOnOperation() override;

private:
  LogicalResult readOptions();
  std::optional<Constant> trace(Value bank) const;
  std::string whyNot(const Group &group, Layout layout) const;
  std::string whyNot(Value bank, Layout layout, bool isStacked) const;
  template <typename OpTy> void convert(OpTy op, ArrayRef<Group> groups);
  Value build(OpBuilder &builder, Location loc, Constant constant);
  Value load(OpBuilder &builder, Location loc, const Constant &constant, StringRef suffix);

  SymbolTable *symbols = nullptr;
  /// Type of the converted weights, or null when they are quantized to `bits` bits.
  FloatType floatType;
  int64_t bits = 0;
  /// Statistics may be compiled out.
  bool anyConverted = false;
};

} // namespace

LogicalResult ConvertWeightsPass::readOptions() {
  Builder builder(&getContext());
  floatType = {};
  bits = type == "int8" ? 8 : type == "int4" ? 4 : 0;
  if (type == "bf16")
    floatType = builder.getBF16Type();
  else if (type == "f16")
    floatType = builder.getF16Type();
  else if (!bits)
    return getOperation().emitError() << "--convert-weights: type = '" << StringRef(type)
                                      << "', expected bf16, f16, int8 or int4";
  if (block != 0 && (block < 16 || !llvm::isPowerOf2_64(block)))
    return getOperation().emitError() << "--convert-weights: block = " << int64_t(block)
                                      << " is neither 0 nor a power of two of at least 16";
  return success();
}

/// Nullopt when the bytes are not known at compile time.
std::optional<Constant> ConvertWeightsPass::trace(Value bank) const {
  Constant constant;
  constant.type = cast<RankedTensorType>(bank.getType());
  if (auto load = bank.getDefiningOp<LoadWeightOp>()) {
    constant.origin = symbols->lookup<WeightOp>(load.getWeight());
    if (llvm::any_of(constant.origin.getSources(), llvm::IsaPred<TensorAttr>))
      return std::nullopt;
    constant.name = load.getWeight().str();
    llvm::append_range(constant.sources, constant.origin.getSources());
    llvm::append_range(constant.transforms, constant.origin.getTransforms());
    return constant;
  }
  DenseElementsAttr dense = onnx::getConstantValue(bank);
  if (!dense && !matchPattern(bank, m_Constant(&dense)))
    return std::nullopt;
  constant.name = "constant";
  constant.sources.push_back(dense);
  return constant;
}

/// Why a bank stays as it is; empty when it is converted.
std::string ConvertWeightsPass::whyNot(Value bank, Layout layout, bool isStacked) const {
  if (bank.getDefiningOp<DequantizeOp>())
    return "the weights are quantized already";
  std::optional<Constant> constant = trace(bank);
  if (!constant)
    return "the weights are not constants, or in a file that is not given";
  Type element = constant->type.getElementType();
  if (!element.isF32() && !element.isF16() && !element.isBF16())
    return llvm::formatv("weights of {0} are not converted", element);
  if (floatType)
    return element == floatType ? "the weights are of that type already" : "";

  bool outIn = layout == Layout::OutIn;
  int64_t n = constant->type.getDimSize(outIn ? 1 : 2),
          k = constant->type.getDimSize(outIn ? 2 : 1);
  if (k == 0 || (block != 0 && k % block))
    return llvm::formatv("rows of {0} elements are not whole blocks of {1}", k, int64_t(block));
  if (k * bits % 8)
    return llvm::formatv("rows of {0} codes of {1} bits do not fill whole bytes", k, bits);
  if (isStacked && zeroPoints && block == 0 && n * bits % 8)
    return "zero points of gate and up rows would share bytes";
  return "";
}

std::string ConvertWeightsPass::whyNot(const Group &group, Layout layout) const {
  for (OpOperand *bank : group)
    if (std::string reason = whyNot(bank->get(), layout, group.size() > 1); !reason.empty())
      return reason;
  return "";
}

Value ConvertWeightsPass::load(OpBuilder &builder, Location loc, const Constant &constant,
                               StringRef suffix) {
  WeightOp origin = constant.origin;
  OpBuilder detached(&getContext());
  auto weight =
      WeightOp::create(detached, origin ? origin.getLoc() : loc, constant.name + suffix.str(),
                       constant.type, constant.sources, constant.transforms);
  Block::iterator place = origin ? Block::iterator(origin) : getOperation().getBody()->begin();
  StringAttr name = symbols->insert(weight, place);
  return LoadWeightOp::create(builder, loc, constant.type, FlatSymbolRefAttr::get(name));
}

/// The converted weights of a bank [E, N, K], or of any shape for a floating-point type.
Value ConvertWeightsPass::build(OpBuilder &builder, Location loc, Constant constant) {
  ++numConverted;
  anyConverted = true;
  if (floatType) {
    constant.add(ConvertAttr::get(&getContext(), floatType));
    return load(builder, loc, constant, "_" + type);
  }
  auto part = [&](QuantizedPart part) {
    Constant one = constant;
    one.add(QuantizeAttr::get(&getContext(), part, bits, block, zeroPoints));
    return load(builder, loc, one, ("_" + stringifyQuantizedPart(part)).str());
  };
  Value codes = part(QuantizedPart::Codes), scales = part(QuantizedPart::Scales);
  Value zeros = zeroPoints ? part(QuantizedPart::ZeroPoints) : Value();
  // f32 whatever the model's type: a product of a code and a scale is not rounded.
  auto real = RankedTensorType::get(constant.type.getShape(), builder.getF32Type());
  return DequantizeOp::create(builder, loc, real, codes, scales, zeros, bits, block);
}

template <typename OpTy> void ConvertWeightsPass::convert(OpTy op, ArrayRef<Group> groups) {
  auto stays = [&](StringRef reason) {
    remark::missed(op.getLoc(), remark::RemarkOpts::name("not-converted").category(getArgument()))
        << remark::reason("{0}", reason);
  };
  SmallVector<bool> isConverted;
  for (const Group &group : groups) {
    std::string reason = whyNot(group, op.getLayout());
    isConverted.push_back(reason.empty());
    if (!reason.empty())
      stays(reason);
  }
  if (!llvm::is_contained(isConverted, true))
    return;
  // Codes are [E, out, in], and so are then the other weights of the operation.
  bool isTransposed = bits && op.getLayout() == Layout::InOut;
  auto isConstant = [&](OpOperand *bank) { return trace(bank->get()).has_value(); };
  for (const Group &group : groups)
    if (isTransposed && !llvm::all_of(group, isConstant))
      return stays("the weights are [E, in, out], and some are not constants");

  OpBuilder builder(op);
  for (auto [group, converts] : llvm::zip_equal(groups, isConverted))
    for (OpOperand *bank : group) {
      if (!converts && !isTransposed)
        continue;
      Operation *old = bank->get().getDefiningOp();
      Constant constant = *trace(bank->get());
      if (isTransposed)
        constant.add(PermuteAttr::get(&getContext(), builder.getDenseI64ArrayAttr({0, 2, 1})));
      bank->set(converts ? build(builder, op.getLoc(), constant)
                         : load(builder, op.getLoc(), constant, "_transposed"));
      if (isOpTriviallyDead(old))
        old->erase();
    }
  if (isTransposed)
    op.setLayout(Layout::OutIn);
}

template <typename OpTy> static SmallVector<Group> networksOf(OpTy op) {
  Group up = {&op.getUpMutable()};
  if (op.getGate())
    up.push_back(&op.getGateMutable()[0]);
  return {up, {&op.getDownMutable()}};
}

void ConvertWeightsPass::runOnOperation() {
  if (failed(readOptions()))
    return signalPassFailure();
  SymbolTable table(getOperation());
  symbols = &table;
  anyConverted = false;
  SmallVector<Operation *> ops;
  getOperation().walk([&](Operation *op) {
    if (isa<ExpertsOp, ExpertFFNOp, SharedOp, GroupedMatmulOp>(op))
      ops.push_back(op);
  });
  for (Operation *op : ops) {
    if (auto experts = dyn_cast<ExpertsOp>(op))
      convert(experts, networksOf(experts));
    else if (auto ffn = dyn_cast<ExpertFFNOp>(op))
      convert(ffn, networksOf(ffn));
    else if (auto shared = dyn_cast<SharedOp>(op))
      convert(shared, networksOf(shared));
    else if (auto matmul = dyn_cast<GroupedMatmulOp>(op))
      convert(matmul, {Group{&matmul.getWeightMutable()}});
  }
  if (!anyConverted)
    getOperation().emitWarning() << "no expert weights were converted to " << StringRef(type)
                                 << "; remarks say why";
}
