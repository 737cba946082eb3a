// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Comparison of outputs with expected values.

#include "Compare.h"
#include "Status.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include <cmath>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

namespace {
struct Difference {
  const Value *output;
  double maxDifference = 0; // infinite for NaN or infinity on one side only
  double maxExpected = 0;
  double tolerance = 0;

  double getRelative() const { return maxDifference == 0 ? 0 : maxDifference / maxExpected; }
  bool isWithin() const { return maxDifference <= tolerance; }
};
} // namespace

/// What rounding to the type costs, with room for sums.
static double getDefaultTolerance(SafetensorsType type) {
  switch (type) {
  case SafetensorsType::F64:
  case SafetensorsType::F32:
    return 1e-5;
  case SafetensorsType::F16:
    return 2e-3;
  case SafetensorsType::BF16:
    return 1.6e-2;
  case SafetensorsType::F8E4M3:
  case SafetensorsType::F8E5M2:
  case SafetensorsType::F8E8M0:
    return 0.25;
  default:
    return 0;
  }
}

static double getDifference(double found, double expected) {
  if (found == expected || (std::isnan(found) && std::isnan(expected)))
    return 0;
  double difference = std::abs(found - expected);
  return std::isnan(difference) ? INFINITY : difference;
}

static Difference compare(const Options &options, const Value &output, const Value &expected) {
  Difference result;
  result.output = &output;
  for (int64_t i = 0; i < output.getNumElements(); ++i) {
    double y = expected.getElement(i);
    result.maxDifference = std::max(result.maxDifference, getDifference(output.getElement(i), y));
    if (std::isfinite(y))
      result.maxExpected = std::max(result.maxExpected, std::abs(y));
  }
  bool isDefault = !options.rtol && !options.atol;
  double rtol = isDefault ? getDefaultTolerance(output.getType()->file) : options.rtol.value_or(0);
  result.tolerance = options.atol.value_or(0) + rtol * result.maxExpected;
  return result;
}

static void printText(llvm::raw_ostream &os, llvm::ArrayRef<Difference> differences) {
  for (const Difference &difference : differences)
    os << difference.output->getName()
       << llvm::format(": max |d| %.3g, max |d| / max |y| %.3g, ", difference.maxDifference,
                       difference.getRelative())
       << (difference.isWithin() ? "within" : "BEYOND")
       << llvm::format(" the tolerance of %.3g\n", difference.tolerance);
}

/// JSON has no infinity.
static llvm::json::Value toJSON(double value) {
  return std::isfinite(value) ? llvm::json::Value(value) : llvm::json::Value(nullptr);
}

static void printJSON(llvm::raw_ostream &os, llvm::ArrayRef<Difference> differences) {
  llvm::json::Array list;
  for (const Difference &difference : differences)
    list.push_back(llvm::json::Object{{"output", difference.output->getName()},
                                      {"max_difference", toJSON(difference.maxDifference)},
                                      {"max_relative", toJSON(difference.getRelative())},
                                      {"tolerance", toJSON(difference.tolerance)},
                                      {"within", difference.isWithin()}});
  os << llvm::formatv("{0:2}\n", llvm::json::Value(std::move(list)));
}

static Error checkExpected(const SafetensorsFile &file, llvm::ArrayRef<Value> outputs) {
  for (const SafetensorsTensor &tensor : file.getTensors()) {
    const Value *output =
        llvm::find_if(outputs, [&](const Value &value) { return value.getName() == tensor.name; });
    if (tensor.isPadding())
      continue;
    if (output == outputs.end())
      return makeError(Status::Input,
                       "the expected tensor '" + tensor.name + "' is no output of the model");
    if (output->getShape() != llvm::ArrayRef<int64_t>(tensor.shape))
      return makeError(Status::Input, "output '" + tensor.name + "' has shape " +
                                          formatShape(output->getShape()) + ", expected " +
                                          formatShape(tensor.shape));
  }
  return Error::success();
}

Expected<bool> mlir::moe::run::compareOutputs(const Options &options, llvm::ArrayRef<Value> outputs,
                                              llvm::raw_ostream &os) {
  Expected<SafetensorsFile> file = SafetensorsFile::open(options.expect);
  if (!file)
    return withStatus(Status::Input, file.takeError());
  if (Error error = checkExpected(*file, outputs))
    return std::move(error);
  std::vector<Difference> differences;
  for (const Value &output : outputs)
    if (const SafetensorsTensor *tensor = file->find(output.getName()))
      differences.push_back(compare(options, output, Value(*file, *tensor)));
  if (differences.empty())
    return makeError(Status::Input, "'" + options.expect + "' has none of the outputs");
  if (options.json)
    printJSON(os, differences);
  else
    printText(os, differences);
  return llvm::all_of(differences,
                      [](const Difference &difference) { return difference.isWithin(); });
}
