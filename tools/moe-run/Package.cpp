// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Finding, loading and describing of packages.

#include "Package.h"
#include "Status.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include <dlfcn.h>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
namespace fs = llvm::sys::fs;

static Error makePackageError(const llvm::Twine &message) {
  return makeError(Status::Package, message);
}

/// The one lib*.so of a folder. Its name need not be the folder's, so that
/// packages can be renamed.
static Expected<std::string> findLibrary(StringRef path) {
  if (!fs::exists(path))
    return makePackageError("there is no package '" + path + "'");
  if (!fs::is_directory(path))
    return path.str();
  std::vector<std::string> found;
  std::error_code code;
  for (fs::directory_iterator it(path, code), end; it != end && !code; it.increment(code)) {
    StringRef name = llvm::sys::path::filename(it->path());
    if (name.starts_with("lib") && name.ends_with(".so"))
      found.push_back(it->path());
  }
  if (code)
    return makePackageError("cannot read '" + path + "': " + code.message());
  if (found.size() != 1)
    return makePackageError("'" + path + "' is not a package: it has " + llvm::Twine(found.size()) +
                            " files lib*.so, expected one");
  return found.front();
}

Error Package::load(StringRef path) {
  Expected<std::string> file = findLibrary(path);
  if (!file)
    return file.takeError();
  this->file = *file;
  llvm::SmallString<256> absolute(*file);
  fs::make_absolute(absolute);
  void *handle = dlopen(absolute.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return makePackageError("cannot load '" + *file + "': " + dlerror());
  auto get = reinterpret_cast<moec_library_fn>(dlsym(handle, MOEC_LIBRARY_SYMBOL));
  if (!get)
    return makePackageError("'" + *file +
                            "' was not compiled by moec: it has "
                            "no symbol " MOEC_LIBRARY_SYMBOL);
  library = get();
  // The library stays loaded: OpenMP threads may live in it.
  if (library->abi_version != MOEC_ABI_VERSION || library->size < sizeof(moec_library))
    return makePackageError("'" + *file + "' has version " + llvm::Twine(library->abi_version) +
                            " of the moec interface, expected " + llvm::Twine(MOEC_ABI_VERSION));
  return Error::success();
}

static bool parseTensor(const llvm::json::Value &json, TensorInfo &tensor) {
  const llvm::json::Object *object = json.getAsObject();
  if (!object)
    return false;
  auto name = object->getString("name"), type = object->getString("dtype");
  const llvm::json::Array *dims = object->getArray("dims");
  if (!name || !type || !dims)
    return false;
  tensor.name = name->str();
  tensor.type = findElementType(*type);
  for (const llvm::json::Value &dim : *dims) {
    Dimension &last = tensor.dims.emplace_back();
    if (auto size = dim.getAsInteger())
      last.size = *size;
    else if (auto symbol = dim.getAsString())
      last.symbol = symbol->str();
  }
  return tensor.type != nullptr;
}

static bool parseTensors(const llvm::json::Array *json, std::vector<TensorInfo> &tensors) {
  return json && llvm::all_of(*json, [&](const llvm::json::Value &tensor) {
           return parseTensor(tensor, tensors.emplace_back());
         });
}

static bool parseEntry(const llvm::json::Value &json, EntryInfo &entry) {
  const llvm::json::Object *object = json.getAsObject();
  if (!object || !object->getString("name"))
    return false;
  entry.name = object->getString("name")->str();
  return parseTensors(object->getArray("inputs"), entry.inputs) &&
         parseTensors(object->getArray("outputs"), entry.outputs);
}

/// The regions of one operation: as many as it has phases.
static void addRegions(const llvm::json::Value &json, std::vector<RegionInfo> &regions) {
  const llvm::json::Object *fields = json.getAsObject();
  std::string name = fields ? fields->getString("name").value_or("").str() : "";
  const llvm::json::Array *phases = fields ? fields->getArray("phases") : nullptr;
  if (!phases) {
    regions.push_back({name, fields ? fields->getString("op").value_or("").str() : ""});
    return;
  }
  std::string op = fields->getString("op").value_or(name).str();
  for (const llvm::json::Value &phase : *phases)
    regions.push_back({name + ": " + phase.getAsString().value_or("").str(), op});
}

Error Package::readInfo() {
  Expected<llvm::json::Value> root = llvm::json::parse(library->model_info(model));
  if (!root)
    return makePackageError("the library's description is not JSON: " + toString(root.takeError()));
  const llvm::json::Object *object = root->getAsObject();
  const llvm::json::Array *list = object ? object->getArray("entries") : nullptr;
  bool isValid = list && llvm::all_of(*list, [&](const llvm::json::Value &e) {
                   return parseEntry(e, entries.emplace_back());
                 });
  if (!isValid || entries.empty())
    return makePackageError("the library's description has no valid entries");
  if (const llvm::json::Array *groups = object->getArray("regions"))
    for (const llvm::json::Value &group : *groups)
      addRegions(group, regions);
  if (const llvm::json::Array *blocks = object->getArray("traced")) {
    traced.emplace();
    for (const llvm::json::Value &name : *blocks)
      traced->push_back(name.getAsString().value_or("").str());
  }
  return Error::success();
}

Error Package::openModel(const std::string &weights, const Options &options) {
  moec_options opening = MOEC_OPTIONS_INIT;
  opening.flags = options.openFlags;
  opening.device_type = options.deviceType;
  opening.device_id = options.deviceId;
  if (library->open(weights.empty() ? nullptr : weights.c_str(), &opening, &model) != MOEC_OK)
    return makePackageError(library->last_error());
  return Error::success();
}

/// The library itself does not say how its weights lie; NAME.json does.
Expected<SyntheticWeights> Package::makeWeights(uint64_t seed) const {
  StringRef name = llvm::sys::path::stem(file);
  name.consume_front("lib");
  llvm::SmallString<256> path(llvm::sys::path::parent_path(file));
  llvm::sys::path::append(path, name + ".json");
  auto text = llvm::MemoryBuffer::getFile(path);
  if (!text)
    return makePackageError("--synthetic-weights needs '" + path +
                            "': " + text.getError().message());
  Expected<llvm::json::Value> info = llvm::json::parse((*text)->getBuffer());
  const llvm::json::Object *object = info ? info->getAsObject() : nullptr;
  if (!object)
    return makePackageError("'" + path + "' is not valid: " +
                            (info ? std::string("no object") : toString(info.takeError())));
  return SyntheticWeights::create(*object, seed);
}

Expected<Package> Package::open(const Options &options) {
  Package package;
  if (Error error = package.load(options.package))
    return std::move(error);
  std::string file = options.weights;
  std::optional<SyntheticWeights> synthetic;
  if (options.syntheticWeights) {
    auto made = package.makeWeights(*options.syntheticWeights);
    if (!made)
      return made.takeError();
    synthetic.emplace(std::move(*made));
    file = synthetic->getPath();
  }
  if (Error error = package.openModel(file, options))
    return std::move(error);
  if (Error error = package.readInfo())
    return std::move(error);
  return std::move(package);
}

Package::Package(Package &&other)
    : file(std::move(other.file)), library(other.library),
      model(std::exchange(other.model, nullptr)), entries(std::move(other.entries)),
      regions(std::move(other.regions)), traced(std::move(other.traced)) {}

Package::~Package() {
  if (library)
    library->close(model);
}

Expected<const EntryInfo *> Package::getEntry(StringRef name) const {
  if (name.empty())
    return &entries.front();
  for (const EntryInfo &entry : entries)
    if (entry.name == name)
      return &entry;
  std::string names =
      llvm::join(llvm::map_range(entries, [](const EntryInfo &entry) { return entry.name; }), ", ");
  return makeError(Status::CommandLine,
                   "the package has no entry '" + name + "'; it has: " + names);
}

std::vector<std::string> EntryInfo::getSymbols() const {
  std::vector<std::string> symbols;
  for (const TensorInfo &input : inputs)
    for (const Dimension &dim : input.dims)
      if (!dim.symbol.empty() && !llvm::is_contained(symbols, dim.symbol))
        symbols.push_back(dim.symbol);
  return symbols;
}

static void printTensor(llvm::raw_ostream &os, StringRef kind, const TensorInfo &tensor) {
  os << "  " << kind << " " << tensor.name << ": " << tensor.type->name << " [";
  llvm::interleaveComma(tensor.dims, os, [&](const Dimension &dim) {
    if (dim.size >= 0)
      os << dim.size;
    else
      os << (dim.symbol.empty() ? StringRef("?") : StringRef(dim.symbol));
  });
  os << "]\n";
}

void Package::print(llvm::raw_ostream &os) const {
  for (const EntryInfo &entry : entries) {
    os << "entry " << entry.name << "\n";
    for (const TensorInfo &input : entry.inputs)
      printTensor(os, "input", input);
    for (const TensorInfo &output : entry.outputs)
      printTensor(os, "output", output);
  }
}
