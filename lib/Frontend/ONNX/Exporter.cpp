// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/Exporter.h"

#include "moec/Dialect/ONNX/IR/ElementType.h"
#include "moec/Dialect/ONNX/IR/ONNX.h"
#include "moec/Dialect/ONNX/Transforms/Passes.h"
#include "moec/Frontend/ONNX/ModelReader.h"
#include "moec/Support/NodeLocation.h"
#include "moec/Support/Unsupported.h"
#include "moec/Target/CPU/WeightTransforms.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <limits>
#include <map>

#include "onnx-ml.pb.h"

using namespace mlir;
using namespace mlir::moe;
using llvm::createStringError;
using llvm::Error;
using mlir::moe::onnx::NodeOp;

/// The IR version that first had every element type and external data.
static constexpr int64_t kLeastIRVersion = 10;
/// Where tensors begin in the data file: pages, so that they can be mapped.
static constexpr uint64_t kDataAlignment = 4096;

namespace {

class Exporter {
public:
  Exporter(func::FuncOp function, StringRef dataName)
      : function(function), module(function->getParentOfType<ModuleOp>()), dataName(dataName) {}

  FailureOr<ExportedModel> run();

private:
  // Names.
  std::string makeUnique(StringRef wish);
  void nameInterface();
  void nameValues();
  void nameResults(NodeOp node);
  StringRef getName(Value value) { return names.find(value)->second; }

  // Operator sets.
  LogicalResult chooseOpset();
  LogicalResult checkVersion(NodeOp node);

  // Tensors and types.
  LogicalResult writeElements(::onnx::TensorProto &out, DenseElementsAttr elements, Operation *op);
  LogicalResult writeWeight(LoadWeightOp load);
  LogicalResult writeType(::onnx::TypeProto &out, TensorType type, ArrayAttr dims, Location loc);
  LogicalResult writeInterface();

  // Nodes.
  LogicalResult writeBlock(::onnx::GraphProto &graph, Block &block);
  LogicalResult writeNode(::onnx::GraphProto &graph, NodeOp node);
  LogicalResult writeAttribute(::onnx::AttributeProto &out, Attribute value, NodeOp node);
  LogicalResult writeSubgraph(::onnx::GraphProto &graph, Region &region);
  void writeIdentity(::onnx::GraphProto &graph, StringRef from, StringRef to);

  func::FuncOp function;
  ModuleOp module;
  std::string dataName;
  ::onnx::ModelProto model;
  ExportedModel result;
  llvm::DenseMap<Value, std::string> names;
  llvm::StringSet<> taken, nodeNames, weightsWritten;
  llvm::StringMap<std::string> weightNames;
  /// Names of the graph's outputs; those that are not the name of the returned value.
  SmallVector<std::string> outputNames;
  SmallVector<std::pair<Value, std::string>> renamedOutputs;
  std::map<std::string, int64_t> opsets;
};

} // namespace

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

static std::string makeUniqueIn(llvm::StringSet<> &taken, StringRef wish) {
  std::string name = wish.str();
  for (unsigned i = 1; !taken.insert(name).second; ++i)
    name = (wish + "_" + Twine(i)).str();
  return name;
}

std::string Exporter::makeUnique(StringRef wish) { return makeUniqueIn(taken, wish); }

static StringRef getInterfaceName(Attribute attribute) {
  auto name = dyn_cast_or_null<StringAttr>(attribute);
  return name ? name.getValue() : "";
}

/// A constant is an initializer, which no output may be.
static bool isConstant(Value value) {
  return value.getDefiningOp<LoadWeightOp>() || moe::onnx::getConstantValue(value);
}

void Exporter::nameInterface() {
  for (BlockArgument argument : function.getArguments()) {
    unsigned number = argument.getArgNumber();
    StringRef name = getInterfaceName(function.getArgAttr(number, moe::onnx::kNameAttr));
    names[argument] = makeUnique(name.empty() ? "input" : name);
  }
  auto ret = cast<func::ReturnOp>(function.getBody().back().getTerminator());
  for (auto [number, value] : llvm::enumerate(ret.getOperands())) {
    StringRef name = getInterfaceName(function.getResultAttr(number, moe::onnx::kNameAttr));
    std::string unique = makeUnique(name.empty() ? "output" : name);
    outputNames.push_back(unique);
    if (isConstant(value) || !names.try_emplace(value, unique).second)
      renamedOutputs.push_back({value, unique});
  }
}

void Exporter::nameResults(NodeOp node) {
  bool anyNamed = llvm::any_of(
      node.getOutputs(), [](Attribute name) { return !cast<StringAttr>(name).getValue().empty(); });
  StringRef base = getNodeName(node.getLoc());
  for (OpResult value : node.getResults()) {
    // An output that the model leaves out stays out.
    if (value.use_empty() && anyNamed && node.getOutputName(value.getResultNumber()).empty())
      names.try_emplace(value, "");
    else if (!names.contains(value))
      names[value] = makeUnique(((base.empty() ? node.getOpName() : base) + "_output").str());
  }
}

void Exporter::nameValues() {
  nameInterface();
  function.walk([&](Operation *op) {
    if (auto load = dyn_cast<LoadWeightOp>(op)) {
      // One initializer for all loads.
      auto [entry, isNew] = weightNames.try_emplace(load.getWeight());
      if (isNew)
        entry->second = makeUnique(load.getWeight());
      names[load.getResult()] = entry->second;
      return;
    }
    auto node = dyn_cast<NodeOp>(op);
    if (!node)
      return;
    for (OpResult value : node.getResults()) {
      StringRef name = node.getOutputName(value.getResultNumber());
      if (!name.empty() && !names.contains(value))
        names[value] = makeUnique(name);
    }
  });
  function.walk([&](Operation *op) {
    if (auto node = dyn_cast<NodeOp>(op))
      nameResults(node);
    for (Region &region : op->getRegions())
      for (Block &block : region)
        for (BlockArgument argument : block.getArguments())
          if (!names.contains(argument))
            names[argument] = makeUnique("argument");
  });
}

//===----------------------------------------------------------------------===//
// Operator sets
//===----------------------------------------------------------------------===//

/// A normalized node means the same in every version from its canonical one on. Another
/// is in the form of the model's own version.
LogicalResult Exporter::checkVersion(NodeOp node) {
  int64_t opset = opsets[node.getDomain().str()], version = node.getVersion();
  if (version == opset || !node.getDomain().empty() ||
      version == moe::onnx::getCanonicalVersion(node.getOpType()))
    return success();
  return emitUnsupported(node.getLoc())
         << describeNode(node.getLoc(), node.getOpType()) << ": its form of opset " << version
         << " cannot be written in opset " << opset
         << ", which other nodes need; export the model with opset " << opset << " or newer";
}

LogicalResult Exporter::chooseOpset() {
  if (auto stated = module->getAttrOfType<DictionaryAttr>(moe::onnx::kOpsetsAttr))
    for (NamedAttribute opset : stated)
      if (auto version = dyn_cast<IntegerAttr>(opset.getValue());
          version && opset.getName() == "ai.onnx")
        opsets[""] = version.getInt();
  function.walk([&](NodeOp node) {
    int64_t &version = opsets[node.getDomain().str()];
    version = std::max<int64_t>(version, node.getVersion());
  });
  bool failed = false;
  function.walk([&](NodeOp node) { failed |= mlir::failed(checkVersion(node)); });
  for (auto &[domain, version] : opsets) {
    ::onnx::OperatorSetIdProto *opset = model.add_opset_import();
    opset->set_domain(domain);
    opset->set_version(version);
  }
  return success(!failed);
}

//===----------------------------------------------------------------------===//
// Tensors and types
//===----------------------------------------------------------------------===//

/// Several elements of 2 or 4 bits to a byte, low bits first.
static std::string packBits(ArrayRef<char> bytes, unsigned bits) {
  unsigned perByte = 8 / bits, mask = (1u << bits) - 1;
  std::string packed(llvm::divideCeil(bytes.size(), perByte), 0);
  for (auto [i, byte] : llvm::enumerate(bytes))
    packed[i / perByte] = char(packed[i / perByte] | (byte & mask) << (i % perByte * bits));
  return packed;
}

static bool isNarrow(Type elementType) {
  unsigned bits = elementType.getIntOrFloatBitWidth();
  return bits > 1 && bits < 8;
}

static void setDims(::onnx::TensorProto &out, ArrayRef<int64_t> shape) {
  for (int64_t size : shape)
    out.add_dims(size);
}

LogicalResult Exporter::writeElements(::onnx::TensorProto &out, DenseElementsAttr elements,
                                      Operation *op) {
  Type type = elements.getElementType();
  std::optional<int64_t> number = moe::onnx::getElementTypeNumber(type);
  if (!number || !type.isIntOrFloat())
    return emitUnsupported(op) << "a constant with elements of type " << type
                               << " cannot be written to an ONNX model";
  out.set_data_type(*number);
  setDims(out, cast<RankedTensorType>(elements.getType()).getShape());
  std::vector<char> bytes = getElementBytes(elements);
  out.set_raw_data(isNarrow(type) ? packBits(bytes, type.getIntOrFloatBitWidth())
                                  : std::string(bytes.begin(), bytes.end()));
  return success();
}

/// Bytes of a weight in the file.
static uint64_t getFileBytes(RankedTensorType type) {
  unsigned bits = isNarrow(type.getElementType()) ? type.getElementTypeBitWidth()
                                                  : 8 * getElementBytes(type.getElementType());
  return llvm::divideCeil(uint64_t(type.getNumElements()) * bits, 8);
}

static void addEntry(::onnx::TensorProto &out, StringRef key, const Twine &value) {
  ::onnx::StringStringEntryProto *entry = out.add_external_data();
  entry->set_key(key.str());
  entry->set_value(value.str());
}

LogicalResult Exporter::writeWeight(LoadWeightOp load) {
  if (!weightsWritten.insert(getName(load.getResult())).second)
    return success();
  auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(load, load.getWeightAttr());
  RankedTensorType type = weight.getTensorType();
  std::optional<int64_t> number = moe::onnx::getElementTypeNumber(type.getElementType());
  if (!number || (isNarrow(type.getElementType()) && !weight.getTransforms().empty()))
    return emitUnsupported(weight.getLoc()) << "weight '" << weight.getSymName() << "' of type "
                                            << type << " cannot be written to an ONNX model";
  ::onnx::TensorProto *out = model.mutable_graph()->add_initializer();
  out->set_name(getName(load.getResult()).str());
  out->set_data_type(*number);
  setDims(*out, type.getShape());
  uint64_t offset = llvm::alignTo(result.dataBytes, kDataAlignment), length = getFileBytes(type);
  out->set_data_location(::onnx::TensorProto::EXTERNAL);
  addEntry(*out, "location", dataName);
  addEntry(*out, "offset", Twine(offset));
  addEntry(*out, "length", Twine(length));
  result.weights.push_back({weight, offset, length});
  result.dataBytes = offset + length;
  return success();
}

/// `dims`: the sizes and symbols that the model stated, which may be null.
LogicalResult Exporter::writeType(::onnx::TypeProto &out, TensorType type, ArrayAttr dims,
                                  Location loc) {
  ::onnx::TypeProto::Tensor &tensor = *out.mutable_tensor_type();
  std::optional<int64_t> number = moe::onnx::getElementTypeNumber(type.getElementType());
  if (!number)
    return emitUnsupported(loc) << "a value of type " << type
                                << " cannot be written to an ONNX model";
  tensor.set_elem_type(*number);
  auto ranked = dyn_cast<RankedTensorType>(type);
  if (!ranked)
    return success();
  ::onnx::TensorShapeProto &shape = *tensor.mutable_shape();
  for (int64_t i = 0; i < ranked.getRank(); ++i) {
    auto *dim = shape.add_dim();
    auto text = dims && int64_t(dims.size()) == ranked.getRank() ? dyn_cast<StringAttr>(dims[i])
                                                                 : StringAttr();
    if (!ranked.isDynamicDim(i))
      dim->set_dim_value(ranked.getDimSize(i));
    else if (text && !text.empty() && text.getValue() != "?")
      dim->set_dim_param(text.str());
  }
  return success();
}

LogicalResult Exporter::writeInterface() {
  ::onnx::GraphProto &graph = *model.mutable_graph();
  bool failed = false;
  auto write = [&](::onnx::ValueInfoProto *out, StringRef name, Type type, Attribute dims) {
    out->set_name(name.str());
    failed |= mlir::failed(writeType(*out->mutable_type(), cast<TensorType>(type),
                                     dyn_cast_or_null<ArrayAttr>(dims), function.getLoc()));
  };
  for (BlockArgument argument : function.getArguments())
    write(graph.add_input(), getName(argument), argument.getType(),
          function.getArgAttr(argument.getArgNumber(), moe::onnx::kDimsAttr));
  for (auto [i, type] : llvm::enumerate(function.getResultTypes()))
    write(graph.add_output(), outputNames[i], type,
          function.getResultAttr(i, moe::onnx::kDimsAttr));
  return success(!failed);
}

//===----------------------------------------------------------------------===//
// Nodes
//===----------------------------------------------------------------------===//

LogicalResult Exporter::writeSubgraph(::onnx::GraphProto &graph, Region &region) {
  Block &block = region.front();
  graph.set_name("body");
  for (BlockArgument argument : block.getArguments()) {
    ::onnx::ValueInfoProto *input = graph.add_input();
    input->set_name(getName(argument).str());
    auto type = cast<TensorType>(argument.getType());
    if (!isa<moe::onnx::UnknownType>(type.getElementType()) &&
        failed(writeType(*input->mutable_type(), type, {}, argument.getLoc())))
      return failure();
  }
  if (failed(writeBlock(graph, block)))
    return failure();
  // An output is computed in the graph itself, and is there once.
  llvm::StringSet<> seen;
  for (Value value : cast<moe::onnx::YieldOp>(block.getTerminator()).getValues()) {
    std::string name = getName(value).str();
    bool own = value.getParentRegion() == &region && value.getDefiningOp<NodeOp>();
    if (!own || isConstant(value) || seen.contains(name)) {
      name = makeUnique(name);
      writeIdentity(graph, getName(value), name);
    }
    seen.insert(name);
    ::onnx::ValueInfoProto *output = graph.add_output();
    output->set_name(name);
    auto type = cast<TensorType>(value.getType());
    if (!isa<moe::onnx::UnknownType>(type.getElementType()) &&
        failed(writeType(*output->mutable_type(), type, {}, value.getLoc())))
      return failure();
  }
  return success();
}

LogicalResult Exporter::writeAttribute(::onnx::AttributeProto &out, Attribute value, NodeOp node) {
  using A = ::onnx::AttributeProto;
  auto tooLarge = [&]() -> LogicalResult {
    return emitUnsupported(node.getLoc())
           << describeNode(node.getLoc(), node.getOpType()) << ": attribute '" << out.name()
           << "' is a large tensor, which cannot be written to an ONNX model";
  };
  if (auto integer = dyn_cast<IntegerAttr>(value)) {
    out.set_type(A::INT);
    out.set_i(integer.getInt());
  } else if (auto real = dyn_cast<FloatAttr>(value)) {
    out.set_type(A::FLOAT);
    out.set_f(real.getValue().convertToFloat());
  } else if (auto string = dyn_cast<StringAttr>(value)) {
    out.set_type(A::STRING);
    out.set_s(string.str());
  } else if (auto ints = dyn_cast<DenseI64ArrayAttr>(value)) {
    out.set_type(A::INTS);
    for (int64_t one : ints.asArrayRef())
      out.add_ints(one);
  } else if (auto floats = dyn_cast<DenseF32ArrayAttr>(value)) {
    out.set_type(A::FLOATS);
    for (float one : floats.asArrayRef())
      out.add_floats(one);
  } else if (auto elements = dyn_cast<DenseElementsAttr>(value)) {
    out.set_type(A::TENSOR);
    return writeElements(*out.mutable_t(), elements, node);
  } else if (auto type = dyn_cast<TypeAttr>(value)) {
    out.set_type(A::TYPE_PROTO);
    return writeType(*out.mutable_tp(), cast<TensorType>(type.getValue()), {}, node.getLoc());
  } else if (auto list = dyn_cast<ArrayAttr>(value)) {
    bool tensors = !list.empty() && !isa<StringAttr>(list[0]);
    out.set_type(tensors ? A::TENSORS : A::STRINGS);
    for (Attribute one : list) {
      if (auto string = dyn_cast<StringAttr>(one)) {
        out.add_strings(string.str());
        continue;
      }
      auto elements = dyn_cast<DenseElementsAttr>(one);
      if (!elements)
        return tooLarge();
      if (failed(writeElements(*out.add_tensors(), elements, node)))
        return failure();
    }
  } else {
    return tooLarge();
  }
  return success();
}

LogicalResult Exporter::writeNode(::onnx::GraphProto &graph, NodeOp node) {
  // Constants of all graphs are initializers of the main one.
  if (DenseElementsAttr elements = moe::onnx::getConstantValue(node.getResult(0))) {
    ::onnx::TensorProto *out = model.mutable_graph()->add_initializer();
    out->set_name(getName(node.getResult(0)).str());
    return writeElements(*out, elements, node);
  }
  ::onnx::NodeProto &out = *graph.add_node();
  StringRef name = getNodeName(node.getLoc());
  out.set_name(makeUniqueIn(nodeNames, name.empty() ? node.getOpName() : name));
  out.set_op_type(node.getOpName().str());
  out.set_domain(node.getDomain().str());
  for (Value input : node.getAllInputs())
    out.add_input(input ? getName(input).str() : "");
  for (Value value : node.getResults())
    out.add_output(getName(value).str());
  for (NamedAttribute attribute : node.getNodeAttributes()) {
    ::onnx::AttributeProto &attr = *out.add_attribute();
    attr.set_name(attribute.getName().str());
    Attribute value = attribute.getValue();
    // Cast's type as a number.
    if (auto type = dyn_cast<TypeAttr>(value); type && node.isOp("Cast"))
      if (auto number = moe::onnx::getElementTypeNumber(type.getValue()))
        value = Builder(node.getContext()).getI64IntegerAttr(*number);
    if (failed(writeAttribute(attr, value, node)))
      return failure();
  }
  for (auto [graphName, region] : llvm::zip(node.getGraphs(), node.getBodies())) {
    ::onnx::AttributeProto &attr = *out.add_attribute();
    attr.set_name(cast<StringAttr>(graphName).str());
    attr.set_type(::onnx::AttributeProto::GRAPH);
    if (failed(writeSubgraph(*attr.mutable_g(), region)))
      return failure();
  }
  return success();
}

void Exporter::writeIdentity(::onnx::GraphProto &graph, StringRef from, StringRef to) {
  ::onnx::NodeProto &out = *graph.add_node();
  out.set_name(makeUniqueIn(nodeNames, ("Identity_" + to).str()));
  out.set_op_type("Identity");
  out.add_input(from.str());
  out.add_output(to.str());
}

LogicalResult Exporter::writeBlock(::onnx::GraphProto &graph, Block &block) {
  bool failed = false;
  for (Operation &op : block.without_terminator()) {
    if (auto node = dyn_cast<NodeOp>(op))
      failed |= mlir::failed(writeNode(graph, node));
    else if (auto load = dyn_cast<LoadWeightOp>(op))
      failed |= mlir::failed(writeWeight(load));
    else {
      emitUnsupported(&op) << op.getName() << " cannot be written to an ONNX model";
      failed = true;
    }
  }
  return success(!failed);
}

FailureOr<ExportedModel> Exporter::run() {
  nameValues();
  if (failed(chooseOpset()))
    return failure();
  auto version = module->getAttrOfType<IntegerAttr>(moe::onnx::kIRVersionAttr);
  model.set_ir_version(std::max(version ? version.getInt() : 0, kLeastIRVersion));
  model.set_producer_name("moec");
  ::onnx::GraphProto &graph = *model.mutable_graph();
  graph.set_name("main");
  if (failed(writeBlock(graph, function.getBody().front())) || failed(writeInterface()))
    return failure();
  for (auto &[value, name] : renamedOutputs)
    writeIdentity(graph, getName(value), name);
  if (model.ByteSizeLong() > size_t(std::numeric_limits<int32_t>::max()))
    return emitUnsupported(function.getLoc()) << "the graph is larger than the 2 GiB of a protobuf";
  result.bytes = model.SerializeAsString();
  return std::move(result);
}

FailureOr<ExportedModel> mlir::moe::exportONNX(ModuleOp module, StringRef dataName) {
  auto functions = module.getOps<func::FuncOp>();
  if (!llvm::hasSingleElement(functions) || (*functions.begin()).isExternal() ||
      !llvm::hasSingleElement((*functions.begin()).getBody()))
    return emitError(module.getLoc()) << "expected one function with one block, the main graph";
  return Exporter(*functions.begin(), dataName).run();
}

//===----------------------------------------------------------------------===//
// The data file
//===----------------------------------------------------------------------===//

namespace {
/// A file that is written from its begin to its end.
class DataWriter {
public:
  DataWriter(llvm::raw_fd_ostream &stream, SourceFiles &files, uint64_t all,
             ExportProgress progress)
      : stream(stream), files(files), all(all), progress(progress) {}

  Error write(ArrayRef<char> bytes);
  Error pad(uint64_t offset);

private:
  llvm::raw_fd_ostream &stream;
  SourceFiles &files;
  uint64_t all, written = 0;
  ExportProgress progress;
};
} // namespace

Error DataWriter::write(ArrayRef<char> bytes) {
  // In pieces, so that progress is shown and mapped pages are dropped.
  constexpr size_t piece = 8 << 20;
  for (; !bytes.empty(); bytes = bytes.drop_front(std::min(piece, bytes.size()))) {
    ArrayRef<char> front = bytes.take_front(piece);
    stream.write(front.data(), front.size());
    if (stream.has_error())
      return Error::success();
    uint64_t before = written;
    written += front.size();
    if (before / piece == written / piece)
      continue;
    files.releasePages();
    if (!progress(written, all))
      return createStringError("interrupted");
  }
  return Error::success();
}

Error DataWriter::pad(uint64_t offset) {
  std::vector<char> zeros(offset - written, 0);
  return write(zeros);
}

/// The bytes of the only source, as they lie in its file; empty when there is more to do.
static llvm::Expected<ArrayRef<char>> getPlainBytes(WeightOp weight, SourceFiles &files) {
  auto segment = weight.getSources().size() == 1 && weight.getTransforms().empty()
                     ? dyn_cast<SegmentAttr>(weight.getSources()[0])
                     : SegmentAttr();
  return segment ? files.getBytes(segment) : ArrayRef<char>();
}

static Error writeWeight(DataWriter &out, WeightOp weight, SourceFiles &files, bool &sourceFailed) {
  auto fail = [&](Error error) {
    sourceFailed = true;
    return error;
  };
  auto plain = getPlainBytes(weight, files);
  if (!plain)
    return fail(plain.takeError());
  if (!plain->empty())
    return out.write(*plain);
  auto packer = WeightPacker::create(weight, files);
  if (!packer)
    return fail(packer.takeError());
  for (int64_t expert = 0; expert < packer->getNumExperts(); ++expert)
    if (Error error = out.write(packer->pack(expert)))
      return error;
  return Error::success();
}

Error mlir::moe::writeExternalData(const ExportedModel &model, StringRef modelFolder,
                                   StringRef path, bool &sourceFailed, ExportProgress progress) {
  sourceFailed = false;
  std::error_code code;
  llvm::raw_fd_ostream stream(path, code);
  SourceFiles files(modelFolder);
  DataWriter out(stream, files, model.dataBytes, progress);
  auto failed = [&](std::error_code code) {
    stream.clear_error();
    return createStringError("cannot write '" + path + "': " + code.message());
  };
  if (code)
    return failed(code);
  for (const ExternalWeight &weight : model.weights) {
    Error error = out.pad(weight.offset);
    if (!error)
      error = writeWeight(out, weight.weight, files, sourceFailed);
    if (error) {
      stream.clear_error();
      return error;
    }
  }
  stream.flush();
  if (stream.has_error())
    return failed(stream.error());
  return Error::success();
}
