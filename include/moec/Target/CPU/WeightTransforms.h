// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Executes what a `moe.weight` records: reads its sources, stacks them and runs
// its transforms, one expert (index of dimension 0) at a time, so that a package
// of any size is written with the memory of one expert.

#ifndef MOEC_TARGET_CPU_WEIGHTTRANSFORMS_H
#define MOEC_TARGET_CPU_WEIGHTTRANSFORMS_H

#include "moec/Dialect/MoE/IR/MoE.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem.h"
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mlir::moe {

/// Bytes of one element: integers of less than 8 bits take a byte each.
int64_t getElementBytes(Type elementType);
/// The bytes of a constant: integers of less than 8 bits take a byte each.
std::vector<char> getElementBytes(DenseElementsAttr dense);
/// Bytes of a weight's expert (everything but dimension 0), and number of experts.
int64_t getExpertBytes(RankedTensorType type);
int64_t getNumExperts(RankedTensorType type);

/// What converting a weight (`#moe.convert`, `#moe.quantize`) changed in its elements.
struct ConversionError {
  double squaredError = 0, squaredSource = 0;
  /// The largest |converted - source|.
  double largest = 0;

  void add(float source, float converted);
  /// √(Σ (converted - source)² / Σ source²); 0 when nothing changed.
  double getRelativeRMS() const;
};

/// A transform on the bytes of one expert, and the size of its result. `apply` is null
/// where nothing is to be done.
struct WeightStep {
  std::function<void(const char *, char *)> apply;
  int64_t resultBytes;

  /// Of a transform that makes `result` of `input`. A conversion adds to `error`, which is
  /// made for it.
  static llvm::Expected<WeightStep> create(Attribute transform, RankedTensorType input,
                                           RankedTensorType result,
                                           std::shared_ptr<ConversionError> &error);
  /// What undoes it, from the bytes of `result` to those of `input`; an error where nothing
  /// can.
  static llvm::Expected<WeightStep> createInverse(Attribute transform, RankedTensorType input,
                                                  RankedTensorType result);
};

/// The files of a model's folder, memory-mapped when first used.
class SourceFiles {
public:
  /// `folder`: where the model lies; "" is the current folder.
  explicit SourceFiles(llvm::StringRef folder) : folder(folder) {}

  /// The bytes of a segment. Refuses absolute paths and paths that leave the
  /// folder by "..", missing files, and files too short for the segment.
  llvm::Expected<llvm::ArrayRef<char>> getBytes(SegmentAttr segment);
  /// Lets the operating system drop the pages that were read until now.
  void releasePages();

private:
  llvm::Expected<const llvm::sys::fs::mapped_file_region *> map(llvm::StringRef file);

  std::string folder;
  llvm::StringMap<std::unique_ptr<llvm::sys::fs::mapped_file_region>> files;
};

/// The bytes of one weight, expert by expert.
class WeightPacker {
public:
  /// `files` must live longer than the packer. Errors name the weight.
  static llvm::Expected<WeightPacker> create(WeightOp weight, SourceFiles &files);

  int64_t getNumExperts() const { return numExperts; }
  int64_t getExpertBytes() const { return expertBytes; }

  /// The packed bytes of an expert: in a source when nothing is done to it, else
  /// in a buffer of the packer, valid until the next call.
  llvm::ArrayRef<char> pack(int64_t expert);
  /// All experts at once when that needs no copy (one source, no transform);
  /// empty otherwise.
  llvm::ArrayRef<char> getWhole() const;

  /// What the conversion changed in the experts that were packed until now; null for a
  /// weight that is not converted, and for scales and zero points.
  const ConversionError *getConversionError() const { return conversionError.get(); }

private:
  struct Source {
    llvm::ArrayRef<char> bytes;
    int64_t expertBytes;
    /// Owns `bytes` of inline sources.
    std::shared_ptr<std::vector<char>> storage;
    /// Each expert's bytes where they do not follow each other; then `bytes` is empty.
    std::vector<Source> parts;

    llvm::ArrayRef<char> getExpert(int64_t expert) const {
      return parts.empty() ? bytes.slice(expert * expertBytes, expertBytes) : parts[expert].bytes;
    }
  };
  static llvm::Expected<Source> openSource(Attribute source, SourceFiles &files);
  llvm::ArrayRef<char> gather(int64_t expert);

  std::vector<Source> sources;
  std::vector<WeightStep> steps;
  std::vector<char> buffers[2];
  // Shared with a step, which must not point into a packer that is moved.
  std::shared_ptr<ConversionError> conversionError;
  int64_t numExperts = 0;
  int64_t expertBytes = 0;
};

} // namespace mlir::moe

#endif // MOEC_TARGET_CPU_WEIGHTTRANSFORMS_H
