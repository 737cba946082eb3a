// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The experts: dispatch, grouped products, activation and combine, fused or not.

#include "IntegerProduct.h"
#include "Lowering.h"
#include "moec/Support/Unsupported.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::cpu;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

//===----------------------------------------------------------------------===//
// Rows by expert
//===----------------------------------------------------------------------===//

ExpertRows Lowering::makeRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                              int64_t experts) {
  int64_t k = cast<MemRefType>(routing.experts.getType()).getDimSize(1);
  // Rounding a block up to the next variant adds at most this many rows per expert.
  SmallVector<int64_t> variants = target.blockRows();
  int64_t waste = 0;
  for (auto [smaller, larger] : llvm::zip(variants, ArrayRef(variants).drop_front()))
    waste = std::max(waste, larger - smaller - 1);
  ExpertRows rows;
  rows.bound = routing.bound;
  rows.padded = b.add(rows.bound, b.mul(b.min(rows.bound, b.index(experts)), waste));
  rows.lists = {allocate(b, experts, i32()),
                allocate(b, experts + 1, i32()),
                allocate(b, {kDynamic, 3}, i32(), rows.bound),
                allocate(b, kDynamic, i32(), rows.bound),
                allocate(b, {kDynamic, k}, i32(), routing.tokens),
                allocate(b, {2, experts}, i32()),
                allocate(b, 2, i32())};
  const RoutingLists &lists = rows.lists;
  call(b, getRoutingListsKernel(module, experts, k, routing.full, target),
       {routing.experts, lists.active, lists.first, lists.blocks, lists.rowToken, lists.position,
        lists.cursor, lists.counts},
       op, "lists");
  return rows;
}

ExpertRows &Lowering::rowsOf(KernelBuilder &b, Operation *op, Value routing) {
  auto found = expertRows.find(routing);
  if (found == expertRows.end())
    found = expertRows
                .try_emplace(routing, makeRows(b, op, routingOf(routing),
                                               cast<RoutingType>(routing.getType()).getExperts()))
                .first;
  return found->second;
}

void Lowering::numberRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                          ExpertRows &rows) {
  if (rows.ofSlot)
    return;
  int64_t k = cast<MemRefType>(routing.experts.getType()).getDimSize(1);
  rows.ofSlot = allocate(b, {kDynamic, k}, i32(), routing.tokens);
  rows.self = allocate(b, kDynamic, i32(), rows.bound);
  if (routing.weights)
    rows.weights = allocate(b, kDynamic, f32(), rows.bound);
  kernel(b, op, "number_rows",
         {routing.experts, rows.lists.position, rows.lists.cursor, rows.ofSlot, rows.self,
          routing.weights, rows.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value experts = args[0], position = args[1], cursor = args[2], ofSlot = args[3],
                 self = args[4], weights = args[5], rowWeights = args[6];
           b.forTokens(b.dim(experts, 0), [&](Value token) {
             b.forLoop(b.index(k), [&](Value slot) {
               Value expert = b.load(experts, {token, slot});
               b.store(b.i32(-1), ofSlot, {token, slot});
               b.ifThen(b.isValid(expert), [&] {
                 // The rows of an expert are shifted by one number when padded.
                 Value shift = b.load(cursor, {b.index(0), b.toIndex(expert)});
                 Value row = b.sub(b.load(position, {token, slot}), shift);
                 b.store(row, ofSlot, {token, slot});
                 b.store(row, self, b.toIndex(row));
                 if (weights)
                   b.store(b.load(weights, {token, slot}), rowWeights, b.toIndex(row));
               });
             });
           });
         });
}

/// Number of rows of all blocks.
static Value emitNumRows(KernelBuilder &b, Value blocks, Value counts) {
  Value number = b.loadIndex(counts, b.index(1));
  Value exists = b.less(b.index(0), number);
  return b.branch(
      exists,
      [&] {
        Value last = b.sub(number, b.index(1));
        return b.add(b.loadIndex(blocks, {last, b.index(0)}),
                     b.loadIndex(blocks, {last, b.index(2)}));
      },
      [&] { return b.index(0); });
}

/// `body(column, count)` for vectors of a row; rows [count, bound) of `memory` to zero.
static void emitZeroRows(KernelBuilder &b, Value memory, Value count) {
  int64_t columns = cast<MemRefType>(memory.getType()).getDimSize(1);
  b.forLoop(count, b.dim(memory, 0), b.index(1), [&](Value row) {
    b.forVectors(columns, [&](Value column, int64_t size) {
      b.storeVector(b.splat(0.0), memory, {row, column}, size);
    });
  });
}

LogicalResult Lowering::lowerOp(DispatchOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  ExpertRows &rows = rowsOf(b, op, op.getRouting());
  if (op.getScaleInput())
    numberRows(b, op, routing, rows);
  Value out = destination(b, op.getRows(), rowBound(b, op.getRouting()));
  kernel(b, op, "dispatch",
         {buffer(b, op.getX()), rows.lists.blocks, rows.lists.rowToken, rows.lists.counts,
          op.getScaleInput() ? rows.weights : Value(), out},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value x = args[0], rowToken = args[2], scales = args[4], out = args[5];
           int64_t columns = cast<MemRefType>(x.getType()).getDimSize(1);
           Value count = emitNumRows(b, args[1], args[3]);
           b.forTokens(count, [&](Value row) {
             Value token = b.loadIndex(rowToken, row);
             b.forVectors(columns, [&](Value column, int64_t size) {
               Value v = b.loadVectorPart(x, {token, column}, size, 0.0);
               if (scales)
                 v = b.mulf(v, b.splat(b.load(scales, row)));
               b.storeVector(v, out, {row, column}, size);
             });
           });
           emitZeroRows(b, out, count);
         });
  replace(b, op.getRows(), out);
  return success();
}

Value Lowering::rowBound(KernelBuilder &b, Value routing) {
  return b.mul(routingOf(routing).tokens, cast<RoutingType>(routing.getType()).getK());
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

FailureOr<PackedWeight> Lowering::pack(KernelBuilder &b, Operation *op, const WeightOperands &from,
                                       StringAttr bank, bool perWorker) {
  FailureOr<PackedWeight> weight = packer.pack(op, from.weight, from.bias, from.gate, from.gateBias,
                                               from.glu, from.layout, bank);
  if (failed(weight))
    return failure();
  // Routers, whose numbers choose, and other products do not round.
  if (perWorker)
    weight->productOf = target.operands;
  if (weight->productOf == Operands::Int8 && !multipliesIntegers(*weight))
    return emitUnsupported(op) << "has expert weights that are not codes with one scale for 16 or "
                                  "more, which rows of 8-bit integers need; convert them with "
                                  "--weight-type=int8 or int4";
  auto numWorkers = [&]() -> Value {
    return NumWorkersOp::create(
        b, b.getLoc(), CurrentCallOp::create(b, b.getLoc(), LLVM::LLVMPointerType::get(context)));
  };
  if (weight->panels) {
    if (perWorker && weight->bits && weight->productOf == Operands::F32)
      weight->floats = allocate(b, {kDynamic, 1, weight->k, kPanelWidth}, f32(), numWorkers());
    return weight;
  }
  weight->raw = buffer(b, from.weight);
  weight->rawGate = buffer(b, from.gate);
  weight->rawBias = buffer(b, from.bias);
  weight->rawGateBias = buffer(b, from.gateBias);
  Value rows = b.index(weight->numPanels());
  if (perWorker)
    rows = numWorkers();
  weight->panels = allocate(b, {kDynamic, 1, weight->k, kPanelWidth}, f32(), rows);
  if (from.bias || from.gateBias)
    weight->bias = allocate(b, {kDynamic, 1, 1, kPanelWidth}, f32(), rows);
  return weight;
}

Value Lowering::packRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, RowFormat format,
                         Value source, Value rowOfSource, Value scales) {
  auto type = cast<MemRefType>(source.getType());
  Value packed = allocate(b, kDynamic, format.getElementType(context),
                          b.mul(rows.padded, format.stride(type.getDimSize(1))));
  SmallVector<Value> operands = {source, rows.lists.blocks, rowOfSource, rows.lists.counts, packed};
  if (scales)
    operands.push_back(scales);
  call(b, getPackRowsKernel(module, type, bool(scales), format, target), operands, op, "pack");
  return packed;
}

Value Lowering::roundRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value hidden,
                          int64_t stride, const PackedWeight &weight) {
  RowFormat format = RowFormat::of(weight);
  auto type = MemRefType::get({kDynamic, stride}, f32());
  OpFoldResult sizes[] = {rows.padded, b.getIndexAttr(stride)};
  OpFoldResult strides[] = {b.getIndexAttr(stride), b.getIndexAttr(1)};
  Value source = memref::ReinterpretCastOp::create(b, b.getLoc(), type, hidden, b.getIndexAttr(0),
                                                   sizes, strides);
  Value rounded = allocate(b, kDynamic, format.getElementType(context),
                           b.mul(rows.padded, format.stride(weight.k)));
  call(b, getRoundRowsKernel(module, type, weight.k, format, target),
       {source, rows.lists.blocks, rows.lists.counts, rounded}, op, "round");
  return rounded;
}

void Lowering::product(KernelBuilder &b, Operation *op, const ExpertRows &rows, func::FuncOp kernel,
                       Value source, Value result, const PackedWeight &weight, StringRef phase) {
  const RoutingLists &lists = rows.lists;
  SmallVector<Value> operands = {source,       lists.active, lists.first,
                                 lists.blocks, lists.counts, result};
  llvm::append_range(operands, weight.operands());
  call(b, kernel, operands, op, phase);
}

Value Lowering::down(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value hidden,
                     int64_t stride, const PackedWeight &weight) {
  Value results = allocate(b, {kDynamic, weight.numPanels() * kPanelWidth}, f32(), rows.padded);
  product(b, op, rows, getDownKernel(module, weight, stride, target), hidden, results, weight,
          "down");
  return results;
}

int64_t FFNOperands::experts() const {
  auto type = cast<RankedTensorType>(up.weight.getType());
  return type.getRank() == 2 ? 1 : type.getDimSize(0);
}

template <typename OpTy> static FFNOperands operandsOf(OpTy op) {
  ActivationAttr activation = op.getActivation();
  return {{op.getUp(), op.getUpBias(), op.getGate(), op.getGateBias(), activation.getGlu(),
           op.getLayout()},
          {op.getDown(), op.getDownBias(), {}, {}, Glu::None, op.getLayout()},
          activation};
}

FailureOr<Value> Lowering::feedForward(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                       Value source, Value rowOfSource, Value scales,
                                       const FFNOperands &operands) {
  StringAttr bank = nextBank();
  FailureOr<PackedWeight> up = pack(b, op, operands.up, bank);
  if (failed(up))
    return failure();
  FailureOr<PackedWeight> downWeight = pack(b, op, operands.down, bank);
  if (failed(downWeight))
    return failure();
  Value packed = packRows(b, op, rows, RowFormat::of(*up), source, rowOfSource, scales);
  int64_t columns = hiddenColumns(*up, operands.activation);
  // An 8-bit integer is known only when all columns of its block are.
  RowFormat read = RowFormat::of(*downWeight);
  RowFormat format = read.operands == Operands::Int8 ? RowFormat() : read;
  Value hidden = allocate(b, kDynamic, format.getElementType(context),
                          b.mul(rows.padded, format.stride(columns)));
  product(b, op, rows, getUpKernel(module, *up, operands.activation, format, target), packed,
          hidden, *up, "up");
  if (read.operands == Operands::Int8) {
    hidden = roundRows(b, op, rows, hidden, format.stride(columns), *downWeight);
    columns = downWeight->k;
  }
  return down(b, op, rows, hidden, columns, *downWeight);
}

FailureOr<Value> Lowering::groupedProduct(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                          Value source, const WeightOperands &from) {
  FailureOr<PackedWeight> weight = pack(b, op, from, nextBank());
  if (failed(weight))
    return failure();
  Value packed = packRows(b, op, rows, RowFormat::of(*weight), source, rows.self);
  return down(b, op, rows, packed, weight->k, *weight);
}

/// Rows of a grouped product from their padded places to [S,N], zeros after them.
void Lowering::unpackRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value results,
                          Value out) {
  kernel(b, op, "unpack", {results, rows.lists.blocks, rows.lists.counts, out},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value results = args[0], blocks = args[1], counts = args[2], out = args[3];
           int64_t columns = cast<MemRefType>(out.getType()).getDimSize(1);
           b.parallelLoop(b.loadIndex(counts, b.index(1)), [&](Value block) {
             auto field = [&](int64_t i) { return b.loadIndex(blocks, {block, b.index(i)}); };
             Value row = field(0), padded = field(1), size = field(2);
             b.forLoop(size, [&](Value r) {
               b.forVectors(columns, [&](Value column, int64_t count) {
                 Value v = b.loadVector(results, {b.add(padded, r), column});
                 b.storeVector(v, out, {b.add(row, r), column}, count);
               });
             });
           });
           emitZeroRows(b, out, emitNumRows(b, blocks, counts));
         });
}

LogicalResult Lowering::lowerOp(GroupedMatmulOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  ExpertRows &rows = rowsOf(b, op, op.getRouting());
  numberRows(b, op, routingOf(op.getRouting()), rows);
  FailureOr<Value> results =
      groupedProduct(b, op, rows, buffer(b, op.getRows()),
                     {op.getWeight(), op.getBias(), {}, {}, Glu::None, op.getLayout()});
  if (failed(results))
    return failure();
  Value out = destination(b, op.getResult(), rowBound(b, op.getRouting()));
  unpackRows(b, op, rows, *results, out);
  replace(b, op.getResult(), out);
  return success();
}

/// Whether the weights hold all experts.
static bool isAllFFN(ArrayRef<ExpertRange> kinds) {
  return llvm::all_of(kinds, [](const ExpertRange &r) { return r.kind == ExpertKind::FFN; });
}

/// Runs `ofRange` of the range that holds expert `id`.
static Value emitByKind(KernelBuilder &b, ArrayRef<ExpertRange> kinds, Value id,
                        function_ref<Value(const ExpertRange &)> ofRange) {
  if (kinds.size() == 1)
    return ofRange(kinds.front());
  return b.branch(
      b.less(id, b.i32(kinds.front().end)), [&] { return ofRange(kinds.front()); },
      [&] { return emitByKind(b, kinds.drop_front(), id, ofRange); });
}

/// Number of expert `id` among those of its kind.
static Value numberInKind(KernelBuilder &b, const ExpertRange &range, Value id) {
  return b.add(id, b.i32(range.data - range.begin));
}

RoutingBuffers Lowering::onlyFFN(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                                 ArrayRef<ExpertRange> kinds) {
  int64_t k = cast<MemRefType>(routing.experts.getType()).getDimSize(1);
  RoutingBuffers result = routing;
  result.experts = allocate(b, {kDynamic, k}, i32(), routing.tokens);
  result.full = false;
  kernel(b, op, "kinds", {routing.experts, result.experts},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           b.forTokens(b.dim(args[0], 0), [&](Value token) {
             b.forLoop(b.index(k), [&](Value slot) {
               Value id = b.load(args[0], {token, slot});
               Value number = emitByKind(b, kinds, id, [&](const ExpertRange &range) {
                 return range.kind == ExpertKind::FFN ? numberInKind(b, range, id) : b.i32(-1);
               });
               // Slots that are empty stay so.
               number = b.select(b.isValid(id), number, id);
               b.store(number, args[1], {token, slot});
             });
           });
         });
  return result;
}

/// Rows that have no network of their own, and those that have, to their places.
void Lowering::placeRows(KernelBuilder &b, ExpertFFNOp op, ArrayRef<ExpertRange> kinds,
                         const ExpertRows &all, const ExpertRows &ffn, Value input, Value results,
                         Value out) {
  RoutingBuffers routing = routingOf(op.getRouting());
  kernel(b, op, "place",
         {routing.experts, all.ofSlot, ffn.lists.position, input, results,
          buffer(b, op.getConstants()), all.lists.blocks, all.lists.counts, out},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value ids = args[0], ofSlot = args[1], position = args[2], input = args[3],
                 results = args[4], constants = args[5], out = args[8];
           int64_t columns = cast<MemRefType>(out.getType()).getDimSize(1);
           auto place = [&](Value token, Value slot, Value id) {
             Value row = b.loadIndex(ofSlot, {token, slot});
             b.forVectors(columns, [&](Value column, int64_t count) {
               Value v = emitByKind(b, kinds, id, [&](const ExpertRange &range) -> Value {
                 switch (range.kind) {
                 case ExpertKind::FFN:
                   return b.loadVector(results, {b.loadIndex(position, {token, slot}), column});
                 case ExpertKind::Zero:
                   return b.splat(0.0);
                 case ExpertKind::Identity:
                   return b.loadVectorPart(input, {row, column}, count, 0.0);
                 case ExpertKind::Constant:
                   return b.loadVectorPart(
                       constants, {b.toIndex(numberInKind(b, range, id)), column}, count, 0.0);
                 }
                 llvm_unreachable("unknown kind");
               });
               b.storeVector(v, out, {row, column}, count);
             });
           };
           b.forTokens(b.dim(ids, 0), [&](Value token) {
             b.forLoop(b.dim(ids, 1), [&](Value slot) {
               Value id = b.load(ids, {token, slot});
               b.ifThen(b.isValid(id), [&] { place(token, slot, id); });
             });
           });
           emitZeroRows(b, out, emitNumRows(b, args[6], args[7]));
         });
}

/// The rows of `all` that each row of `ffn` computes with.
Value Lowering::sourceRows(KernelBuilder &b, Operation *op, const ExpertRows &all,
                           const ExpertRows &ffn) {
  Value sources = allocate(b, kDynamic, i32(), ffn.bound);
  kernel(b, op, "sources", {all.ofSlot, ffn.ofSlot, sources},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           b.forTokens(b.dim(args[0], 0), [&](Value token) {
             b.forLoop(b.dim(args[0], 1), [&](Value slot) {
               Value row = b.load(args[1], {token, slot});
               b.ifThen(b.isValid(row), [&] {
                 b.store(b.load(args[0], {token, slot}), args[2], b.toIndex(row));
               });
             });
           });
         });
  return sources;
}

LogicalResult Lowering::lowerOp(ExpertFFNOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  FFNOperands operands = operandsOf(op);
  RoutingBuffers routing = routingOf(op.getRouting());
  ExpertRows &all = rowsOf(b, op, op.getRouting());
  numberRows(b, op, routing, all);
  Value input = buffer(b, op.getInput());
  Value out = destination(b, op.getResult(), rowBound(b, op.getRouting()));
  auto run = [&](const ExpertRows &rows, Value sources) {
    return feedForward(b, op, rows, input, sources, /*scales=*/Value(), operands);
  };
  SmallVector<ExpertRange> kinds =
      expertRanges(op.getKindsAttr(), op.getRouting().getType().getExperts());
  if (isAllFFN(kinds)) {
    FailureOr<Value> results = run(all, all.self);
    if (failed(results))
      return failure();
    unpackRows(b, op, all, *results, out);
  } else {
    RoutingBuffers withRows = onlyFFN(b, op, routing, kinds);
    ExpertRows ffn = makeRows(b, op, withRows, operands.experts());
    numberRows(b, op, withRows, ffn);
    FailureOr<Value> results = run(ffn, sourceRows(b, op, all, ffn));
    if (failed(results))
      return failure();
    placeRows(b, op, kinds, all, ffn, input, *results, out);
  }
  replace(b, op.getResult(), out);
  return success();
}

LogicalResult Lowering::linear(KernelBuilder &b, Operation *op, Value x, const WeightOperands &from,
                               Value y, StringRef phase) {
  FailureOr<PackedWeight> weight = pack(b, op, from, /*bank=*/StringAttr(), /*perWorker=*/false);
  if (failed(weight))
    return failure();
  Value padded = b.add(b.dim(x, 0), target.forF32().blockRows().back());
  Value packed = allocate(b, kDynamic, f32(), b.mul(padded, RowFormat().stride(weight->k)));
  SmallVector<Value> operands = {x, packed, y};
  llvm::append_range(operands, weight->operands());
  call(b,
       getLinearKernel(module, cast<MemRefType>(x.getType()), cast<MemRefType>(y.getType()),
                       *weight, target.forF32()),
       operands, op, phase);
  return success();
}

LogicalResult Lowering::lowerOp(LinearOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value y = destination(b, op.getResult(), numTokens(b, op.getX()));
  WeightOperands weight = {op.getWeight(), op.getBias(), {}, {}, Glu::None, op.getLayout()};
  if (failed(linear(b, op, buffer(b, op.getX()), weight, y, "linear")))
    return failure();
  replace(b, op.getResult(), y);
  return success();
}

LogicalResult Lowering::lowerOp(LogitsOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  Value tokens = numTokens(b, op.getX());
  Value logits = destination(b, op.getLogits(), tokens), y = logits;
  bool isCapped = op.getSoftcap() || op.getNoise();
  if (isCapped)
    y = allocate(b, cast<MemRefType>(logits.getType()).getShape(), f32(), tokens);
  WeightOperands weight = {op.getWeight(), op.getBias(), {}, {}, Glu::None, op.getLayout()};
  if (failed(linear(b, op, buffer(b, op.getX()), weight, y, "logits")))
    return failure();
  if (isCapped)
    capLogits(b, op, y, logits);
  replace(b, op.getLogits(), logits);
  return success();
}

/// c · tanh(l / c) + noise.
void Lowering::capLogits(KernelBuilder &b, LogitsOp op, Value from, Value to) {
  kernel(b, op, "cap", {from, buffer(b, op.getNoise()), to},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           int64_t experts = cast<MemRefType>(args[0].getType()).getDimSize(1);
           b.forTokens(b.dim(args[0], 0), [&](Value token) {
             b.forVectors(experts, [&](Value i, int64_t count) {
               Value v = b.loadVectorPart(args[0], {token, i}, count, 0.0);
               if (op.getSoftcap()) {
                 Value c = b.splat(op.getSoftcap()->convertToDouble());
                 v = b.mulf(c, math::TanhOp::create(b, b.getLoc(), b.divf(v, c)));
               }
               if (args[1])
                 v = b.addf(v, b.loadVectorPart(args[1], {token, i}, count, 0.0));
               b.storeVector(v, args[2], {token, i}, count);
             });
           });
         });
}

//===----------------------------------------------------------------------===//
// Activation
//===----------------------------------------------------------------------===//

/// Lanes first, first + 2, … of the 2·lanes values of two vectors.
static Value emitEverySecond(KernelBuilder &b, Value low, Value high, int64_t first) {
  SmallVector<int64_t> lanes;
  for (int64_t i = 0; i < b.target.lanes; ++i)
    lanes.push_back(first + 2 * i);
  return vector::ShuffleOp::create(b, b.getLoc(), low, high, lanes);
}

LogicalResult Lowering::lowerOp(ActivateOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  ActivationAttr activation = op.getActivation();
  Value out = destination(b, op.getResult(), numTokens(b, op.getRows()));
  kernel(b, op, "activate", {buffer(b, op.getRows()), buffer(b, op.getLinear()), out},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           Value rows = args[0], linear = args[1], out = args[2];
           int64_t columns = cast<MemRefType>(out.getType()).getDimSize(1), lanes = target.lanes;
           auto parts = [&](Value row, Value i, int64_t count) -> std::pair<Value, Value> {
             auto at = [&](Value from, Value column, int64_t size) {
               return b.loadVectorPart(from, {row, column}, size, 0.0);
             };
             switch (activation.getGlu()) {
             case Glu::None:
               return {at(rows, i, count), Value()};
             case Glu::Separate:
               return {at(rows, i, count), at(linear, i, count)};
             case Glu::Concat:
               return {at(rows, i, count), at(rows, b.add(i, columns), count)};
             case Glu::Interleaved:
               Value low = at(rows, b.mul(i, 2), std::min(2 * count, lanes)), high = b.splat(0.0);
               if (2 * count > lanes)
                 high = at(rows, b.add(b.mul(i, 2), lanes), 2 * count - lanes);
               return {emitEverySecond(b, low, high, 0), emitEverySecond(b, low, high, 1)};
             }
             llvm_unreachable("unknown glu");
           };
           b.forTokens(b.dim(out, 0), [&](Value row) {
             b.forVectors(columns, [&](Value i, int64_t count) {
               auto [gate, linear] = parts(row, i, count);
               b.storeVector(emitActivation(b, activation, gate, linear), out, {row, i}, count);
             });
           });
         });
  replace(b, op.getResult(), out);
  return success();
}

//===----------------------------------------------------------------------===//
// Combine
//===----------------------------------------------------------------------===//

namespace {
/// The general combine, inside of its kernel. Buffers are those of `form`.
struct CombineKernel {
  KernelBuilder &b;
  const CombineForm &form;
  Value rows, position, ids, weights, uncovered, uncoveredWeights, input, constants, add, y;
  Value slotOf; ///< i32 [E] on the stack: slot at which the token chose the expert

  /// A GPU has several warps for the columns of a token, so that few tokens do not wait for one.
  static constexpr int64_t kColumnsOfWarp = 64;

  void tokens(Value count);

private:
  void token(Value token, Value part);
  void forColumns(Value part, function_ref<void(Value, int64_t)> body);
  int64_t columns() { return cast<MemRefType>(y.getType()).getDimSize(1); }
  Type element() { return cast<MemRefType>(y.getType()).getElementType(); }
  void orderByExpert(Value token);
  Value entry(Value token, Value slot, Value id, Value column, int64_t count);
  Value addEntry(Value token, Value slot, Value column, int64_t count, Value sum);
  Value sumOfEntries(Value token, Value column, int64_t count);
};
} // namespace

void CombineKernel::orderByExpert(Value token) {
  b.forLoop(b.index(form.experts), [&](Value e) { b.store(b.i32(-1), slotOf, e); });
  b.forLoop(b.dim(ids, 1), [&](Value slot) {
    Value id = b.load(ids, {token, slot});
    b.ifThen(b.isValid(id), [&] { b.store(b.toI32(slot), slotOf, b.toIndex(id)); });
  });
}

/// What an entry's expert computes, `lanes` columns of it.
Value CombineKernel::entry(Value token, Value slot, Value id, Value column, int64_t count) {
  auto row = [&] {
    return b.loadVectorPart(rows, {b.loadIndex(position, {token, slot}), column}, count, 0.0);
  };
  if (form.kinds.empty())
    return row();
  return emitByKind(b, form.kinds, id, [&](const ExpertRange &range) -> Value {
    switch (range.kind) {
    case ExpertKind::FFN:
      return row();
    case ExpertKind::Zero:
      return b.splat(0.0);
    case ExpertKind::Identity: {
      Value v = b.loadVectorPart(input, {token, column}, count, 0.0);
      return form.inputScaled ? b.mulf(v, b.splat(b.load(weights, {token, slot}))) : v;
    }
    case ExpertKind::Constant:
      return b.loadVectorPart(constants, {b.toIndex(numberInKind(b, range, id)), column}, count,
                              0.0);
    }
    llvm_unreachable("unknown kind");
  });
}

Value CombineKernel::addEntry(Value token, Value slot, Value column, int64_t count, Value sum) {
  Value id = b.load(ids, {token, slot});
  auto added = [&] {
    Value v = entry(token, slot, id, column, count);
    Value weight = form.applied ? Value() : b.splat(b.load(weights, {token, slot}));
    if (!form.native)
      return weight ? b.fma(weight, v, sum) : b.addf(sum, v);
    Value product = b.roundThrough(element(), weight ? b.mulf(weight, v) : v);
    return b.roundThrough(element(), b.addf(sum, product));
  };
  return b.branch(b.isValid(id), added, [&] { return sum; });
}

Value CombineKernel::sumOfEntries(Value token, Value column, int64_t count) {
  if (!form.native)
    return b.fold(b.dim(ids, 1), b.splat(0.0),
                  [&](Value slot, Value sum) { return addEntry(token, slot, column, count, sum); });
  return b.fold(b.index(form.experts), b.splat(0.0), [&](Value e, Value sum) {
    Value slot = b.load(slotOf, e);
    return b.branch(
        b.isValid(slot), [&] { return addEntry(token, b.toIndex(slot), column, count, sum); },
        [&] { return sum; });
  });
}

void CombineKernel::tokens(Value count) {
  auto emit = [&](Value number, Value part) {
    if (form.native) {
      slotOf = b.stack(form.experts, b.getI32Type());
      orderByExpert(number);
    }
    token(number, part);
  };
  if (!b.target.isWarp())
    return b.forTokens(count, [&](Value number) { emit(number, Value()); });
  Value parts = b.index(llvm::divideCeil(columns(), kColumnsOfWarp));
  b.parallelLoop(b.mul(count, parts), [&](Value task) {
    emit(b.createOrFold<arith::DivUIOp>(task, parts), b.createOrFold<arith::RemUIOp>(task, parts));
  });
}

/// `lanes` columns at a time, of a part or (null) of all; the last ones may be fewer.
void CombineKernel::forColumns(Value part, function_ref<void(Value, int64_t)> body) {
  if (!part)
    return b.forVectors(columns(), body);
  int64_t lanes = b.target.lanes, whole = llvm::alignDown(columns(), lanes);
  Value first = b.mul(part, kColumnsOfWarp), end = b.add(first, kColumnsOfWarp);
  b.forLoop(first, b.min(end, b.index(whole)), b.index(lanes),
            [&](Value column) { body(column, lanes); });
  if (whole < columns())
    b.ifThen(b.equal(part, b.index(whole / kColumnsOfWarp)),
             [&] { body(b.index(whole), columns() - whole); });
}

void CombineKernel::token(Value token, Value part) {
  Value hasEntry, rest;
  if (uncovered) {
    hasEntry = b.fold(b.dim(ids, 1), b.boolean(false), [&](Value slot, Value any) {
      return b.either(any, b.isValid(b.load(ids, {token, slot})));
    });
    rest = b.fold(b.dim(uncoveredWeights, 1), b.f32(0.0), [&](Value slot, Value sum) {
      return b.addf(sum, b.load(uncoveredWeights, {token, slot}));
    });
  }
  forColumns(part, [&](Value column, int64_t count) {
    Value sum = sumOfEntries(token, column, count);
    auto at = [&](Value x) { return b.loadVectorPart(x, {token, column}, count, 0.0); };
    if (uncovered)
      sum = b.branch(
          hasEntry, [&] { return sum; }, [&] { return b.mulf(b.splat(rest), at(uncovered)); });
    if (form.postScale != 1)
      sum = b.mulf(sum, b.splat(form.postScale));
    if (add)
      sum = b.addf(at(add), sum);
    if (form.average)
      sum = b.mulf(sum, b.splat(0.5));
    b.storeVector(sum, y, {token, column}, count);
  });
}

/// Whether the CPU's kernel of a plain weighted sum of padded rows computes this.
static bool isPlain(const CombineForm &form) {
  auto type = cast<MemRefType>(form.rows.getType());
  bool isPadded = type.getElementType().isF32() && type.getDimSize(1) % kPanelWidth == 0;
  return isPadded && form.routing.full && !form.applied && !form.native && form.postScale == 1 &&
         !form.uncovered && form.kinds.empty() && !form.add;
}

void Lowering::combine(KernelBuilder &b, Operation *op, const CombineForm &form, Value y) {
  if (!target.isWarp() && isPlain(form)) {
    auto type = cast<MemRefType>(y.getType());
    int64_t k = cast<MemRefType>(form.position.getType()).getDimSize(1);
    call(b, getCombineKernel(module, cast<MemRefType>(form.rows.getType()), type, k, target),
         {form.rows, form.position, form.routing.weights, y}, op, "combine");
    return;
  }
  bool needsWeights = !form.applied || (form.inputScaled && !form.kinds.empty());
  kernel(b, op, "combine",
         {form.rows, form.position, form.routing.experts,
          needsWeights ? form.routing.weights : Value(), form.uncovered,
          form.uncovered ? form.uncoveredRouting.weights : Value(),
          form.kinds.empty() ? Value() : form.input, form.constants, form.add, y},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           CombineKernel combine = {b,       form,    args[0], args[1], args[2], args[3], args[4],
                                    args[5], args[6], args[7], args[8], args[9], Value()};
           Value tokens = b.min(b.dim(combine.y, 0), b.dim(combine.ids, 0));
           combine.tokens(tokens);
           // Elsewhere the result has as many rows as the routing.
           if (isa<CombineOp>(op))
             emitZeroRows(b, combine.y, tokens);
         });
}

LogicalResult Lowering::lowerOp(CombineOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  RoutingBuffers routing = routingOf(op.getRouting());
  ExpertRows &rows = rowsOf(b, op, op.getRouting());
  numberRows(b, op, routing, rows);
  // Rows of a tensor are not padded.
  routing.full = false;
  CombineForm form;
  form.rows = buffer(b, op.getRows());
  form.position = rows.ofSlot;
  form.routing = routing;
  form.applied = op.getWeight() == CombineWeight::AlreadyApplied;
  form.native = op.getAccum() == Accum::Native;
  form.postScale = op.getPostScale().convertToDouble();
  form.experts = op.getRouting().getType().getExperts();
  if (op.getUncovered()) {
    form.uncovered = buffer(b, op.getUncovered());
    form.uncoveredRouting = routingOf(op.getUncoveredRouting());
  }
  Value y = destination(b, op.getResult(), op.getTokens());
  combine(b, op, form, y);
  replace(b, op.getResult(), y);
  return success();
}

//===----------------------------------------------------------------------===//
// Whole layers
//===----------------------------------------------------------------------===//

LogicalResult Lowering::lowerOp(ExpertsOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  FFNOperands operands = operandsOf(op);
  CombineForm form;
  form.routing = routingOf(op.getRouting());
  form.experts = op.getRouting().getType().getExperts();
  SmallVector<ExpertRange> kinds = expertRanges(op.getKindsAttr(), form.experts);
  bool allFFN = isAllFFN(kinds);
  RoutingBuffers withRows = allFFN ? form.routing : onlyFFN(b, op, form.routing, kinds);
  ExpertRows some;
  if (!allFFN)
    some = makeRows(b, op, withRows, operands.experts());
  ExpertRows &rows = allFFN ? rowsOf(b, op, op.getRouting()) : some;
  if (op.getScaleInput())
    numberRows(b, op, withRows, rows);
  Value input = buffer(b, op.getInput());
  FailureOr<Value> results = feedForward(b, op, rows, input, rows.lists.rowToken,
                                         op.getScaleInput() ? rows.weights : Value(), operands);
  if (failed(results))
    return failure();
  form.rows = *results;
  form.position = rows.lists.position;
  form.applied = op.getWeight() == CombineWeight::AlreadyApplied;
  form.native = op.getAccum() == Accum::Native;
  form.postScale = op.getPostScale().convertToDouble();
  form.inputScaled = op.getScaleInput();
  if (op.getUncoveredRouting()) {
    form.uncovered = input;
    form.uncoveredRouting = routingOf(op.getUncoveredRouting());
  }
  if (!allFFN) {
    form.kinds = kinds;
    form.input = input;
    form.constants = buffer(b, op.getConstants());
  }
  Value y = destination(b, op.getResult(), form.routing.tokens);
  combine(b, op, form, y);
  replace(b, op.getResult(), y);
  return success();
}

LogicalResult Lowering::lowerOp(SharedOp op) {
  OpBuilder builder(op);
  KernelBuilder b(op.getLoc(), builder, target);
  FFNOperands operands = operandsOf(op);
  // Every expert has every token.
  int64_t experts = operands.experts();
  CombineForm form;
  RoutingBuffers &routing = form.routing;
  routing.tokens = numTokens(b, op.getInput());
  routing.experts = allocate(b, {kDynamic, experts}, i32(), routing.tokens);
  routing.weights = allocate(b, {kDynamic, experts}, f32(), routing.tokens);
  routing.bound = b.mul(routing.tokens, experts);
  routing.full = true;
  kernel(b, op, "route", {buffer(b, op.getWeight()), routing.experts, routing.weights},
         [&](KernelBuilder &b, ArrayRef<Value> args) {
           b.forTokens(b.dim(args[1], 0), [&](Value token) {
             b.forLoop(b.index(experts), [&](Value s) {
               b.store(b.toI32(s), args[1], {token, s});
               Value weight = args[0] ? b.loadF32(args[0], {token, s}) : b.f32(1.0);
               b.store(weight, args[2], {token, s});
             });
           });
         });
  ExpertRows rows = makeRows(b, op, routing, experts);
  FailureOr<Value> results = feedForward(b, op, rows, buffer(b, op.getInput()), rows.lists.rowToken,
                                         /*scales=*/Value(), operands);
  if (failed(results))
    return failure();
  form.rows = *results;
  form.position = rows.lists.position;
  form.experts = experts;
  form.add = buffer(b, op.getAdd());
  form.average = op.getMerge() == Merge::Average;
  Value y = destination(b, op.getResult(), routing.tokens);
  combine(b, op, form, y);
  replace(b, op.getResult(), y);
  return success();
}
