// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Recording of routings.

#include "Trace.h"
#include "Status.h"
#include "moec/Support/Npz.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir::moe;
using namespace mlir::moe::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;

Expected<RoutingTrace> RoutingTrace::create(const Package &package) {
  if (!package.getTraced())
    return makeError(Status::Package, "the package was compiled without --trace-routing; compile "
                                      "the model again with moec --trace-routing");
  if (package.getTraced()->empty())
    return makeError(Status::Package, "the package has no MoE block whose routing could be traced");
  RoutingTrace trace;
  for (const std::string &name : *package.getTraced())
    for (const char *suffix : {".expert_ids", ".weights"})
      trace.arrays[name + suffix] = {};
  return std::move(trace);
}

void RoutingTrace::add(llvm::ArrayRef<Value> outputs) {
  for (const Value &output : outputs) {
    auto it = arrays.find(output.getName());
    if (it == arrays.end())
      continue;
    Rows &rows = it->second;
    rows.type = output.getType();
    rows.count += output.getShape()[0];
    rows.columns = output.getShape()[1];
    rows.bytes.insert(rows.bytes.end(), output.getBytes().begin(), output.getBytes().end());
  }
}

static Error writeFile(StringRef path, StringRef text) {
  std::error_code code;
  llvm::raw_fd_ostream out(path, code);
  if (code)
    return llvm::errorCodeToError(code);
  out << text;
  out.flush();
  code = out.error();
  out.clear_error();
  return llvm::errorCodeToError(code);
}

Error RoutingTrace::write(StringRef path) const {
  std::vector<NpzArray> list;
  for (const auto &[name, rows] : arrays)
    // Routings without weights have none.
    if (rows.columns)
      list.push_back(
          {name, rows.type->isFloat() ? "<f4" : "<i4", {rows.count, rows.columns}, rows.bytes});
  Expected<std::string> text = makeNpz(list);
  if (!text)
    return withStatus(Status::Output, text.takeError());
  std::string partial = (path + ".part").str();
  Error error = writeFile(partial, *text);
  if (!error)
    error = llvm::errorCodeToError(llvm::sys::fs::rename(partial, path));
  if (!error)
    return Error::success();
  llvm::sys::fs::remove(partial);
  return makeError(Status::Output, "cannot write '" + path + "': " + toString(std::move(error)));
}
