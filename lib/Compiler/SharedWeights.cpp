// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One weights file for the code of several levels. Code for CPUs packs weights, code for GPUs
// takes them as they are: what both have alike is in the file once, the rest beside each other,
// so that what each of them needs is one range.

#include "Compilation.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Target/CPU/PlanWeights.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SmallVectorExtras.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// Weights that are the same, one in each level that has them.
struct SharedWeight {
  SmallVector<WeightOp, 2> users;
  bool isForCPU = false, isForCUDA = false;

  /// What only CPUs need is first, what only GPUs need is last.
  int getRank() const { return isForCUDA - isForCPU; }
};

class WeightSharing {
public:
  explicit WeightSharing(Compilation &compilation) : compilation(compilation) {}
  LogicalResult share();

private:
  void collect();
  StringAttr makeName(StringAttr wanted, const SharedWeight &weight, llvm::StringSet<> &taken);
  void rename();
  LogicalResult place();

  Compilation &compilation;
  llvm::MapVector<Attribute, SharedWeight> weights;
};
} // namespace

/// What a weight holds, from which its type follows.
static Attribute getContents(WeightOp weight) {
  return ArrayAttr::get(weight.getContext(), {weight.getSources(), weight.getTransforms()});
}

/// The same weight at two levels: it holds the same, in the same bank if it is in one.
void WeightSharing::collect() {
  (void)compilation.forEachLevel([&] {
    ModuleOp module = *compilation.module;
    llvm::DenseMap<Attribute, SmallVector<Attribute>> banks;
    for (WeightOp weight : module.getOps<WeightOp>())
      if (StringAttr bank = weight.getBankAttr())
        banks[bank].push_back(getContents(weight));
    for (WeightOp weight : module.getOps<WeightOp>()) {
      SmallVector<Attribute> key = {getContents(weight)};
      if (StringAttr bank = weight.getBankAttr())
        llvm::append_range(key, banks[bank]);
      SharedWeight &shared = weights[ArrayAttr::get(&compilation.context, key)];
      shared.users.push_back(weight);
      (compilation.isForCUDA() ? shared.isForCUDA : shared.isForCPU) = true;
    }
    return success();
  });
}

/// The wanted name, or the first like it that is not taken.
StringAttr WeightSharing::makeName(StringAttr wanted, const SharedWeight &weight,
                                   llvm::StringSet<> &taken) {
  std::string name = wanted.str();
  std::string longer = name + (weight.isForCUDA ? "_cuda" : "_cpu");
  for (unsigned i = 0; !taken.insert(name).second; ++i)
    name = i == 0 ? longer : longer + "_" + std::to_string(i);
  return StringAttr::get(&compilation.context, name);
}

/// Gives all users of a weight one name, and other weights other ones. So with banks.
void WeightSharing::rename() {
  llvm::StringSet<> takenNames, takenBanks;
  llvm::DenseMap<std::pair<Operation *, Attribute>, StringAttr> newNames, newBanks;
  for (auto &[key, weight] : weights) {
    WeightOp first = weight.users.front();
    StringAttr name = makeName(first.getSymNameAttr(), weight, takenNames);
    StringAttr bank = first.getBankAttr();
    // The first member of a bank names it for the others.
    if (bank && !newBanks.contains({first->getParentOp(), bank}))
      bank = makeName(bank, weight, takenBanks);
    for (WeightOp user : weight.users) {
      newNames[{user->getParentOp(), user.getSymNameAttr()}] = name;
      if (bank)
        newBanks.try_emplace({user->getParentOp(), user.getBankAttr()}, bank);
    }
  }
  (void)compilation.forEachLevel([&] {
    Operation *module = *compilation.module;
    module->walk([&](Operation *op) {
      if (auto load = dyn_cast<LoadWeightOp>(op))
        load.setWeightAttr(
            FlatSymbolRefAttr::get(newNames.at({module, load.getWeightAttr().getAttr()})));
    });
    for (WeightOp weight : compilation.module->getOps<WeightOp>()) {
      weight.setSymNameAttr(newNames.at({module, weight.getSymNameAttr()}));
      if (StringAttr bank = weight.getBankAttr())
        weight.setBankAttr(newBanks.at({module, bank}));
    }
    return success();
  });
}

LogicalResult WeightSharing::place() {
  auto order = llvm::map_to_vector(weights, [](auto &entry) { return &entry.second; });
  llvm::stable_sort(order, [](const SharedWeight *a, const SharedWeight *b) {
    return a->getRank() < b->getRank();
  });
  OwningOpRef<ModuleOp> all = ModuleOp::create(compilation.module->getLoc());
  for (const SharedWeight *weight : order)
    all->push_back(weight->users.front()->clone());
  if (failed(placeWeights(*all)))
    return failure();
  for (auto [weight, placed] : llvm::zip_equal(order, all->getOps<WeightOp>()))
    for (WeightOp user : weight->users) {
      user.setOffsetAttr(placed.getOffsetAttr());
      user.setExpertStrideAttr(placed.getExpertStrideAttr());
    }
  return success();
}

LogicalResult WeightSharing::share() {
  collect();
  rename();
  return place();
}

LogicalResult mlir::moe::shareWeights(Compilation &compilation) {
  bool isAlone = compilation.otherLevels.empty();
  return isAlone ? success() : WeightSharing(compilation).share();
}

OwningOpRef<ModuleOp> mlir::moe::collectWeights(Compilation &compilation) {
  OwningOpRef<ModuleOp> all = ModuleOp::create(compilation.module->getLoc());
  (*all)->setAttrs((*compilation.module)->getDiscardableAttrDictionary());
  SmallVector<WeightOp> weights;
  llvm::DenseSet<Attribute> seen;
  (void)compilation.forEachLevel([&] {
    for (WeightOp weight : compilation.module->getOps<WeightOp>())
      if (seen.insert(weight.getSymNameAttr()).second)
        weights.push_back(weight);
    return success();
  });
  // One level has the order of its program.
  if (!compilation.otherLevels.empty())
    llvm::stable_sort(weights,
                      [](WeightOp a, WeightOp b) { return *a.getOffset() < *b.getOffset(); });
  for (WeightOp weight : weights)
    all->push_back(weight->clone());
  return all;
}
