// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Target/CPU/PlanWeights.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Target/CPU/WeightTransforms.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/Support/MathExtras.h"

namespace mlir::moe {
#define GEN_PASS_DEF_PLANWEIGHTS
#include "moec/Target/CPU/PlanWeights.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
struct PlanWeights : moe::impl::PlanWeightsBase<PlanWeights> {
  void runOnOperation() override;

private:
  void eraseUnused();
  void mergeEqual();
};

/// Gives weights their places, in the order of the module.
class WeightPlacer {
public:
  LogicalResult placeAll(ModuleOp module);

private:
  LogicalResult placeBank(ArrayRef<WeightOp> members);
  LogicalResult place(WeightOp weight, int64_t offset, int64_t stride);

  /// First free byte of the data section.
  int64_t end = 0;
};
} // namespace

void PlanWeights::eraseUnused() {
  SymbolTableCollection tables;
  SymbolUserMap users(tables, getOperation());
  for (WeightOp weight : llvm::make_early_inc_range(getOperation().getOps<WeightOp>()))
    if (users.useEmpty(weight)) {
      weight.erase();
      ++numErased;
    }
}

void PlanWeights::mergeEqual() {
  SymbolTableCollection tables;
  SymbolUserMap users(tables, getOperation());
  DenseMap<Attribute, WeightOp> seen;
  for (WeightOp weight : llvm::make_early_inc_range(getOperation().getOps<WeightOp>())) {
    // The type follows from these, see the verifier of moe.weight.
    Attribute key = ArrayAttr::get(&getContext(), {weight.getSources(), weight.getTransforms()});
    auto [it, inserted] = seen.try_emplace(key, weight);
    if (inserted)
      continue;
    users.replaceAllUsesWith(weight, it->second.getSymNameAttr());
    weight.erase();
    ++numMerged;
  }
}

LogicalResult WeightPlacer::place(WeightOp weight, int64_t offset, int64_t stride) {
  bool overflow = false;
  uint64_t bytes =
      llvm::SaturatingMultiply<uint64_t>(stride, getNumExperts(weight.getTensorType()), &overflow);
  if (overflow || bytes > uint64_t(INT64_MAX - offset))
    return weight.emitOpError() << "is larger than any file";
  Builder builder(weight.getContext());
  weight.setOffsetAttr(builder.getI64IntegerAttr(offset));
  weight.setExpertStrideAttr(builder.getI64IntegerAttr(stride));
  return success();
}

LogicalResult WeightPlacer::placeBank(ArrayRef<WeightOp> members) {
  WeightOp first = members.front();
  int64_t experts = getNumExperts(first.getTensorType());
  int64_t start = llvm::alignTo(end, kExpertAlignment), size = 0;
  SmallVector<int64_t> offsets;
  for (WeightOp member : members) {
    assert(getNumExperts(member.getTensorType()) == experts && "verified: C3 of moe.weight");
    size = llvm::alignTo(size, kWeightAlignment);
    offsets.push_back(start + size);
    size += getExpertBytes(member.getTensorType());
  }
  int64_t stride = llvm::alignTo(size, kExpertAlignment);
  for (auto [member, offset] : llvm::zip_equal(members, offsets))
    if (failed(place(member, offset, stride)))
      return failure();
  // The last expert is padded too: a range is always whole pages.
  end = start + experts * stride;
  return success();
}

LogicalResult WeightPlacer::placeAll(ModuleOp module) {
  llvm::MapVector<StringAttr, SmallVector<WeightOp>> banks;
  for (WeightOp weight : module.getOps<WeightOp>())
    if (weight.getBankAttr())
      banks[weight.getBankAttr()].push_back(weight);
  for (WeightOp weight : module.getOps<WeightOp>()) {
    if (StringAttr bank = weight.getBankAttr()) {
      // Placed with the bank's first member.
      if (banks[bank].front() == weight && failed(placeBank(banks[bank])))
        return failure();
      continue;
    }
    int64_t bytes = getExpertBytes(weight.getTensorType());
    int64_t offset = llvm::alignTo(end, kWeightAlignment);
    if (failed(place(weight, offset, bytes)))
      return failure();
    end = offset + bytes * getNumExperts(weight.getTensorType());
  }
  return success();
}

LogicalResult mlir::moe::placeWeights(ModuleOp module) { return WeightPlacer().placeAll(module); }

void PlanWeights::runOnOperation() {
  eraseUnused();
  mergeEqual();
  if (failed(placeWeights(getOperation())))
    signalPassFailure();
}
