// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Options.h"

#include "moec/Frontend/ONNX/Importer.h"
#include "moec/Support/Suggest.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

template <std::string CompileOptions::*member>
static bool setText(CompileOptions &options, StringRef value) {
  options.*member = value.str();
  return true;
}

template <bool CompileOptions::*member>
static bool setFlag(CompileOptions &options, StringRef value) {
  if (!is_contained({"", "true", "false"}, value))
    return false;
  options.*member = value != "false";
  return true;
}

static bool setLevel(CompileOptions &options, StringRef value) {
  return !value.getAsInteger(10, options.optLevel);
}

static bool setThreads(CompileOptions &options, StringRef value) {
  for (Threads threads : {Threads::OpenMP, Threads::None, Threads::Custom})
    if (value == stringifyThreads(threads)) {
      options.threads = threads;
      return true;
    }
  return false;
}

static bool setLogLevel(CompileOptions &options, StringRef value) {
  auto level = StringSwitch<std::optional<Severity>>(value)
                   .Case("error", Severity::Error)
                   .Case("warning", Severity::Warning)
                   .Case("remark", Severity::Remark)
                   .Default(std::nullopt);
  options.logLevel = level.value_or(options.logLevel);
  return level.has_value();
}

static bool setColor(CompileOptions &options, StringRef value) {
  auto mode = StringSwitch<std::optional<ColorMode>>(value)
                  .Case("auto", ColorMode::Auto)
                  .Case("always", ColorMode::Always)
                  .Case("never", ColorMode::Never)
                  .Default(std::nullopt);
  options.color = mode.value_or(options.color);
  return mode.has_value();
}

static bool setSanitizer(CompileOptions &options, StringRef value) {
  for (Sanitizer sanitizer : {Sanitizer::None, Sanitizer::Address, Sanitizer::Thread})
    if (value == stringifySanitizer(sanitizer)) {
      options.sanitizer = sanitizer;
      return true;
    }
  return false;
}

static bool setEmit(CompileOptions &options, StringRef value) {
  options.emit = value == "onnx" ? Emit::ONNX : Emit::Package;
  return true;
}

static bool setWeightBlock(CompileOptions &options, StringRef value) {
  unsigned block;
  if (value.getAsInteger(10, block))
    return false;
  options.weightBlock = block;
  return true;
}

static bool addDim(CompileOptions &options, StringRef value) {
  auto dim = parseDimOption(value);
  if (dim)
    options.dims.push_back(*dim);
  return dim.has_value();
}

static bool setGPUArchs(CompileOptions &options, StringRef value) {
  options.gpuArchs.clear();
  for (StringRef arch : split(value, ','))
    options.gpuArchs.push_back(arch.trim().str());
  return !is_contained(options.gpuArchs, "");
}

static bool addKeep(CompileOptions &options, StringRef value) {
  options.keep.push_back(value.str());
  return true;
}

static std::vector<OptionChoice> getPhaseChoices() {
  std::vector<OptionChoice> choices;
  for (const PhaseDescription &phase : getPhaseDescriptions())
    choices.push_back({phase.name.str(), phase.description.str()});
  return choices;
}

static std::vector<OptionDescription> makeOptions() {
  using O = CompileOptions;
  std::vector<OptionDescription> options;
  auto add = [&](StringRef name, StringRef valueName, StringRef category, StringRef help,
                 bool (*apply)(O &, StringRef)) -> OptionDescription & {
    return options.emplace_back(OptionDescription{name, valueName, category, help, apply});
  };
  add("o", "NAME.moec", "Output", "Package folder (default: NAME.moec)", setText<&O::output>);
  add("emit", "kind", "Output", "What to write", setEmit).choices = {
      {"package", "the package (default)"},
      {"onnx", "the raised model as an ONNX file (default -o: NAME.moec.onnx)"}};
  add("report", "file", "Output", "Write what was found and decided as JSON",
      setText<&O::reportFile>);
  add("dim", "name=size", "Model", "Give a symbolic dimension a size", addDim).repeatable = true;
  add("keep", "tensor", "Model", "Add an internal tensor as an output", addKeep).repeatable = true;
  add("no-raise", "", "Model",
      "Leave MoE blocks that are written in standard operators as they are", setFlag<&O::noRaise>);
  add("allow-frozen-routing", "", "Model",
      "Accept blocks that lack experts because tracing the model never chose them",
      setFlag<&O::allowFrozenRouting>);
  add("trace-routing", "", "Model",
      "Add the routing of every block as outputs, for moe-run --trace-routing",
      setFlag<&O::traceRouting>);
  add("model-dir", "folder", "Model", "Where weight files lie (default: beside the input)",
      setText<&O::modelFolder>);
  add("weights", "file", "Model",
      "Safetensors file with the weights that an .mlir input names, in the folder of weight files",
      setText<&O::weightsFile>);
  add("weight-type", "type", "Model", "Convert constant expert weights", setText<&O::weightType>)
      .choices = {{"bf16", "bfloat16"},
                  {"f16", "float16"},
                  {"int8", "8-bit codes with scales in float32"},
                  {"int4", "4-bit codes with scales in float32"}};
  add("weight-block", "size", "Model", "int8, int4: consecutive elements of a row with one scale",
      setWeightBlock)
      .choices = {{"0", "the whole row"}, {"32", "32 elements (default)"}, {"128", "128 elements"}};
  add("weight-zero-points", "", "Model", "int8, int4: a zero point beside each scale",
      setFlag<&O::weightZeroPoints>);

  add("compute", "type", "Target", "What the products of experts compute in", setText<&O::compute>)
      .choices = {{"f32", "float32, with weights as they are (default)"},
                  {"bf16", "operands rounded to bfloat16, sums in float32; needs AVX512-BF16"}};
  add("activation-type", "type", "Target",
      "What the rows that experts multiply with quantized weights are rounded to (default: not)",
      setText<&O::activationType>)
      .choices = {{"int8", "8-bit integers with a scale for each block of the weights"}};
  OptionDescription &level = add("O", "0-3", "Target", "Optimization level", setLevel);
  level.joined = true;
  level.choices = {{"0", "reference loops"},
                   {"1", "CPU kernels, little optimization"},
                   {"2", "CPU kernels"},
                   {"3", "CPU kernels, all optimizations (default)"}};
  add("target", "target", "Target", "What to compile for", setText<&O::target>).choices = {
      {"cpu", "x86-64 (default)"},
      {"cuda", "NVIDIA GPUs"},
      {"cpu,cuda", "both in one library, chosen when it is opened"}};
  add("gpu-arch", "sm_80,...", "Target",
      "cuda: architectures to compile for (default: sm_80,sm_90a)", setGPUArchs);
  add("gpu-format", "format", "Target", "cuda: what the library has of its kernels",
      setText<&O::gpuFormat>)
      .choices = {{"ptx", "text that the driver compiles; needs no CUDA Toolkit"},
                  {"cubin", "machine code of each architecture"},
                  {"fatbin", "machine code of each, and PTX of the newest (default)"}};
  add("tf32", "", "Target",
      "cuda: products of experts in float32 by tensor cores, from operands with 11 bits",
      setFlag<&O::tf32>);
  OptionDescription &cpu =
      add("cpu", "name", "Target",
          "CPU whose instructions may be used: any x86-64 of LLVM, such as", setText<&O::cpu>);
  cpu.openChoices = true;
  cpu.choices = {{"native", "this machine's, by CPUID (default)"},
                 {"x86-64-v3", "AVX2"},
                 {"x86-64-v4", "AVX-512"},
                 {"sapphirerapids", "AVX-512 and AMX"},
                 {"multi", "these three in one library, as a list is: x86-64-v3,znver4"}};
  add("threads", "kind", "Target", "Who runs parallel work", setThreads).choices = {
      {"openmp", "the OpenMP runtime (default)"},
      {"none", "the calling thread alone"},
      {"custom", "a function that the program gives"}};
  add("runtime-dir", "folder", "Target", "Where moec.h and the runtime lie (default: with moec)",
      setText<&O::runtimeFolder>);

  add("compile-to", "phase", "Looking inside",
      "Stop after a phase and write its IR to -o or stdout", setText<&O::compileTo>)
      .choices = getPhaseChoices();
  add("dump-phases", "folder", "Looking inside",
      "Write the IR after each phase; each file can be compiled further", setText<&O::dumpFolder>);
  add("sanitize", "kind", "Looking inside",
      "Watch the library's memory accesses; needs a build of moec with its tests, and a program "
      "with that sanitizer",
      setSanitizer)
      .choices = {{"none", "nothing (default)"},
                  {"address", "AddressSanitizer"},
                  {"thread", "ThreadSanitizer"}};
  add("verify-each", "", "Looking inside", "Verify the IR after each pass",
      setFlag<&O::verifyEach>);

  add("log-level", "level", "Messages", "The least important messages that are printed",
      setLogLevel)
      .choices = {{"error", "errors only"},
                  {"warning", "also warnings (default)"},
                  {"remark", "also remarks, such as why operations were not fused"}};
  add("color", "when", "Messages", "Colours in messages", setColor).choices = {
      {"auto", "on a terminal, unless NO_COLOR is set (default)"},
      {"always", "also in files and pipes"},
      {"never", "nowhere"}};
  add("quiet", "", "Messages", "No progress, and no summary at the end", setFlag<&O::quiet>);
  return options;
}

ArrayRef<OptionDescription> mlir::moe::getOptions() {
  static const std::vector<OptionDescription> options = makeOptions();
  return options;
}

//===----------------------------------------------------------------------===//
// Setting options by name
//===----------------------------------------------------------------------===//

std::string OptionDescription::getSpelling() const {
  return ((name.size() == 1 ? "-" : "--") + name).str();
}

const OptionDescription *mlir::moe::findOption(StringRef name) {
  ArrayRef<OptionDescription> options = getOptions();
  const auto *option =
      find_if(options, [&](const OptionDescription &option) { return option.name == name; });
  return option == options.end() ? nullptr : option;
}

static Error unknownOption(StringRef name) {
  auto names = map_to_vector(getOptions(), [](const OptionDescription &o) { return o.name; });
  StringRef nearest = findNearestName(name, names);
  std::string dashes = name.size() == 1 ? "-" : "--";
  if (nearest.empty())
    return createStringError(formatv("unknown option '{0}{1}'", dashes, name));
  return createStringError(formatv("unknown option '{0}{1}'; did you mean '{2}'?", dashes, name,
                                   findOption(nearest)->getSpelling()));
}

static Error checkChoice(const OptionDescription &option, StringRef value) {
  auto values = map_to_vector(option.choices,
                              [](const OptionChoice &choice) { return StringRef(choice.value); });
  if (values.empty() || option.openChoices || is_contained(values, value))
    return Error::success();
  std::string hint = suggestName(value, values);
  if (hint.empty())
    hint = "; it can only be " + join(values, ", ");
  return createStringError(formatv("{0} cannot be '{1}'{2}", option.getSpelling(), value, hint));
}

Error mlir::moe::checkChoice(StringRef name, StringRef value) {
  const OptionDescription *option = findOption(name);
  return option ? ::checkChoice(*option, value) : unknownOption(name);
}

Error mlir::moe::setOption(CompileOptions &options, StringRef name, StringRef value) {
  const OptionDescription *option = findOption(name);
  if (!option)
    return unknownOption(name);
  if (Error error = ::checkChoice(*option, value))
    return error;
  if (option->apply(options, value))
    return Error::success();
  return createStringError(formatv("{0} needs {1}, got '{2}'", option->getSpelling(),
                                   option->isFlag() ? "'true' or 'false'" : option->valueName,
                                   value));
}
