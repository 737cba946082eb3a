// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The command line of moec.

#include "Options.h"
#include "Commands.h"

#include "moec/Support/Suggest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace mlir::moe;

namespace {
class CommandLine {
public:
  CommandLine(ArrayRef<const char *> words, CompileOptions &options)
      : words(words), options(options) {}
  Expected<Request> parse();

private:
  Error parseInput(StringRef word);
  Error parseOption(StringRef word);

  ArrayRef<const char *> words;
  CompileOptions &options;
  SmallPtrSet<const OptionDescription *, 16> given;
};
} // namespace

Error CommandLine::parseInput(StringRef word) {
  if (!options.input.empty())
    return createStringError(
        formatv("one input is compiled at a time, got '{0}' and '{1}'", options.input, word));
  if (word.empty())
    return createStringError("the name of the input is empty");
  options.input = word.str();
  // What looks like no file may be a command.
  SmallVector<StringRef> commands(
      map_range(getCommands(), [](const Command &c) { return c.name; }));
  StringRef command = findNearestName(word, commands);
  if (command.empty() || word.contains_insensitive(".") || sys::fs::exists(word))
    return Error::success();
  return createStringError(
      formatv("there is no command and no file '{0}'; did you mean 'moec {1}'?", word, command));
}

/// The nearest of the table's options and of those that only the command line has.
static Error unknownOption(StringRef word, StringRef name) {
  SmallVector<StringRef> names = {"help", "version"};
  for (const OptionDescription &option : getOptions())
    names.push_back(option.name);
  StringRef nearest = findNearestName(name, names);
  std::string spelled = (nearest.size() == 1 ? "-" : "--") + nearest.str();
  return createStringError(formatv("unknown option '{0}'{1}", word.split('=').first,
                                   nearest.empty() ? "" : "; did you mean '" + spelled + "'?"));
}

Error CommandLine::parseOption(StringRef word) {
  StringRef body = word.drop_front(word.starts_with("--") ? 2 : 1);
  auto [name, value] = body.split('=');
  bool hasValue = body.contains('=');
  const OptionDescription *option = findOption(name);
  const OptionDescription *joined = findOption(body.take_front());
  if (!option && joined && joined->joined) {
    option = joined;
    name = joined->name;
    value = body.drop_front();
    hasValue = true;
  }
  if (!option)
    return unknownOption(word, name);
  if (!given.insert(option).second && !option->repeatable)
    return createStringError(option->getSpelling() + " is given twice");
  if (!hasValue && !option->isFlag()) {
    if (words.empty())
      return createStringError(
          formatv("{0} needs a value: {1}", option->getSpelling(), option->valueName));
    value = words.consume_front();
  }
  return setOption(options, name, value);
}

Expected<Request> CommandLine::parse() {
  bool inputsOnly = false;
  while (!words.empty()) {
    StringRef word = words.consume_front();
    bool isOption = !inputsOnly && word.size() > 1 && word.front() == '-';
    if (isOption && is_contained({"--help", "-help", "-h"}, word))
      return Request::Help;
    if (isOption && is_contained({"--version", "-version"}, word))
      return Request::Version;
    if (isOption && word == "--")
      inputsOnly = true;
    else if (Error error = isOption ? parseOption(word) : parseInput(word))
      return std::move(error);
  }
  if (options.input.empty())
    return createStringError("no input; moec --help says more");
  return Request::Compile;
}

Expected<Request> mlir::moe::parseCommandLine(ArrayRef<const char *> words,
                                              CompileOptions &options) {
  return CommandLine(words, options).parse();
}

//===----------------------------------------------------------------------===//
// Help
//===----------------------------------------------------------------------===//

static void printRow(raw_ostream &os, const Twine &name, const Twine &right) {
  std::string left = name.str();
  os << formatv("  {0,-28}{1}{2}\n", left, left.size() < 28 ? "" : " ", right);
}

static void printOption(raw_ostream &os, const OptionDescription &option) {
  std::string left = option.getSpelling();
  if (!option.isFlag())
    left += formatv("{0}<{1}>", option.name.size() == 1 ? " " : "=", option.valueName).str();
  printRow(os, left, option.help + Twine(option.repeatable ? "; may be repeated" : ""));
  // The phases have a section of their own.
  if (option.name == "compile-to")
    return;
  for (const OptionChoice &choice : option.choices)
    printRow(os, "  " + choice.value, choice.help);
}

void mlir::moe::printHelp(raw_ostream &os) {
  os << "moec: Mixture-of-Experts models to CPU libraries\n\n"
        "USAGE: moec [options] model.onnx | phase.mlir\n";
  for (const Command &command : getCommands())
    os << "       moec " << command.name << " " << command.arguments << "\n";
  os << "\nCommands:\n\n";
  for (const Command &command : getCommands())
    printRow(os, command.name, command.help);
  StringRef category;
  for (const OptionDescription &option : getOptions()) {
    if (option.category != category)
      os << '\n' << option.category << ":\n\n";
    category = option.category;
    printOption(os, option);
  }
  os << "\nGeneric:\n\n";
  printRow(os, "--help", "Print this text");
  printRow(os, "--version", "Print the version");
  os << getPhaseHelp();
}
