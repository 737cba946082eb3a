// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/Npz.h"

#include "gtest/gtest.h"

using namespace mlir::moe;

namespace {

// That NumPy reads what is written is in test_trace_routing.py.
TEST(Npz, HeadersAreAlignedAndRepeat) {
  const char bytes[] = {1, 0, 0, 0, 2, 0, 0, 0};
  NpzArray array{"a", "<i4", {2, 1}, bytes};
  auto text = makeNpz(array);
  ASSERT_TRUE(bool(text));
  size_t begin = text->find("\x93NUMPY");
  ASSERT_NE(begin, std::string::npos);
  size_t end = text->find('\n', begin) + 1;
  EXPECT_EQ((end - begin) % 64, 0u);
  EXPECT_NE(text->find("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 1, ), }"),
            std::string::npos);
  EXPECT_EQ(text->substr(end, sizeof(bytes)), std::string(bytes, sizeof(bytes)));
  auto again = makeNpz(array);
  ASSERT_TRUE(bool(again));
  EXPECT_EQ(*text, *again);
}

TEST(Npz, TooLarge) {
  NpzArray array{"a", "<i4", {1}, llvm::ArrayRef<char>(nullptr, size_t(1) << 32)};
  auto text = makeNpz(array);
  ASSERT_FALSE(bool(text));
  EXPECT_NE(toString(text.takeError()).find("less than 4 GiB"), std::string::npos);
}

} // namespace
