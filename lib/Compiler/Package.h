// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A package folder that appears as a whole or not at all.

#ifndef MOEC_LIB_COMPILER_PACKAGE_H
#define MOEC_LIB_COMPILER_PACKAGE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>
#include <utility>

namespace mlir::moe {

/// Files are written into a folder beside the final one, which `commit` puts in
/// its place in one step. Without `commit` nothing stays. What a killed process left
/// is removed by the next one that makes the same package.
class PackageFolder {
public:
  /// Refuses when something that is no package is in the way.
  static llvm::Expected<PackageFolder> create(llvm::StringRef path);
  /// A folder for files that `commitFiles` will put beside `path`.
  static llvm::Expected<PackageFolder> createBeside(llvm::StringRef path);
  PackageFolder(PackageFolder &&other)
      : path(other.path), folder(other.folder), lock(std::exchange(other.lock, -1)) {
    other.folder.clear();
  }
  ~PackageFolder();

  /// Path of a file in the new folder.
  std::string getPath(llvm::StringRef file) const;
  llvm::Error writeFile(llvm::StringRef file, llvm::StringRef text) const;
  /// Puts the folder in its place; a package that was there is removed.
  llvm::Error commit();
  /// Puts files of the folder beside it. A file that was there is replaced; the last
  /// one, which refers to the others, is away while these change.
  llvm::Error commitFiles(llvm::ArrayRef<std::string> files);

private:
  PackageFolder() = default;

  llvm::SmallString<128> path, folder;
  /// Descriptor of the locked folder, or -1: see removeStaleFolders.
  int lock = -1;
};

/// Writes a file, which appears when it is complete, or stdout for "-".
llvm::Error writeTextFile(llvm::StringRef path, llvm::StringRef text);

} // namespace mlir::moe

#endif // MOEC_LIB_COMPILER_PACKAGE_H
