// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// What readPlacement is made of: sums of products over [tokens, experts, positions]
// (PlacementProducts.cpp), positions and capacities (PlacementPositions.cpp), and what they
// say together (Placement.cpp).

#ifndef MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENTREADER_H
#define MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENTREADER_H

#include "Placement.h"
#include "Router.h"
#include "Routing.h"

#include "mlir/IR/TypeUtilities.h"

namespace mlir::moe::placement {

inline RankedTensorType getType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

/// A factor of a product, and what its dimensions are: 't' tokens, 'e' experts, 'c'
/// positions, '1' none.
struct Factor {
  Value value;
  std::string roles;

  bool is(StringRef wanted) const {
    std::string used;
    llvm::copy_if(roles, std::back_inserter(used), [](char role) { return role != '1'; });
    return used == wanted;
  }
};
using Term = SmallVector<Factor, 4>;
using Terms = SmallVector<Term, 2>;

/// A product over [tokens, experts]: the one-hot vectors of `ids`, masks of positions within
/// a capacity, and the rest.
struct ExpertProduct {
  Value ids;
  SmallVector<Value, 2> keeps;
  SmallVector<Value, 2> others;
};

/// Positions [tokens, experts] that count the choices `ids`, from `first` on, after all
/// choices `earlier`; only those at the ids matter.
struct Count {
  Value ids;
  SmallVector<Value, 2> earlier;
  /// Masks that limit `earlier`, and of which of them.
  SmallVector<std::pair<Value, Value>, 2> keeps;
  double first = 1;
};

/// The position of each token at its expert; what it is for tokens that `keeps` leaves out
/// is not known.
struct TokenPositions {
  Count count;
  SmallVector<Value, 2> keeps;
};

/// One choice, not yet beside the others.
struct ReadTerm {
  Placement::Choice choice;
  SmallVector<Value, 2> earlier;
  CapacityAttr capacity;
  /// What the gates are divided by, and the result.
  Value divisor, weight;
};

class PlacementReader {
public:
  PlacementReader(int64_t experts, int64_t positions, IsTokenCount isTokenCount, Refusal &refusal)
      : experts(experts), positions(positions), isTokenCount(isTokenCount), refusal(refusal) {}
  FailureOr<Placement> read(Value tensor);

private:
  bool expand(Value value, StringRef roles, Terms &terms);
  bool expandOperand(Value operand, StringRef roles, Terms &terms);
  bool expandProduct(ArrayRef<std::pair<Value, std::string>> operands, Terms &terms);
  bool isIndicator(const Factor &factor) const;

  Value oneHotIds(Value value) const { return getOneHotIds(value, experts); }
  Value asRows(Value value) const;
  void collectFactors(Value value, SmallVectorImpl<Value> &factors) const;
  FailureOr<ExpertProduct> readExpertProduct(Value value);
  Value getSummedOverExperts(Value value, SmallVectorImpl<Value> &factors) const;

  bool isPerExpert(Value value) const;
  FailureOr<Count> readCount(Value value);
  CapacityAttr getKept(Value limit, double first, bool orEqual) const;
  LogicalResult checkLimits(const Count &count, CapacityAttr capacity);
  LogicalResult readTotals(Value value, Count &count);
  FailureOr<TokenPositions> readLocation(Value value);
  FailureOr<CapacityAttr> readKeep(Value keep, Value ids, ArrayRef<Value> earlier);
  CapacityAttr getDepth(Value oneHot) const;
  FailureOr<ReadTerm> readTerm(const Term &term);
  LogicalResult readWeight(const Factor &factor, ReadTerm &result);
  FailureOr<ExpertProduct> readGate(Value value);
  bool areWithin(ArrayRef<Value> keeps, Value ids, ArrayRef<Value> earlier, CapacityAttr capacity);
  LogicalResult checkDistinct(const Placement &placement);
  bool readNorm(ArrayRef<ReadTerm> terms, Placement &placement);

  LogicalResult refuse(Value value, const Twine &reason) { return refusal.refuse(value, reason); }

  int64_t experts, positions;
  IsTokenCount isTokenCount;
  Refusal &refusal;
};

/// Whether values are the same but for reshapes and casts.
bool areSame(Value lhs, Value rhs);
bool areSame(ArrayRef<Value> lhs, ArrayRef<Value> rhs);
/// A cast that rounds at most.
onnx::NodeOp getCast(Value value);
/// The value behind reshapes and such casts.
Value stripExact(Value value);
/// The same for whole numbers, which may be converted to integers.
Value stripNumbers(Value value);
/// The comparison behind a mask; `inverted` says that it must not hold.
onnx::NodeOp getComparison(Value mask, bool &inverted);
bool isComparison(Value mask);
/// Whether one capacity is known to be no smaller than another.
bool isAtLeast(CapacityAttr lhs, CapacityAttr rhs);
/// Sorts the factors of a product.
FailureOr<ExpertProduct> classify(ArrayRef<Value> factors, int64_t experts, Refusal &refusal);

} // namespace mlir::moe::placement

#endif // MOEC_LIB_CONVERSION_RAISEMOE_PLACEMENTREADER_H
