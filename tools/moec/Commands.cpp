// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Commands.h"

#include "moec/Compiler/Doctor.h"
#include "moec/Compiler/Inspect.h"
#include "moec/Compiler/Unpack.h"
#include "moec/Support/Suggest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

using namespace llvm;
using namespace mlir::moe;

static CompileStatus fail(std::string &error, const Twine &message,
                          CompileStatus status = CompileStatus::Usage) {
  error = message.str();
  return status;
}

static CompileStatus runDoctor(Words words, std::string &error) {
  if (!words.empty())
    return fail(error, "moec doctor takes no arguments, got '" + Twine(words.front()) + "'");
  outs() << getVersionText() << "\n\n";
  outs().flush();
  std::vector<Finding> findings = examineMachine();
  printFindings(outs(), findings);
  bool works = none_of(findings, [](const Finding &f) { return f.kind == Finding::Problem; });
  outs() << (works ? "\nmoec can compile on this machine.\n"
                   : "\nmoec cannot compile on this machine.\n");
  return works ? CompileStatus::Success : CompileStatus::Output;
}

static CompileStatus runInspect(Words words, std::string &error) {
  StringRef package;
  InspectFormat format = InspectFormat::Text;
  for (StringRef word : words) {
    if (word == "--json")
      format = InspectFormat::JSON;
    else if (word.starts_with("-"))
      return fail(error,
                  "unknown option '" + word + "' of moec inspect" + suggestName(word, {"--json"}));
    else if (!package.empty())
      return fail(error,
                  "moec inspect takes one package, got '" + package + "' and '" + word + "'");
    else
      package = word;
  }
  if (package.empty())
    return fail(error, "moec inspect needs a package: moec inspect NAME.moec");
  auto text = inspectPackage(package, format);
  if (!text)
    return fail(error, toString(text.takeError()), CompileStatus::BadModel);
  outs() << *text;
  return CompileStatus::Success;
}

static CompileStatus runUnpack(Words words, std::string &error) {
  for (StringRef word : words)
    if (word.starts_with("-"))
      return fail(error, "unknown option '" + word + "' of moec unpack, which has none");
  if (words.size() != 2)
    return fail(error, "moec unpack needs a package and a file: moec unpack NAME.moec "
                       "OUT.safetensors");
  std::string message;
  CompileStatus status = unpackPackage(words[0], words[1], message);
  if (status != CompileStatus::Success)
    return fail(error, message, status);
  outs() << message << "\n";
  return status;
}

static CompileStatus runCompletion(Words words, std::string &error) {
  std::string names = join(getShells(), ", ");
  if (words.size() != 1)
    return fail(error, "moec completion needs one shell: " + names);
  StringRef shell = words.front();
  if (!is_contained(getShells(), shell))
    return fail(error, "unknown shell '" + shell + "'" + suggestName(shell, getShells()) +
                           " There are " + names);
  printCompletion(outs(), shell);
  return CompileStatus::Success;
}

ArrayRef<Command> mlir::moe::getCommands() {
  static const Command commands[] = {
      {"inspect", "NAME.moec [--json]", "Show what is in a package", {"--json"}, true, runInspect},
      {"unpack",
       "NAME.moec OUT.safetensors",
       "Write the weights of a package's model as they were",
       {},
       true,
       runUnpack},
      {"doctor",
       "",
       "Show what is installed, and whether compiling works here",
       {},
       false,
       runDoctor},
      {"completion", "SHELL", "Print the completion script of a shell", getShells().vec(), false,
       runCompletion},
  };
  return commands;
}

const Command *mlir::moe::findCommand(StringRef name) {
  ArrayRef<Command> commands = getCommands();
  const Command *command = find_if(commands, [&](const Command &c) { return c.name == name; });
  return command == commands.end() ? nullptr : command;
}
