// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Convolution over any number of spatial dimensions.

#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::lowering;

namespace {
/// How the kernel moves along the spatial dimensions.
struct Window {
  SmallVector<int64_t> strides, dilations;
  /// Elements added before the data; sizes of the data with all that is added, and of
  /// the result.
  Sizes before, padded, result;
};
} // namespace

/// One positive integer per spatial dimension, 1 by default.
static FailureOr<SmallVector<int64_t>> getSteps(NodeLowering &n, StringRef name, size_t rank) {
  std::optional<ArrayRef<int64_t>> given = n.node.getIntsAttr(name);
  SmallVector<int64_t> steps(rank, 1);
  if (given)
    steps.assign(given->begin(), given->end());
  if (steps.size() != rank || llvm::any_of(steps, [](int64_t step) { return step < 1; }))
    return n.fail(name + " must be " + Twine(rank) + " positive numbers");
  return steps;
}

/// The padding before and after each dimension as the node states it.
static FailureOr<SmallVector<int64_t>> getPads(NodeLowering &n, size_t rank) {
  SmallVector<int64_t> pads(2 * rank, 0);
  if (std::optional<ArrayRef<int64_t>> given = n.node.getIntsAttr("pads"))
    pads.assign(given->begin(), given->end());
  if (pads.size() != 2 * rank || llvm::any_of(pads, [](int64_t pad) { return pad < 0; }))
    return n.fail("pads must be " + Twine(2 * rank) + " numbers that are not negative");
  return pads;
}

/// Elements from the first to the last that a kernel of this size reads.
static OpFoldResult getReach(ImplicitLocOpBuilder &b, OpFoldResult kernel, int64_t dilation) {
  OpFoldResult steps = subSizes(b, kernel, b.getIndexAttr(1));
  return addSizes(b, mulSizes(b, steps, b.getIndexAttr(dilation)), b.getIndexAttr(1));
}

/// The padding of auto_pad SAME_UPPER and SAME_LOWER: as many results as strides fit.
static std::pair<OpFoldResult, OpFoldResult> getSamePadding(ImplicitLocOpBuilder &b,
                                                            OpFoldResult size, OpFoldResult reach,
                                                            int64_t stride, bool isUpper) {
  OpFoldResult one = b.getIndexAttr(1), zero = b.getIndexAttr(0);
  OpFoldResult count = ceilDivSize(b, size, stride);
  OpFoldResult needed =
      addSizes(b, mulSizes(b, subSizes(b, count, one), b.getIndexAttr(stride)), reach);
  OpFoldResult total = maxSizes(b, subSizes(b, needed, size), zero);
  OpFoldResult half = floorDivSize(b, total, 2);
  OpFoldResult rest = subSizes(b, total, half);
  return isUpper ? std::pair(half, rest) : std::pair(rest, half);
}

static FailureOr<Window> getWindow(NodeLowering &n, ArrayRef<OpFoldResult> data,
                                   ArrayRef<OpFoldResult> kernel) {
  ImplicitLocOpBuilder &b = n.b;
  size_t rank = data.size();
  FailureOr<SmallVector<int64_t>> strides = getSteps(n, "strides", rank),
                                  dilations = getSteps(n, "dilations", rank),
                                  pads = getPads(n, rank);
  if (failed(strides) || failed(dilations) || failed(pads))
    return failure();
  StringRef mode = n.node.getStringAttr("auto_pad", "NOTSET");
  bool isSame = mode == "SAME_UPPER" || mode == "SAME_LOWER";
  if (!isSame && mode != "NOTSET" && mode != "VALID")
    return n.fail("auto_pad is '" + mode + "'");
  Window window{*strides, *dilations, {}, {}, {}};
  for (size_t i = 0; i < rank; ++i) {
    OpFoldResult reach = getReach(b, kernel[i], (*dilations)[i]);
    bool isStated = mode == "NOTSET";
    OpFoldResult before = b.getIndexAttr(isStated ? (*pads)[i] : 0);
    OpFoldResult after = b.getIndexAttr(isStated ? (*pads)[rank + i] : 0);
    if (isSame)
      std::tie(before, after) =
          getSamePadding(b, data[i], reach, (*strides)[i], mode == "SAME_UPPER");
    OpFoldResult padded = addSizes(b, addSizes(b, data[i], before), after);
    Value fits =
        arith::CmpIOp::create(b, arith::CmpIPredicate::sge, toValue(b, padded), toValue(b, reach));
    if (getConstantIntValue(padded) && getConstantIntValue(reach) &&
        *getConstantIntValue(padded) < *getConstantIntValue(reach))
      return n.fail("the kernel reaches over " + Twine(*getConstantIntValue(reach)) + " of " +
                    Twine(*getConstantIntValue(padded)) + " elements");
    if (!getConstantIntValue(padded) || !getConstantIntValue(reach))
      n.check(fits, "the kernel reaches over more elements than there are");
    // What is read is there even when the check fails.
    padded = maxSizes(b, padded, reach);
    OpFoldResult moves = floorDivSize(b, subSizes(b, padded, reach), (*strides)[i]);
    window.before.push_back(before);
    window.padded.push_back(padded);
    window.result.push_back(addSizes(b, moves, b.getIndexAttr(1)));
  }
  return window;
}

/// `data` with zeros around its spatial dimensions.
static Value pad(NodeLowering &n, Value data, const Window &window) {
  ImplicitLocOpBuilder &b = n.b;
  Sizes sizes = getSizes(b, data), target(sizes), offsets(sizes.size(), b.getIndexAttr(0));
  bool isSame = true;
  for (size_t i = 0; i < window.padded.size(); ++i) {
    isSame &= isSameSize(sizes[2 + i], window.padded[i]);
    target[2 + i] = window.padded[i];
    offsets[2 + i] = window.before[i];
  }
  if (isSame)
    return data;
  Value zeros = filledTensor(b, target, getElementTypeOrSelf(data.getType()), 0);
  Sizes strides(sizes.size(), b.getIndexAttr(1));
  return tensor::InsertSliceOp::create(b, data, zeros, offsets, sizes, strides);
}

/// Checks the operands, and that the channels of `data` are `groups` times those of a
/// filter.
static LogicalResult checkOperands(NodeLowering &n, Value data, Value filters, int64_t groups) {
  ImplicitLocOpBuilder &b = n.b;
  auto type = cast<RankedTensorType>(data.getType());
  auto filterType = cast<RankedTensorType>(filters.getType());
  for (Value input : n.inputs())
    if (input && getElementTypeOrSelf(input.getType()) != type.getElementType())
      return n.fail("the inputs differ in element type");
  if (!isArithmeticFloat(type.getElementType()))
    return n.fail("the inputs must be floating-point tensors");
  if (type.getRank() < 3 || filterType.getRank() != type.getRank())
    return n.fail("X has rank " + Twine(type.getRank()) + " and W " + Twine(filterType.getRank()) +
                  ", expected the same, 3 or more");
  if (groups < 1 || (!filterType.isDynamicDim(0) && filterType.getDimSize(0) % groups != 0))
    return n.fail("the number of filters is not divisible by group " + Twine(groups));
  if (groups > 1 && filterType.isDynamicDim(0))
    return n.unsupported("groups of an unknown number of filters are not supported");
  OpFoldResult have = getSize(b, data, 1);
  OpFoldResult want = mulSizes(b, getSize(b, filters, 1), b.getIndexAttr(groups));
  if (isSameSize(have, want))
    return success();
  std::string message = "X has other channels than W";
  if (getConstantIntValue(have) && getConstantIntValue(want))
    return n.fail(message);
  if (dependsOnData(have) || dependsOnData(want))
    return n.unsupported("channels that are computed from data are not supported");
  n.check(equalSizes(b, have, want), message);
  return success();
}

static LogicalResult checkKernelShape(NodeLowering &n, ArrayRef<OpFoldResult> kernel) {
  std::optional<ArrayRef<int64_t>> stated = n.node.getIntsAttr("kernel_shape");
  if (!stated)
    return success();
  if (stated->size() != kernel.size())
    return n.fail("kernel_shape must have " + Twine(kernel.size()) + " numbers");
  for (auto [size, known] : llvm::zip(kernel, *stated)) {
    if (isSize(size, known))
      continue;
    if (getConstantIntValue(size))
      return n.fail("kernel_shape does not fit W");
    n.check(equalSizes(n.b, size, n.b.getIndexAttr(known)), "kernel_shape does not fit W");
  }
  return success();
}

static LogicalResult lowerConv(NodeLowering &n) {
  ImplicitLocOpBuilder &b = n.b;
  Value data = n.input(0), filters = n.input(1), bias = n.input(2);
  int64_t groups = n.node.getIntAttr("group", 1);
  if (failed(checkOperands(n, data, filters, groups)))
    return failure();
  if (bias && cast<RankedTensorType>(bias.getType()).getRank() != 1)
    return n.fail("B must be a vector");
  if (bias && failed(unifyDim(n, bias, 0, filters, 0, "B has another size than W has filters")))
    return failure();
  Sizes dataSizes = getSizes(b, data), kernel = getSizes(b, filters);
  ArrayRef<OpFoldResult> spatialKernel = ArrayRef(kernel).drop_front(2);
  if (failed(checkKernelShape(n, spatialKernel)))
    return failure();
  FailureOr<Window> window = getWindow(n, ArrayRef(dataSizes).drop_front(2), spatialKernel);
  if (failed(window))
    return failure();
  data = pad(n, data, *window);

  // Loops: image, filter, position in the result; channel of the filter, position in it.
  unsigned rank = spatialKernel.size(), loops = 3 + 2 * rank;
  AffineExpr filter = b.getAffineDimExpr(1), channel = b.getAffineDimExpr(2 + rank);
  SmallVector<AffineExpr> dataExprs{b.getAffineDimExpr(0), channel};
  SmallVector<AffineExpr> filterExprs{filter, channel};
  SmallVector<AffineExpr> resultExprs{b.getAffineDimExpr(0), filter};
  if (groups > 1) {
    int64_t filtersPerGroup = *getConstantIntValue(kernel[0]) / groups;
    std::optional<int64_t> channels = getConstantIntValue(kernel[1]);
    if (!channels)
      return n.unsupported("groups of an unknown number of channels are not supported");
    dataExprs[1] = filter.floorDiv(filtersPerGroup) * *channels + channel;
  }
  for (unsigned i = 0; i < rank; ++i) {
    AffineExpr position = b.getAffineDimExpr(2 + i), inner = b.getAffineDimExpr(3 + rank + i);
    dataExprs.push_back(position * window->strides[i] + inner * window->dilations[i]);
    filterExprs.push_back(inner);
    resultExprs.push_back(position);
  }
  SmallVector<AffineMap> maps;
  for (auto &exprs : {dataExprs, filterExprs, resultExprs})
    maps.push_back(AffineMap::get(loops, 0, exprs, b.getContext()));
  SmallVector<utils::IteratorType> iterators(loops, utils::IteratorType::reduction);
  std::fill_n(iterators.begin(), 2 + rank, utils::IteratorType::parallel);

  Sizes sizes{dataSizes[0], kernel[0]};
  llvm::append_range(sizes, window->result);
  Type elementType = getElementTypeOrSelf(data.getType());
  Value init = filledTensor(b, sizes, getComputeType(elementType), 0);
  auto body = [](OpBuilder &builder, Location loc, ValueRange args) {
    ImplicitLocOpBuilder inner(loc, builder);
    Value product =
        multiplyElements(inner, toComputeType(inner, args[0]), toComputeType(inner, args[1]));
    linalg::YieldOp::create(inner, addElements(inner, args[2], product));
  };
  Value result = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{data, filters},
                                           ValueRange{init}, maps, iterators, body)
                     .getResult(0);
  if (!bias)
    return n.replace(convertTensor(n, result, elementType));
  bias = unsqueeze(b, bias, llvm::to_vector(llvm::seq<int64_t>(1, 1 + rank)));
  FailureOr<Value> sum =
      mapElements(n, {result, bias}, elementType,
                  [](ImplicitLocOpBuilder &b, ValueRange x) { return addElements(b, x[0], x[1]); });
  return failed(sum) ? failure() : n.replace(*sum);
}

void lowering::addConvolution(SmallVectorImpl<LoweringEntry> &table) {
  table.push_back({"Conv", 1, kNewestOpset, lowerConv});
}
