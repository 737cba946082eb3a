// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Fuzz.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <cstdlib>

using namespace mlir;
using namespace mlir::moe::fuzz;
namespace fs = llvm::sys::fs;

// LLVM's arenas are not instrumented: poisoning by hand and container overflow
// checks would report what is not there.
extern "C" const char *__asan_default_options() {
  return "allow_user_poisoning=false:detect_container_overflow=0";
}
extern "C" const char *__ubsan_default_options() {
  return "halt_on_error=1:abort_on_error=1:print_stacktrace=1";
}

void mlir::moe::fuzz::require(bool holds, const llvm::Twine &promise) {
  if (holds)
    return;
  llvm::errs() << "fuzz: broken promise: " << promise << "\n";
  std::abort();
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

Errors::Errors(MLIRContext &context)
    : handler(&context, [this](Diagnostic &diagnostic) {
        // Written out, as a tool would: this formats types and attributes.
        std::string text = diagnostic.str();
        errors += diagnostic.getSeverity() == DiagnosticSeverity::Error;
        return success();
      }) {}

void Errors::check(bool succeeded, llvm::StringRef what) {
  if (succeeded)
    require(errors == 0, what + " succeeded after an error");
  else
    require(errors > 0, what + " failed without an error");
}

//===----------------------------------------------------------------------===//
// ModelFolder
//===----------------------------------------------------------------------===//

static void writeFile(const std::string &path, llvm::StringRef bytes) {
  std::error_code error;
  llvm::raw_fd_ostream stream(path, error);
  stream << bytes;
  stream.close();
  require(!error && !stream.has_error(), "cannot write " + path);
}

ModelFolder::ModelFolder() {
  llvm::SmallString<128> unique, real;
  require(!fs::createUniqueDirectory("moec-fuzz", unique) && !fs::real_path(unique, real),
          "cannot make a folder");
  root = real.str();
  folder = root + "/model/";
  model = folder + "model.onnx";
  require(!fs::create_directory(folder), "cannot make " + folder);
  writeFile(root + "/secret.bin", std::string(1 << 16, 's'));
  writeFile(folder + "weights.bin", "");
  int descriptor;
  require(!fs::openFileForReadWrite(folder + "weights.bin", descriptor, fs::CD_OpenExisting,
                                    fs::OF_None) &&
              !fs::resize_file(descriptor, 64 << 20),
          "cannot make weights.bin");
  fs::closeFile(*reinterpret_cast<fs::file_t *>(&descriptor));
  require(!fs::create_link("weights.bin", folder + "link.bin") &&
              !fs::create_link(root, folder + "out") &&
              !fs::create_link("../secret.bin", folder + "outside.bin"),
          "cannot make links");
}

ModelFolder::~ModelFolder() { fs::remove_directories(root); }

const std::string &ModelFolder::write(llvm::StringRef bytes) {
  writeFile(model, bytes);
  return model;
}

void ModelFolder::checkInside(llvm::StringRef file) const {
  llvm::SmallString<128> real;
  require(!fs::real_path(folder + file, real) && real.str().starts_with(folder),
          "'" + file + "' is not inside the model's folder");
}

//===----------------------------------------------------------------------===//
// Round trip
//===----------------------------------------------------------------------===//

static std::string print(ModuleOp module, bool generic) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  module.print(stream, OpPrintingFlags().printGenericOpForm(generic));
  return text;
}

void mlir::moe::fuzz::checkRoundTrip(ModuleOp module) {
  std::string expected = print(module, /*generic=*/false);
  for (bool generic : {false, true}) {
    std::string text = print(module, generic);
    OwningOpRef<ModuleOp> parsed =
        parseSourceString<ModuleOp>(text, ParserConfig(module.getContext()));
    require(bool(parsed), "printed module does not parse:\n" + text);
    std::string again = print(*parsed, /*generic=*/false);
    require(again == expected,
            "module changed in a round trip:\n" + expected + "\n// became\n" + again);
  }
}
