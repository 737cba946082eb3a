// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Safetensors: what is written is read back, and nothing invalid is accepted.

#include "moec/Support/Safetensors.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "gtest/gtest.h"

using namespace mlir::moe;
using llvm::StringRef;

namespace {

std::string makePath(StringRef name) {
  llvm::SmallString<128> path(testing::TempDir());
  llvm::sys::path::append(path, "moec-safetensors-" + name);
  return path.str().str();
}

std::string readBytes(const std::string &path) {
  auto buffer = llvm::MemoryBuffer::getFile(path, false, false);
  return buffer ? (*buffer)->getBuffer().str() : "";
}

/// A file with the given header and number of data bytes.
std::string makeFile(StringRef header, size_t dataBytes) {
  char length[8];
  llvm::support::endian::write64le(length, header.size());
  return std::string(length, 8) + header.str() + std::string(dataBytes, 'x');
}

/// The error that parsing gives, "" for none.
std::string parseError(const std::string &bytes) {
  auto file = SafetensorsFile::parse(llvm::MemoryBuffer::getMemBufferCopy(bytes, "t.safetensors"));
  return file ? "" : toString(file.takeError());
}

std::string message(llvm::Error error) { return toString(std::move(error)); }

testing::AssertionResult contains(const std::string &text, const std::string &part) {
  if (text.find(part) != std::string::npos)
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "'" << text << "' has no '" << part << "'";
}

TEST(SafetensorsTypes, SpellingsAreUnique) {
  for (StringRef text : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "I16", "F16",
                         "BF16", "U32", "I32", "F32", "U64", "I64", "F64"}) {
    auto type = symbolizeSafetensorsType(text);
    ASSERT_TRUE(type) << text.str();
    EXPECT_EQ(stringifySafetensorsType(*type), text);
  }
  EXPECT_FALSE(symbolizeSafetensorsType("F33"));
  EXPECT_EQ(getByteWidth(SafetensorsType::BF16), 2u);
  EXPECT_EQ(getByteWidth(SafetensorsType::Bool), 1u);
}

TEST(Safetensors, RoundTrip) {
  std::string path = makePath("roundtrip");
  SafetensorsWriter writer(4096);
  writer.setMetadata("moec.digest", "0000");
  writer.setMetadata("quote", "a \"b\"");
  auto a = writer.declare("a/α", SafetensorsType::F32, {3, 1});
  auto empty = writer.declare("empty", SafetensorsType::F16, {0, 7});
  auto b = writer.declare("b", SafetensorsType::U8, {5}, 4096);
  ASSERT_TRUE(a && empty && b);
  EXPECT_EQ(*a, 0u);
  EXPECT_EQ(*empty, 64u);
  EXPECT_EQ(*b, 4096u);
  uint64_t expectedSize = writer.getFileSize();

  ASSERT_EQ(message(writer.open(path)), "");
  float values[3] = {1, 2, 3};
  auto *bytes = reinterpret_cast<const char *>(values);
  ASSERT_EQ(message(writer.write({bytes, 5})), "");
  ASSERT_EQ(message(writer.write({bytes + 5, 7})), "");
  ASSERT_EQ(message(writer.write({"01234", 5})), "");
  writer.setMetadata("moec.digest", "beef");
  ASSERT_EQ(message(writer.finish()), "");

  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(bool(file)) << toString(file.takeError());
  EXPECT_EQ(file->getDataOffset() % 4096, 0u);
  EXPECT_EQ(readBytes(path).size(), expectedSize);
  EXPECT_EQ(file->getMetadata().at("moec.digest"), "beef");
  EXPECT_EQ(file->getMetadata().at("quote"), "a \"b\"");
  const SafetensorsTensor *tensor = file->find("a/α");
  ASSERT_TRUE(tensor);
  EXPECT_EQ(tensor->shape, (llvm::SmallVector<int64_t, 4>{3, 1}));
  EXPECT_EQ(memcmp(file->getData(*tensor).data(), values, sizeof(values)), 0);
  tensor = file->find("b");
  ASSERT_TRUE(tensor);
  EXPECT_EQ(StringRef(file->getData(*tensor).data(), 5), "01234");
  EXPECT_EQ(file->find("missing"), nullptr);
  ASSERT_EQ(file->getTensors().size(), 5u);
  EXPECT_TRUE(file->getTensors()[1].isPadding());
}

TEST(Safetensors, SameCallsSameBytes) {
  std::string paths[2] = {makePath("same0"), makePath("same1")};
  for (const std::string &path : paths) {
    SafetensorsWriter writer;
    writer.setMetadata("z", "1");
    writer.setMetadata("a", "2");
    ASSERT_TRUE(bool(writer.declare("t", SafetensorsType::I8, {1})));
    ASSERT_TRUE(bool(writer.declare("u", SafetensorsType::I8, {1})));
    ASSERT_EQ(message(writer.open(path)), "");
    ASSERT_EQ(message(writer.write({"x", 1})), "");
    ASSERT_EQ(message(writer.write({"y", 1})), "");
    ASSERT_EQ(message(writer.finish()), "");
  }
  EXPECT_EQ(readBytes(paths[0]), readBytes(paths[1]));
}

TEST(Safetensors, FileWithoutTensors) {
  std::string path = makePath("none");
  SafetensorsWriter writer;
  ASSERT_EQ(message(writer.open(path)), "");
  ASSERT_EQ(message(writer.finish()), "");
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(bool(file)) << toString(file.takeError());
  EXPECT_TRUE(file->getTensors().empty());
}

TEST(SafetensorsWriter, RefusesBadDeclarations) {
  SafetensorsWriter writer;
  auto error = [&](StringRef name, llvm::ArrayRef<int64_t> shape) {
    auto offset = writer.declare(name, SafetensorsType::F32, shape);
    return offset ? std::string() : toString(offset.takeError());
  };
  EXPECT_EQ(error("t", {4}), "");
  EXPECT_TRUE(contains(error("t", {4}), "two tensors are called 't'"));
  EXPECT_TRUE(contains(error("__metadata__", {4}), "cannot be the name"));
  EXPECT_TRUE(contains(error("__padding_0", {4}), "cannot be the name"));
  EXPECT_TRUE(contains(error("\xff", {4}), "cannot be the name"));
  EXPECT_TRUE(contains(error("n", {-1}), "larger than any file"));
  EXPECT_TRUE(contains(error("n", {INT64_MAX, 4}), "larger than any file"));
  EXPECT_TRUE(contains(message(writer.declareAt("o", SafetensorsType::U8, {1}, 8)), "overlaps"));
}

TEST(SafetensorsWriter, RefusesWrongAmounts) {
  std::string path = makePath("amounts");
  SafetensorsWriter writer;
  ASSERT_TRUE(bool(writer.declare("t", SafetensorsType::U8, {4})));
  ASSERT_EQ(message(writer.open(path)), "");
  EXPECT_TRUE(contains(message(writer.write({"12345", 5})), "tensor 't' has 4 bytes, got 5"));
  ASSERT_EQ(message(writer.write({"123", 3})), "");
  EXPECT_TRUE(contains(message(writer.finish()), "tensor 't' has 4 bytes, got 3"));
  ASSERT_EQ(message(writer.write({"4", 1})), "");
  EXPECT_TRUE(contains(message(writer.write({"5", 1})), "too many"));
  writer.setMetadata("long", std::string(1000, 'x'));
  EXPECT_TRUE(contains(message(writer.finish()), "grew"));
}

TEST(SafetensorsWriter, ReportsUnwritablePlaces) {
  SafetensorsWriter writer;
  EXPECT_TRUE(contains(message(writer.open("/nonexistent/dir/f")), "cannot create"));
}

TEST(SafetensorsWriter, ReportsFullDevices) {
  if (!llvm::sys::fs::exists("/dev/full"))
    GTEST_SKIP();
  SafetensorsWriter writer;
  ASSERT_TRUE(bool(writer.declare("t", SafetensorsType::U8, {1 << 20})));
  std::string opened = message(writer.open("/dev/full"));
  std::string written = message(writer.write(std::vector<char>(size_t(1) << 20)));
  EXPECT_TRUE(contains(opened + written, "No space left"));
}

TEST(SafetensorsReader, AcceptsValidHeaders) {
  EXPECT_EQ(parseError(makeFile("{}", 0)), "");
  EXPECT_EQ(parseError(makeFile("{}   ", 0)), "");
  EXPECT_EQ(parseError(makeFile(R"({"t":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})", 4)),
            "");
}

struct BadFile {
  const char *header;
  size_t dataBytes;
  const char *error;
};

class SafetensorsBadFile : public testing::TestWithParam<BadFile> {};

TEST_P(SafetensorsBadFile, IsRefused) {
  std::string error = parseError(makeFile(GetParam().header, GetParam().dataBytes));
  EXPECT_TRUE(contains(error, GetParam().error));
  EXPECT_TRUE(contains(error, "t.safetensors: "));
}

const BadFile badFiles[] = {
    {"", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{", 0, "is not JSON"},
    {"{\"a\":[[[[1]]]]}", 0, "nests deeper"},
    {"{\"a\":1}", 0, "tensor 'a': its description is not an object"},
    {R"({"__metadata__":[]})", 0, "__metadata__ is not an object"},
    {R"({"__metadata__":{"a":1}})", 0, "the value of 'a' is not a string"},
    {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "has 2 keys"},
    {R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4, "no dtype"},
    {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype 'F31'"},
    {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "no shape"},
    {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "no whole number"},
    {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "no whole number"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "no"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "is not a range"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}})", 4, "is not a range"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3,
     "truncated: it ends at offset 4 of the data, which has 3 bytes"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5,
     "the tensors cover 4 bytes, the data section has 5"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
     "need 8 bytes, data_offsets give 4"},
    {R"({"a":{"dtype":"F64","shape":[9223372036854775807,8],)"
     R"("data_offsets":[0,8]}})",
     8, "more elements than any file"},
    {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
     4, "tensor 'b': overlaps"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
     4, "tensor 'b': leaves a hole"},
    {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
     R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
     4, "same key twice"},
    {R"({"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}})", 4, "same key twice"},
    {"{\"\xff\":{}}", 0, "is not JSON"},
};

INSTANTIATE_TEST_SUITE_P(All, SafetensorsBadFile, testing::ValuesIn(badFiles));

TEST(SafetensorsReader, RefusesBadLengths) {
  EXPECT_TRUE(contains(parseError("abc"), "it has 3 bytes"));
  EXPECT_TRUE(contains(parseError(std::string("\x10\0\0\0\0\0\0\0{}", 10)),
                       "truncated: the header should have 16 bytes"));
  EXPECT_TRUE(contains(parseError(std::string(10, '\xff')), "the limit is"));
  EXPECT_TRUE(
      contains(parseError(makeFile("{\"a\":" + std::string(100000, '['), 0)), "nests deeper"));
}

/// Every truncation of a valid file is refused.
TEST(SafetensorsReader, RefusesEveryTruncation) {
  std::string bytes = makeFile(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3);
  ASSERT_EQ(parseError(bytes), "");
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_NE(parseError(bytes.substr(0, size)), "") << size;
}

TEST(SafetensorsReader, NamesTheMissingFile) {
  auto file = SafetensorsFile::open("/nonexistent/file.safetensors");
  ASSERT_FALSE(bool(file));
  EXPECT_TRUE(contains(toString(file.takeError()), "cannot open '/nonexistent/file.safetensors'"));
}

} // namespace
