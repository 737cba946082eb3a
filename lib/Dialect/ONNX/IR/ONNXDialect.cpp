// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/ONNX/IR/ONNX.h"

#include "mlir/IR/DialectImplementation.h"
#include "moec/Dialect/ONNX/IR/Operators.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Suggest.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::moe::onnx;

#include "moec/Dialect/ONNX/IR/ONNXDialect.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "moec/Dialect/ONNX/IR/ONNXTypes.cpp.inc"

#define GET_OP_CLASSES
#include "moec/Dialect/ONNX/IR/ONNXOps.cpp.inc"

void ONNXDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "moec/Dialect/ONNX/IR/ONNXTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "moec/Dialect/ONNX/IR/ONNXOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// NodeOp
//===----------------------------------------------------------------------===//

/// Splits inputs by position into the operands and the absent positions.
/// Trailing absent inputs say nothing and are dropped.
static std::pair<SmallVector<Value>, SmallVector<int32_t>> splitInputs(ArrayRef<Value> inputs) {
  while (!inputs.empty() && !inputs.back())
    inputs = inputs.drop_back();
  SmallVector<Value> operands;
  SmallVector<int32_t> absent;
  for (auto [position, input] : llvm::enumerate(inputs)) {
    if (input)
      operands.push_back(input);
    else
      absent.push_back(position);
  }
  return {operands, absent};
}

void NodeOp::build(OpBuilder &builder, OperationState &state, TypeRange results, StringRef opType,
                   ArrayRef<Value> inputs, int64_t version, ArrayRef<NamedAttribute> attributes,
                   ArrayRef<StringRef> outputs, ArrayRef<StringRef> graphs) {
  auto [operands, absent] = splitInputs(inputs);
  SmallVector<StringRef> names(outputs);
  names.resize(results.size());
  Properties &properties = state.getOrAddProperties<Properties>();
  properties.op_type = builder.getStringAttr(opType);
  properties.node_attributes = builder.getDictionaryAttr(attributes);
  properties.absent = builder.getDenseI32ArrayAttr(absent);
  properties.outputs = builder.getStrArrayAttr(names);
  properties.graphs = builder.getStrArrayAttr(graphs);
  properties.version = builder.getI64IntegerAttr(version);
  state.addOperands(operands);
  state.addTypes(results);
  for (size_t i = 0; i < graphs.size(); ++i)
    state.addRegion();
}

/// True for the kinds of attribute values listed in the description of the op.
static bool isNodeAttrValue(Attribute value) {
  if (auto integer = dyn_cast<IntegerAttr>(value))
    return integer.getType().isSignlessInteger(64);
  if (auto real = dyn_cast<FloatAttr>(value))
    return real.getType().isF32();
  if (auto array = dyn_cast<ArrayAttr>(value))
    return llvm::all_of(array, [](Attribute element) {
      return isa<StringAttr, DenseElementsAttr, FlatSymbolRefAttr, TypeAttr>(element);
    });
  return isa<StringAttr, DenseI64ArrayAttr, DenseF32ArrayAttr, DenseElementsAttr, FlatSymbolRefAttr,
             TypeAttr>(value);
}

/// What is wrong with a node of a model, said without the terms of the IR.
static InFlightDiagnostic fail(NodeOp node) {
  return emitError(node.getLoc()) << describeNode(node.getLoc(), node.getOpType()) << ": ";
}

/// C7. Passes take the inputs that every version of an operator has for granted.
static LogicalResult verifyCounts(NodeOp node, const OperatorSignature &signature) {
  unsigned inputs = node.getNumInputs(), outputs = node.getNumResults();
  if (inputs < signature.minInputs)
    return fail(node) << "has " << inputs << " inputs, expected at least " << signature.minInputs;
  if (inputs > signature.maxInputs)
    return fail(node) << "has " << inputs << " inputs, expected at most " << signature.maxInputs;
  for (unsigned i = 0; i < signature.minInputs; ++i)
    if (!node.getInput(i))
      return fail(node) << "input " << i << " is missing";
  if (outputs == 0 || outputs > signature.maxOutputs)
    return fail(node) << "has " << outputs << " outputs, expected 1"
                      << (signature.maxOutputs > 1 ? " or more" : "");
  return success();
}

static StringRef describeKind(Attribute value) {
  if (isa<IntegerAttr>(value))
    return "an integer";
  if (isa<FloatAttr>(value))
    return "a number";
  if (isa<StringAttr>(value))
    return "a string";
  if (isa<DenseI64ArrayAttr>(value))
    return "a list of integers";
  if (isa<DenseF32ArrayAttr>(value))
    return "a list of numbers";
  if (isa<DenseElementsAttr, FlatSymbolRefAttr>(value))
    return "a tensor";
  return isa<TypeAttr>(value) ? "a type" : "a list of strings";
}

/// C8. An attribute that is misspelt or of another kind would otherwise silently mean its
/// default. ONNX leaves names that begin with "__" to whoever wrote them.
static LogicalResult verifyAttributes(NodeOp node, const OperatorSignature &signature) {
  for (NamedAttribute attribute : node.getNodeAttributes()) {
    StringRef name = attribute.getName();
    if (!name.starts_with("__") && !llvm::is_contained(signature.attributes, name))
      return fail(node) << "has no attribute '" << name << "'"
                        << suggestName(name, signature.attributes);
    StringRef kind = lookupAttributeKind(name), found = describeKind(attribute.getValue());
    if (!kind.empty() && found != kind)
      return fail(node) << "attribute '" << name << "' is " << found << ", expected " << kind;
  }
  for (StringRef name : node.getGraphs().getAsValueRange<StringAttr>()) {
    StringRef kind = lookupAttributeKind(name);
    if (kind.empty() || (kind == "a graph" && !llvm::is_contained(signature.attributes, name)))
      return fail(node) << "has no attribute '" << name << "'";
    if (kind != "a graph")
      return fail(node) << "attribute '" << name << "' is a graph, expected " << kind;
  }
  return success();
}

LogicalResult NodeOp::verify() {
  if (getOpType().empty() || getOpName().empty())
    return emitOpError("C1: the operator name must not be empty");
  if (static_cast<int64_t>(getVersion()) < 1)
    return emitOpError("C2: version must be positive, got ") << static_cast<int64_t>(getVersion());

  int32_t previous = -1;
  for (int32_t position : getAbsent()) {
    if (position <= previous)
      return emitOpError("C3: absent positions must be sorted and not "
                         "negative, got ")
             << position << " after " << previous;
    previous = position;
  }
  if (previous + 1 >= static_cast<int64_t>(getNumInputs()) && previous >= 0)
    return emitOpError("C3: absent position ") << previous << " does not lie before the last input";

  if (getOutputs().size() != getNumResults())
    return emitOpError("C4: has ")
           << getNumResults() << " results but " << getOutputs().size() << " output names";

  if (getGraphs().size() != getBodies().size())
    return emitOpError("C5: has ")
           << getBodies().size() << " regions but " << getGraphs().size() << " graph names";
  llvm::StringSet<> seen;
  for (StringRef name : getGraphs().getAsValueRange<StringAttr>())
    if (!seen.insert(name).second)
      return emitOpError("C5: graph name '") << name << "' is used twice";

  for (NamedAttribute attribute : getNodeAttributes())
    if (!isNodeAttrValue(attribute.getValue()))
      return emitOpError("C6: attribute '") << attribute.getName().getValue()
                                            << "' has an unexpected value " << attribute.getValue();
  const OperatorSignature *signature = lookupSignature(getOpType());
  if (!signature)
    return success();
  return success(succeeded(verifyCounts(*this, *signature)) &&
                 succeeded(verifyAttributes(*this, *signature)));
}

/// Name under which `node_attributes` is written: the ODS accessor for
/// `attributes` would clash with that of every op's adaptor.
static constexpr StringLiteral kAttributesKeyword = "attributes";

ParseResult NodeOp::parse(OpAsmParser &parser, OperationState &state) {
  Builder &builder = parser.getBuilder();
  StringAttr opType;
  SmallVector<OpAsmParser::UnresolvedOperand> operands;
  NamedAttrList attributes;
  FunctionType type;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseAttribute(opType) ||
      parser.parseOperandList(operands, OpAsmParser::Delimiter::Paren))
    return failure();
  SMLoc dictLoc = parser.getCurrentLocation();
  if (parser.parseOptionalAttrDict(attributes) || parser.parseColonType(type) ||
      parser.resolveOperands(operands, type.getInputs(), loc, state.operands))
    return failure();
  state.addTypes(type.getResults());

  // The parts that may be left out get their defaults.
  attributes.set("op_type", opType);
  Attribute nodeAttributes = attributes.erase(kAttributesKeyword);
  attributes.set("node_attributes",
                 nodeAttributes ? nodeAttributes : builder.getDictionaryAttr({}));
  if (!attributes.get("absent"))
    attributes.set("absent", builder.getDenseI32ArrayAttr({}));
  if (!attributes.get("graphs"))
    attributes.set("graphs", builder.getArrayAttr({}));
  if (!attributes.get("outputs"))
    attributes.set("outputs", builder.getStrArrayAttr(
                                  SmallVector<StringRef>(type.getNumResults(), StringRef())));
  auto emitError = [&] { return parser.emitError(dictLoc); };
  if (!attributes.get("version"))
    return emitError() << "expected the attribute 'version'";
  NamedAttrList inherent;
  for (StringRef name : {"op_type", "node_attributes", "absent", "graphs", "outputs", "version"})
    inherent.set(name, attributes.erase(name));
  if (failed(verifyInherentAttrs(state.name, inherent, emitError)) ||
      failed(setPropertiesFromAttr(state.getOrAddProperties<Properties>(),
                                   inherent.getDictionary(builder.getContext()), emitError)))
    return failure();
  state.addAttributes(attributes);

  OptionalParseResult parsed;
  do {
    auto region = std::make_unique<Region>();
    parsed = parser.parseOptionalRegion(*region);
    if (!parsed.has_value())
      break;
    if (failed(*parsed))
      return failure();
    state.addRegion(std::move(region));
  } while (succeeded(parser.parseOptionalComma()));
  return success();
}

void NodeOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getOpTypeAttr() << '(' << getInputs() << ')';
  NamedAttrList attributes((*this)->getDiscardableAttrDictionary());
  if (!getNodeAttributes().empty())
    attributes.set(kAttributesKeyword, getNodeAttributesAttr());
  if (!getAbsent().empty())
    attributes.set("absent", getAbsentAttr());
  if (!getGraphs().empty())
    attributes.set("graphs", getGraphsAttr());
  if (llvm::any_of(getOutputs().getAsValueRange<StringAttr>(),
                   [](StringRef name) { return !name.empty(); }))
    attributes.set("outputs", getOutputsAttr());
  attributes.set("version", getVersionAttr());
  printer.printOptionalAttrDict(attributes.getDictionary(getContext()).getValue());
  printer << " : ";
  printer.printFunctionalType(getInputs().getTypes(), getResultTypes());
  if (!getBodies().empty())
    printer << ' ';
  llvm::interleaveComma(getBodies(), printer, [&](Region &body) { printer.printRegion(body); });
}

StringRef NodeOp::getOpName() {
  StringRef type = getOpType();
  size_t dot = type.rfind('.');
  return dot == StringRef::npos ? type : type.drop_front(dot + 1);
}

StringRef NodeOp::getDomain() {
  StringRef type = getOpType();
  size_t dot = type.rfind('.');
  return dot == StringRef::npos ? "" : type.take_front(dot);
}

Value NodeOp::getInput(unsigned position) {
  unsigned skipped = 0;
  for (int32_t absent : getAbsent()) {
    if (absent == static_cast<int32_t>(position))
      return {};
    if (absent > static_cast<int32_t>(position))
      break;
    ++skipped;
  }
  unsigned operand = position - skipped;
  return operand < getInputs().size() ? getInputs()[operand] : Value();
}

SmallVector<Value> NodeOp::getAllInputs() {
  SmallVector<Value> inputs;
  for (unsigned i = 0, e = getNumInputs(); i < e; ++i)
    inputs.push_back(getInput(i));
  return inputs;
}

void NodeOp::setAllInputs(ArrayRef<Value> inputs) {
  auto [operands, absent] = splitInputs(inputs);
  getInputsMutable().assign(operands);
  setAbsent(absent);
}

StringRef NodeOp::getOutputName(unsigned index) {
  return cast<StringAttr>(getOutputs()[index]).getValue();
}

void NodeOp::setNodeAttr(StringRef name, Attribute value) {
  NamedAttrList attributes(getNodeAttributes());
  attributes.set(name, value);
  setNodeAttributesAttr(attributes.getDictionary(getContext()));
}

void NodeOp::removeNodeAttr(StringRef name) {
  NamedAttrList attributes(getNodeAttributes());
  attributes.erase(name);
  setNodeAttributesAttr(attributes.getDictionary(getContext()));
}

int64_t NodeOp::getIntAttr(StringRef name, int64_t defaultValue) {
  auto value = dyn_cast_or_null<IntegerAttr>(getNodeAttr(name));
  return value ? value.getInt() : defaultValue;
}

float NodeOp::getFloatAttr(StringRef name, float defaultValue) {
  auto value = dyn_cast_or_null<FloatAttr>(getNodeAttr(name));
  return value ? value.getValue().convertToFloat() : defaultValue;
}

StringRef NodeOp::getStringAttr(StringRef name, StringRef defaultValue) {
  auto value = dyn_cast_or_null<StringAttr>(getNodeAttr(name));
  return value ? value.getValue() : defaultValue;
}

std::optional<ArrayRef<int64_t>> NodeOp::getIntsAttr(StringRef name) {
  if (auto value = dyn_cast_or_null<DenseI64ArrayAttr>(getNodeAttr(name)))
    return value.asArrayRef();
  return std::nullopt;
}

std::optional<ArrayRef<float>> NodeOp::getFloatsAttr(StringRef name) {
  if (auto value = dyn_cast_or_null<DenseF32ArrayAttr>(getNodeAttr(name)))
    return value.asArrayRef();
  return std::nullopt;
}

std::optional<SmallVector<StringRef>> NodeOp::getStringsAttr(StringRef name) {
  auto array = dyn_cast_or_null<ArrayAttr>(getNodeAttr(name));
  if (!array)
    return std::nullopt;
  SmallVector<StringRef> strings;
  for (Attribute element : array) {
    auto string = dyn_cast<StringAttr>(element);
    if (!string)
      return std::nullopt;
    strings.push_back(string.getValue());
  }
  return strings;
}

DenseElementsAttr NodeOp::getTensorAttr(StringRef name) {
  return dyn_cast_or_null<DenseElementsAttr>(getNodeAttr(name));
}

Region *NodeOp::getGraph(StringRef name) {
  for (auto [graph, body] : llvm::zip(getGraphs().getAsValueRange<StringAttr>(), getBodies()))
    if (graph == name)
      return &body;
  return nullptr;
}

void NodeOp::getAsmResultNames(OpAsmSetValueNameFn setNameFn) {
  for (auto [name, result] : llvm::zip(getOutputs().getAsValueRange<StringAttr>(), getResults()))
    if (!name.empty())
      setNameFn(result, name);
}

/// Operators whose result differs from one evaluation to the next.
static bool isRandom(StringRef opType) {
  static const StringRef kRandom[] = {
      "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
      "Multinomial",  "Bernoulli",        "Dropout"};
  return llvm::is_contained(kRandom, opType);
}

void NodeOp::getEffects(
    SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>> &effects) {
  // A write keeps two random draws apart; other nodes are functions of their
  // inputs, so equal ones merge and unused ones go away.
  WalkResult random = (*this)->walk([](NodeOp node) {
    return isRandom(node.getOpType()) ? WalkResult::interrupt() : WalkResult::advance();
  });
  if (random.wasInterrupted())
    effects.emplace_back(MemoryEffects::Write::get());
}

//===----------------------------------------------------------------------===//
// Helpers
//===----------------------------------------------------------------------===//

DenseElementsAttr mlir::moe::onnx::getConstantValue(Value value) {
  auto node = value ? value.getDefiningOp<NodeOp>() : NodeOp();
  if (!node || !node.isOp("Constant"))
    return {};
  return node.getTensorAttr("value");
}

std::optional<SmallVector<int64_t>> mlir::moe::onnx::getConstantInts(Value value) {
  DenseElementsAttr elements = getConstantValue(value);
  if (!elements || !isa<IntegerType>(elements.getElementType()))
    return std::nullopt;
  Type type = elements.getElementType();
  // i1 is bool: true is 1.
  bool zeroExtend = type.isUnsignedInteger() || type.isInteger(1);
  SmallVector<int64_t> result;
  for (APInt element : elements.getValues<APInt>())
    result.push_back(zeroExtend ? static_cast<int64_t>(element.getZExtValue())
                                : element.getSExtValue());
  return result;
}
