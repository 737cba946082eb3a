// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Weights files of the fake model.

#include "FakeWeights.h"
#include "gtest/gtest.h"
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>

std::string makeFakeWeights(const std::string &digest) {
  std::string header = R"({"w":{"dtype":"F32","shape":[8],)"
                       R"("data_offsets":[0,32]},"__metadata__":)"
                       R"({"a \"quote\"}":"[","moec.digest":")" +
                       digest + R"("}})";
  header.resize(4096 - 8, ' ');
  std::string bytes(8, '\0');
  uint64_t length = header.size();
  memcpy(&bytes[0], &length, 8);
  float w[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  return bytes + header + std::string(reinterpret_cast<const char *>(w), sizeof(w));
}

std::string makeTestPath(const std::string &name) {
  return testing::TempDir() + "moec-runtime-" + std::to_string(getpid()) + "-" + name;
}

std::string writeTestFile(const std::string &name, const std::string &bytes) {
  std::string path = makeTestPath(name);
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}
