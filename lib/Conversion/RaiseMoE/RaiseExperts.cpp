// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// From the last fact, a sum of weighted experts, to moe ops.

#include "RaiseExperts.h"

#include "ContribMoE.h"
#include "ExpertFunction.h"
#include "ExpertWeights.h"
#include "NodeBuilder.h"
#include "Routing.h"

#include "moec/Conversion/RaiseMoE/RaiseMoE.h"
#include "moec/Support/NodeLocation.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/TypeUtilities.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// A sum of weighted experts that is proven.
struct MoEBlock {
  int64_t experts = 0;
  const Fact *x = nullptr;
  Routing routing;
  ActivationAttr activation;
  /// Types through which the weights of the routing go.
  ArrayRef<Type> weightCasts;
  double scale = 1;
  /// The weights multiply the experts' input.
  bool scaleInput = false;
  /// One function for each expert, or one for all.
  SmallVector<ExpertFunction, 0> functions;
};

/// Labels of the groups in order, as if rows of a list were not gathered. Fails for a group
/// that is no label.
std::optional<Labels> plainLabels(ArrayRef<Group> groups, Label via) {
  Labels labels;
  for (const Group &group : groups) {
    if (group.ids || group.constant)
      return std::nullopt;
    for (Ref ref : group.refs) {
      if (ref.via && ref.via != via)
        return std::nullopt;
      labels.push_back(ref.label);
    }
  }
  return labels;
}

Labels withoutColumns(ArrayRef<Labels> axes) {
  Labels result;
  for (const Labels &axis : axes)
    llvm::copy_if(axis, std::back_inserter(result), [](Label label) { return label != kFeature; });
  return result;
}

/// The group along which a bank has its experts: the first that is no column.
const Group *expertGroup(const LinearLayer &layer) {
  for (const Group &group : layer.product->view->groups)
    if (group.refs != Refs{{layer.product->in}} && group.refs != Refs{{layer.product->out}} &&
        (group.ids || group.constant || !group.refs.empty()))
      return &group;
  return nullptr;
}

class Raiser {
public:
  Raiser(RewriterBase &rewriter, ModuleOp module, bool allowFrozen)
      : rewriter(rewriter), symbols(module), allowFrozen(allowFrozen) {}
  LogicalResult run(mlir::Block &block);

private:
  bool isComplete(const Fact *fact, Value value);
  FailureOr<MoEBlock> matchSlots(const Fact *fact, Value result);
  FailureOr<MoEBlock> matchSum(const Fact *fact, Value result);
  FailureOr<MoEBlock> matchPlaced(const Fact *fact, Value result);
  FailureOr<MoEBlock> match(const Fact *fact, Value result);
  LogicalResult matchExperts(MoEBlock &block, const Node *root, Label via);
  LogicalResult checkBanks(const MoEBlock &block, const Fact *ids, const Labels &chosen,
                           std::optional<Label> experts, Label via);
  FailureOr<Labels> readX(MoEBlock &block, Label via);
  LogicalResult readTerm(MoEBlock &block, const Fact *term, const Fact *first);
  LogicalResult checkResult(const Fact *fact, const Labels &tokens, Value result);
  int64_t countExperts(const Fact *term);

  FailureOr<Value> build(const MoEBlock &block, NodeOp node, Value result);
  Value flattenTokens(Location loc, Value x);
  void checkTokens(NodeOp node, Value value, int64_t perToken, Value source, Value x);
  void reportFrozen(NodeOp node, const Twine &found);
  bool isFrozen(const Stop &stop);
  LogicalResult explainStops();

  void eraseBetween(Operation *before, Operation *end);
  LogicalResult refuse(Value value, const Twine &reason) { return refusal.refuse(value, reason); }

  RewriterBase &rewriter;
  SymbolTable symbols;
  bool allowFrozen;
  Facts *facts = nullptr;
  Refusal refusal;
  /// Sums that are not proven, and for which a remark says why.
  DenseSet<const Fact *> explained;
  /// Nodes that nothing needs any more.
  DenseSet<Operation *> erased;
};

} // namespace

//===----------------------------------------------------------------------===//
// Proof
//===----------------------------------------------------------------------===//

/// x: the dimension of the columns comes last, the others are the tokens.
FailureOr<Labels> Raiser::readX(MoEBlock &block, Label via) {
  if ((block.x->kind == Fact::Scaled) != block.scaleInput)
    return refuse(block.x->src, "is multiplied with a weight before the experts read it");
  ArrayRef<Group> groups = block.x->groups;
  auto isColumns = [](const Group &group) { return group.refs == Refs{{kFeature}}; };
  if (groups.empty() || !isColumns(groups.back()))
    return refuse(block.x->src, "is the experts' input, expected its columns last");
  std::optional<Labels> tokens = plainLabels(groups.drop_back(), via);
  if (!tokens)
    return refuse(block.x->src, "is the experts' input at rows that are not one per token");
  return *tokens;
}

/// The experts' functions: one with banks, or one of each expert.
LogicalResult Raiser::matchExperts(MoEBlock &block, const Node *root, Label via) {
  FailureOr<ExpertFunction> first = matchExpertFunction(root, 0, refusal);
  if (failed(first))
    return failure();
  block.x = first->x;
  block.activation = first->activation;
  block.scale = first->scale;
  block.functions.push_back(*first);
  const Group *group = expertGroup(first->up);
  if (group && !group->constant)
    return success();
  for (int64_t e = 1; e < block.experts; ++e) {
    FailureOr<ExpertFunction> next = matchExpertFunction(root, e, refusal);
    if (failed(next))
      return failure();
    if (next->scale != block.scale)
      return refuse(root->at->getResult(0), "experts differ in a factor");
    if (next->activation != block.activation)
      return refuse(root->at->getResult(0), "experts differ in their activation");
    if (next->x->src != block.x->src)
      return refuse(root->at->getResult(0), "experts differ in their input");
    block.functions.push_back(*next);
  }
  return success();
}

/// The rows of the result are the tokens, in their order.
LogicalResult Raiser::checkResult(const Fact *fact, const Labels &tokens, Value result) {
  if (withoutColumns(fact->axes) != tokens)
    return refuse(result, "sums to other rows than the tokens");
  auto column = llvm::find(fact->axes, Labels{kFeature});
  bool isLast =
      column != fact->axes.end() &&
      std::all_of(std::next(column), fact->axes.end(), [](const Labels &a) { return a.empty(); });
  return isLast ? success() : refuse(result, "has its columns not in the last dimension");
}

/// Every bank is read at the expert of its row: at the ids of `chosen` (tokens, then slots),
/// at the label of the experts, or, where each expert has a function, at a constant.
LogicalResult Raiser::checkBanks(const MoEBlock &block, const Fact *ids, const Labels &chosen,
                                 std::optional<Label> experts, Label via) {
  auto check = [&](const Fact *view, ArrayRef<Label> columns) -> LogicalResult {
    for (const Group &group : view->groups) {
      bool isColumn = group.refs.size() == 1 && llvm::is_contained(columns, group.refs[0].label);
      if (isColumn || (!group.ids && !group.constant && group.refs.empty()))
        continue;
      bool atIds = group.ids && ids && group.ids->src == ids->src && group.ids->table.empty() &&
                   plainLabels(group.ids->groups, via) == chosen;
      bool atLabel = experts && group.refs == Refs{{*experts}};
      bool atConstant = group.constant && block.functions.size() == size_t(block.experts);
      if (!atIds && !atLabel && !atConstant)
        return refuse(view->src, "is a weight that is not read at the expert of its row");
    }
    return success();
  };
  for (const ExpertFunction &function : block.functions)
    for (const LinearLayer &layer : {function.up, function.gate, function.down}) {
      const Node *product = layer.product, *bias = layer.bias;
      if (product && failed(check(product->view, {product->in, product->out})))
        return failure();
      if (bias && failed(check(bias->view, {bias->out})))
        return failure();
    }
  return success();
}

/// A sum over the slots of each token, or over all experts with dense weights.
FailureOr<MoEBlock> Raiser::matchSlots(const Fact *fact, Value result) {
  MoEBlock block;
  const Fact *weight = fact->weight;
  Labels reduced;
  if (fact->summed)
    for (Ref ref : fact->choices[0])
      reduced.push_back(ref.label);

  // Who says which expert: the ids of the gathered banks, those of a sorted list, or none.
  FailureOr<ExpertFunction> first = matchExpertFunction(fact->node, 0, refusal);
  if (failed(first))
    return failure();
  block.x = first->x;
  Label via = 0;
  for (ArrayRef<Group> groups : {ArrayRef(first->x->groups), ArrayRef(weight->groups)})
    for (const Group &group : groups)
      for (Ref ref : group.refs)
        via = ref.via ? ref.via : via;
  const Group *group = expertGroup(first->up);
  const Fact *ids = nullptr;
  if (via) {
    if (facts->getRows(via).kind != RowList::Sorted)
      return refuse(first->x->src, "is read in an order that is not that of sorted experts");
    ids = facts->getRows(via).from;
  } else if (group && group->ids) {
    ids = group->ids;
  }
  if (group && group->ids)
    block.experts = cast<ShapedType>(first->up.product->view->src.getType()).getDimSize(0);
  else if (ids)
    block.experts = Facts::getNumExperts(ids->src);
  else if (group && group->refs.size() == 1)
    block.experts = facts->getSize(group->refs[0].label);
  if (block.experts < 1)
    return refuse(fact->node->at->getResult(0), "the number of experts is not known");
  if (failed(matchExperts(block, fact->node, via)))
    return failure();
  block.scale *= fact->value;
  block.scaleInput = block.x->kind == Fact::Scaled && block.x->weight == fact->weight;
  // Without biases an expert gives 0 for 0, the input of those that are not chosen.
  auto hasBias = [](const ExpertFunction &f) { return f.up.bias || f.gate.bias || f.down.bias; };
  if (block.scaleInput && (block.functions.size() > 1 || hasBias(block.functions[0])))
    return refuse(block.x->src, "is multiplied with the weights, expected experts without biases");
  FailureOr<Labels> tokens = readX(block, via);
  if (failed(tokens))
    return failure();

  if (failed(checkResult(fact, *tokens, result)))
    return failure();
  Labels wanted = *tokens;
  llvm::append_range(wanted, reduced);
  std::optional<Labels> weights = plainLabels(weight->groups, via);
  Value source = weight->src;
  if (weights != wanted)
    return refuse(source, "yields weights that are not one per token and slot, in this order");
  block.weightCasts = weight->casts;
  if (!ids) {
    if (!group || group->constant || reduced.size() != 1 || group->refs != Refs{{reduced[0]}})
      return refuse(fact->node->at->getResult(0), "the sum is not over all experts");
    if (failed(checkBanks(block, nullptr, {}, reduced[0], via)))
      return failure();
    if (!weight->casts.empty())
      return refuse(source, "yields weights that are converted after they were rearranged");
    FailureOr<Routing> routing = matchDenseRouting(block.experts, source, refusal);
    if (failed(routing))
      return failure();
    block.routing = *routing;
    return block;
  }
  if (plainLabels(ids->groups, via) != wanted)
    return refuse(ids->src, "yields ids that are not one per token and slot, in this order");
  if (failed(checkBanks(block, ids, wanted, std::nullopt, via)))
    return failure();
  FailureOr<Routing> routing = matchRouting(block.experts, ids->src, source, refusal);
  if (failed(routing))
    return failure();
  block.routing = *routing;
  return block;
}

static const Fact *firstTerm(const SumTree *tree) {
  while (!tree->term)
    tree = tree->left;
  return tree->term;
}

/// The mask or indicator that a term of a sum is under.
static const Fact *selectionOf(const Facts &facts, const Fact *term) {
  const Fact *from = term->rows ? facts.getRows(term->rows).from : term->weight;
  return from->kind == Fact::Pick ? from->ids : from;
}

/// Number of experts among which a term's one is.
int64_t Raiser::countExperts(const Fact *term) {
  const Fact *selection = selectionOf(*facts, term);
  if (selection->kind != Fact::View)
    return 0;
  for (const Group &group : selection->groups)
    if (group.constant)
      return Facts::getNumExperts(selection->src, group.firstDim);
  return Facts::getNumExperts(selection->src);
}

/// A term of the sum: expert `expert` at the rows of its mask, or at all rows with the
/// weight that is 0 where it is not chosen.
LogicalResult Raiser::readTerm(MoEBlock &block, const Fact *term, const Fact *first) {
  FailureOr<ExpertFunction> function = matchExpertFunction(term->node, term->expert, refusal);
  if (failed(function))
    return failure();
  Value at = term->node->at->getResult(0);
  block.x = function->x;
  FailureOr<Labels> tokens = readX(block, term->rows);
  if (failed(tokens))
    return failure();
  if (withoutColumns(term->axes) != *tokens)
    return refuse(at, "yields other rows than the tokens");

  const Fact *pick = term->rows ? nullptr : term->weight;
  if (!term->rows && (pick->kind != Fact::Pick || !pick->weight))
    return refuse(at, "expected a weight that is 0 where the expert is not chosen");
  const Fact *selection = selectionOf(*facts, term);
  const Fact *weight = term->rows ? term->weight : pick->weight;
  SmallVector<Group> chosen;
  llvm::copy_if(selection->groups, std::back_inserter(chosen),
                [](const Group &group) { return !group.constant; });
  std::optional<Labels> slots = plainLabels(chosen, 0);
  std::optional<Labels> weights = plainLabels(weight->groups, term->rows);
  if (!slots || slots->size() < tokens->size() ||
      ArrayRef(*slots).take_front(tokens->size()) != ArrayRef(*tokens))
    return refuse(selection->src, "chooses experts in another order than by token, then slot");
  if (weights != slots)
    return refuse(weight->src, "yields weights that are not one per token and slot, in this order");
  bool hasSlots = slots->size() > tokens->size();
  if (pick && hasSlots != pick->summed)
    return refuse(at, "the weights are not summed over the slots");
  if (first) {
    const Fact *other = selectionOf(*facts, first);
    const Fact *otherWeight = first->rows ? first->weight : first->weight->weight;
    if (other->src != selection->src)
      return refuse(selection->src, "experts are chosen by different tensors");
    if (otherWeight->src != weight->src || otherWeight->casts != weight->casts)
      return refuse(weight->src, "experts have weights of different tensors");
    if (function->scale * term->value != block.scale)
      return refuse(at, "experts differ in a factor");
    if (function->activation != block.activation)
      return refuse(at, "experts differ in their activation");
    if (function->x->src != block.functions[first->expert].x->src)
      return refuse(at, "experts differ in their input");
  }
  block.activation = function->activation;
  block.scale = function->scale * term->value;
  block.functions[term->expert] = *function;
  return success();
}

/// One term for every expert.
FailureOr<MoEBlock> Raiser::matchSum(const Fact *fact, Value result) {
  MoEBlock block;
  SmallVector<const Fact *> terms;
  SmallVector<const SumTree *> pending = {fact->sum};
  while (!pending.empty()) {
    const SumTree *tree = pending.pop_back_val();
    if (tree->term) {
      terms.push_back(tree->term);
      continue;
    }
    pending.push_back(tree->right);
    pending.push_back(tree->left);
  }
  block.experts = countExperts(terms[0]);
  Value at = terms[0]->node->at->getResult(0);
  if (int64_t(terms.size()) != block.experts)
    return refuse(at, "sums " + Twine(terms.size()) + " of " + Twine(block.experts) + " experts");
  block.functions.resize(block.experts);
  const Fact *first = nullptr;
  for (const Fact *term : terms) {
    if (term->expert < 0 || term->expert >= block.experts || block.functions[term->expert].x)
      return refuse(term->node->at->getResult(0), "an expert is added twice");
    if (failed(readTerm(block, term, first)))
      return failure();
    first = first ? first : term;
  }
  block.x = block.functions[first->expert].x;
  FailureOr<Labels> tokens = readX(block, first->rows);
  if (failed(tokens) || failed(checkResult(fact, *tokens, result)))
    return failure();

  if (failed(checkBanks(block, nullptr, {}, std::nullopt, 0)))
    return failure();
  const Fact *selection = selectionOf(*facts, first);
  const Fact *weight = first->rows ? first->weight : first->weight->weight;
  Value source = weight->src;
  block.weightCasts = weight->casts;
  auto maskGroup = llvm::find_if(selection->groups, [](const Group &g) { return g.constant; });
  FailureOr<Routing> routing;
  if (maskGroup == selection->groups.end()) {
    routing = matchRouting(block.experts, selection->src, source, refusal);
  } else {
    if (maskGroup != std::prev(selection->groups.end()))
      return refuse(selection->src, "is a mask, expected its experts in the last dimension");
    // The slots are the dimensions before, but for the tokens.
    int64_t k = 1, rows = 0;
    for (const Group &group : ArrayRef(selection->groups).drop_back())
      for (Ref ref : group.refs)
        if (++rows > int64_t(tokens->size()))
          k *= facts->getSize(ref.label);
    if (k < 1)
      return refuse(selection->src, "has an unknown number of slots");
    routing = matchMaskedRouting(block.experts, k, selection->src, source, refusal);
  }
  if (failed(routing))
    return failure();
  block.routing = *routing;
  return block;
}

/// Rows that a product put to positions at experts, taken back by another product.
FailureOr<MoEBlock> Raiser::matchPlaced(const Fact *fact, Value result) {
  MoEBlock block;
  const auto &[placement, tokens, weights] = facts->getPlaced(fact->rows);
  block.experts = placement.experts;
  if (failed(matchExperts(block, fact->node, fact->rows)))
    return failure();
  block.scale *= fact->value;
  FailureOr<Labels> read = readX(block, fact->rows);
  if (failed(read) || failed(checkResult(fact, tokens, result)))
    return failure();
  if (*read != tokens)
    return refuse(block.x->src, "is put to the experts' positions at other rows than the tokens");
  std::optional<Label> experts;
  if (block.functions.size() == 1)
    experts = fact->choices[0][0].label;
  if (failed(checkBanks(block, nullptr, {}, experts, fact->rows)))
    return failure();
  block.routing.experts = placement.experts;
  block.routing.k = placement.getK();
  block.routing.placement = weights.find(fact->weight->src)->second;
  return block;
}

FailureOr<MoEBlock> Raiser::match(const Fact *fact, Value result) {
  if (fact->kind == Fact::Sum)
    return matchSum(fact, result);
  return fact->rows ? matchPlaced(fact, result) : matchSlots(fact, result);
}

/// Whether it is time to prove that a tensor is a whole block.
bool Raiser::isComplete(const Fact *fact, Value value) {
  if (fact->kind == Fact::Weighted)
    return fact->promising && fact->weight->kind == Fact::View &&
           !llvm::any_of(fact->axes, [&](const Labels &axis) {
             return axis.size() == 1 && axis[0] != kFeature &&
                    facts->getRows(axis[0]).kind != RowList::None;
           });
  if (fact->kind != Fact::Sum)
    return false;
  const Fact *term = firstTerm(fact->sum);
  return term->promising && fact->sum->count == countExperts(term);
}

//===----------------------------------------------------------------------===//
// Building
//===----------------------------------------------------------------------===//

Value Raiser::flattenTokens(Location loc, Value x) {
  auto type = cast<RankedTensorType>(x.getType());
  if (type.getRank() == 2)
    return x;
  if (type.getRank() == 1)
    return tensor::ExpandShapeOp::create(rewriter, loc, type.clone({1, type.getDimSize(0)}), x,
                                         SmallVector<ReassociationIndices>{{0, 1}});
  SmallVector<ReassociationIndices> groups(2);
  for (int64_t i = 0; i + 1 < type.getRank(); ++i)
    groups[0].push_back(i);
  groups[1].push_back(type.getRank() - 1);
  return tensor::CollapseShapeOp::create(rewriter, loc, x, groups);
}

/// The run fails unless `value` has `perToken` elements for each row of `x`, whose source is
/// `source`, where that is not known.
void Raiser::checkTokens(NodeOp node, Value value, int64_t perToken, Value source, Value x) {
  if (!value)
    return;
  Location loc = node.getLoc();
  Labels tokens, elements;
  for (const Labels &axis : ArrayRef(facts->get(source)->axes).drop_back())
    llvm::append_range(tokens, axis);
  for (const Labels &axis : facts->get(value)->axes)
    llvm::append_range(elements, axis);
  Extent wanted = facts->getExtent(tokens), found = facts->getExtent(elements);
  wanted.factor *= perToken;
  if (wanted == found)
    return;
  Value count = arith::ConstantIndexOp::create(rewriter, loc, 1);
  for (int64_t i = 0, rank = cast<ShapedType>(value.getType()).getRank(); i < rank; ++i)
    count =
        arith::MulIOp::create(rewriter, loc, count, tensor::DimOp::create(rewriter, loc, value, i));
  Value expected = arith::MulIOp::create(rewriter, loc, tensor::DimOp::create(rewriter, loc, x, 0),
                                         arith::ConstantIndexOp::create(rewriter, loc, perToken));
  Value equal = arith::CmpIOp::create(rewriter, loc, arith::CmpIPredicate::eq, count, expected);
  CheckOp::create(rewriter, loc, equal,
                  describeNode(node) + ": the experts' input and the choice of experts differ in "
                                       "the number of tokens");
}

FailureOr<Value> Raiser::build(const MoEBlock &block, NodeOp node, Value result) {
  Location loc = node.getLoc();
  FailureOr<ExpertWeights> weights = readExpertWeights(block.functions, block.experts, refusal);
  if (failed(weights))
    return failure();
  for (const ExpertBank *bank : weights->getBanks())
    if (!bank->canBuild(symbols))
      return refuse(bank->parts[0].source, "is a weight that is not one tensor in a file");
  auto resultType = dyn_cast<RankedTensorType>(result.getType());
  int64_t hidden = block.functions[0].down.product->columns;
  auto xType = cast<RankedTensorType>(block.x->src.getType());
  Type element = block.x->casts.empty() ? xType.getElementType() : block.x->casts.back();
  if (!resultType || hidden != xType.getShape().back())
    return refuse(result, "has other columns than the experts' input");
  if (weights->elementType && weights->elementType != element)
    return refuse(block.x->src, "has elements of another type than the experts' weights");

  OpBuilder::InsertionGuard guard(rewriter);
  rewriter.setInsertionPoint(node);
  NodeBuilder builder(rewriter, loc);
  Value source = block.x->src;
  for (Type type : block.x->casts)
    source = builder.castTo(source, type);
  Value x = flattenTokens(loc, source);
  Routing given = block.routing;
  int64_t perSlot = given.ids || given.mask ? given.k : given.experts;
  checkTokens(node, given.ids, given.k, block.x->src, x);
  checkTokens(node, given.mask, given.k * given.experts, block.x->src, x);
  checkTokens(node, given.weights, perSlot, block.x->src, x);
  if (given.placement)
    for (const Placement::Choice &choice : given.placement->choices) {
      checkTokens(node, choice.ids, 1, block.x->src, x);
      checkTokens(node, choice.gates, given.experts, block.x->src, x);
      checkTokens(node, choice.weight, 1, block.x->src, x);
    }
  for (Type type : block.weightCasts)
    given.weights = builder.castTo(given.weights, type);
  Value routing = buildRouting(rewriter, loc, given);
  auto rowsType = RankedTensorType::get({ShapedType::kDynamic, hidden}, element);
  auto rows = DispatchOp::create(rewriter, loc, rowsType, x, routing);
  rows.setScaleInput(block.scaleInput);
  Value up = weights->up.build(rewriter, symbols, loc),
        gate = weights->gate.build(rewriter, symbols, loc),
        down = weights->down.build(rewriter, symbols, loc);
  auto ffn = ExpertFFNOp::create(rewriter, loc, rowsType, rows, routing, up,
                                 weights->upBias.build(rewriter, symbols, loc), gate,
                                 weights->gateBias.build(rewriter, symbols, loc), down,
                                 weights->downBias.build(rewriter, symbols, loc), block.activation);
  ffn.setLayout(weights->layout);
  StringRef name = getNodeName(loc);
  ffn->setAttr(kSourcesAttr,
               rewriter.getStrArrayAttr({name.empty() ? StringRef(node.getOpType()) : name}));
  Value tokens = tensor::DimOp::create(rewriter, loc, x, 0);
  auto combine = CombineOp::create(rewriter, loc, x.getType(), ffn, routing, tokens);
  combine.setPostScale(APFloat(block.scale));
  if (block.scaleInput)
    combine.setWeight(CombineWeight::AlreadyApplied);
  Value y = builder.castTo(combine, resultType.getElementType());

  // Into the shape of the result: sizes that are not known are those of x.
  if (resultType.getRank() == 2)
    return castToStated(rewriter, node, y, x);
  SmallVector<OpFoldResult> sizes;
  SmallVector<int64_t> shape(resultType.getShape());
  int64_t unknown = 0;
  for (int64_t size : shape)
    unknown += ShapedType::isDynamic(size);
  for (int64_t i = 0; i < resultType.getRank(); ++i) {
    if (!resultType.isDynamicDim(i)) {
      sizes.push_back(rewriter.getIndexAttr(shape[i]));
    } else if (unknown == 1) {
      sizes.push_back(tokens);
    } else if (i < xType.getRank() && xType.getRank() == resultType.getRank()) {
      sizes.push_back(tensor::getMixedSize(rewriter, loc, source, i));
    } else {
      return refuse(result, "has a shape that does not follow from the experts' input");
    }
  }
  SmallVector<ReassociationIndices> groups(2);
  int64_t column = resultType.getRank() - 1;
  while (column > 0 && shape[column] == 1 && hidden != 1)
    --column;
  for (int64_t i = 0; i < resultType.getRank(); ++i)
    groups[i < column ? 0 : 1].push_back(i);
  return Value(tensor::ExpandShapeOp::create(rewriter, loc, resultType, y, groups, sizes));
}

/// What a fact is, and what reads it in a block, for a message.
static std::pair<std::string, StringRef> describe(const Fact *fact) {
  switch (fact->kind) {
  case Fact::View:
    return {"rows or weights of the experts", "expected the product of both"};
  case Fact::Scaled:
    return {"rows times the weights of the experts", "expected products with the experts' weights"};
  case Fact::Expression:
    return {"results of experts", "expected an operator on their elements, a product with the "
                                  "experts' next weights, or the weights of the routing"};
  case Fact::Weighted:
    if (fact->summed)
      return {"a sum of weighted experts", "expected nothing more of the block"};
    return {"weighted results of experts", "expected their sum over the slots or experts, or that "
                                           "their rows are added to those of the tokens"};
  case Fact::Sum:
    return {"a sum of " + std::to_string(fact->sum->count) + " experts",
            "expected that the next expert is added"};
  default:
    return {"a choice of experts", "expected the rows or weights of the chosen"};
  }
}

/// Says why a sum is not proven. Inputs of the graph have no node.
static void explain(const Refusal &refusal) {
  auto node = dyn_cast<NodeOp>(refusal.at);
  auto load = dyn_cast<LoadWeightOp>(refusal.at);
  InFlightDiagnostic remark = emitRemark(refusal.at->getLoc());
  if (node)
    remark << describeNode(node) << ": ";
  if (load)
    remark << "weight '" << load.getWeight() << "': ";
  remark << "not raised: " << (node || load ? "" : "an input of the model ") << refusal.reason;
}

/// Says what tracing left out, as an error unless that is allowed.
void Raiser::reportFrozen(NodeOp node, const Twine &found) {
  InFlightDiagnostic diagnostic =
      allowFrozen ? emitRemark(node.getLoc()) : emitError(node.getLoc());
  diagnostic << describeNode(node) << ": " << found.str()
             << ", as when a model is traced with an input that does not choose them; export it "
                "with an implementation of the experts that does not depend on the input, or allow "
                "it with --allow-frozen-routing";
}

/// True, and reported, when no node asks for some expert: tracing kept only those that its
/// input chose.
bool Raiser::isFrozen(const Stop &stop) {
  if (stop.fact->kind != Fact::Sum)
    return false;
  const Fact *term = firstTerm(stop.fact->sum);
  const Fact *selection = selectionOf(*facts, term);
  int64_t experts = countExperts(term);
  SmallVector<int64_t> missing;
  for (int64_t e = 0; e < experts; ++e)
    if (!facts->isSeen(selection->src, e))
      missing.push_back(e);
  if (missing.empty())
    return false;
  std::string found;
  llvm::raw_string_ostream os(found);
  os << "reads a sum of " << stop.fact->sum->count << " of " << experts << " experts; expert"
     << (missing.size() == 1 ? " " : "s ");
  llvm::interleaveComma(ArrayRef(missing).take_front(8), os);
  os << (missing.size() > 8 ? ", ..." : "") << (missing.size() == 1 ? " is" : " are")
     << " never asked for";
  reportFrozen(cast<NodeOp>(stop.at), found);
  return true;
}

/// Says where facts stopped, once for each kind of reason.
LogicalResult Raiser::explainStops() {
  llvm::StringSet<> said;
  bool ok = true;
  for (const Frozen &frozen : facts->getFrozen()) {
    reportFrozen(cast<NodeOp>(frozen.at), "takes the experts that some token chose for " +
                                              Twine(frozen.count) + " of " + Twine(frozen.experts) +
                                              ", the others are never asked for");
    ok &= allowFrozen;
  }
  DenseSet<Operation *> refused;
  for (const auto &[at, why] : facts->getRefusals()) {
    if (!erased.contains(at) && refused.insert(at).second)
      explain(why);
  }
  for (const Stop &stop : facts->getStops()) {
    if (erased.contains(stop.at) || refused.contains(stop.at))
      continue;
    auto node = cast<NodeOp>(stop.at);
    auto [found, expected] = describe(stop.fact);
    if (!said.insert((node.getOpType() + found).str()).second)
      continue;
    if (isFrozen(stop)) {
      ok &= allowFrozen;
      continue;
    }
    if (explained.contains(stop.fact))
      continue;
    emitRemark(node.getLoc()) << describeNode(node) << ": not raised: reads " << found << ", "
                              << expected;
  }
  return success(ok);
}

/// The operations after `before` (the block's first ones if none), before `end`.
static SmallVector<Operation *> operationsBetween(Operation *before, Operation *end) {
  Operation *first = before ? before->getNextNode() : &end->getBlock()->front();
  SmallVector<Operation *> operations;
  for (Operation *op = first; op != end; op = op->getNextNode())
    operations.push_back(op);
  return operations;
}

/// What was built holds to the rules of its dialects. Where a model's types contradict each
/// other, patterns match what no operation of the moe dialect means.
static bool isValid(Operation *before, Operation *end) {
  ScopedDiagnosticHandler quiet(end->getContext(), [](Diagnostic &) { return success(); });
  return llvm::all_of(operationsBetween(before, end),
                      [](Operation *op) { return succeeded(verify(op)); });
}

void Raiser::eraseBetween(Operation *before, Operation *end) {
  SmallVector<Operation *> operations = operationsBetween(before, end);
  for (Operation *op : llvm::reverse(operations))
    rewriter.eraseOp(op);
}

LogicalResult Raiser::run(mlir::Block &block) {
  Facts all;
  facts = &all;
  explained.clear();
  SmallVector<NodeOp> nodes(block.getOps<NodeOp>());
  bool raised = false;
  for (NodeOp node : nodes) {
    all.visit(node);
    for (Value result : node->getResults()) {
      const Fact *fact = all.get(result);
      if (!fact || !isComplete(fact, result))
        continue;
      refusal = {};
      rewriter.setInsertionPoint(node);
      FailureOr<MoEBlock> found = match(fact, result);
      FailureOr<Value> replacement = failure();
      if (succeeded(found)) {
        Operation *before = node->getPrevNode();
        replacement = build(*found, node, result);
        if (succeeded(replacement) && !isValid(before, node))
          replacement = refuse(result, "ends a block that the moe dialect cannot express");
        if (failed(replacement))
          eraseBetween(before, node);
      }
      if (failed(replacement)) {
        if (refusal.at && (fact->summed || fact->kind == Fact::Sum)) {
          explain(refusal);
          explained.insert(fact);
        }
        continue;
      }
      rewriter.replaceAllUsesWith(result, *replacement);
      all.forget(result);
      raised = true;
    }
  }
  for (NodeOp node : llvm::reverse(nodes)) {
    if (!raised || !isOpTriviallyDead(node))
      continue;
    erased.insert(node);
    rewriter.eraseOp(node);
  }
  return explainStops();
}

LogicalResult mlir::moe::raiseExperts(RewriterBase &rewriter, ModuleOp module, bool allowFrozen) {
  Raiser raiser(rewriter, module, allowFrozen);
  SmallVector<mlir::Block *> blocks;
  module.walk([&](mlir::Block *block) {
    if (!block->getOps<NodeOp>().empty())
      blocks.push_back(block);
  });
  bool ok = true;
  for (mlir::Block *block : blocks)
    ok &= succeeded(raiser.run(*block));
  return success(ok);
}
