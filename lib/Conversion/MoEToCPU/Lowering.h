// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The lowering of single moe ops to calls of kernels, and what they share.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_LOWERING_H
#define MOEC_LIB_CONVERSION_MOETOCPU_LOWERING_H

#include "Kernels.h"
#include "WeightPacking.h"

namespace mlir::moe::cpu {

/// Experts and weights of a routing, token-major.
struct RoutingBuffers {
  Value experts;     ///< i32 [T, k]: the expert in each slot; -1: the slot is empty.
  Value weights;     ///< f32 [T, k]; null when unweighted. 0 in empty slots.
  Value tokens;      ///< T
  Value bound;       ///< Never more entries than this.
  bool full = false; ///< No slot is empty.
};

/// A routing's entries by expert: rows sorted by expert, then by token.
struct ExpertRows {
  RoutingLists lists;
  Value bound;  ///< never more rows than this
  Value padded; ///< never more padded rows than this
  // Made by numberRows.
  Value ofSlot;  ///< i32 [T,k]: row of each slot, not padded; -1 when it is empty
  Value self;    ///< i32 [S]: the numbers of the rows
  Value weights; ///< f32 [S]; null when the routing is unweighted
};

/// The operands that make one weight of a product; see WeightPacker::pack.
struct WeightOperands {
  Value weight, bias, gate, gateBias;
  Glu glu;
  Layout layout;
};

/// The weights of the experts' networks, and what is between them.
struct FFNOperands {
  WeightOperands up, down;
  ActivationAttr activation;

  /// Experts that have a network.
  int64_t experts() const;
};

/// How rows become the results of tokens; see moe.combine.
struct CombineForm {
  Value rows;     ///< [S, H] or padded rows
  Value position; ///< i32 [T,k]: the row of each slot; not read for empty ones
  RoutingBuffers routing;
  bool applied = false; ///< The weights are not to be multiplied with.
  bool native = false;
  double postScale = 1;
  Value uncovered; ///< x [T,H] or null
  RoutingBuffers uncoveredRouting;
  // Kinds of experts; none: all have rows.
  SmallVector<ExpertRange> kinds;
  int64_t experts = 0;
  Value input;              ///< x [T,H]
  Value constants;          ///< [., H] or null
  bool inputScaled = false; ///< The experts' input is w · x.
  // moe.shared
  Value add; ///< [T,H] or null
  bool average = false;
};

/// The attributes of moe.capacity, for a routing of `experts` and `k`.
struct CapacityForm {
  CapacityAttr capacity;
  CapacityOrder order;
  int64_t experts, k, kept;
};

/// Fills the slots of a token of a routing one after the other.
class TokenSlots {
public:
  /// `weights` may be null.
  TokenSlots(KernelBuilder &b, Value ids, Value weights, Value token, int64_t k);
  void append(Value id, Value weight);
  /// Adds to the weight of the slot that has this id; appends where there is none, and
  /// counts that in loads[id], unless null.
  void merge(Value id, Value weight, Value loads);
  /// Empties the other slots.
  void finish();

private:
  KernelBuilder &b;
  Value ids, weights, token;
  int64_t k;
  Value used; ///< i32 [1] on the stack
};

/// Lowers the moe ops of one module, one at a time, in the order of the program.
class Lowering {
public:
  Lowering(ModuleOp module, KernelTarget target);
  virtual ~Lowering() = default;

  /// Replaces `op` by calls of kernels. Fails with an error when there is no kernel.
  LogicalResult lower(Operation *op);
  /// Whether `op` is one that this lowers.
  static bool handles(Operation *op);

  /// A routing argument of a function becomes a tensor of experts i32 [T,k] (-1: the
  /// slot is empty) and, when weighted, one of weights f32 [T,k]; so does a result.
  void takeRoutings(func::FuncOp function);
  void returnRoutings(func::FuncOp function);
  /// Erases the old arguments, once nothing uses them.
  static void eraseRoutingArguments(func::FuncOp function);
  /// Records the names of the profile's regions.
  void annotate();

  int64_t numCalls = 0;

protected:
  LogicalResult lowerOp(AuxOp op);
  LogicalResult lowerOp(BiasUpdateOp op);
  LogicalResult lowerOp(BlendOp op);
  LogicalResult lowerOp(CapacityOp op);
  LogicalResult lowerOp(ComposeOp op);
  LogicalResult lowerOp(FilterOp op);
  LogicalResult lowerOp(GatingOp op);
  LogicalResult lowerOp(GivenOp op);
  LogicalResult lowerOp(RemapOp op);
  LogicalResult lowerOp(SharedOp op);
  LogicalResult lowerOp(TreeSelectOp op);
  LogicalResult lowerOp(ExpertsOp op);
  LogicalResult lowerOp(LinearOp op);
  LogicalResult lowerOp(LogitsOp op);
  LogicalResult lowerOp(ScoreOp op);
  LogicalResult lowerOp(SelectOp op);
  LogicalResult lowerOp(WeighOp op);
  LogicalResult lowerOp(DispatchOp op);
  LogicalResult lowerOp(GroupedMatmulOp op);
  LogicalResult lowerOp(ActivateOp op);
  LogicalResult lowerOp(ExpertFFNOp op);
  LogicalResult lowerOp(CombineOp op);

  Type i32() { return IntegerType::get(context, 32); }
  Type f32() { return Float32Type::get(context); }
  Value numTokens(KernelBuilder &b, Value tensor);
  /// The buffer of a tensor operand, as a kernel sees it (dimension 0 dynamic from rank
  /// 2 on); null for null.
  Value buffer(KernelBuilder &b, Value tensor);
  /// The same with the tensor's own shape.
  Value raw(KernelBuilder &b, Value tensor);
  /// Scratch; dynamic sizes in order.
  Value allocate(KernelBuilder &b, ArrayRef<int64_t> shape, Type element, ValueRange sizes = {});
  /// Memory for a result of `rows` rows, as the kernel sees it.
  Value destination(KernelBuilder &b, Value result, Value rows);
  /// Replaces a result by the tensor in `memory`.
  void replace(KernelBuilder &b, Value result, Value memory);
  /// Memory of a routing result; `bound`, if not null, of its entries.
  RoutingBuffers newRouting(KernelBuilder &b, Value routing, Value tokens, Value bound = {});
  /// The buffers of a routing operand; it has them, since its op was lowered before.
  RoutingBuffers routingOf(Value routing) { return routings.lookup(routing); }
  /// The rows of a routing by expert, made when first asked for.
  ExpertRows &rowsOf(KernelBuilder &b, Operation *op, Value routing);
  virtual ExpertRows makeRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                              int64_t experts);
  void numberRows(KernelBuilder &b, Operation *op, const RoutingBuffers &routing, ExpertRows &rows);
  /// Rows that a tensor of dispatched rows has: T·k, the last of them unused.
  Value rowBound(KernelBuilder &b, Value routing);

  StringAttr nextBank() { return StringAttr::get(context, "experts" + Twine(numBanks++)); }
  /// A weight in panels; one that is not constant gets scratch for its panels.
  FailureOr<PackedWeight> pack(KernelBuilder &b, Operation *op, const WeightOperands &from,
                               StringAttr bank, bool perWorker = true);
  /// Rows `rowOfSource` of `source` (times `scales`, if not null) in packed blocks.
  Value packRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, RowFormat format,
                 Value source, Value rowOfSource, Value scales = {});
  /// Packed rows f32, `stride` elements apart, as `weight` is multiplied with.
  Value roundRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value hidden,
                  int64_t stride, const PackedWeight &weight);
  void product(KernelBuilder &b, Operation *op, const ExpertRows &rows, func::FuncOp kernel,
               Value source, Value result, const PackedWeight &weight, StringRef phase);
  /// Packed rows times a weight: padded rows f32 [P, N rounded up to panels].
  Value down(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value hidden, int64_t stride,
             const PackedWeight &weight);
  /// The experts' networks on the rows `rowOfSource` of `source` (times `scales`, if not
  /// null): padded rows f32 [P, at least H].
  virtual FailureOr<Value> feedForward(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                       Value source, Value rowOfSource, Value scales,
                                       const FFNOperands &operands);
  /// Rows times the weight of their expert: padded rows f32 [P, at least N].
  virtual FailureOr<Value> groupedProduct(KernelBuilder &b, Operation *op, const ExpertRows &rows,
                                          Value source, const WeightOperands &weight);
  void unpackRows(KernelBuilder &b, Operation *op, const ExpertRows &rows, Value results,
                  Value out);
  void placeRows(KernelBuilder &b, ExpertFFNOp op, ArrayRef<ExpertRange> kinds,
                 const ExpertRows &all, const ExpertRows &ffn, Value input, Value results,
                 Value out);
  Value sourceRows(KernelBuilder &b, Operation *op, const ExpertRows &all, const ExpertRows &ffn);
  /// x[T,K] · W + b into `y` [T,N].
  virtual LogicalResult linear(KernelBuilder &b, Operation *op, Value x, const WeightOperands &from,
                               Value y, StringRef phase);
  void capLogits(KernelBuilder &b, LogitsOp op, Value from, Value to);
  void combine(KernelBuilder &b, Operation *op, const CombineForm &form, Value y);
  /// The same routing to the ffn experts only, numbered as in the weights.
  RoutingBuffers onlyFFN(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                         ArrayRef<ExpertRange> kinds);

  // Routing (Score.cpp, Select.cpp, Capacity.cpp).
  void softmaxOverTokens(KernelBuilder &b, ScoreOp op, Value scores);
  void selectAll(KernelBuilder &b, SelectOp op, Value ids);
  void selectByToken(KernelBuilder &b, SelectOp op, Value ids);
  void selectByExpert(KernelBuilder &b, SelectOp op, const RoutingBuffers &routing, Value group,
                      Value capacity);
  /// The routing with at most C entries per expert. `group` is groupSize() of `given`.
  RoutingBuffers limit(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                       const CapacityForm &form, Value priority, Value group, Value given);
  void priorityKeys(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
                    const CapacityForm &form, Value priority, Value keys, Value order);
  void accept(KernelBuilder &b, Operation *op, const RoutingBuffers &routing,
              const CapacityForm &form, Value priority, Value group, Value capacity,
              Value accepted);
  /// Tokens of a group, at least 1: `given`, checked when the model runs, or all.
  Value groupSize(KernelBuilder &b, Value given, Value tokens);
  /// #moe.capacity for groups of `tokens` tokens.
  Value emitCapacity(KernelBuilder &b, CapacityAttr capacity, Value tokens, int64_t experts,
                     int64_t k);
  /// Never more entries than this have room; null when that depends on data.
  Value capacityBound(KernelBuilder &b, Value given, Value group, Value tokens, Value capacity,
                      int64_t experts);

  /// Calls a kernel, between marks of the profile.
  virtual void call(KernelBuilder &b, func::FuncOp kernel, ValueRange operands, Operation *source,
                    StringRef phase);
  /// Makes a kernel for `op` (shared by ops with the same attributes and types) and
  /// calls it. Operands are buffers or indices; null ones stay null in `body`.
  void kernel(KernelBuilder &b, Operation *op, StringRef phase, ArrayRef<Value> operands,
              function_ref<void(KernelBuilder &, ArrayRef<Value>)> body);
  /// Number of a new region of the profile.
  int64_t addRegion(const std::string &name, StringRef op);

  ModuleOp module;
  KernelTarget target;
  WeightPacker packer;
  MLIRContext *context;
  DenseMap<Value, RoutingBuffers> routings;
  DenseMap<Value, ExpertRows> expertRows;
  SmallVector<Attribute> regions;
  int64_t numBanks = 0;
};

/// Lowers all moe ops of a module. What is left without a kernel for `target` is an error.
LogicalResult lowerAll(ModuleOp module, Lowering &lowering, KernelTarget target);

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_LOWERING_H
