// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Interface.h"
#include "Compilation.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Support/Unsupported.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

namespace {
/// Collects the interface of one function.
class Recorder {
public:
  explicit Recorder(func::FuncOp entry) : entry(entry), builder(entry.getContext()) {}
  FailureOr<DictionaryAttr> record();

private:
  FailureOr<DictionaryAttr> tensor(Type type, DictionaryAttr attributes, StringRef defaultName,
                                   bool isInput);
  StringAttr dim(int64_t size, StringRef given, StringRef tensorName, int64_t axis, bool isInput);

  func::FuncOp entry;
  Builder builder;
  llvm::SetVector<StringAttr> symbols;
  llvm::StringSet<> names;
};
} // namespace

/// How the model writes a dimension. A static size wins over the symbol that it
/// replaced.
StringAttr Recorder::dim(int64_t size, StringRef given, StringRef tensorName, int64_t axis,
                         bool isInput) {
  if (!ShapedType::isDynamic(size))
    return builder.getStringAttr(llvm::itostr(size));
  int64_t ignored;
  if (!given.empty() && given != "?" && given.getAsInteger(10, ignored)) {
    StringAttr name = builder.getStringAttr(given);
    if (isInput)
      symbols.insert(name);
    return name;
  }
  if (!isInput)
    return builder.getStringAttr("?");
  StringAttr name = builder.getStringAttr(tensorName + "." + llvm::itostr(axis));
  symbols.insert(name);
  return name;
}

FailureOr<DictionaryAttr> Recorder::tensor(Type type, DictionaryAttr attributes,
                                           StringRef defaultName, bool isInput) {
  auto tensorType = dyn_cast<RankedTensorType>(type);
  uint8_t code, bits;
  if (!tensorType || !getDLPackType(tensorType.getElementType(), code, bits)) {
    emitUnsupported(entry.getLoc()) << (isInput ? "input" : "output") << " '" << defaultName
                                    << "' of entry '" << entry.getName() << "' has type " << type
                                    << ", which cannot cross the library's interface";
    return failure();
  }
  auto nameAttr = attributes ? attributes.getAs<StringAttr>("onnx.name") : StringAttr();
  StringRef name = nameAttr && !nameAttr.empty() ? nameAttr.getValue() : defaultName;
  if (!names.insert(((isInput ? "i:" : "o:") + name).str()).second) {
    entry.emitError() << "two " << (isInput ? "inputs" : "outputs") << " of entry '"
                      << entry.getName() << "' are called '" << name << "'";
    return failure();
  }
  auto given = attributes ? attributes.getAs<ArrayAttr>("onnx.dims") : ArrayAttr();
  SmallVector<Attribute> dims;
  for (auto [axis, size] : llvm::enumerate(tensorType.getShape())) {
    auto text = given && axis < given.size() ? dyn_cast<StringAttr>(given[axis]) : StringAttr();
    dims.push_back(dim(size, text ? text.getValue() : "", name, axis, isInput));
  }
  return builder.getDictionaryAttr(
      {builder.getNamedAttr("name", builder.getStringAttr(name)),
       builder.getNamedAttr("type", TypeAttr::get(RankedTensorType::get(
                                        tensorType.getShape(), tensorType.getElementType()))),
       builder.getNamedAttr("dims", builder.getArrayAttr(dims))});
}

FailureOr<DictionaryAttr> Recorder::record() {
  SmallVector<Attribute> inputs, outputs;
  for (auto [i, type] : llvm::enumerate(entry.getArgumentTypes())) {
    auto value = tensor(type, entry.getArgAttrDict(i), "input" + llvm::utostr(i), true);
    if (failed(value))
      return failure();
    inputs.push_back(*value);
  }
  for (auto [i, type] : llvm::enumerate(entry.getResultTypes())) {
    auto value = tensor(type, entry.getResultAttrDict(i), "output" + llvm::utostr(i), false);
    if (failed(value))
      return failure();
    if (std::optional<unsigned> input = findExtendedInput(entry, i)) {
      entry.setResultAttr(i, kExtendsAttr, builder.getI64IntegerAttr(*input));
      NamedAttrList list(*value);
      list.set("extends", builder.getI64IntegerAttr(*input));
      value = list.getDictionary(entry.getContext());
    }
    outputs.push_back(*value);
  }
  SmallVector<Attribute> symbolAttrs(symbols.begin(), symbols.end());
  return builder.getDictionaryAttr(
      {builder.getNamedAttr("name", entry.getNameAttr()),
       builder.getNamedAttr("inputs", builder.getArrayAttr(inputs)),
       builder.getNamedAttr("outputs", builder.getArrayAttr(outputs)),
       builder.getNamedAttr("symbols", builder.getArrayAttr(symbolAttrs))});
}

LogicalResult mlir::moe::recordInterface(ModuleOp module) {
  SmallVector<Attribute> entries;
  for (auto entry : module.getOps<func::FuncOp>()) {
    if (!entry.isPublic() || entry.isDeclaration())
      continue;
    auto recorded = Recorder(entry).record();
    if (failed(recorded))
      return failure();
    entries.push_back(*recorded);
  }
  if (entries.empty())
    return module.emitError() << "the module has no public function to compile";
  module->setAttr(kInterfaceAttr, ArrayAttr::get(module.getContext(), entries));
  return success();
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// Null unless every element has the attribute type.
template <typename AttrT> static AttrT get(DictionaryAttr dictionary, StringRef key) {
  return dictionary ? dictionary.getAs<AttrT>(key) : AttrT();
}

static bool readTensor(DictionaryAttr source, bool isInput, ArrayRef<std::string> symbols,
                       TensorDescription &tensor) {
  auto name = get<StringAttr>(source, "name");
  auto typeAttr = get<TypeAttr>(source, "type");
  auto dims = get<ArrayAttr>(source, "dims");
  auto type = typeAttr ? dyn_cast<RankedTensorType>(typeAttr.getValue()) : RankedTensorType();
  if (!name || !type || !dims || int64_t(dims.size()) != type.getRank() ||
      !llvm::json::isUTF8(name))
    return false;
  tensor.name = name.str();
  if (auto extends = get<IntegerAttr>(source, "extends"))
    tensor.extends = extends.getInt();
  tensor.elementType = type.getElementType();
  for (auto [size, text] : llvm::zip_equal(type.getShape(), dims)) {
    auto dimName = dyn_cast<StringAttr>(text);
    if (!dimName || !llvm::json::isUTF8(dimName))
      return false;
    tensor.dimNames.push_back(dimName.str());
    const std::string *symbol = llvm::find(symbols, dimName.getValue());
    if (!ShapedType::isDynamic(size))
      tensor.dims.push_back(size);
    else if (symbol != symbols.end())
      tensor.dims.push_back(-1 - (symbol - symbols.begin()));
    else if (!isInput)
      tensor.dims.push_back(kComputedDim);
    else
      return false;
  }
  return true;
}

static bool readTensors(DictionaryAttr source, StringRef key, bool isInput,
                        ArrayRef<std::string> symbols, std::vector<TensorDescription> &tensors) {
  auto list = get<ArrayAttr>(source, key);
  if (!list)
    return false;
  for (Attribute element : list)
    if (!readTensor(dyn_cast<DictionaryAttr>(element), isInput, symbols, tensors.emplace_back()))
      return false;
  return true;
}

static bool readEntry(DictionaryAttr source, EntryDescription &entry) {
  auto name = get<StringAttr>(source, "name");
  auto symbols = get<ArrayAttr>(source, "symbols");
  if (!name || !symbols || !llvm::json::isUTF8(name))
    return false;
  entry.name = name.str();
  for (Attribute symbol : symbols)
    if (auto text = dyn_cast<StringAttr>(symbol); text && llvm::json::isUTF8(text))
      entry.symbols.push_back(text.str());
    else
      return false;
  if (auto workspace = get<StringAttr>(source, "workspace"))
    entry.workspace = llvm::json::fixUTF8(workspace);
  if (auto live = get<IntegerAttr>(source, "live_bytes"); live && live.getType().isIndex())
    entry.liveBytes = live.getInt();
  if (!readTensors(source, "inputs", true, entry.symbols, entry.inputs) ||
      !readTensors(source, "outputs", false, entry.symbols, entry.outputs))
    return false;
  return llvm::all_of(entry.outputs, [&](const TensorDescription &output) {
    return output.extends >= -1 && output.extends < int64_t(entry.inputs.size());
  });
}

FailureOr<std::vector<EntryDescription>> mlir::moe::readInterface(ModuleOp module) {
  std::vector<EntryDescription> entries;
  auto list = module->getAttrOfType<ArrayAttr>(kInterfaceAttr);
  if (!list) {
    module.emitError() << "the module has no attribute '" << kInterfaceAttr
                       << "', which the phase 'interface' writes";
    return failure();
  }
  for (Attribute element : list)
    if (!readEntry(dyn_cast<DictionaryAttr>(element), entries.emplace_back())) {
      module.emitError() << "the module attribute '" << kInterfaceAttr << "' is malformed";
      return failure();
    }
  return entries;
}

//===----------------------------------------------------------------------===//
// JSON
//===----------------------------------------------------------------------===//

/// Sizes as numbers, everything else as the model writes it.
static llvm::json::Value dimToJSON(int64_t dim, StringRef name) {
  if (dim >= 0)
    return dim;
  return name;
}

/// `inputs` are what outputs may extend.
static llvm::json::Array tensorsToJSON(ArrayRef<TensorDescription> tensors,
                                       ArrayRef<TensorDescription> inputs = {}) {
  llvm::json::Array result;
  for (const TensorDescription &tensor : tensors) {
    llvm::json::Array dims;
    for (auto [dim, name] : llvm::zip_equal(tensor.dims, tensor.dimNames))
      dims.push_back(dimToJSON(dim, name));
    llvm::json::Object object{{"name", tensor.name},
                              {"dtype", getDTypeName(tensor.elementType)},
                              {"dims", std::move(dims)}};
    if (tensor.extends >= 0)
      object["extends"] = inputs[tensor.extends].name;
    result.push_back(std::move(object));
  }
  return result;
}

llvm::json::Object mlir::moe::workspaceToJSON(const EntryDescription &entry) {
  auto orNull = [](bool exists, auto value) {
    return exists ? llvm::json::Value(value) : llvm::json::Value(nullptr);
  };
  return llvm::json::Object{
      {"workspace", orNull(!entry.workspace.empty(), entry.workspace)},
      {"live_bytes", orNull(entry.liveBytes.has_value(), entry.liveBytes.value_or(0))}};
}

llvm::json::Array mlir::moe::entriesToJSON(ArrayRef<EntryDescription> entries) {
  llvm::json::Array result;
  for (const EntryDescription &entry : entries) {
    llvm::json::Object object = workspaceToJSON(entry);
    object["name"] = entry.name;
    object["inputs"] = tensorsToJSON(entry.inputs);
    object["outputs"] = tensorsToJSON(entry.outputs, entry.inputs);
    object["symbols"] = llvm::json::Array(entry.symbols);
    result.push_back(std::move(object));
  }
  return result;
}
