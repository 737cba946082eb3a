// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Commands.h"

#include "moec/Compiler/Options.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace mlir::moe;

namespace {
/// What may follow an option.
enum class ValueKind { None, Choice, File, Folder, Other };
} // namespace

static ValueKind getValueKind(const OptionDescription &option) {
  if (option.isFlag())
    return ValueKind::None;
  if (!option.choices.empty())
    return ValueKind::Choice;
  if (option.valueName == "file")
    return ValueKind::File;
  if (option.valueName == "folder" || option.valueName == "NAME.moec")
    return ValueKind::Folder;
  return ValueKind::Other;
}

static std::string joinChoices(const OptionDescription &option) {
  return join(map_range(option.choices, [](const OptionChoice &choice) { return choice.value; }),
              " ");
}

/// "--cpu=", "--quiet", "-O": what is completed to.
static std::string getCompleted(const OptionDescription &option) {
  bool needsEqual = !option.isFlag() && option.name.size() > 1;
  return option.getSpelling() + (needsEqual ? "=" : "");
}

/// Text in single quotes of a shell.
static std::string quote(StringRef text) {
  std::string quoted = "'";
  for (char c : text)
    quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

//===----------------------------------------------------------------------===//
// bash
//===----------------------------------------------------------------------===//

static void printBash(raw_ostream &os) {
  std::vector<std::string> options = {"--help", "--version"}, commands;
  for (const OptionDescription &option : getOptions())
    options.push_back(getCompleted(option));
  for (const Command &command : getCommands())
    commands.push_back(command.name.str());

  // bash splits at '=': "--cpu=na" is three words.
  os << R"(# Completion of moec in bash. Load it with: source <(moec completion bash)
_moec() {
  local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]}
  if [[ $word == "=" ]]; then
    word=
  elif [[ $option == "=" ]]; then
    option=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  compopt -o filenames 2>/dev/null
  case $option in
)";
  for (const OptionDescription &option : getOptions()) {
    std::string spelling = option.getSpelling();
    switch (getValueKind(option)) {
    case ValueKind::Choice:
      os << formatv("  {0}) mapfile -t COMPREPLY < <(compgen -W \"{1}\" -- \"$word\"); return ;;\n",
                    spelling, joinChoices(option));
      break;
    case ValueKind::File:
      os << formatv("  {0}) mapfile -t COMPREPLY < <(compgen -f -- \"$word\"); return ;;\n",
                    spelling);
      break;
    case ValueKind::Folder:
      os << formatv("  {0}) mapfile -t COMPREPLY < <(compgen -d -- \"$word\"); return ;;\n",
                    spelling);
      break;
    case ValueKind::Other:
      os << formatv("  {0}) COMPREPLY=(); return ;;\n", spelling);
      break;
    case ValueKind::None:
      break;
    }
  }
  os << "  esac\n  case ${COMP_WORDS[1]} in\n";
  for (const Command &command : getCommands())
    os << formatv("  {0}) [[ $COMP_CWORD -gt 1 ]] && {{ mapfile -t COMPREPLY < <(compgen -W "
                  "\"{1}\" -- \"$word\"{2}); return; } ;;\n",
                  command.name, join(command.words, " "),
                  command.takesPackage ? "; compgen -d -- \"$word\"" : "");
  os << formatv(R"(  esac
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "{0}" -- "$word")
    [[ ${{COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return
  fi
  mapfile -t COMPREPLY < <(
    [[ $COMP_CWORD -eq 1 ]] && compgen -W "{1}" -- "$word"
    compgen -f -X '!*.onnx' -- "$word"
    compgen -f -X '!*.mlir' -- "$word"
    compgen -d -- "$word"
  )
}
complete -F _moec moec
)",
                join(options, " "), join(commands, " "));
}

//===----------------------------------------------------------------------===//
// zsh
//===----------------------------------------------------------------------===//

/// Text inside [...] or (...) of an _arguments specification.
static std::string escapeZsh(StringRef text) {
  std::string escaped;
  for (char c : text)
    escaped += StringRef("[]():\\ ").contains(c) ? std::string("\\") + c : std::string(1, c);
  return escaped;
}

static std::string getZshAction(const OptionDescription &option) {
  switch (getValueKind(option)) {
  case ValueKind::None:
    return "";
  case ValueKind::File:
    return ":file:_files";
  case ValueKind::Folder:
    return ":folder:_files -/";
  case ValueKind::Other:
    return ":" + escapeZsh(option.valueName) + ": ";
  case ValueKind::Choice:
    break;
  }
  std::string action = ":" + escapeZsh(option.valueName) + ":((";
  for (const OptionChoice &choice : option.choices)
    action += escapeZsh(choice.value) + "\\:" + quote(choice.help) + " ";
  return action + "))";
}

static void printZsh(raw_ostream &os) {
  os << "#compdef moec\n"
        "# Completion of moec in zsh. Load it with: source <(moec completion zsh)\n"
        "_moec() {\n"
        "  if (( CURRENT > 2 )); then\n    case $words[2] in\n";
  for (const Command &command : getCommands())
    os << formatv("    {0}) _alternative 'words:word:({1})'{2}; return ;;\n", command.name,
                  join(command.words, " "),
                  command.takesPackage ? " 'packages:package:_files -/'" : "");
  os << "    esac\n  fi\n  local -a options=(\n    '--help[Print this text]'\n"
        "    '--version[Print the version]'\n";
  for (const OptionDescription &option : getOptions()) {
    std::string spec = getCompleted(option);
    if (option.joined)
      spec += "-";
    spec = (option.repeatable ? "*" : "") + spec + "[" + escapeZsh(option.help) + "]" +
           getZshAction(option);
    os << "    " << quote(spec) << "\n";
  }
  os << "  )\n  local -a commands=(";
  for (const Command &command : getCommands())
    os << " " << quote((command.name + ":" + command.help).str());
  os << " )\n"
        "  (( CURRENT == 2 )) && _describe command commands\n"
        "  _arguments $options '*:model:_files -g \"*.(onnx|mlir)\"'\n"
        "}\n"
        "compdef _moec moec\n";
}

//===----------------------------------------------------------------------===//
// fish
//===----------------------------------------------------------------------===//

/// Text in single quotes of fish.
static std::string quoteFish(StringRef text) {
  std::string quoted = "'";
  for (char c : text)
    quoted += c == '\'' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return quoted + "'";
}

/// The arguments of `complete` for what may follow an option. fish evaluates -a.
static std::string getFishValue(const OptionDescription &option) {
  switch (getValueKind(option)) {
  case ValueKind::None:
    return "";
  case ValueKind::File:
    return " -r -F";
  case ValueKind::Folder:
    return " -x -a '(__fish_complete_directories)'";
  case ValueKind::Other:
    return " -x";
  case ValueKind::Choice:
    break;
  }
  std::string words;
  for (const OptionChoice &choice : option.choices)
    words += choice.value + "\\t" + quoteFish(choice.help) + " ";
  return " -x -a " + quoteFish(words);
}

static void printFish(raw_ostream &os) {
  std::string names = join(map_range(getCommands(), [](const Command &c) { return c.name; }), " ");
  os << "# Completion of moec in fish. Load it with: moec completion fish | source\n";
  for (const Command &command : getCommands()) {
    os << formatv("complete -c moec -n __fish_is_first_token -a {0} -d {1}\n", command.name,
                  quoteFish(command.help));
    os << formatv("complete -c moec {0} -n '__fish_seen_subcommand_from {1}' -a {2}\n",
                  command.takesPackage ? "" : "-f", command.name,
                  quoteFish(join(command.words, " ")));
  }
  std::string prefix = "complete -c moec -n 'not __fish_seen_subcommand_from " + names + "' ";
  os << prefix << "-l help -d 'Print this text'\n"
     << prefix << "-l version -d 'Print the version'\n";
  for (const OptionDescription &option : getOptions())
    os << prefix << (option.name.size() == 1 ? "-s " : "-l ") << option.name << " -d "
       << quoteFish(option.help) << getFishValue(option) << "\n";
}

ArrayRef<StringRef> mlir::moe::getShells() {
  static const StringRef shells[] = {"bash", "zsh", "fish"};
  return shells;
}

void mlir::moe::printCompletion(raw_ostream &os, StringRef shell) {
  assert(is_contained(getShells(), shell) && "unknown shell");
  if (shell == "bash")
    printBash(os);
  else if (shell == "zsh")
    printZsh(os);
  else
    printFish(os);
}
