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
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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

/// Results of lockFolder that are no descriptors.
static constexpr int kTaken = -1, kNoLocks = -2;

/// Opens and locks a folder: its descriptor, or kTaken when another process holds it or
/// has removed it. The lock ends with the process, however that ends.
static int lockFolder(const std::string &folder) {
  int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0)
    return kTaken;
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    int result = errno == EWOULDBLOCK ? kTaken : kNoLocks;
    ::close(descriptor);
    return result;
  }
  struct stat locked, named;
  bool isThere = ::fstat(descriptor, &locked) == 0 && ::stat(folder.c_str(), &named) == 0 &&
                 locked.st_ino == named.st_ino && locked.st_dev == named.st_dev;
  if (isThere)
    return descriptor;
  ::close(descriptor);
  return kTaken;
}

/// Removes the folders that compilations of this package left when they were killed:
/// those that no process has locked.
static void removeStaleFolders(StringRef parent, StringRef prefix) {
  std::error_code code;
  SmallVector<std::string> stale;
  for (fs::directory_iterator it(parent.empty() ? "." : parent, code), end; it != end && !code;
       it.increment(code))
    if (path::filename(it->path()).starts_with(prefix))
      stale.push_back(it->path());
  for (const std::string &folder : stale) {
    int lock = lockFolder(folder);
    if (lock < 0)
      continue;
    (void)fs::remove_directories(folder);
    ::close(lock);
  }
}

/// Without "." and slashes at the end.
static SmallString<128> cleanPath(StringRef target) {
  SmallString<128> result(target);
  path::remove_dots(result, /*remove_dot_dot=*/false);
  while (result.size() > 1 && path::is_separator(result.back()))
    result.pop_back();
  return result;
}

Expected<PackageFolder> PackageFolder::create(StringRef target) {
  SmallString<128> path = cleanPath(target);
  if (fs::exists(path) && !isPackage(path))
    return createStringError("'" + path +
                             "' exists and is not a package; remove it or choose another -o");
  return createBeside(target);
}

Expected<PackageFolder> PackageFolder::createBeside(StringRef target) {
  PackageFolder package;
  package.path = cleanPath(target);
  // Created hidden, with the permissions of an ordinary new folder.
  SmallString<128> model(path::parent_path(package.path));
  std::string prefix = ("." + path::filename(package.path) + ".tmp-").str();
  removeStaleFolders(model, prefix);
  path::append(model, prefix + "%%%%%%%%");
  for (int tries = 0; tries < 16; ++tries) {
    fs::createUniquePath(model, package.folder, /*MakeAbsolute=*/false);
    std::error_code code =
        fs::create_directory(package.folder, /*IgnoreExisting=*/false, fs::perms::all_all);
    if (!code)
      package.lock = lockFolder(std::string(package.folder));
    if (!code && package.lock != kTaken)
      return std::move(package);
    // Another process took the new folder for one that was left, and removes it.
    if (code && code != std::errc::file_exists) {
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
  if (lock >= 0)
    ::close(lock);
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

Error PackageFolder::commitFiles(ArrayRef<std::string> files) {
  auto finalPath = [&](StringRef file) {
    SmallString<128> result(path::parent_path(path));
    path::append(result, file);
    return result;
  };
  SmallString<128> last = finalPath(files.back());
  if (std::error_code code = fs::remove(last))
    return failed("cannot replace", last, code);
  for (const std::string &file : files)
    if (std::error_code code = fs::rename(getPath(file), finalPath(file)))
      return failed("cannot create", finalPath(file), code);
  return Error::success();
}

static std::error_code writeText(raw_fd_ostream &out, StringRef text) {
  out << text;
  out.flush();
  std::error_code code = out.error();
  out.clear_error();
  return code;
}

Error mlir::moe::writeTextFile(StringRef path, StringRef text) {
  std::error_code code;
  // Not a file that could appear: stdout, a pipe, a device.
  if (path == "-" || (fs::exists(path) && !fs::is_regular_file(path))) {
    raw_fd_ostream out(path, code);
    if (!code)
      code = writeText(out, text);
    return code ? failed("cannot write", path, code) : Error::success();
  }
  // Not fs::TempFile, which takes over the signals of the whole program.
  int descriptor;
  SmallString<128> temporary;
  code = fs::createUniqueFile(path + ".tmp-%%%%%%%%", descriptor, temporary, fs::OF_None,
                              fs::all_read | fs::all_write);
  if (code)
    return failed("cannot write", path, code);
  {
    raw_fd_ostream out(descriptor, /*shouldClose=*/true);
    code = writeText(out, text);
  }
  if (!code)
    code = fs::rename(temporary, path);
  if (code)
    (void)fs::remove(temporary);
  return code ? failed("cannot write", path, code) : Error::success();
}
