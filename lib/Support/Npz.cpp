// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/Npz.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CRC.h"
#include "llvm/Support/EndianStream.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

using namespace llvm;
using namespace mlir::moe;

/// What both headers of a file in the archive say.
namespace {
struct Entry {
  std::string name;
  uint32_t crc, size, offset;
};
} // namespace

/// 1980-01-01, the first day of ZIP.
static constexpr uint16_t kDate = 1 << 5 | 1;

static std::string makeNpyHeader(const NpzArray &array) {
  std::string text = "{'descr': '" + array.type + "', 'fortran_order': False, 'shape': (";
  for (int64_t size : array.shape)
    text += std::to_string(size) + ", ";
  text += "), }";
  constexpr size_t prefix = 10;
  text.append(alignTo(prefix + text.size() + 1, 64) - prefix - text.size() - 1, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += char(text.size() & 0xff);
  header += char(text.size() >> 8);
  return header + text;
}

/// The fields that the local and the central header have in common.
static void writeCommon(support::endian::Writer &out, const Entry &entry) {
  out.write<uint16_t>(20);      // version needed: 2.0
  out.write<uint16_t>(1 << 11); // names are UTF-8
  out.write<uint16_t>(0);       // stored
  out.write<uint16_t>(0);       // time
  out.write<uint16_t>(kDate);
  out.write<uint32_t>(entry.crc);
  out.write<uint32_t>(entry.size);
  out.write<uint32_t>(entry.size);
  out.write<uint16_t>(uint16_t(entry.name.size()));
  out.write<uint16_t>(0); // no extra field
}

static void writeCentral(support::endian::Writer &out, const Entry &entry) {
  out.write<uint32_t>(0x02014b50);
  out.write<uint16_t>(20); // made by version 2.0
  writeCommon(out, entry);
  out.write<uint16_t>(0); // no comment
  out.write<uint16_t>(0); // disk
  out.write<uint16_t>(0); // internal attributes
  out.write<uint32_t>(0); // external attributes
  out.write<uint32_t>(entry.offset);
  out.OS << entry.name;
}

Expected<std::string> mlir::moe::makeNpz(ArrayRef<NpzArray> arrays) {
  uint64_t bytes = 0;
  for (const NpzArray &array : arrays)
    bytes += array.bytes.size() + 2 * array.name.size() + 1024;
  if (!isUInt<32>(bytes) || !isUInt<16>(arrays.size()))
    return createStringError("the arrays have " + Twine(bytes) +
                             " bytes, too many for an .npz file of less than 4 GiB");
  std::string text;
  text.reserve(bytes);
  raw_string_ostream stream(text);
  support::endian::Writer out(stream, endianness::little);
  std::vector<Entry> entries;
  for (const NpzArray &array : arrays) {
    std::string header = makeNpyHeader(array);
    uint32_t crc = crc32(arrayRefFromStringRef(header));
    crc = crc32(crc, arrayRefFromStringRef(StringRef(array.bytes.data(), array.bytes.size())));
    Entry entry{array.name + ".npy", crc, uint32_t(header.size() + array.bytes.size()),
                uint32_t(stream.tell())};
    out.write<uint32_t>(0x04034b50);
    writeCommon(out, entry);
    stream << entry.name << header << StringRef(array.bytes.data(), array.bytes.size());
    entries.push_back(std::move(entry));
  }
  auto begin = uint32_t(stream.tell());
  for (const Entry &entry : entries)
    writeCentral(out, entry);
  auto size = uint32_t(stream.tell() - begin);
  out.write<uint32_t>(0x06054b50);
  out.write<uint16_t>(0); // this disk
  out.write<uint16_t>(0); // disk of the central directory
  out.write<uint16_t>(uint16_t(entries.size()));
  out.write<uint16_t>(uint16_t(entries.size()));
  out.write<uint32_t>(size);
  out.write<uint32_t>(begin);
  out.write<uint16_t>(0); // no comment
  return std::move(text);
}
