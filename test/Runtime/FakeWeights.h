// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Writes the weights files that FakeModel.c expects, and wrong ones.

#ifndef MOEC_TEST_RUNTIME_FAKEWEIGHTS_H
#define MOEC_TEST_RUNTIME_FAKEWEIGHTS_H

#include <string>

/// w [8] = 0 ... 7 in float32 at offset 4096. Returns the bytes of the file.
std::string makeFakeWeights(const std::string &digest = "0123456789abcdef");
/// A path in the temporary folder of the test.
std::string makeTestPath(const std::string &name);
/// Writes a file and returns its path.
std::string writeTestFile(const std::string &name, const std::string &bytes);

#endif // MOEC_TEST_RUNTIME_FAKEWEIGHTS_H
