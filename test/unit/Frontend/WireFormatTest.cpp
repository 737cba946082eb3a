// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Frontend/ONNX/WireFormat.h"

#include "TestModel.h"

#include <gtest/gtest.h>

using namespace mlir::moe;

static std::string errorOf(llvm::StringRef data) {
  llvm::Expected<SlimModel> slim = makeSlimModel(data);
  return slim ? "" : llvm::toString(slim.takeError());
}

TEST(WireFormat, ReplacesLargePayloadsOnly) {
  std::string data = makeTestModel().SerializeAsString();
  llvm::Expected<SlimModel> slim = makeSlimModel(data);
  ASSERT_TRUE(bool(slim));
  ASSERT_EQ(slim->payloads.size(), 2u);
  for (const PayloadRange &range : slim->payloads)
    EXPECT_EQ(range.length, 4800u);
  EXPECT_EQ(data.substr(slim->payloads[0].offset, 4800), std::string(4800, 'a'));
  EXPECT_LT(slim->bytes.size(), 1000u);

  onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(slim->bytes));
  const onnx::GraphProto &graph = model.graph();
  EXPECT_EQ(graph.initializer(0).segment().begin(), 0);
  EXPECT_EQ(graph.initializer(0).segment().end(), onnx::TensorProto::kRawDataFieldNumber);
  EXPECT_EQ(graph.initializer(1).segment().end(), onnx::TensorProto::kFloatDataFieldNumber);
  EXPECT_EQ(graph.initializer(2).int64_data(1), 4);
  EXPECT_EQ(graph.node_size(), 6);
  EXPECT_EQ(graph.node(4).attribute(1).g().node(0).op_type(), "Neg");
  EXPECT_FALSE(graph.input(0).has_doc_string());
}

TEST(WireFormat, TruncatedAnywhere) {
  std::string data = makeTestModel().SerializeAsString();
  for (size_t size = 0; size < data.size(); ++size) {
    // A copy of exactly this size, so that a sanitizer sees reads past it.
    std::vector<char> cut(data.begin(), data.begin() + size);
    llvm::Expected<SlimModel> slim = makeSlimModel(llvm::StringRef(cut.data(), cut.size()));
    if (!slim)
      llvm::consumeError(slim.takeError());
  }
}

TEST(WireFormat, SaysWhere) {
  EXPECT_EQ(errorOf(llvm::StringRef("\x3a\x7f", 2)),
            "not a valid ONNX file: in ModelProto at byte 0: field 7 needs 127 "
            "bytes, 0 are left");
  EXPECT_EQ(errorOf("hello"), "not a valid ONNX file: in ModelProto at byte 2: "
                              "invalid wire type 4");
  EXPECT_EQ(errorOf(llvm::StringRef("\0", 1)),
            "not a valid ONNX file: in ModelProto at byte 0: invalid field "
            "number 0");
  EXPECT_EQ(errorOf("\x0b"), "not a valid ONNX file: in ModelProto at byte 0: "
                             "invalid wire type 3");
  EXPECT_EQ(errorOf(std::string(11, '\xff')),
            "not a valid ONNX file: in ModelProto at byte 0: a field tag is cut "
            "off or malformed");
}

TEST(WireFormat, LimitsDepth) {
  // A graph in an attribute of a node of a graph …
  onnx::GraphProto graph;
  for (int i = 0; i < 200; ++i) {
    onnx::GraphProto outer;
    onnx::AttributeProto *attribute = outer.add_node()->add_attribute();
    attribute->mutable_g()->Swap(&graph);
    graph.Swap(&outer);
  }
  onnx::ModelProto model;
  model.mutable_graph()->Swap(&graph);
  EXPECT_NE(errorOf(model.SerializeAsString()).find("nested too deeply"), std::string::npos);
}

TEST(WireFormat, LengthsOf64Bits) {
  // A length near 2^64 must not wrap around.
  std::string data("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01rest", 15);
  EXPECT_NE(errorOf(data).find("needs 18446744073709551615 bytes"), std::string::npos);
}
