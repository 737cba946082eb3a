// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// --lower-entry: tensors at the boundary become memory of the caller.

#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace mlir::moe {
#define GEN_PASS_DEF_LOWERENTRY
#include "moec/Conversion/LowerEntry/LowerEntry.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

Value moe::getMarkedArgument(func::FuncOp func, StringRef name) {
  if (func.isDeclaration())
    return Value();
  for (BlockArgument argument : func.getArguments())
    if (func.getArgAttr(argument.getArgNumber(), name))
      return argument;
  return Value();
}

unsigned moe::getNumInputs(func::FuncOp entry) {
  unsigned count = 0;
  while (count < entry.getNumArguments() && !entry.getArgAttr(count, kOutputAttr) &&
         !entry.getArgAttr(count, kWorkspaceAttr))
    ++count;
  return count;
}

unsigned moe::getNumOutputs(func::FuncOp entry) {
  return llvm::count_if(llvm::seq(entry.getNumArguments()),
                        [&](unsigned i) { return entry.getArgAttr(i, kOutputAttr) != nullptr; });
}

static Value stripCasts(Value value) {
  while (auto cast = value.getDefiningOp<tensor::CastOp>())
    value = cast.getSource();
  return value;
}

/// The argument that fills `insert` from its beginning; null for other slices.
static BlockArgument getPrefix(tensor::InsertSliceOp insert) {
  auto argument = dyn_cast<BlockArgument>(stripCasts(insert.getSource()));
  bool isFirst = stripCasts(insert.getDest()).getDefiningOp<tensor::EmptyOp>() &&
                 insert.hasUnitStride() && insert.hasZeroOffset();
  return argument && isFirst && argument.getType() == insert.getSource().getType() &&
                 insert.getSourceType().getRank() == insert.getDestType().getRank()
             ? argument
             : BlockArgument();
}

std::optional<unsigned> moe::findExtendedInput(func::FuncOp entry, unsigned result) {
  Value value = stripCasts(entry.getBody().front().getTerminator()->getOperand(result));
  auto insert = value.getDefiningOp<tensor::InsertSliceOp>();
  auto first = insert ? stripCasts(insert.getDest()).getDefiningOp<tensor::InsertSliceOp>()
                      : tensor::InsertSliceOp();
  BlockArgument argument = first ? getPrefix(first) : BlockArgument();
  if (!argument || argument.getOwner() != &entry.getBody().front() || !insert.hasUnitStride())
    return std::nullopt;
  // The rest begins behind the argument along one axis.
  unsigned axes = 0;
  for (auto [dim, offset] : llvm::enumerate(insert.getMixedOffsets())) {
    if (isConstantIntValue(offset, 0))
      continue;
    auto size = dyn_cast<Value>(offset) ? cast<Value>(offset).getDefiningOp<tensor::DimOp>()
                                        : tensor::DimOp();
    bool isBehind =
        (size && size.getSource() == argument &&
         size.getConstantIndex() == static_cast<int64_t>(dim)) ||
        isConstantIntValue(offset, cast<RankedTensorType>(argument.getType()).getDimSize(dim));
    if (!isBehind)
      return std::nullopt;
    ++axes;
  }
  return axes == 1 ? std::optional(argument.getArgNumber()) : std::nullopt;
}

/// The number of the input that result `result` extends; nullopt for others.
static std::optional<unsigned> getExtendedInput(func::FuncOp entry, unsigned result) {
  auto input = entry.getResultAttrOfType<IntegerAttr>(result, kExtendsAttr);
  return input ? std::optional<unsigned>(input.getInt()) : std::nullopt;
}

namespace {

bool isTensorEntry(func::FuncOp func) {
  if (!func.isPublic() || func.isDeclaration())
    return false;
  auto isTensor = [](Type type) { return isa<TensorType>(type); };
  return llvm::any_of(func.getArgumentTypes(), isTensor) ||
         llvm::any_of(func.getResultTypes(), isTensor);
}

/// Everything that the rest of the pass relies on.
LogicalResult checkEntry(func::FuncOp func) {
  if (!func.getBody().hasOneBlock())
    return func.emitError("an entry function must have one block");
  for (Type type : llvm::concat<const Type>(func.getArgumentTypes(), func.getResultTypes()))
    if (!isa<RankedTensorType>(type))
      return emitUnsupported(func.getLoc())
             << "inputs and outputs must be tensors of known rank, found " << type;
  WalkResult calls = func.walk([](func::CallOp call) {
    auto isTensor = [](Type type) { return isa<TensorType>(type); };
    if (llvm::none_of(call.getOperandTypes(), isTensor) &&
        llvm::none_of(call.getResultTypes(), isTensor))
      return WalkResult::advance();
    call.emitOpError("passes tensors: inline the function first");
    return WalkResult::interrupt();
  });
  return failure(calls.wasInterrupted());
}

MemRefType getBoundaryType(Type type, bool isStrided = false) {
  auto tensor = cast<RankedTensorType>(type);
  if (!isStrided)
    return MemRefType::get(tensor.getShape(), tensor.getElementType());
  SmallVector<int64_t> strides(tensor.getRank(), ShapedType::kDynamic);
  strides.back() = 1;
  auto layout = StridedLayoutAttr::get(type.getContext(), /*offset=*/0, strides);
  return MemRefType::get(tensor.getShape(), tensor.getElementType(), layout);
}

/// The memory of the inputs of an entry that is still on tensors.
SmallVector<Type> getInputMemory(func::FuncOp entry) {
  llvm::SmallDenseSet<unsigned> strided;
  for (unsigned i = 0; i < entry.getNumResults(); ++i)
    if (std::optional<unsigned> input = getExtendedInput(entry, i))
      strided.insert(*input);
  SmallVector<Type> types;
  for (auto [i, type] : llvm::enumerate(entry.getArgumentTypes()))
    types.push_back(getBoundaryType(type, strided.contains(i)));
  return types;
}

//===----------------------------------------------------------------------===//
// The shapes function
//===----------------------------------------------------------------------===//

std::string getOutputName(func::FuncOp entry, unsigned result) {
  if (auto name = entry.getResultAttrOfType<StringAttr>(result, "onnx.name"))
    return ("'" + name.getValue() + "'").str();
  return "number " + std::to_string(result);
}

/// Returns the dimensions of the results instead of the results.
void returnDimensions(func::FuncOp func) {
  Operation *terminator = func.getBody().front().getTerminator();
  OpBuilder builder(terminator);
  SmallVector<Value> dims;
  for (Value result : terminator->getOperands())
    for (int64_t i = 0, rank = cast<RankedTensorType>(result.getType()).getRank(); i < rank; ++i)
      dims.push_back(tensor::DimOp::create(builder, func.getLoc(), result, i));
  terminator->setOperands(dims);
  SmallVector<Type> types(dims.size(), builder.getIndexType());
  func.setType(builder.getFunctionType(func.getArgumentTypes(), types));
}

/// Erases what no result needs. Effects do not count: only values are asked for.
void eraseUnneeded(func::FuncOp func) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(func.getBody().front())))
    if (op.use_empty() && !op.hasTrait<OpTrait::IsTerminator>())
      op.erase();
}

FrozenRewritePatternSet getSimplifications(MLIRContext *context) {
  RewritePatternSet patterns(context);
  populateResolveShapesPatterns(patterns);
  for (Dialect *dialect : context->getLoadedDialects())
    dialect->getCanonicalizationPatterns(patterns);
  for (RegisteredOperationName op : context->getRegisteredOperations())
    op.getCanonicalizationPatterns(patterns, context);
  return FrozenRewritePatternSet(std::move(patterns));
}

bool isShapeArithmetic(Operation *op) {
  if (auto dim = dyn_cast<tensor::DimOp>(op))
    return isa<BlockArgument>(dim.getSource());
  auto isScalar = [](Type type) { return type.isIntOrIndexOrFloat(); };
  // Not isPure: a division by a size is executed by every call anyway.
  return isMemoryEffectFree(op) && op->getNumRegions() == 0 &&
         llvm::all_of(op->getOperandTypes(), isScalar) &&
         llvm::all_of(op->getResultTypes(), isScalar);
}

/// The first operation below `value` that is more than shape arithmetic.
Operation *findDataDependence(Value value) {
  SmallVector<Value> worklist = {value};
  llvm::SmallPtrSet<Operation *, 16> seen;
  while (!worklist.empty()) {
    Operation *op = worklist.pop_back_val().getDefiningOp();
    if (!op || !seen.insert(op).second)
      continue;
    if (!isShapeArithmetic(op))
      return op;
    llvm::append_range(worklist, op->getOperands());
  }
  return nullptr;
}

LogicalResult checkShapes(func::FuncOp shapes, func::FuncOp entry) {
  OperandRange dims = shapes.getBody().front().getTerminator()->getOperands();
  unsigned position = 0;
  for (auto [i, type] : llvm::enumerate(entry.getResultTypes())) {
    for (int64_t d = 0, rank = cast<RankedTensorType>(type).getRank(); d < rank; ++d) {
      Operation *culprit = findDataDependence(dims[position++]);
      if (!culprit)
        continue;
      InFlightDiagnostic diagnostic = emitUnsupported(entry.getLoc())
                                      << "output " << getOutputName(entry, i) << ": dimension " << d
                                      << ": output dimension depends on data: not supported";
      diagnostic.attachNote(culprit->getLoc()) << "depends on " << culprit->getName();
      return diagnostic;
    }
  }
  return success();
}

/// From the dimensions of tensors to those of memrefs.
void takeMemRefs(func::FuncOp shapes, ArrayRef<Type> types) {
  for (auto [argument, type] : llvm::zip(shapes.getArguments(), types))
    argument.setType(type);
  shapes.setType(FunctionType::get(shapes.getContext(), types, shapes.getResultTypes()));
  IRRewriter rewriter(shapes.getContext());
  shapes.walk([&](tensor::DimOp op) {
    rewriter.setInsertionPoint(op);
    rewriter.replaceOpWithNewOp<memref::DimOp>(op, op->getOperand(0), op.getIndex());
  });
}

/// A function beside the entry with its inputs.
func::FuncOp cloneBeside(func::FuncOp entry, StringRef suffix, SymbolTable &symbols) {
  func::FuncOp clone = entry.clone();
  clone.setName((entry.getName() + suffix).str());
  clone.removeArgAttrsAttr();
  clone.removeResAttrsAttr();
  symbols.insert(clone, std::next(entry->getIterator()));
  return clone;
}

LogicalResult makeShapes(func::FuncOp entry, SymbolTable &symbols,
                         const FrozenRewritePatternSet &simplifications) {
  func::FuncOp shapes = cloneBeside(entry, kShapesSuffix, symbols);
  returnDimensions(shapes);
  // Kernel calls first: the patterns would keep them for their effects.
  eraseUnneeded(shapes);
  if (failed(applyPatternsGreedily(shapes, simplifications)))
    return shapes.emitError("simplifying the output shapes does not end");
  eraseUnneeded(shapes);
  if (failed(checkShapes(shapes, entry)))
    return failure();
  takeMemRefs(shapes, getInputMemory(entry));
  return success();
}

//===----------------------------------------------------------------------===//
// The checks function
//===----------------------------------------------------------------------===//

/// Returns these values instead of the results.
void returnValues(func::FuncOp func, ArrayRef<Value> values) {
  func.getBody().front().getTerminator()->setOperands(values);
  SmallVector<Type> types =
      llvm::map_to_vector(values, [](Value value) { return value.getType(); });
  func.setType(FunctionType::get(func.getContext(), func.getArgumentTypes(), types));
}

SmallVector<CheckOp> collectChecks(func::FuncOp func) {
  return llvm::to_vector(func.getBody().front().getOps<CheckOp>());
}

/// Moves the checks of the entry that only look at sizes to a function of their own,
/// which runs before the entry does. The others stay.
LogicalResult makeChecks(func::FuncOp entry, SymbolTable &symbols,
                         const FrozenRewritePatternSet &simplifications) {
  SmallVector<CheckOp> ofEntry = collectChecks(entry);
  if (ofEntry.empty())
    return success();
  func::FuncOp checks = cloneBeside(entry, kChecksSuffix, symbols);
  returnValues(checks, llvm::map_to_vector(collectChecks(checks), [](CheckOp check) -> Value {
                 return check.getCondition();
               }));
  eraseUnneeded(checks);
  if (failed(applyPatternsGreedily(checks, simplifications)))
    return checks.emitError("simplifying the checks does not end");

  SmallVector<Value> conditions;
  SmallVector<Attribute> messages;
  Operation *terminator = checks.getBody().front().getTerminator();
  for (auto [check, condition] :
       llvm::zip(ofEntry, SmallVector<Value>(terminator->getOperands()))) {
    if (findDataDependence(condition))
      continue;
    bool holds = matchPattern(condition, m_One());
    if (!holds) {
      conditions.push_back(condition);
      messages.push_back(check.getMessageAttr());
    }
    check.erase();
  }
  if (conditions.empty()) {
    symbols.erase(checks);
    return success();
  }
  returnValues(checks, conditions);
  checks->setAttr(kMessagesAttr, ArrayAttr::get(entry.getContext(), messages));
  eraseUnneeded(checks);
  takeMemRefs(checks, getInputMemory(entry));
  return success();
}

//===----------------------------------------------------------------------===//
// The entry
//===----------------------------------------------------------------------===//

void lowerInputs(func::FuncOp func, OpBuilder &builder) {
  for (auto [argument, memory] : llvm::zip(func.getArguments(), getInputMemory(func))) {
    Type tensor = argument.getType();
    argument.setType(memory);
    auto value = bufferization::ToTensorOp::create(builder, argument.getLoc(), tensor, argument,
                                                   /*restrict=*/true, /*writable=*/false);
    argument.replaceAllUsesExcept(value, value.getOperation());
  }
}

void lowerOutputs(func::FuncOp func) {
  Block &body = func.getBody().front();
  Operation *terminator = body.getTerminator();
  OpBuilder builder(terminator);
  SmallVector<Value> results(terminator->getOperands());
  terminator->setOperands({});
  for (auto [i, result] : llvm::enumerate(results)) {
    bool isStrided = getExtendedInput(func, i).has_value();
    Value out = body.addArgument(getBoundaryType(result.getType(), isStrided), func.getLoc());
    bufferization::MaterializeInDestinationOp::create(builder, func.getLoc(), Type(), result, out,
                                                      /*restrict=*/true, /*writable=*/true);
  }
}

void lowerCall(func::FuncOp func, Value call) {
  func.walk([&](CurrentCallOp op) {
    op.replaceAllUsesWith(call);
    op.erase();
  });
}

void lowerEntry(func::FuncOp func) {
  MLIRContext *context = func.getContext();
  OpBuilder builder = OpBuilder::atBlockBegin(&func.getBody().front());
  auto mark = [&](DictionaryAttr attributes, StringRef name) {
    NamedAttrList list(attributes);
    list.set(name, builder.getUnitAttr());
    return list.getDictionary(context);
  };
  SmallVector<DictionaryAttr> attributes;
  func.getAllArgAttrs(attributes);
  for (unsigned i = 0; i < func.getNumResults(); ++i)
    attributes.push_back(mark(func.getResultAttrDict(i), kOutputAttr));
  for (StringRef name : {kWorkspaceAttr, kWeightsAttr, kCallAttr})
    attributes.push_back(mark(DictionaryAttr(), name));

  lowerInputs(func, builder);
  lowerOutputs(func);
  Block &body = func.getBody().front();
  auto pointer = LLVM::LLVMPointerType::get(context);
  body.addArgument(MemRefType::get(ShapedType::kDynamic, builder.getI8Type()), func.getLoc());
  body.addArgument(pointer, func.getLoc());
  lowerCall(func, body.addArgument(pointer, func.getLoc()));

  func.removeResAttrsAttr();
  func.setType(builder.getFunctionType(body.getArgumentTypes(), {}));
  func.setAllArgAttrs(attributes);
  func->setAttr(kEntryAttr, builder.getUnitAttr());
}

struct LowerEntryPass : moe::impl::LowerEntryBase<LowerEntryPass> {
  LogicalResult initialize(MLIRContext *context) override {
    simplifications = getSimplifications(context);
    RewritePatternSet patterns(context);
    populateResolveShapesPatterns(patterns);
    resolveShapes = FrozenRewritePatternSet(std::move(patterns));
    return success();
  }

  void runOnOperation() override {
    SymbolTable symbols(getOperation());
    for (func::FuncOp func : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      if (!isTensorEntry(func))
        continue;
      if (failed(checkEntry(func)) || failed(makeShapes(func, symbols, simplifications)) ||
          failed(makeChecks(func, symbols, simplifications)))
        return signalPassFailure();
      lowerEntry(func);
      if (failed(applyPatternsGreedily(func, resolveShapes)))
        return signalPassFailure();
    }
  }

  FrozenRewritePatternSet simplifications;
  FrozenRewritePatternSet resolveShapes;
};

} // namespace
