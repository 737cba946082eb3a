// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Compiler/Unpack.h"
#include "Package.h"
#include "PackageDescription.h"
#include "Text.h"

#include "moec/Target/CPU/UnpackWeights.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

using namespace llvm;
using namespace mlir::moe;

/// The weights file beside NAME.json.
static Expected<std::string> findWeights(StringRef path) {
  auto description = readDescription(path);
  if (!description)
    return description.takeError();
  auto name = description->root.getAsObject()->getObject("weights")->getString("file");
  if (!name)
    return createStringError("'" + path + "' has no weights");
  SmallString<128> weights(sys::path::parent_path(description->file));
  // Not a path that the description could have been given.
  sys::path::append(weights, sys::path::filename(*name));
  return std::string(weights);
}

static CompileStatus fail(CompileStatus status, Error error, std::string &message) {
  message = toString(std::move(error));
  return status;
}

static CompileStatus getStatus(std::error_code code) {
  if (code == std::errc::not_supported)
    return CompileStatus::Unsupported;
  return code == std::errc::io_error ? CompileStatus::Output : CompileStatus::BadModel;
}

static std::string summarize(StringRef output, const UnpackedWeights &unpacked) {
  std::string text = formatv("{0}: {1} tensor{2}, {3}", output, unpacked.numTensors,
                             unpacked.numTensors == 1 ? "" : "s", formatBytes(unpacked.numBytes));
  if (!unpacked.incomplete.empty())
    text += "; left out, because the package has only a part of them: " +
            join(unpacked.incomplete, ", ");
  return text;
}

CompileStatus mlir::moe::unpackPackage(StringRef path, StringRef output, std::string &message) {
  auto weights = findWeights(path);
  if (!weights)
    return fail(CompileStatus::BadModel, weights.takeError(), message);
  auto folder = PackageFolder::createBeside(output);
  if (!folder)
    return fail(CompileStatus::Output, folder.takeError(), message);
  std::string name = sys::path::filename(output).str();
  auto unpacked = unpackWeights(*weights, folder->getPath(name));
  if (!unpacked) {
    Error error = unpacked.takeError();
    std::error_code code;
    error = handleErrors(std::move(error), [&](std::unique_ptr<StringError> text) -> Error {
      code = text->convertToErrorCode();
      return Error(std::move(text));
    });
    return fail(getStatus(code), std::move(error), message);
  }
  if (Error error = folder->commitFiles({name}))
    return fail(CompileStatus::Output, std::move(error), message);
  message = summarize(output, *unpacked);
  return CompileStatus::Success;
}
