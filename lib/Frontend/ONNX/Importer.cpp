// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Dialect/ONNX/IR/ElementType.h"
#include "moec/Frontend/ONNX/Importer.h"

#include "moec/Dialect/MoE/IR/MoE.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Frontend/ONNX/ModelReader.h"
#include "moec/Support/DimExpression.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Suggest.h"
#include "moec/Support/Unsupported.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringSet.h"

#include <cstring>
#include <queue>

using namespace mlir;
using namespace mlir::moe;
using onnx::NodeOp;

namespace {

/// Names visible in a graph, and the types that the model states for them.
struct Scope {
  explicit Scope(const Scope *parent = nullptr) : parent(parent) {}

  /// The value; nullopt when nothing has this name. A null value stands for an
  /// input that the caller of a function left out.
  std::optional<Value> lookup(StringRef name) const {
    for (const Scope *scope = this; scope; scope = scope->parent)
      if (auto it = scope->values.find(name); it != scope->values.end())
        return it->second;
    return std::nullopt;
  }

  SmallVector<StringRef> getNames() const {
    SmallVector<StringRef> names(values.keys());
    llvm::sort(names);
    return names;
  }

  const Scope *parent;
  llvm::StringMap<Value> values;
  llvm::StringMap<const ModelType *> hints;
};

/// What the nodes of a graph or function body share.
struct Frame {
  const ModelOpsets *opsets = nullptr;
  /// Values of the function's attributes in this call.
  llvm::StringMap<const ModelAttribute *> attributes;
  /// Before the names of nodes and values of an inlined function.
  std::string prefix;
  /// Names that the function's outputs have at the call.
  llvm::StringMap<std::string> renamed;
  /// Index of the top-level node that contains these nodes.
  std::optional<unsigned> topNode;
  /// The function whose body this is, and the frame of its call.
  const ModelFunction *function = nullptr;
  const Frame *caller = nullptr;
  /// Calls and sub-graphs around these nodes.
  unsigned depth = 0;
};

class Importer {
public:
  Importer(Model &model, MLIRContext *context, const ImportOptions &options)
      : model(model), options(options), builder(context) {}

  OwningOpRef<ModuleOp> run();

private:
  Location getFileLocation() {
    return FileLineColLoc::get(builder.getContext(), model.fileName, 0, 0);
  }
  InFlightDiagnostic emitError() { return mlir::emitError(getFileLocation()); }
  InFlightDiagnostic emitUnsupported() { return moe::emitUnsupported(getFileLocation()); }
  /// An error of the options, not of the model.
  InFlightDiagnostic emitOptionError() {
    if (options.badOption)
      *options.badOption = true;
    return emitError();
  }

  // Dimensions and types.
  LogicalResult collectSizes();
  void specialize(ModelType &type);
  void specialize(ModelGraph &graph);
  FailureOr<Type> convertElementType(int32_t type, const Twine &owner);
  FailureOr<TensorType> convertType(const ModelType &type, const Twine &owner);
  TensorType getUnknownType();
  TensorType getHint(const Scope &scope, StringRef name);
  DictionaryAttr describeValue(const ModelValue &value);

  // Tensors.
  FailureOr<DenseElementsAttr> convertTensor(const ModelTensor &tensor, const Twine &owner);
  FailureOr<ModelTensor> densify(const ModelSparseTensor &sparse, const Twine &owner);
  FailureOr<FlatSymbolRefAttr> createWeight(Location loc, const ModelTensor &tensor, StringRef name,
                                            const Twine &owner);
  FailureOr<Value> createConstant(Location loc, const ModelTensor &tensor, StringRef name,
                                  const Twine &owner);

  // Graphs and nodes.
  LogicalResult importInitializers(const ModelGraph &graph, Scope &scope);
  LogicalResult importMain(func::FuncOp &main);
  LogicalResult importNodes(ArrayRef<ModelNode> nodes, Scope &scope, const Frame &frame);
  LogicalResult importNode(const ModelNode &node, unsigned index, Scope &scope, const Frame &frame);
  LogicalResult inlineFunction(const ModelFunction &function, const ModelNode &node, Location loc,
                               StringRef name, ArrayRef<Value> inputs, Scope &scope,
                               const Frame &frame, unsigned topNode);
  LogicalResult importSubgraph(const ModelGraph &graph, Region &region, Location loc,
                               const Scope &scope, const Frame &frame);
  FailureOr<Attribute> convertAttribute(const ModelAttribute &attribute, Location loc);
  FailureOr<int64_t> getVersion(const ModelNode &node, Location loc, const Frame &frame);

  Model &model;
  const ImportOptions &options;
  OpBuilder builder;
  ModuleOp module;
  llvm::StringMap<int64_t> sizes;
  llvm::StringSet<> symbols;
  llvm::StringMap<const ModelFunction *> functions;
  uint64_t numNodes = 0;
};

/// Functions can double the graph at each level: a small file must not fill
/// the memory.
constexpr uint64_t kMaxNodes = 4'000'000;
/// Calls and sub-graphs inside one another: each is a level of recursion here.
constexpr unsigned kMaxDepth = 200;
/// Largest sparse tensor that is written out in full, in bytes.
constexpr uint64_t kMaxSparseBytes = 64 << 20;

} // namespace

//===----------------------------------------------------------------------===//
// Dimensions and types
//===----------------------------------------------------------------------===//

/// Takes over `options.dims`; all of them must occur in the model's inputs.
LogicalResult Importer::collectSizes() {
  llvm::StringSet<> known;
  std::vector<std::string> inOrder;
  for (const ModelValue &input : model.graph.inputs)
    for (const ModelDim &dim : input.type.dims)
      visitSymbols(dim.text, [&](StringRef symbol) {
        if (known.insert(symbol).second)
          inOrder.push_back(symbol.str());
      });
  for (const auto &[name, size] : options.dims) {
    if (size < 0)
      return emitOptionError() << "dimension '" << name << "' cannot be " << size;
    if (!known.contains(name)) {
      SmallVector<StringRef> candidates(inOrder.begin(), inOrder.end());
      std::string hint = suggestName(name, candidates);
      InFlightDiagnostic diagnostic = emitOptionError()
                                      << "no input has a dimension '" << name << "'" << hint
                                      << (hint.empty() ? "; there are:" : " There are:");
      for (const std::string &symbol : inOrder)
        diagnostic << " '" << symbol << "'";
      return diagnostic;
    }
    if (!sizes.insert({name, size}).second && sizes[name] != size)
      return emitOptionError() << "dimension '" << name << "' is given two sizes: " << sizes[name]
                               << " and " << size;
  }
  return success();
}

void Importer::specialize(ModelType &type) {
  for (ModelDim &dim : type.dims) {
    if (dim.size || dim.text.empty())
      continue;
    // Exporters write static sizes as text too.
    std::optional<int64_t> size = evaluateDim(dim.text, sizes);
    if (size && *size >= 0) {
      dim.size = size;
      dim.text.clear();
    } else {
      dim.text = substituteDims(dim.text, sizes);
    }
  }
}

void Importer::specialize(ModelGraph &graph) {
  for (std::vector<ModelValue> *values : {&graph.inputs, &graph.outputs, &graph.values})
    for (ModelValue &value : *values)
      specialize(value.type);
  for (ModelNode &node : graph.nodes)
    for (ModelAttribute &attribute : node.attributes)
      if (attribute.graph)
        specialize(*attribute.graph);
}

FailureOr<Type> Importer::convertElementType(int32_t type, const Twine &owner) {
  if (type == 0)
    return Type(onnx::UnknownType::get(builder.getContext()));
  if (Type result = onnx::getElementType(type, builder.getContext()))
    return result;
  return emitUnsupported() << owner << " is of type " << getElementTypeName(type)
                           << ", which is not supported";
}

/// Whether the number of elements is one that can be counted in bits. Sizes that
/// --dim gives, or that are written as text, were not checked by the reader.
static bool fitsMemory(const ModelType &type) {
  int64_t elements = 1;
  for (const ModelDim &dim : type.dims)
    if (llvm::MulOverflow(elements, std::max<int64_t>(dim.size.value_or(1), 1), elements) ||
        elements > INT64_MAX / 128)
      return false;
  return true;
}

static TensorType makeTensorType(const ModelType &type, Type element) {
  if (!type.hasShape)
    return UnrankedTensorType::get(element);
  SmallVector<int64_t> shape;
  for (const ModelDim &dim : type.dims)
    shape.push_back(dim.size.value_or(ShapedType::kDynamic));
  return RankedTensorType::get(shape, element);
}

FailureOr<TensorType> Importer::convertType(const ModelType &type, const Twine &owner) {
  if (type.kind == ModelType::Other)
    return emitUnsupported() << owner
                             << " is not a tensor; sequences, maps, "
                                "optional and sparse values are not "
                                "supported";
  FailureOr<Type> element = convertElementType(type.elementType, owner);
  if (failed(element))
    return failure();
  if (!fitsMemory(type))
    return emitError() << owner << " has more elements than fit in memory";
  return makeTensorType(type, *element);
}

TensorType Importer::getUnknownType() {
  return UnrankedTensorType::get(onnx::UnknownType::get(builder.getContext()));
}

/// The type that the model states for a value. Statements are hints: one that
/// has no tensor type here counts as missing.
TensorType Importer::getHint(const Scope &scope, StringRef name) {
  const ModelType *hint = scope.hints.lookup(name);
  if (!hint || hint->kind != ModelType::Tensor || !fitsMemory(*hint))
    return getUnknownType();
  Type element = onnx::getElementType(hint->elementType, builder.getContext());
  return element ? makeTensorType(*hint, element) : getUnknownType();
}

/// Attributes of a function argument or result.
DictionaryAttr Importer::describeValue(const ModelValue &value) {
  NamedAttrList attributes;
  attributes.set(onnx::kNameAttr, builder.getStringAttr(value.name));
  if (value.type.hasShape) {
    SmallVector<Attribute> dims;
    for (const ModelDim &dim : value.type.dims)
      dims.push_back(builder.getStringAttr(dim.size ? std::to_string(*dim.size) : dim.text));
    attributes.set(onnx::kDimsAttr, builder.getArrayAttr(dims));
  }
  return attributes.getDictionary(builder.getContext());
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

/// One byte per element from elements of `bits` bits, low bits first.
static std::string unpackBits(StringRef bytes, unsigned bits, uint64_t count) {
  std::string result;
  unsigned perByte = 8 / bits, mask = (1u << bits) - 1;
  for (uint64_t i = 0; i < count; ++i) {
    unsigned byte = static_cast<uint8_t>(bytes[i / perByte]);
    result.push_back(static_cast<char>(byte >> (i % perByte * bits) & mask));
  }
  return result;
}

FailureOr<DenseElementsAttr> Importer::convertTensor(const ModelTensor &tensor,
                                                     const Twine &owner) {
  FailureOr<Type> element = convertElementType(tensor.elementType, owner);
  FailureOr<std::string> bytes = loadTensor(model, tensor, builder.getContext());
  if (failed(element) || failed(bytes))
    return failure();
  auto type = RankedTensorType::get(tensor.dims, *element);
  if (element->isInteger(1)) {
    SmallVector<bool> values;
    for (char byte : *bytes)
      values.push_back(byte != 0);
    return DenseElementsAttr::get(type, values);
  }
  if (unsigned bits = getElementTypeBits(tensor.elementType); bits < 8)
    bytes = unpackBits(*bytes, bits, type.getNumElements());
  return DenseElementsAttr::getFromRawBuffer(type, ArrayRef(bytes->data(), bytes->size()));
}

/// Writes a sparse tensor out in full.
FailureOr<ModelTensor> Importer::densify(const ModelSparseTensor &sparse, const Twine &owner) {
  ModelTensor dense;
  dense.name = sparse.values.name;
  dense.elementType = sparse.values.elementType;
  dense.dims = sparse.dims;
  unsigned bits = getElementTypeBits(dense.elementType);
  if (bits < 8)
    return emitUnsupported() << owner << " is sparse with elements of type "
                             << getElementTypeName(dense.elementType) << ", which is not supported";
  unsigned width = bits / 8;
  int64_t elements = 1;
  for (int64_t dim : dense.dims) {
    if (dim < 0)
      return emitError() << owner << " has the negative dimension " << dim;
    if (llvm::MulOverflow(elements, dim, elements) || elements > int64_t(kMaxSparseBytes / width))
      return emitUnsupported() << owner
                               << " is sparse and too large to be written "
                                  "out in full";
  }
  if (sparse.values.dims.size() != 1 || sparse.indices.elementType != 7)
    return emitError() << owner << " needs values of rank 1 and int64 indices";
  size_t count = sparse.values.dims[0], rank = dense.dims.size();
  ArrayRef<int64_t> indexDims = sparse.indices.dims;
  bool linear = indexDims.size() == 1 && uint64_t(indexDims[0]) == count;
  bool perDim =
      indexDims.size() == 2 && uint64_t(indexDims[0]) == count && uint64_t(indexDims[1]) == rank;
  if (!linear && !perDim)
    return emitError() << owner << " has indices of the wrong shape; expected [" << count
                       << "] or [" << count << ", " << rank << "]";
  FailureOr<std::string> values = loadTensor(model, sparse.values, builder.getContext());
  FailureOr<std::string> indices = loadTensor(model, sparse.indices, builder.getContext());
  if (failed(values) || failed(indices))
    return failure();
  dense.bytes.assign(elements * width, 0);
  auto readIndex = [&](size_t i) {
    int64_t index;
    std::memcpy(&index, indices->data() + i * sizeof(index), sizeof(index));
    return index;
  };
  for (size_t i = 0; i < count; ++i) {
    int64_t position = linear ? readIndex(i) : 0;
    bool inside = position >= 0 && position < elements;
    for (size_t d = 0; perDim && d < rank && inside; ++d) {
      int64_t index = readIndex(i * rank + d);
      inside = index >= 0 && index < dense.dims[d];
      position = position * dense.dims[d] + index;
    }
    if (!inside)
      return emitError() << owner << " has an index outside of its shape";
    std::memcpy(dense.bytes.data() + position * width, values->data() + i * width, width);
  }
  return dense;
}

FailureOr<FlatSymbolRefAttr> Importer::createWeight(Location loc, const ModelTensor &tensor,
                                                    StringRef name, const Twine &owner) {
  FailureOr<Type> element = convertElementType(tensor.elementType, owner);
  if (failed(element))
    return failure();
  if (!element->isIntOrFloat())
    return emitUnsupported() << owner << " is a large tensor of type "
                             << getElementTypeName(tensor.elementType)
                             << ", which is not supported";
  auto type = RankedTensorType::get(tensor.dims, *element);
  Attribute source;
  if (tensor.file.empty()) {
    FailureOr<DenseElementsAttr> dense = convertTensor(tensor, owner);
    if (failed(dense))
      return failure();
    source = *dense;
  } else {
    source = SegmentAttr::get(builder.getContext(), builder.getStringAttr(tensor.file),
                              tensor.offset, tensor.length, type);
  }
  std::string symbol = name.empty() ? "weight" : name.str();
  for (unsigned i = 1; !symbols.insert(symbol).second; ++i)
    symbol = (name + "_" + Twine(i)).str();
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToEnd(module.getBody());
  WeightOp::create(builder, loc, symbol, type, source);
  return FlatSymbolRefAttr::get(builder.getContext(), symbol);
}

FailureOr<Value> Importer::createConstant(Location loc, const ModelTensor &tensor, StringRef name,
                                          const Twine &owner) {
  // Also small types held in a large file range, and large typed data.
  if (tensor.getNumBytes() > kLargeTensorBytes) {
    FailureOr<FlatSymbolRefAttr> weight = createWeight(loc, tensor, name, owner);
    if (failed(weight))
      return failure();
    FailureOr<Type> element = convertElementType(tensor.elementType, owner);
    return LoadWeightOp::create(builder, loc, RankedTensorType::get(tensor.dims, *element), *weight)
        .getResult();
  }
  FailureOr<DenseElementsAttr> value = convertTensor(tensor, owner);
  if (failed(value))
    return failure();
  if (isa<FloatType>(value->getElementType()) &&
      llvm::any_of(value->getValues<APFloat>(), [](const APFloat &x) { return x.isNaN(); }))
    mlir::emitWarning(loc) << owner << " holds NaN, which is kept";
  auto opset = model.opsets.find("");
  return NodeOp::create(builder, loc, TypeRange(value->getType()), "Constant", ArrayRef<Value>(),
                        opset == model.opsets.end() ? kMinOpset : opset->second,
                        builder.getNamedAttr("value", *value), name)
      .getResult(0);
}

//===----------------------------------------------------------------------===//
// Order of nodes
//===----------------------------------------------------------------------===//

static void visitOuterNames(const ModelGraph &graph,
                            llvm::function_ref<void(const std::string &)> visit);

/// Names that a node reads from the graph it is in, for its sub-graphs too.
static void visitInputNames(const ModelNode &node,
                            llvm::function_ref<void(const std::string &)> visit) {
  for (const std::string &input : node.inputs)
    if (!input.empty())
      visit(input);
  for (const ModelAttribute &attribute : node.attributes)
    if (attribute.graph)
      visitOuterNames(*attribute.graph, visit);
}

static void visitOuterNames(const ModelGraph &graph,
                            llvm::function_ref<void(const std::string &)> visit) {
  llvm::StringSet<> inner;
  for (const ModelValue &input : graph.inputs)
    inner.insert(input.name);
  for (const ModelTensor &tensor : graph.initializers)
    inner.insert(tensor.name);
  for (const ModelSparseTensor &tensor : graph.sparseInitializers)
    inner.insert(tensor.values.name);
  for (const ModelNode &node : graph.nodes)
    for (const std::string &output : node.outputs)
      inner.insert(output);
  auto visitOuter = [&](const std::string &name) {
    if (!inner.contains(name))
      visit(name);
  };
  for (const ModelNode &node : graph.nodes)
    visitInputNames(node, visitOuter);
  for (const ModelValue &output : graph.outputs)
    visitOuter(output.name);
}

/// An order in which every node comes after those that it reads from, as close
/// to the given one as possible. Nodes on a cycle, and after one, are left out.
static SmallVector<unsigned> sortNodes(ArrayRef<ModelNode> nodes,
                                       const llvm::StringMap<unsigned> &producers) {
  SmallVector<SmallVector<unsigned>> readers(nodes.size());
  SmallVector<unsigned> waiting(nodes.size(), 0);
  for (auto [index, node] : llvm::enumerate(nodes)) {
    visitInputNames(node, [&, reader = unsigned(index)](const std::string &name) {
      auto producer = producers.find(name);
      if (producer == producers.end())
        return;
      readers[producer->second].push_back(reader);
      ++waiting[reader];
    });
  }
  std::priority_queue<unsigned, std::vector<unsigned>, std::greater<>> ready;
  for (unsigned i = 0; i < nodes.size(); ++i)
    if (waiting[i] == 0)
      ready.push(i);
  SmallVector<unsigned> order;
  while (!ready.empty()) {
    unsigned node = ready.top();
    ready.pop();
    order.push_back(node);
    for (unsigned reader : readers[node])
      if (--waiting[reader] == 0)
        ready.push(reader);
  }
  return order;
}

//===----------------------------------------------------------------------===//
// Graphs and nodes
//===----------------------------------------------------------------------===//

static std::string qualifyOp(const ModelNode &node) {
  return node.domain.empty() ? node.opType : node.domain + "." + node.opType;
}

/// Key of a function; none of the parts can hold a newline by accident.
static std::string functionKey(StringRef domain, StringRef name, StringRef overload) {
  return (domain + "\n" + name + "\n" + overload).str();
}

LogicalResult Importer::importInitializers(const ModelGraph &graph, Scope &scope) {
  auto define = [&](const ModelTensor &tensor, const Twine &owner) -> LogicalResult {
    if (tensor.name.empty())
      return emitError() << "an initializer of graph '" << graph.name << "' has no name";
    Location loc = getNodeLocation(builder.getContext(), model.fileName, 0, tensor.name);
    FailureOr<Value> value = createConstant(loc, tensor, tensor.name, owner);
    if (failed(value))
      return failure();
    if (!scope.values.insert({tensor.name, *value}).second)
      return emitError() << "two initializers have the name '" << tensor.name << "'";
    return success();
  };
  for (const ModelTensor &tensor : graph.initializers)
    if (failed(define(tensor, "initializer '" + tensor.name + "'")))
      return failure();
  for (const ModelSparseTensor &sparse : graph.sparseInitializers) {
    std::string owner = "initializer '" + sparse.values.name + "'";
    FailureOr<ModelTensor> dense = densify(sparse, owner);
    if (failed(dense) || failed(define(*dense, owner)))
      return failure();
  }
  return success();
}

LogicalResult Importer::importNodes(ArrayRef<ModelNode> nodes, Scope &scope, const Frame &frame) {
  llvm::StringMap<unsigned> producers;
  for (auto [index, node] : llvm::enumerate(nodes)) {
    for (const std::string &output : node.outputs) {
      if (output.empty())
        continue;
      bool taken = scope.values.contains(output);
      if (taken || !producers.insert({output, unsigned(index)}).second)
        return emitError() << "value '" << output << "' is defined twice, the second time by node '"
                           << node.name << "' (" << qualifyOp(node) << ")";
    }
  }
  SmallVector<unsigned> order = sortNodes(nodes, producers);
  if (order.size() != nodes.size()) {
    SmallVector<bool> sorted(nodes.size(), false);
    for (unsigned index : order)
      sorted[index] = true;
    const ModelNode &node = nodes[llvm::find(sorted, false) - sorted.begin()];
    return emitError() << "the graph has a cycle; node '" << node.name << "' (" << qualifyOp(node)
                       << ") is on it, or depends on a node that is";
  }
  for (unsigned index : order)
    if (failed(importNode(nodes[index], index, scope, frame)))
      return failure();
  return success();
}

FailureOr<Attribute> Importer::convertAttribute(const ModelAttribute &attribute, Location loc) {
  std::string owner = "attribute '" + attribute.name + "'";
  switch (attribute.kind) {
  case ModelAttribute::Float:
    return Attribute(builder.getF32FloatAttr(attribute.f));
  case ModelAttribute::Int:
    return Attribute(builder.getI64IntegerAttr(attribute.i));
  case ModelAttribute::String:
    return Attribute(builder.getStringAttr(attribute.s));
  case ModelAttribute::Floats:
    return Attribute(builder.getDenseF32ArrayAttr(attribute.floats));
  case ModelAttribute::Ints:
    return Attribute(builder.getDenseI64ArrayAttr(attribute.ints));
  case ModelAttribute::Strings: {
    SmallVector<StringRef> strings(attribute.strings.begin(), attribute.strings.end());
    return Attribute(builder.getStrArrayAttr(strings));
  }
  case ModelAttribute::Type: {
    FailureOr<TensorType> type = convertType(attribute.type, owner);
    if (failed(type))
      return failure();
    return Attribute(TypeAttr::get(*type));
  }
  default:
    break;
  }
  SmallVector<ModelTensor> tensors(attribute.tensors.begin(), attribute.tensors.end());
  for (const ModelSparseTensor &sparse : attribute.sparse) {
    FailureOr<ModelTensor> dense = densify(sparse, owner);
    if (failed(dense))
      return failure();
    tensors.push_back(std::move(*dense));
  }
  SmallVector<Attribute> values;
  for (const ModelTensor &tensor : tensors) {
    if (tensor.getNumBytes() > kLargeTensorBytes) {
      FailureOr<FlatSymbolRefAttr> weight = createWeight(loc, tensor, getNodeName(loc), owner);
      if (failed(weight))
        return failure();
      values.push_back(*weight);
      continue;
    }
    FailureOr<DenseElementsAttr> value = convertTensor(tensor, owner);
    if (failed(value))
      return failure();
    values.push_back(*value);
  }
  return attribute.kind == ModelAttribute::Tensors ? Attribute(builder.getArrayAttr(values))
                                                   : values.front();
}

FailureOr<int64_t> Importer::getVersion(const ModelNode &node, Location loc, const Frame &frame) {
  auto opset = frame.opsets->find(node.domain);
  if (opset != frame.opsets->end())
    return opset->second;
  return mlir::emitError(loc) << describeNode(loc, qualifyOp(node))
                              << ": the model imports no version of the operator set '"
                              << (node.domain.empty() ? "ai.onnx" : node.domain) << "'";
}

LogicalResult Importer::importSubgraph(const ModelGraph &graph, Region &region, Location loc,
                                       const Scope &outer, const Frame &frame) {
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&region);
  Scope scope(&outer);
  for (const ModelValue &input : graph.inputs) {
    TensorType type = getUnknownType();
    if (input.type.kind != ModelType::None) {
      FailureOr<TensorType> stated =
          convertType(input.type, "sub-graph input '" + input.name + "'");
      if (failed(stated))
        return failure();
      type = *stated;
    }
    Value argument = block->addArgument(type, loc);
    if (!scope.values.insert({input.name, argument}).second)
      return emitError() << "two inputs of graph '" << graph.name << "' have the name '"
                         << input.name << "'";
  }
  for (const ModelValue &value : graph.values)
    scope.hints[value.name] = &value.type;
  for (const ModelValue &value : graph.outputs)
    scope.hints[value.name] = &value.type;
  if (failed(importInitializers(graph, scope)) || failed(importNodes(graph.nodes, scope, frame)))
    return failure();
  SmallVector<Value> results;
  for (const ModelValue &output : graph.outputs) {
    Value value = scope.lookup(output.name).value_or(Value());
    if (!value)
      return mlir::emitError(loc) << "output '" << output.name << "' of graph '" << graph.name
                                  << "' is never produced";
    results.push_back(value);
  }
  onnx::YieldOp::create(builder, loc, results);
  return success();
}

LogicalResult Importer::inlineFunction(const ModelFunction &function, const ModelNode &node,
                                       Location loc, StringRef name, ArrayRef<Value> inputs,
                                       Scope &scope, const Frame &frame, unsigned topNode) {
  auto fail = [&]() {
    return mlir::emitError(loc) << "node '" << name << "' calls function '" << qualifyOp(node)
                                << "' ";
  };
  for (const Frame *outer = &frame; outer; outer = outer->caller)
    if (outer->function == &function)
      return fail() << "from within itself";
  if (inputs.size() > function.inputs.size() || node.outputs.size() > function.outputs.size())
    return fail() << "with " << inputs.size() << " inputs and " << node.outputs.size()
                  << " outputs; it has " << function.inputs.size() << " and "
                  << function.outputs.size();

  Scope body;
  for (auto [index, input] : llvm::enumerate(function.inputs))
    body.values[input] = index < inputs.size() ? inputs[index] : Value();
  for (const ModelValue &value : function.values)
    body.hints[value.name] = &value.type;

  Frame inner;
  inner.opsets = &function.opsets;
  inner.prefix = (name + "/").str();
  inner.topNode = topNode;
  inner.function = &function;
  inner.caller = &frame;
  inner.depth = frame.depth + 1;
  for (const ModelAttribute &attribute : function.defaults)
    inner.attributes[attribute.name] = &attribute;
  for (const ModelAttribute &attribute : node.attributes) {
    if (attribute.kind != ModelAttribute::Reference) {
      inner.attributes[attribute.name] = &attribute;
      continue;
    }
    // A reference to an attribute that the outer call lacks leaves the default.
    if (const ModelAttribute *value = frame.attributes.lookup(attribute.reference))
      inner.attributes[attribute.name] = value;
  }
  for (auto [index, output] : llvm::enumerate(node.outputs)) {
    const std::string &innerName = function.outputs[index];
    auto outerName = frame.renamed.find(output);
    inner.renamed[innerName] =
        outerName != frame.renamed.end() ? outerName->second : frame.prefix + output;
    if (const ModelType *hint = scope.hints.lookup(output))
      body.hints[innerName] = hint;
  }
  if (failed(importNodes(function.nodes, body, inner)))
    return failure();
  for (auto [index, output] : llvm::enumerate(node.outputs)) {
    if (output.empty())
      continue;
    std::optional<Value> value = body.lookup(function.outputs[index]);
    if (!value || !*value)
      return fail() << "whose output '" << function.outputs[index] << "' is never produced";
    scope.values[output] = *value;
  }
  return success();
}

LogicalResult Importer::importNode(const ModelNode &node, unsigned index, Scope &scope,
                                   const Frame &frame) {
  unsigned topNode = frame.topNode.value_or(index);
  std::string name =
      frame.prefix + (node.name.empty() ? node.opType + "_" + std::to_string(index) : node.name);
  Location loc =
      getNodeLocation(builder.getContext(), model.fileName, topNode, name, qualifyOp(node));
  std::string start = describeNode(loc, qualifyOp(node)) + ": ";
  auto fail = [&]() { return mlir::emitError(loc) << start; };
  if (++numNodes > kMaxNodes)
    return moe::emitUnsupported(loc) << start << "the graph has more than " << kMaxNodes
                                     << " nodes once its functions are inlined";
  if (frame.depth > kMaxDepth)
    return moe::emitUnsupported(loc)
           << start << "is inside more than " << kMaxDepth << " function calls and sub-graphs";

  SmallVector<Value> inputs;
  for (auto [position, input] : llvm::enumerate(node.inputs)) {
    if (input.empty()) {
      inputs.push_back({});
      continue;
    }
    std::optional<Value> value = scope.lookup(input);
    if (!value)
      return fail() << "input " << position << " '" << input
                    << "' is not produced by any node, initializer or graph "
                       "input";
    inputs.push_back(*value);
  }
  auto function = functions.find(functionKey(node.domain, node.opType, node.overload));
  if (function != functions.end())
    return inlineFunction(*function->second, node, loc, name, inputs, scope, frame, topNode);

  FailureOr<int64_t> version = getVersion(node, loc, frame);
  if (failed(version))
    return failure();
  NamedAttrList attributes;
  SmallVector<StringRef> graphNames;
  SmallVector<const ModelGraph *> graphs;
  for (const ModelAttribute &stated : node.attributes) {
    const ModelAttribute *attribute = &stated;
    if (stated.kind == ModelAttribute::Reference) {
      if (!frame.function)
        return fail() << "attribute '" << stated.name << "' refers to the attribute '"
                      << stated.reference << "' of a function, but the node is in none";
      attribute = frame.attributes.lookup(stated.reference);
      // Neither given at the call nor with a default: the attribute is unset.
      if (!attribute || attribute->kind == ModelAttribute::Reference)
        continue;
    }
    if (attributes.get(stated.name) || llvm::is_contained(graphNames, stated.name))
      return fail() << "attribute '" << stated.name << "' is given twice";
    if (attribute->kind == ModelAttribute::Graph) {
      graphNames.push_back(stated.name);
      graphs.push_back(attribute->graph.get());
      continue;
    }
    // The value of a Constant node is a constant like any initializer.
    bool isConstant = node.domain.empty() && node.opType == "Constant" && node.outputs.size() == 1;
    bool isValue = isConstant && attribute->kind == ModelAttribute::Tensor &&
                   attribute->tensors[0].getNumBytes() > kLargeTensorBytes;
    bool isSparse = isConstant && attribute->kind == ModelAttribute::Sparse;
    if (isValue || isSparse) {
      FailureOr<ModelTensor> tensor = isSparse ? densify(attribute->sparse[0], "the constant")
                                               : FailureOr<ModelTensor>(attribute->tensors[0]);
      if (failed(tensor))
        return failure();
      FailureOr<Value> value = createConstant(loc, *tensor, node.outputs[0], "the constant");
      if (failed(value))
        return failure();
      scope.values[node.outputs[0]] = *value;
      return success();
    }
    FailureOr<Attribute> value = convertAttribute(*attribute, loc);
    if (failed(value))
      return failure();
    attributes.set(stated.name, *value);
  }

  SmallVector<Type> types;
  SmallVector<std::string> outputNames;
  for (const std::string &output : node.outputs) {
    types.push_back(getHint(scope, output));
    auto renamed = frame.renamed.find(output);
    if (renamed != frame.renamed.end())
      outputNames.push_back(renamed->second);
    else
      outputNames.push_back(output.empty() ? "" : frame.prefix + output);
  }
  SmallVector<StringRef> outputs(outputNames.begin(), outputNames.end());
  auto op = NodeOp::create(builder, loc, types, qualifyOp(node), inputs, *version,
                           attributes.getDictionary(builder.getContext()).getValue(), outputs,
                           graphNames);
  for (auto [graph, region] : llvm::zip(graphs, op.getBodies())) {
    Frame inner = frame;
    inner.topNode = topNode;
    inner.renamed.clear();
    ++inner.depth;
    if (failed(importSubgraph(*graph, region, loc, scope, inner)))
      return failure();
  }
  for (auto [output, result] : llvm::zip(node.outputs, op.getResults()))
    if (!output.empty())
      scope.values[output] = result;
  return success();
}

/// The body of the main graph.
LogicalResult Importer::importMain(func::FuncOp &main) {
  ModelGraph &graph = model.graph;
  llvm::StringSet<> initializers;
  for (const ModelTensor &tensor : graph.initializers)
    initializers.insert(tensor.name);
  for (const ModelSparseTensor &tensor : graph.sparseInitializers)
    initializers.insert(tensor.values.name);

  Block *block = main.addEntryBlock();
  builder.setInsertionPointToStart(block);
  Scope scope;
  SmallVector<Attribute> argAttrs;
  for (const ModelValue &input : graph.inputs) {
    // Old models list their initializers as inputs with a default value.
    if (initializers.contains(input.name))
      continue;
    if (input.name.empty())
      return emitError() << "a graph input has no name";
    std::string owner = "graph input '" + input.name + "'";
    bool hasType = input.type.kind == ModelType::Other ||
                   (input.type.kind == ModelType::Tensor && input.type.elementType != 0);
    if (!hasType)
      return emitError() << owner << " has no type";
    FailureOr<TensorType> type = convertType(input.type, owner);
    if (failed(type))
      return failure();
    Value argument = block->addArgument(
        *type, getNodeLocation(builder.getContext(), model.fileName, 0, input.name));
    argAttrs.push_back(describeValue(input));
    if (!scope.values.insert({input.name, argument}).second)
      return emitError() << "two graph inputs have the name '" << input.name << "'";
  }
  for (const ModelValue &value : graph.values)
    scope.hints[value.name] = &value.type;
  for (const ModelValue &value : graph.outputs)
    scope.hints[value.name] = &value.type;

  Frame frame;
  frame.opsets = &model.opsets;
  if (failed(importInitializers(graph, scope)) || failed(importNodes(graph.nodes, scope, frame)))
    return failure();

  for (const std::string &name : options.keep) {
    if (llvm::any_of(graph.outputs, [&](const ModelValue &output) { return output.name == name; }))
      continue;
    if (!scope.lookup(name))
      return emitOptionError() << "cannot keep '" << name << "': the graph has no such value"
                               << suggestName(name, scope.getNames());
    auto info =
        llvm::find_if(graph.values, [&](const ModelValue &value) { return value.name == name; });
    graph.outputs.push_back({name, {}});
    if (info != graph.values.end())
      graph.outputs.back().type = info->type;
  }

  SmallVector<Value> results;
  SmallVector<Attribute> resultAttrs;
  llvm::StringSet<> seen;
  if (graph.outputs.empty())
    return emitError() << "the graph has no outputs";
  for (const ModelValue &output : graph.outputs) {
    std::string owner = "graph output '" + output.name + "'";
    Value value = scope.lookup(output.name).value_or(Value());
    if (!value)
      return emitError() << owner << " is never produced";
    if (!seen.insert(output.name).second)
      return emitError() << owner << " is listed twice";
    if (output.type.kind != ModelType::None) {
      FailureOr<TensorType> type = convertType(output.type, owner);
      if (failed(type))
        return failure();
      Type found = cast<TensorType>(value.getType()).getElementType();
      if (!isa<onnx::UnknownType>(type->getElementType()) && type->getElementType() != found)
        return emitError() << owner << " is declared with elements of type "
                           << type->getElementType() << ", but they are " << found;
    }
    results.push_back(value);
    resultAttrs.push_back(describeValue(output));
  }
  func::ReturnOp::create(builder, getFileLocation(), results);
  main.setFunctionType(
      builder.getFunctionType(block->getArgumentTypes(), ValueRange(results).getTypes()));
  main.setArgAttrsAttr(builder.getArrayAttr(argAttrs));
  main.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
  return success();
}

OwningOpRef<ModuleOp> Importer::run() {
  OwningOpRef<ModuleOp> owner = ModuleOp::create(getFileLocation());
  module = *owner;
  symbols.insert("main");
  if (failed(collectSizes()))
    return {};
  specialize(model.graph);
  for (const ModelFunction &function : model.functions) {
    std::string key = functionKey(function.domain, function.name, function.overload);
    if (!functions.insert({key, &function}).second) {
      emitError() << "function '" << function.name << "' of domain '" << function.domain
                  << "' is defined twice";
      return {};
    }
  }

  module->setAttr(onnx::kModelAttr, builder.getStringAttr(model.fileName));
  module->setAttr(onnx::kIRVersionAttr, builder.getI64IntegerAttr(model.irVersion));
  NamedAttrList opsets;
  for (const auto &[domain, version] : model.opsets)
    opsets.set(domain.empty() ? "ai.onnx" : domain, builder.getI64IntegerAttr(version));
  module->setAttr(onnx::kOpsetsAttr, opsets.getDictionary(builder.getContext()));

  builder.setInsertionPointToEnd(module.getBody());
  auto main =
      func::FuncOp::create(builder, getFileLocation(), "main", builder.getFunctionType({}, {}));
  // Weights are appended to the module while nodes are read; the function goes
  // after them.
  if (failed(importMain(main)))
    return {};
  main->moveBefore(module.getBody(), module.getBody()->end());
  if (failed(verify(module)))
    return {};
  return owner;
}

OwningOpRef<ModuleOp> mlir::moe::importONNX(StringRef path, MLIRContext *context,
                                            const ImportOptions &options) {
  context->loadDialect<func::FuncDialect, MoEDialect, onnx::ONNXDialect>();
  FailureOr<Model> model = readModel(path, context);
  if (failed(model))
    return {};
  return Importer(*model, context, options).run();
}
