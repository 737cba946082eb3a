// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "Package.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>

using namespace llvm;
using namespace mlir::moe;

namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

static Error failed(const Twine &what, StringRef path, std::error_code code) {
  return createStringError(what + " '" + path + "': " + code.message());
}

/// True for a folder with nothing but the files of a package in it.
static bool isPackage(StringRef folder) {
  if (!fs::is_directory(folder))
    return false;
  std::error_code code;
  bool empty = true, hasInfo = false;
  for (fs::directory_iterator it(folder, code), end; it != end && !code; it.increment(code)) {
    StringRef extension = path::extension(it->path());
    if (it->type() != fs::file_type::regular_file ||
        !is_contained({".so", ".a", ".h", ".safetensors", ".json"}, extension))
      return false;
    empty = false;
    hasInfo |= extension == ".json";
  }
  return !code && (empty || hasInfo);
}

Expected<PackageFolder> PackageFolder::create(StringRef target) {
  PackageFolder package;
  package.path = target;
  path::remove_dots(package.path, /*remove_dot_dot=*/false);
  while (package.path.size() > 1 && path::is_separator(package.path.back()))
    package.path.pop_back();
  if (fs::exists(package.path) && !isPackage(package.path))
    return createStringError("'" + package.path +
                             "' exists and is not a package; remove it or choose another -o");
  // Created hidden, with the permissions of an ordinary new folder.
  SmallString<128> model(path::parent_path(package.path));
  path::append(model, "." + path::filename(package.path) + ".tmp-%%%%%%%%");
  for (int tries = 0; tries < 16; ++tries) {
    fs::createUniquePath(model, package.folder, /*MakeAbsolute=*/false);
    std::error_code code =
        fs::create_directory(package.folder, /*IgnoreExisting=*/false, fs::perms::all_all);
    if (!code)
      return std::move(package);
    if (code != std::errc::file_exists) {
      SmallString<128> folder = package.folder;
      package.folder.clear();
      return failed("cannot create the folder", folder, code);
    }
  }
  package.folder.clear();
  return createStringError("cannot create a folder beside '" + package.path + "'");
}

PackageFolder::~PackageFolder() {
  if (!folder.empty())
    (void)fs::remove_directories(folder);
}

std::string PackageFolder::getPath(StringRef file) const {
  SmallString<128> result(folder);
  path::append(result, file);
  return std::string(result);
}

Error PackageFolder::writeFile(StringRef file, StringRef text) const {
  return writeTextFile(getPath(file), text);
}

Error PackageFolder::commit() {
  if (!fs::exists(path)) {
    if (std::error_code code = fs::rename(folder, path))
      return failed("cannot create the package", path, code);
    folder.clear();
    return Error::success();
  }
  // The old package goes away only once the new one is there.
  if (renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0)
    return Error::success();
  if (errno != EINVAL && errno != ENOSYS)
    return failed("cannot replace the package", path,
                  std::error_code(errno, std::generic_category()));
  // A file system that cannot exchange names.
  SmallString<128> old(folder);
  old += ".old";
  if (std::error_code code = fs::rename(path, old))
    return failed("cannot replace the package", path, code);
  if (std::error_code code = fs::rename(folder, path)) {
    (void)fs::rename(old, path);
    return failed("cannot replace the package", path, code);
  }
  folder = old;
  return Error::success();
}

Error mlir::moe::writeTextFile(StringRef path, StringRef text) {
  std::error_code code;
  raw_fd_ostream out(path, code);
  if (!code) {
    out << text;
    out.flush();
    code = out.error();
    out.clear_error();
  }
  return code ? failed("cannot write", path, code) : Error::success();
}
