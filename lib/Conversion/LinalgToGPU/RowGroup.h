// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Consecutive operations of which a row needs nothing of another row: normalizations, a Softmax,
// and what stands before and after them.

#ifndef MOEC_LIB_CONVERSION_LINALGTOGPU_ROWGROUP_H
#define MOEC_LIB_CONVERSION_LINALGTOGPU_ROWGROUP_H

#include "Reduction.h"

namespace mlir::moe {

/// Operations whose first `numRowLoops` loops are the same rows: all that one of them writes is
/// read by the others in the same row.
class RowGroup {
public:
  /// The longest group that begins with `first`; empty unless it has several operations, and a
  /// reduction among them.
  static RowGroup collect(linalg::GenericOp first);

  bool empty() const { return ops.empty(); }
  ArrayRef<Operation *> getOps() const { return ops; }

  /// One kernel: a warp or a block for each row does one operation after the other.
  LogicalResult outline(KernelOutliner &outliner);

private:
  bool fits() const;
  bool add(linalg::GenericOp op);
  int64_t teamSize() const;
  void emit(KernelBody body, int64_t team);

  SmallVector<Operation *> ops;
  unsigned numRowLoops = 0;
};

} // namespace mlir::moe

#endif // MOEC_LIB_CONVERSION_LINALGTOGPU_ROWGROUP_H
