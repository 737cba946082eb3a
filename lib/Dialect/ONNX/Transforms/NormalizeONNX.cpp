// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Normalizer.h"

#include "moec/Dialect/ONNX/Transforms/Passes.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_NORMALIZEONNXPASS
#include "moec/Dialect/ONNX/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

static std::optional<int64_t> getRank(Value value) {
  auto type = value ? dyn_cast<RankedTensorType>(value.getType()) : RankedTensorType();
  return type ? std::optional(type.getRank()) : std::nullopt;
}

static InFlightDiagnostic fail(NodeOp node) {
  return mlir::emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

Value Normalizer::createInts(ArrayRef<int64_t> values) {
  auto type = RankedTensorType::get(int64_t(values.size()), builder.getI64Type());
  auto value = DenseElementsAttr::get(type, values);
  Location loc = builder.getInsertionPoint()->getLoc();
  return NodeOp::create(builder, loc, TypeRange(type), "Constant", ArrayRef<Value>(), 13,
                        builder.getNamedAttr("value", value))
      .getResult(0);
}

FailureOr<SmallVector<Value>> Normalizer::createMany(StringRef opType, ArrayRef<Value> inputs,
                                                     int64_t version,
                                                     ArrayRef<NamedAttribute> attributes,
                                                     unsigned count) {
  Type unknown = UnrankedTensorType::get(UnknownType::get(builder.getContext()));
  Location loc = builder.getInsertionPoint()->getLoc();
  auto node = NodeOp::create(builder, loc, SmallVector<Type>(count, unknown), opType, inputs,
                             version, attributes);
  if (failed(inferTypes(node, shapes)))
    return failure();
  shapes.visit(node);
  return SmallVector<Value>(node.getResults());
}

FailureOr<Value> Normalizer::create(StringRef opType, ArrayRef<Value> inputs, int64_t version,
                                    ArrayRef<NamedAttribute> attributes) {
  FailureOr<SmallVector<Value>> results = createMany(opType, inputs, version, attributes, 1);
  if (failed(results))
    return failure();
  return results->front();
}

LogicalResult Normalizer::replace(NodeOp node, Value value) {
  // What the model states about the result holds for the value as well.
  auto producer = value.getDefiningOp<NodeOp>();
  bool conflict = false;
  TensorType merged = mergeTypes(cast<TensorType>(value.getType()),
                                 cast<TensorType>(node.getResult(0).getType()), conflict);
  if (producer && !conflict)
    value.setType(merged);
  node.getResult(0).replaceAllUsesWith(value);
  return success();
}

LogicalResult Normalizer::replaceBy(NodeOp node, StringRef opType, ArrayRef<Value> inputs,
                                    int64_t version, ArrayRef<NamedAttribute> attributes,
                                    unsigned numResults) {
  // What the model states of the results is a hint for the new ones.
  SmallVector<Type> types =
      llvm::to_vector(llvm::drop_end(node->getResultTypes(), node.getNumResults() - numResults));
  SmallVector<StringRef> names;
  for (unsigned i = 0; i < numResults; ++i)
    names.push_back(node.getOutputName(i));
  auto by =
      NodeOp::create(builder, node.getLoc(), types, opType, inputs, version, attributes, names);
  if (failed(inferTypes(by, shapes)))
    return failure();
  for (unsigned i = 0; i < numResults; ++i)
    node.getResult(i).replaceAllUsesWith(by.getResult(i));
  return success();
}

/// Removes an attribute that became an input at `position`.
static void moveToInput(NodeOp node, StringRef attribute, unsigned position, Value value) {
  SmallVector<Value> inputs = node.getAllInputs();
  if (inputs.size() <= position)
    inputs.resize(position + 1);
  inputs[position] = value;
  node.setAllInputs(inputs);
  node.removeNodeAttr(attribute);
}

/// `axes` counted from the front of `rank` dimensions; nullopt when one is out of
/// range, which inference reports.
static std::optional<SmallVector<int64_t>> countFromFront(ArrayRef<int64_t> axes, int64_t rank) {
  SmallVector<int64_t> result;
  for (int64_t axis : axes) {
    if (axis < -rank || axis >= rank)
      return std::nullopt;
    result.push_back(axis < 0 ? axis + rank : axis);
  }
  return result;
}

/// Rewrites the constant axes at input `position`, of a tensor of `rank`
/// dimensions, to count from the front.
static void makeAxesPositive(NodeOp node, unsigned position, std::optional<int64_t> rank,
                             Normalizer &normalizer) {
  Value input = node.getInput(position);
  if (!input || !rank)
    return;
  std::optional<SmallVector<int64_t>> axes = normalizer.shapes.getKnown(input);
  if (!axes || llvm::none_of(*axes, [](int64_t axis) { return axis < 0; }))
    return;
  std::optional<SmallVector<int64_t>> positive = countFromFront(*axes, *rank);
  if (!positive)
    return;
  SmallVector<Value> inputs = node.getAllInputs();
  inputs[position] = normalizer.createInts(*positive);
  node.setAllInputs(inputs);
}

/// The same for the attribute `axis`; writes out the default.
static void makeAxisPositive(NodeOp node, std::optional<int64_t> rank, int64_t defaultAxis) {
  if (!rank)
    return;
  int64_t axis = node.getIntAttr("axis", defaultAxis);
  std::optional<SmallVector<int64_t>> positive = countFromFront(axis, *rank);
  if (positive)
    node.setNodeAttr("axis", Builder(node.getContext()).getI64IntegerAttr(positive->front()));
}

//===----------------------------------------------------------------------===//
// Upgrades
//===----------------------------------------------------------------------===//

static LogicalResult upgradeIdentity(NodeOp node, Normalizer &normalizer, bool &done) {
  if (Value input = node.getInput(0))
    return normalizer.replace(node, input);
  return success();
}

static LogicalResult upgradeCast(NodeOp node, Normalizer &normalizer, bool &done) {
  Value input = node.getInput(0);
  if (!input)
    return fail(node) << "has no input";
  // Inference knows what `to` means.
  if (failed(inferTypes(node, normalizer.shapes)))
    return failure();
  Type from = cast<TensorType>(input.getType()).getElementType();
  Type to = cast<TensorType>(node.getResult(0).getType()).getElementType();
  if (from == to && !isa<UnknownType>(from))
    return normalizer.replace(node, input);
  return success();
}

/// `value_*` become `value`.
static LogicalResult upgradeConstant(NodeOp node, Normalizer &normalizer, bool &done) {
  Builder &b = normalizer.builder;
  auto set = [&](StringRef old, DenseElementsAttr value) {
    node.removeNodeAttr(old);
    node.setNodeAttr("value", value);
    return success();
  };
  auto getType = [](Type element, std::optional<size_t> size) {
    return size ? RankedTensorType::get(int64_t(*size), element)
                : RankedTensorType::get({}, element);
  };
  if (node.hasNodeAttr("value_int"))
    return set("value_int", DenseElementsAttr::get(getType(b.getI64Type(), std::nullopt),
                                                   node.getIntAttr("value_int", 0)));
  if (node.hasNodeAttr("value_float"))
    return set("value_float", DenseElementsAttr::get(getType(b.getF32Type(), std::nullopt),
                                                     node.getFloatAttr("value_float", 0)));
  if (auto ints = node.getIntsAttr("value_ints"))
    return set("value_ints", DenseElementsAttr::get(getType(b.getI64Type(), ints->size()), *ints));
  if (auto floats = node.getFloatsAttr("value_floats"))
    return set("value_floats",
               DenseElementsAttr::get(getType(b.getF32Type(), floats->size()), *floats));
  // String constants stay as they are.
  done = node.getTensorAttr("value") != nullptr;
  return success();
}

/// `axes` is an input since 13; without it all dimensions of size 1 go.
static LogicalResult upgradeSqueeze(NodeOp node, Normalizer &normalizer, bool &done) {
  Value data = node.getInput(0);
  std::optional<int64_t> rank = getRank(data);
  if (auto axes = node.getIntsAttr("axes"))
    moveToInput(node, "axes", 1, normalizer.createInts(SmallVector<int64_t>(*axes)));
  if (!node.getInput(1) && rank) {
    auto type = cast<RankedTensorType>(data.getType());
    if (!type.hasStaticShape())
      return success();
    SmallVector<int64_t> ones;
    for (auto [i, dim] : llvm::enumerate(type.getShape()))
      if (dim == 1)
        ones.push_back(i);
    moveToInput(node, "axes", 1, normalizer.createInts(ones));
  }
  makeAxesPositive(node, 1, rank, normalizer);
  return success();
}

static LogicalResult upgradeUnsqueeze(NodeOp node, Normalizer &normalizer, bool &done) {
  if (auto axes = node.getIntsAttr("axes"))
    moveToInput(node, "axes", 1, normalizer.createInts(SmallVector<int64_t>(*axes)));
  Value axes = node.getInput(1);
  if (!axes)
    return fail(node) << "has no axes";
  std::optional<int64_t> rank = getRank(node.getInput(0));
  std::optional<SmallVector<int64_t>> known = normalizer.shapes.getKnown(axes);
  if (rank && known)
    makeAxesPositive(node, 1, *rank + int64_t(known->size()), normalizer);
  return success();
}

/// `axes` becomes an input, and is written out when all are meant.
static LogicalResult upgradeReduce(NodeOp node, Normalizer &normalizer, bool &done) {
  if (auto axes = node.getIntsAttr("axes"))
    moveToInput(node, "axes", 1, normalizer.createInts(SmallVector<int64_t>(*axes)));
  Value data = node.getInput(0), axes = node.getInput(1);
  std::optional<SmallVector<int64_t>> known =
      axes ? normalizer.shapes.getKnown(axes) : std::nullopt;
  bool isEmpty = !axes || (known && known->empty());
  if (isEmpty && node.getIntAttr("noop_with_empty_axes", 0) && data) {
    // Squares and logarithms apply to the elements even then.
    static const StringRef kPlain[] = {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
                                       "ReduceProd"};
    if (llvm::is_contained(kPlain, node.getOpType()))
      return normalizer.replace(node, data);
    return success();
  }
  std::optional<int64_t> rank = getRank(data);
  if (isEmpty && rank) {
    moveToInput(node, "axes", 1,
                normalizer.createInts(llvm::to_vector(llvm::seq<int64_t>(0, *rank))));
    node.removeNodeAttr("noop_with_empty_axes");
  }
  makeAxesPositive(node, 1, rank, normalizer);
  return success();
}

/// Before 13, Softmax and its like flattened the input to rank 2 at `axis` (1 by default).
static LogicalResult upgradeSoftmax(NodeOp node, Normalizer &normalizer, bool &done) {
  Value data = node.getInput(0);
  std::optional<int64_t> rank = getRank(data);
  if (node.getVersion() >= 13) {
    makeAxisPositive(node, rank, -1);
    return success();
  }
  done = false;
  if (!rank)
    return success();
  int64_t axis = node.getIntAttr("axis", 1);
  if (axis < -*rank || axis > *rank)
    return fail(node) << "axis " << axis << " is out of range for rank " << *rank;
  axis = axis < 0 ? axis + *rank : axis;
  Builder &b = normalizer.builder;
  if (axis == *rank - 1) {
    node.setNodeAttr("axis", b.getI64IntegerAttr(axis));
    done = true;
    return success();
  }
  FailureOr<Value> sizes = normalizer.create("Shape", data, 15);
  FailureOr<Value> flattened =
      normalizer.create("Flatten", data, 13, b.getNamedAttr("axis", b.getI64IntegerAttr(axis)));
  if (failed(sizes) || failed(flattened))
    return failure();
  FailureOr<Value> softmax = normalizer.create(node.getOpType(), *flattened, 13,
                                               b.getNamedAttr("axis", b.getI64IntegerAttr(1)));
  if (failed(softmax))
    return failure();
  FailureOr<Value> result = normalizer.create("Reshape", {*softmax, *sizes}, 14);
  if (failed(result))
    return failure();
  return normalizer.replace(node, *result);
}

/// A pool over all spatial dimensions is a reduction.
static LogicalResult upgradeGlobalPool(NodeOp node, Normalizer &normalizer, bool &done) {
  std::optional<int64_t> rank = getRank(node.getInput(0));
  done = false;
  if (!rank)
    return success();
  if (*rank < 3)
    return fail(node) << "the input has rank " << *rank << ", expected 3 or more";
  Value axes = normalizer.createInts(llvm::to_vector(llvm::seq<int64_t>(2, *rank)));
  StringRef opType = node.isOp("GlobalAveragePool") ? "ReduceMean" : "ReduceMax";
  FailureOr<Value> pooled = normalizer.create(opType, {node.getInput(0), axes}, 18);
  return failed(pooled) ? failure() : normalizer.replace(node, *pooled);
}

static LogicalResult upgradeAxisOfInput(NodeOp node, Normalizer &normalizer, bool &done) {
  makeAxisPositive(node, getRank(node.getInput(0)), 0);
  return success();
}

static LogicalResult upgradeLastAxisOfInput(NodeOp node, Normalizer &normalizer, bool &done) {
  makeAxisPositive(node, getRank(node.getInput(0)), -1);
  return success();
}

/// Sizes are an input since 13; equal parts are said by `num_outputs` since 18.
static LogicalResult upgradeSplit(NodeOp node, Normalizer &normalizer, bool &done) {
  if (auto sizes = node.getIntsAttr("split"))
    moveToInput(node, "split", 1, normalizer.createInts(SmallVector<int64_t>(*sizes)));
  if (!node.getInput(1))
    node.setNodeAttr("num_outputs", normalizer.builder.getI64IntegerAttr(node.getNumResults()));
  return upgradeAxisOfInput(node, normalizer, done);
}

/// Writes out `axes` and `steps`.
static LogicalResult upgradeSlice(NodeOp node, Normalizer &normalizer, bool &done) {
  SmallVector<Value> inputs = node.getAllInputs();
  if (inputs.size() < 3 || !inputs[1] || !inputs[2])
    return fail(node) << "needs data, starts and ends";
  std::optional<ShapeElements> starts = normalizer.shapes.get(inputs[1]);
  inputs.resize(5);
  if (!starts) {
    done = inputs[3] && inputs[4];
    return success();
  }
  int64_t count = starts->size();
  if (!inputs[3])
    inputs[3] = normalizer.createInts(llvm::to_vector(llvm::seq<int64_t>(0, count)));
  if (!inputs[4])
    inputs[4] = normalizer.createInts(SmallVector<int64_t>(count, 1));
  node.setAllInputs(inputs);
  makeAxesPositive(node, 3, getRank(inputs[0]), normalizer);
  return success();
}

static LogicalResult upgradeTranspose(NodeOp node, Normalizer &normalizer, bool &done) {
  std::optional<int64_t> rank = getRank(node.getInput(0));
  if (!rank || node.hasNodeAttr("perm"))
    return success();
  SmallVector<int64_t> perm = llvm::to_vector(llvm::reverse(llvm::seq<int64_t>(0, *rank)));
  node.setNodeAttr("perm", normalizer.builder.getDenseI64ArrayAttr(perm));
  return success();
}

/// Two inputs at a time.
static LogicalResult upgradeVariadic(NodeOp node, Normalizer &normalizer, bool &done) {
  StringRef opType = node.isOp("Sum") ? "Add" : node.getOpType();
  int64_t since = node.isOp("Sum") ? 14 : 13;
  SmallVector<Value> inputs(node.getInputs());
  if (inputs.empty())
    return fail(node) << "has no inputs";
  if (inputs.size() == 2 && !node.isOp("Sum"))
    return success();
  Value result = inputs[0];
  for (Value next : ArrayRef(inputs).drop_front()) {
    FailureOr<Value> both = normalizer.create(opType, {result, next}, since);
    if (failed(both))
      return failure();
    result = *both;
  }
  return normalizer.replace(node, result);
}

/// Canonical versions: the newest that only widened types, or whose changes the
/// upgrade makes up for.
static const llvm::StringMap<Canonical> &getTable() {
  static const llvm::StringMap<Canonical> table = [] {
    llvm::StringMap<Canonical> map;
    for (StringRef op :
         {"MatMul", "Gemm",    "Neg",    "Sqrt", "Reciprocal", "Exp",     "Log",   "Sigmoid",
          "Tanh",   "Clip",    "Expand", "Erf",  "Abs",        "Ceil",    "Floor", "Sign",
          "Tile",   "NonZero", "Size",   "Mod",  "Equal",      "Greater", "Less"})
      map[op] = {13, nullptr};
    for (StringRef op : {"Add", "Sub", "Mul", "Div", "Relu", "Reshape", "CumSum"})
      map[op] = {14, nullptr};
    for (StringRef op : {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                         "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"})
      map[op] = {18, upgradeReduce};
    for (StringRef op : {"com.microsoft.MoE", "com.microsoft.QMoE"})
      map[op] = {1, nullptr};
    map["If"] = map["Loop"] = map["Scan"] = {11, nullptr};
    map["ArgMax"] = map["ArgMin"] = {13, upgradeAxisOfInput};
    map["Cast"] = {13, upgradeCast};
    map["Concat"] = {13, upgradeAxisOfInput};
    map["Constant"] = {13, upgradeConstant};
    map["ConstantOfShape"] = {9, nullptr};
    map["Gather"] = {13, upgradeAxisOfInput};
    map["GatherElements"] = {13, upgradeAxisOfInput};
    map["GlobalAveragePool"] = map["GlobalMaxPool"] = {1, upgradeGlobalPool};
    map["GreaterOrEqual"] = map["LessOrEqual"] = {16, nullptr};
    map["Identity"] = {13, upgradeIdentity};
    map["LayerNormalization"] = {17, upgradeLastAxisOfInput};
    map["Max"] = map["Min"] = map["Sum"] = {13, upgradeVariadic};
    map["Pow"] = {15, nullptr};
    map["RMSNormalization"] = {23, upgradeLastAxisOfInput};
    map["RotaryEmbedding"] = {23, upgradeRotaryEmbedding};
    map["Range"] = {11, nullptr};
    map["ReduceSum"] = {13, upgradeReduce};
    map["GatherND"] = {13, nullptr};
    map["ScatterElements"] = {18, upgradeAxisOfInput};
    map["ScatterND"] = {18, nullptr};
    map["Shape"] = {15, nullptr};
    map["Slice"] = {13, upgradeSlice};
    map["Hardmax"] = map["LogSoftmax"] = map["Softmax"] = {13, upgradeSoftmax};
    map["Split"] = {18, upgradeSplit};
    map["Squeeze"] = {13, upgradeSqueeze};
    map["TopK"] = {11, upgradeLastAxisOfInput};
    map["Transpose"] = {13, upgradeTranspose};
    map["Unsqueeze"] = {13, upgradeUnsqueeze};
    map["Where"] = {16, nullptr};
    // Only ever widened, since versions older than those that are read.
    for (StringRef op : {"Acos",
                         "Acosh",
                         "And",
                         "Asin",
                         "Asinh",
                         "Atan",
                         "Atanh",
                         "Compress",
                         "Conv",
                         "ConvInteger",
                         "ConvTranspose",
                         "Cos",
                         "Cosh",
                         "DynamicQuantizeLinear",
                         "Elu",
                         "EyeLike",
                         "Flatten",
                         "HardSigmoid",
                         "InstanceNormalization",
                         "IsInf",
                         "IsNaN",
                         "LeakyRelu",
                         "LpNormalization",
                         "MatMulInteger",
                         "Mean",
                         "MeanVarianceNormalization",
                         "Not",
                         "OneHot",
                         "Or",
                         "PRelu",
                         "QLinearConv",
                         "QLinearMatMul",
                         "Round",
                         "Selu",
                         "Shrink",
                         "SimplifiedLayerNormalization",
                         "Sin",
                         "Sinh",
                         "Softplus",
                         "Softsign",
                         "Tan",
                         "ThresholdedRelu",
                         "Xor"})
      map[op] = {11, nullptr};
    for (StringRef op : {"Celu", "Einsum"})
      map[op] = {12, nullptr};
    for (StringRef op : {"HardSwish", "Trilu"})
      map[op] = {14, nullptr};
    for (StringRef op : {"BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Mish"})
      map[op] = {18, nullptr};
    map["Gelu"] = {20, nullptr};
    map["Swish"] = {24, nullptr};
    addContribUpgrades(map);
    addSequenceUpgrades(map);
    return map;
  }();
  return table;
}

std::optional<int64_t> mlir::moe::onnx::getCanonicalVersion(StringRef opType) {
  auto canonical = getTable().find(opType);
  return canonical == getTable().end() ? std::nullopt : std::optional(canonical->second.since);
}

//===----------------------------------------------------------------------===//
// The walk
//===----------------------------------------------------------------------===//

/// Replaces a node whose elements are all known by a Constant.
void Normalizer::fold(NodeOp node) {
  if (node.getNumResults() != 1 || node.isOp("Constant"))
    return;
  Value result = node.getResult(0);
  std::optional<SmallVector<int64_t>> elements = shapes.getKnown(result);
  auto type = dyn_cast<RankedTensorType>(result.getType());
  if (!elements || !type || type.getRank() > 1)
    return;
  unsigned width = type.getElementTypeBitWidth();
  SmallVector<APInt> values;
  for (int64_t element : *elements)
    values.push_back(APInt(width, element, /*isSigned=*/true,
                           /*implicitTrunc=*/true));
  auto constant = NodeOp::create(
      builder, node.getLoc(), TypeRange(type), "Constant", ArrayRef<Value>(), 13,
      builder.getNamedAttr("value", DenseElementsAttr::get(type, values)), node.getOutputName(0));
  result.replaceAllUsesWith(constant.getResult(0));
  ++numFolded;
}

LogicalResult Normalizer::visit(NodeOp node) {
  bool isGone = false;
  if (failed(visitGraphs(node, isGone)))
    return failure();
  if (isGone)
    return success();
  builder.setInsertionPoint(node);
  // A node of a known operator must have what every version of it has.
  auto canonical = getTable().find(node.getOpType());
  if (canonical != getTable().end()) {
    bool done = true;
    if (canonical->second.upgrade) {
      if (node.getNumResults() == 0)
        return fail(node) << "has no outputs";
      bool hadUses = !node->use_empty();
      if (failed(canonical->second.upgrade(node, *this, done)))
        return failure();
      if (hadUses && node->use_empty())
        return success();
    }
    if (done)
      node.setVersion(canonical->second.since);
  }
  if (failed(inferTypes(node, shapes)))
    return failure();
  shapes.visit(node);
  fold(node);
  return success();
}

LogicalResult Normalizer::run(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(block))
    if (auto node = dyn_cast<NodeOp>(op))
      if (failed(visit(node)))
        return failure();
  // Values hold on to what is known of them, so nodes go only now.
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block))) {
    bool isOurs = isa<NodeOp>(op) || (op.getDialect() && op.getDialect()->getNamespace() == "moe");
    if (!isOurs || !isOpTriviallyDead(&op))
      continue;
    forgetResults(&op);
    op.erase();
  }
  return success();
}

namespace {
struct NormalizeONNXPass : public moe::impl::NormalizeONNXPassBase<NormalizeONNXPass> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (function.isExternal())
        continue;
      Normalizer normalizer(&getContext());
      for (Block &block : function.getBody())
        if (failed(normalizer.run(block)))
          return signalPassFailure();
      numFolded += normalizer.getNumFolded();
      updateResults(function);
    }
  }

  /// The function returns what its values became.
  static void updateResults(func::FuncOp function) {
    auto ret = dyn_cast<func::ReturnOp>(function.getBody().back().back());
    if (!ret)
      return;
    function.setFunctionType(FunctionType::get(function.getContext(), function.getArgumentTypes(),
                                               ret.getOperandTypes()));
  }
};
} // namespace
