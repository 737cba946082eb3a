// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Times of runs and of the regions of a model.

#include "Measure.h"
#include "Status.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include <algorithm>

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;

namespace {
struct Measurement {
  DimensionValues dims;
  int32_t threads = 0;
  std::vector<double> times; // milliseconds, sorted
  std::vector<moec_region_time> regions;

  double getMedian() const {
    size_t n = times.size();
    return (times[(n - 1) / 2] + times[n / 2]) / 2;
  }
};
} // namespace

/// Enough runs for a median: about half a second's, 5 to 1000.
static bool isEnough(const Options &options, size_t runs, double total) {
  if (options.repetitions)
    return runs >= size_t(options.repetitions);
  return runs >= 5 && (total >= 500 || runs >= 1000);
}

/// New values for a run. Integers of --input are kept: they may be indices or
/// sizes for which few values are right.
static void drawInputs(std::vector<Value> &inputs, const std::vector<Value> *given,
                       std::mt19937_64 &random) {
  for (auto [index, input] : llvm::enumerate(inputs)) {
    bool isKept =
        given && !input.getType()->isFloat() && input.getShape() == (*given)[index].getShape();
    if (isKept)
      input = (*given)[index];
    else
      input.fillRandom(random);
  }
}

static Error measureRuns(Session &session, const Options &options, const std::vector<Value> *given,
                         Measurement &result) {
  Expected<std::vector<Value>> inputs = session.makeInputs(result.dims);
  if (!inputs)
    return inputs.takeError();
  std::mt19937_64 random(0);
  const int warmUps = 2;
  double total = 0;
  for (int run = -warmUps; run < 0 || !isEnough(options, size_t(run), total); ++run) {
    drawInputs(*inputs, given, random);
    // Shapes may depend on the values.
    Expected<std::vector<Value>> outputs = session.makeOutputs(*inputs);
    if (!outputs)
      return outputs.takeError();
    if (run == 0)
      session.resetProfile();
    Expected<double> time = session.run(*inputs, *outputs);
    if (!time)
      return time.takeError();
    if (run < 0)
      continue;
    total += *time;
    result.times.push_back(*time);
  }
  llvm::sort(result.times);
  result.threads = session.getNumWorkers();
  result.regions = session.getProfile();
  return Error::success();
}

/// All combinations of sizes; the last --dim changes fastest.
static std::vector<DimensionValues> combine(const Options &options, const DimensionValues &base) {
  std::vector<DimensionValues> all = {base};
  for (const auto &[name, sizes] : options.dims) {
    std::vector<DimensionValues> longer;
    for (const DimensionValues &values : all)
      for (int64_t size : sizes) {
        longer.push_back(values);
        longer.back()[name] = size;
      }
    all = std::move(longer);
  }
  return all;
}

static Error checkDims(const EntryInfo &entry, const Options &options) {
  std::vector<std::string> symbols = entry.getSymbols();
  for (const auto &[name, sizes] : options.dims)
    if (!llvm::is_contained(symbols, name))
      return makeError(Status::CommandLine,
                       "--dim " + name + ": entry '" + entry.name +
                           "' has no such dimension; it has: " +
                           (symbols.empty() ? std::string("none") : llvm::join(symbols, ", ")));
  return Error::success();
}

static std::string formatDims(const DimensionValues &dims) {
  std::string text;
  for (const auto &[name, size] : dims)
    text += (text.empty() ? "" : " ") + name + "=" + std::to_string(size);
  return text.empty() ? "-" : text;
}

static void printTimes(llvm::raw_ostream &os, llvm::ArrayRef<Measurement> measurements) {
  size_t width = 4;
  for (const Measurement &m : measurements)
    width = std::max(width, formatDims(m.dims).size());
  os << llvm::left_justify("dims", width)
     << "  threads  repetitions      min ms   median ms      max ms\n";
  for (const Measurement &m : measurements)
    os << llvm::left_justify(formatDims(m.dims), width)
       << llvm::format("  %7d  %11zu  %10.4f  %10.4f  %10.4f\n", m.threads, m.times.size(),
                       m.times.front(), m.getMedian(), m.times.back());
}

static std::string getRegionName(const Package &package, size_t index) {
  if (index < package.getRegions().size())
    return package.getRegions()[index].name;
  return "region " + std::to_string(index);
}

static std::string getRegionOp(const Package &package, size_t index) {
  if (index < package.getRegions().size())
    return package.getRegions()[index].op;
  return "";
}

static void printRegions(llvm::raw_ostream &os, const Package &package, const Measurement &m) {
  uint64_t total = 0;
  for (const moec_region_time &region : m.regions)
    total += region.nanoseconds;
  std::vector<size_t> order;
  for (size_t i = 0; i < m.regions.size(); ++i)
    if (m.regions[i].count)
      order.push_back(i);
  llvm::sort(order, [&](size_t a, size_t b) {
    uint64_t ta = m.regions[a].nanoseconds, tb = m.regions[b].nanoseconds;
    return ta != tb ? ta > tb : a < b;
  });
  os << formatDims(m.dims) << ": per run, over " << m.times.size()
     << " runs\n    ms/run      %   calls  region\n";
  auto runs = double(m.times.size());
  for (size_t i : order) {
    const moec_region_time &region = m.regions[i];
    os << llvm::format("%10.4f  %5.1f  %6.0f  ", double(region.nanoseconds) / runs / 1e6,
                       total ? 100.0 * double(region.nanoseconds) / double(total) : 0.0,
                       double(region.count) / runs)
       << getRegionName(package, i) << " (" << getRegionOp(package, i) << ")\n";
  }
}

static llvm::json::Value toJSON(const Package &package, const Options &options,
                                const Measurement &m) {
  llvm::json::Object dims;
  for (const auto &[name, size] : m.dims)
    dims[name] = size;
  auto runs = int64_t(m.times.size());
  llvm::json::Object object{{"dims", std::move(dims)},    {"threads", m.threads},
                            {"repetitions", runs},        {"min_ms", m.times.front()},
                            {"median_ms", m.getMedian()}, {"max_ms", m.times.back()}};
  if (!options.profile)
    return object;
  llvm::json::Array regions;
  for (const auto &[index, region] : llvm::enumerate(m.regions))
    if (region.count)
      regions.push_back(
          llvm::json::Object{{"name", getRegionName(package, index)},
                             {"op", getRegionOp(package, index)},
                             {"calls", double(region.count) / double(runs)},
                             {"ms", double(region.nanoseconds) / double(runs) / 1e6}});
  object["regions"] = std::move(regions);
  return object;
}

static void print(llvm::raw_ostream &os, const Package &package, const Options &options,
                  llvm::ArrayRef<Measurement> measurements) {
  if (options.json) {
    llvm::json::Array list;
    for (const Measurement &m : measurements)
      list.push_back(toJSON(package, options, m));
    os << llvm::formatv("{0:2}\n", llvm::json::Value(std::move(list)));
    return;
  }
  if (options.time)
    printTimes(os, measurements);
  if (options.profile)
    for (const Measurement &m : measurements)
      printRegions(os, package, m);
}

Error mlir::moe::run::measure(const Package &package, const EntryInfo &entry,
                              const Options &options, const std::vector<Value> *given,
                              llvm::raw_ostream &os) {
  if (Error error = checkDims(entry, options))
    return error;
  DimensionValues base = given ? inferDimensions(entry, *given) : DimensionValues();
  std::vector<Measurement> measurements;
  for (DimensionValues &dims : combine(options, base)) {
    // A context of its own: what a larger size left behind must not help.
    auto session = Session::create(package, entry, options.threads, options.profile);
    if (!session)
      return session.takeError();
    Measurement &result = measurements.emplace_back();
    result.dims = std::move(dims);
    if (Error error = measureRuns(**session, options, given, result))
      return error;
  }
  print(os, package, options, measurements);
  return Error::success();
}
