// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Writing of NumPy's .npz files.
//
// An .npz file is a ZIP archive of .npy files, here without compression. A .npy file is
// the bytes "\x93NUMPY\x01\x00", a 16-bit length, a header in Python's syntax padded with
// spaces to a multiple of 64 bytes in all, and the elements. Sources of the formats:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and PKWARE's
// APPNOTE.TXT, 6.3.

#ifndef MOEC_SUPPORT_NPZ_H
#define MOEC_SUPPORT_NPZ_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"
#include <cstdint>
#include <string>

namespace mlir::moe {

/// A row-major, little-endian array. `type` as NumPy writes it: "<i4", "<f4".
struct NpzArray {
  std::string name, type;
  llvm::SmallVector<int64_t, 4> shape;
  llvm::ArrayRef<char> bytes;
};

/// The archive; the same arrays give the same bytes. Fails when it would have 4 GiB or
/// more, or more than 65535 arrays: what needs newer forms of ZIP.
llvm::Expected<std::string> makeNpz(llvm::ArrayRef<NpzArray> arrays);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_NPZ_H
