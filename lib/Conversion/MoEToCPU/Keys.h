// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Selection keys of one token, taken in falling order.

#ifndef MOEC_LIB_CONVERSION_MOETOCPU_KEYS_H
#define MOEC_LIB_CONVERSION_MOETOCPU_KEYS_H

#include "KernelBuilder.h"

#include <limits>

namespace mlir::moe::cpu {

/// The order of an f32 as an i32: larger floats are larger integers, both zeros are
/// equal, and NaN is the largest. Scalars and vectors.
Value emitOrder(KernelBuilder &b, Value key);
/// The float of an order (a NaN for that of NaN).
Value emitUnorder(KernelBuilder &b, Value order);
/// Smaller than the order of any float: what cannot be taken.
constexpr int32_t kNeverTaken = std::numeric_limits<int32_t>::min();

/// A set of numbered keys on the stack, or in registers.
class Keys {
public:
  /// `size` keys; equal ones are taken lower number first unless `higherFirst`.
  Keys(KernelBuilder &b, int64_t size, bool higherFirst, bool inRegisters = false);

  /// Makes all keys ones that cannot be taken. On the stack only.
  void clear();
  /// Sets the keys i … i + lanes, the first `count` of which exist, to f32 `key`.
  void set(Value i, int64_t count, Value key);
  /// One key. On the stack only.
  void set(Value i, Value key) { b.store(emitOrder(b, key), buffer, i); }
  /// Makes key i one that cannot be taken. On the stack only.
  void remove(Value i) { b.store(b.i32(kNeverTaken), buffer, i); }
  /// `body(round, number, order, carried)` for the `rounds` largest keys in falling
  /// order. The number is -1 when no key is left.
  SmallVector<Value> take(int64_t rounds, ValueRange init,
                          function_ref<SmallVector<Value>(Value, Value, Value, ValueRange)> body);

  Value buffer; ///< i32 [size rounded up to vectors]; null in registers.

private:
  /// The largest key that is left, -1 when there is none.
  std::pair<Value, Value> largest(ArrayRef<Value> registers);
  void removeTaken(Value number, MutableArrayRef<Value> registers);
  Value numbersAt(Value i);

  KernelBuilder &b;
  int64_t padded;
  bool higherFirst;
  VectorType type;
  SmallVector<Value> registers;
};

} // namespace mlir::moe::cpu

#endif // MOEC_LIB_CONVERSION_MOETOCPU_KEYS_H
