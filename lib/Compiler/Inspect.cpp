// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Inspect.h"
#include "PackageDescription.h"
#include "Text.h"

#include "moec/Support/DimExpression.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <map>
#include <thread>

using namespace llvm;
using namespace mlir::moe;
using llvm::json::Array;
using llvm::json::Object;

//===----------------------------------------------------------------------===//
// Finding
//===----------------------------------------------------------------------===//

static Expected<std::string> findDescription(StringRef path) {
  if (!sys::fs::exists(path))
    return createStringError("there is no package '" + path + "'");
  if (sys::path::extension(path) == ".json")
    return path.str();
  SmallString<128> folder(path);
  if (!sys::fs::is_directory(path))
    sys::path::remove_filename(folder);
  if (folder.empty())
    folder = ".";
  std::vector<std::string> found;
  std::error_code code;
  for (sys::fs::directory_iterator it(folder, code), end; it != end && !code; it.increment(code))
    if (sys::path::extension(it->path()) == ".json")
      found.push_back(it->path());
  if (code)
    return createStringError("cannot read '" + path + "': " + code.message());
  if (found.size() != 1)
    return createStringError("'" + path + "' is not a package: it has " + Twine(found.size()) +
                             " files *.json, expected one");
  return found.front();
}

Expected<PackageDescription> mlir::moe::readDescription(StringRef path) {
  auto found = findDescription(path);
  if (!found)
    return found.takeError();
  const std::string &file = *found;
  auto buffer = MemoryBuffer::getFile(file);
  if (!buffer)
    return createStringError("cannot open '" + file + "': " + buffer.getError().message());
  auto value = json::parse((*buffer)->getBuffer());
  if (!value)
    return createStringError(file + ": " + toString(value.takeError()));
  const Object *root = value->getAsObject();
  if (!root || !root->getString("name") || !root->getArray("entries") ||
      !root->getObject("target") || !root->getObject("weights"))
    return createStringError("'" + file + "' is not the description of a package");
  return PackageDescription{file, std::move(*value)};
}

//===----------------------------------------------------------------------===//
// The page
//===----------------------------------------------------------------------===//

namespace {
/// Writes the page. What an older or newer compiler did not write is left out.
class Page {
public:
  Page(StringRef file, const Object &root, raw_ostream &os) : file(file), root(root), os(os) {}
  void print();

private:
  void printHead();
  void printEntry(const Object &entry);
  void printTensors(StringRef kind, const Array *tensors);
  void printWorkspace(const Object &entry);
  void printBlocks();
  void printLowerings();
  void printWeights();
  void printBlock(const Object &block, ArrayRef<const Object *> tensors);
  void printFiles();
  void row(StringRef name, const Twine &text) {
    std::string value = text.str();
    if (!value.empty())
      os << formatv("  {0,-12}{1}\n", name, value);
  }

  StringRef file;
  const Object &root;
  raw_ostream &os;
};
} // namespace

/// A number, a text, or "key=value" for each field of an object.
static std::string toText(const json::Value &value) {
  if (auto text = value.getAsString())
    return text->str();
  std::vector<std::string> parts;
  if (const Array *array = value.getAsArray()) {
    for (const json::Value &element : *array)
      parts.push_back(toText(element));
    return join(parts, ", ");
  }
  if (const Object *object = value.getAsObject()) {
    for (const auto &[key, field] : *object)
      parts.push_back(key.str() + "=" + toText(field));
    llvm::sort(parts);
    return join(parts, " ");
  }
  return formatv("{0}", value);
}

static std::string getText(const Object &object, StringRef key) {
  const json::Value *value = object.get(key);
  return value && value->kind() != json::Value::Null ? toText(*value) : "";
}

/// The elements of a list that are objects; none when there is no such list.
static std::vector<const Object *> getObjects(const Object &parent, StringRef key) {
  std::vector<const Object *> objects;
  const Array *array = parent.getArray(key);
  for (size_t i = 0; array && i < array->size(); ++i)
    if (const Object *object = (*array)[i].getAsObject())
      objects.push_back(object);
  return objects;
}

void Page::printHead() {
  os << sys::path::filename(sys::path::parent_path(file)) << "\n\n";
  if (const Object *source = root.getObject("source")) {
    std::string model = getText(*source, "model"), version = getText(*source, "ir_version");
    if (!version.empty())
      model += " (ONNX IR " + version + ", operator sets " + getText(*source, "opsets") + ")";
    row("model", model);
  }
  row("compiled by", "moec " + getText(root, "version") + " with -O" + getText(root, "opt_level"));
  const Object &target = *root.getObject("target");
  if (const Object *cuda = target.getObject("cuda")) {
    const Array *code = cuda->getArray("code");
    for (size_t i = 0; code && i < code->size(); ++i)
      if (const Object *group = (*code)[i].getAsObject()) {
        const Array *names = group->getArray("architectures"),
                    *kernels = group->getArray("kernels");
        row("GPU", (names ? join(map_range(*names, toText), ", ") : "") + " (" +
                       getText(*cuda, "format") + "), " + Twine(kernels ? kernels->size() : 0) +
                       " kernels");
      }
  }
  row("CPU", getText(target, "cpu") + ", " + getText(target, "vector_bits") + "-bit vectors");
  const Array *features = target.getArray("features");
  row("needs", features && !features->empty() ? join(map_range(*features, toText), " ") : "");
  if (const Array *levels = target.getArray("levels"); levels && levels->size() > 1)
    row("levels", join(map_range(*levels, toText), ", ") + ", chosen when opened");
  row("threads", getText(target, "threads"));
}

void Page::printTensors(StringRef kind, const Array *tensors) {
  for (size_t i = 0; tensors && i < tensors->size(); ++i)
    if (const Object *tensor = (*tensors)[i].getAsObject())
      row(kind, getText(*tensor, "name") + ": " + getText(*tensor, "dtype") + " [" +
                    getText(*tensor, "dims") + "]");
}

/// The formula, and what it gives for a few sizes.
void Page::printWorkspace(const Object &entry) {
  auto formula = entry.getString("workspace");
  if (!formula)
    return;
  StringMap<int64_t> sizes;
  sizes["workers"] = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::string> symbols, examples;
  if (const Array *list = entry.getArray("symbols"))
    for (const json::Value &symbol : *list)
      symbols.push_back(toText(symbol));
  for (int64_t size : {1, 16, 256}) {
    for (const std::string &symbol : symbols)
      sizes[symbol] = size;
    std::optional<int64_t> bytes = evaluateDim(*formula, sizes);
    if (!bytes || *bytes < 0)
      break;
    std::string where = symbols.empty() ? "" : " at " + join(symbols, " = ") + " = " + itostr(size);
    examples.push_back(formatBytes(*bytes) + where);
    if (symbols.empty())
      break;
  }
  row("workspace", join(examples, ", "));
  row(examples.empty() ? "workspace" : "", "= " + *formula + " bytes");
}

void Page::printEntry(const Object &entry) {
  os << "\nentry " << getText(entry, "name") << "\n";
  printTensors("input", entry.getArray("inputs"));
  printTensors("output", entry.getArray("outputs"));
  printWorkspace(entry);
}

void Page::printBlocks() {
  std::vector<const Object *> blocks = getObjects(root, "moe_blocks");
  os << "\nMoE blocks: " << (blocks.empty() ? "none" : std::to_string(blocks.size())) << "\n";
  for (auto [i, block] : enumerate(blocks)) {
    std::string sizes;
    for (StringRef key : {"E", "k", "H", "I"})
      sizes += (key + "=" + getText(*block, key) + " ").str();
    row("block " + std::to_string(i), sizes + getText(*block, "dtype"));
    for (StringRef key : {"routing", "activation", "glu", "weights", "nodes", "source"})
      if (std::string text = getText(*block, key); !text.empty())
        row("", key + ": " + text);
  }
}

/// The lowerings with the operators that took them.
void Page::printLowerings() {
  std::map<std::string, std::vector<std::string>> operators;
  for (const Object *lowering : getObjects(root, "lowerings")) {
    std::string count = getText(*lowering, "count");
    operators[getText(*lowering, "lowering")].push_back(getText(*lowering, "op") +
                                                        (count == "1" ? "" : " x" + count));
  }
  if (!operators.empty())
    os << "\nlowerings\n";
  for (const auto &[name, ops] : operators)
    row(name, join(ops, ", "));
}

/// Where the experts of a block are, and the tensors of each.
void Page::printBlock(const Object &block, ArrayRef<const Object *> tensors) {
  int64_t bytes = block.getInteger("bytes").value_or(0);
  row(getText(block, "name"), getText(block, "experts") + " experts of " +
                                  formatBytes(std::max<int64_t>(bytes, 0)) + ", from byte " +
                                  getText(block, "offset"));
  for (const Object *tensor : tensors)
    row("", getText(*tensor, "name") + ": " + getText(*tensor, "type"));
}

void Page::printWeights() {
  constexpr size_t kMaxListed = 20;
  const Object &weights = *root.getObject("weights");
  os << "\nweights\n";
  std::string name = getText(weights, "file");
  if (name.empty())
    return row("file", "none");
  row("file", name + ", " + formatBytes(weights.getInteger("bytes").value_or(0)) +
                  ", data from byte " + getText(weights, "data_offset"));
  row("digest", getText(weights, "digest"));

  std::map<std::string, std::vector<const Object *>> members;
  std::vector<const Object *> others;
  for (const Object *tensor : getObjects(weights, "tensors")) {
    std::string block = getText(*tensor, "block");
    (block.empty() ? others : members[block]).push_back(tensor);
  }
  for (const Object *block : getObjects(weights, "blocks"))
    printBlock(*block, members[getText(*block, "name")]);
  for (const Object *tensor : ArrayRef(others).take_front(kMaxListed))
    row("shared", getText(*tensor, "name") + ": " + getText(*tensor, "type"));
  if (others.size() > kMaxListed)
    row("", "… and " + Twine(others.size() - kMaxListed) + " more; --json lists all");
}

void Page::printFiles() {
  std::map<std::string, uint64_t> files;
  std::error_code code;
  StringRef folder = sys::path::parent_path(file);
  for (sys::fs::directory_iterator it(folder.empty() ? "." : folder, code), end; it != end && !code;
       it.increment(code))
    if (auto status = it->status())
      files[sys::path::filename(it->path()).str()] = status->getSize();
  os << "\nfiles\n";
  for (const auto &[name, bytes] : files)
    os << formatv("  {0,-28}{1,10}\n", name, formatBytes(bytes));
}

void Page::print() {
  printHead();
  for (const Object *entry : getObjects(root, "entries"))
    printEntry(*entry);
  printBlocks();
  printLowerings();
  printWeights();
  printFiles();
}

Expected<std::string> mlir::moe::inspectPackage(StringRef path, InspectFormat format) {
  auto description = readDescription(path);
  if (!description)
    return description.takeError();
  if (format == InspectFormat::JSON)
    return formatv("{0:2}\n", description->root).str();
  std::string text;
  raw_string_ostream os(text);
  Page(description->file, *description->root.getAsObject(), os).print();
  return text;
}
