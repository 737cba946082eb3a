// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Reading and writing of safetensors files.
//
// A safetensors file is an 8-byte little-endian length N, N bytes of JSON (the
// header, padded with spaces), then the data section. The header maps each
// tensor's name to {"dtype", "shape", "data_offsets": [begin, end]} with
// offsets relative to the data section, and "__metadata__" to a map of strings.
// The tensors tile the data section: no overlaps and no holes. Alignment
// therefore needs explicit padding tensors, which are called "__padding_N"
// here. Source of the format: https://github.com/huggingface/safetensors#format

#ifndef MOEC_SUPPORT_SAFETENSORS_H
#define MOEC_SUPPORT_SAFETENSORS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mlir::moe {

/// The element types of safetensors files that occupy whole bytes.
enum class SafetensorsType {
  Bool,
  U8,
  I8,
  F8E4M3,
  F8E5M2,
  F8E8M0,
  U16,
  I16,
  F16,
  BF16,
  U32,
  I32,
  F32,
  U64,
  I64,
  F64,
};

/// Spelling in the header: "F32", "BF16", "F8_E4M3", …
llvm::StringRef stringifySafetensorsType(SafetensorsType type);
/// The reverse; nullopt for spellings that are not known.
std::optional<SafetensorsType> symbolizeSafetensorsType(llvm::StringRef text);
/// Bytes per element.
unsigned getByteWidth(SafetensorsType type);

/// One tensor of a file. `begin` and `end` are byte offsets in the data section.
struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::U8;
  llvm::SmallVector<int64_t, 4> shape;
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t getNumBytes() const { return end - begin; }
  bool isPadding() const;
};

/// A validated safetensors file. Files are memory-mapped, tensors are not read.
class SafetensorsFile {
public:
  /// Maps and validates a file. Errors name the file, the tensor, what was
  /// found and what was expected.
  static llvm::Expected<SafetensorsFile> open(llvm::StringRef path);
  /// Validates a buffer; its identifier is used in errors.
  static llvm::Expected<SafetensorsFile> parse(std::unique_ptr<llvm::MemoryBuffer> buffer);

  /// All tensors in file order, padding included.
  llvm::ArrayRef<SafetensorsTensor> getTensors() const { return tensors; }
  /// The tensor of that name, or null.
  const SafetensorsTensor *find(llvm::StringRef name) const;
  /// The bytes of one of this file's tensors.
  llvm::ArrayRef<char> getData(const SafetensorsTensor &tensor) const;
  /// The data section.
  llvm::ArrayRef<char> getAllData() const;
  const std::map<std::string, std::string> &getMetadata() const { return metadata; }
  /// File offset of the data section in bytes.
  uint64_t getDataOffset() const { return dataOffset; }

private:
  friend class SafetensorsHeaderParser;

  std::unique_ptr<llvm::MemoryBuffer> buffer;
  std::vector<SafetensorsTensor> tensors;
  llvm::StringMap<unsigned> indices;
  std::map<std::string, std::string> metadata;
  uint64_t dataOffset = 0;
};

/// Writes a safetensors file of any size in one pass.
///
/// Declare every tensor and the metadata first, then `open` a file, `write` the
/// bytes of the tensors in the order of declaration, and `finish`. Metadata
/// that is only known in the end (a digest) is set to a placeholder of the same
/// length before `open` and to its value before `finish`. The same calls give
/// the same bytes. Every error leaves an unfinished file for the caller to
/// remove.
class SafetensorsWriter {
public:
  /// The file offset of the data section will be a multiple of `dataAlignment`
  /// (a power of two of at least 8).
  explicit SafetensorsWriter(uint64_t dataAlignment = 64);
  ~SafetensorsWriter();

  /// Sets or replaces one entry of the metadata. Entries are written in the
  /// order of their keys.
  void setMetadata(llvm::StringRef key, llvm::StringRef value);

  /// Appends a tensor at the next offset that is a multiple of `alignment` and
  /// returns its offset in the data section.
  llvm::Expected<uint64_t> declare(llvm::StringRef name, SafetensorsType type,
                                   llvm::ArrayRef<int64_t> shape, uint64_t alignment = 64);
  /// Appends a tensor at `offset`, which must not lie before the end of the
  /// last one; the space between becomes a padding tensor.
  llvm::Error declareAt(llvm::StringRef name, SafetensorsType type, llvm::ArrayRef<int64_t> shape,
                        uint64_t offset);

  /// Offset in the file where the data section begins, given what was declared
  /// until now.
  uint64_t getDataOffset() const;
  /// Bytes of the data section.
  uint64_t getDataSize() const;
  /// Bytes of the whole file.
  uint64_t getFileSize() const { return getDataOffset() + getDataSize(); }
  /// Tensors declared until now, padding included.
  llvm::ArrayRef<SafetensorsTensor> getTensors() const { return tensors; }

  /// Creates (or truncates) the file and writes the header.
  llvm::Error open(llvm::StringRef path);
  /// The next bytes of the current tensor. One call may not go past the end of
  /// that tensor; a full tensor makes the next one current, and padding and
  /// empty tensors are skipped by themselves.
  llvm::Error write(llvm::ArrayRef<char> bytes);
  /// Checks that every tensor is complete, writes the header again if metadata
  /// changed, and closes the file.
  llvm::Error finish();

private:
  llvm::Error makeError(const llvm::Twine &message) const;
  llvm::Error checkStream();
  llvm::Error writePadding();
  std::string buildHeader() const;

  uint64_t dataAlignment;
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsTensor> tensors;
  llvm::StringMap<unsigned> indices;
  unsigned numPaddings = 0;

  std::string path;
  std::unique_ptr<llvm::raw_fd_ostream> stream;
  std::string writtenHeader;
  size_t current = 0;    // index of the tensor being written
  uint64_t position = 0; // offset in the data section
};

} // namespace mlir::moe

#endif // MOEC_SUPPORT_SAFETENSORS_H
