// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// A small model with something of everything that the reader handles.

#ifndef MOEC_TEST_UNIT_FRONTEND_TESTMODEL_H
#define MOEC_TEST_UNIT_FRONTEND_TESTMODEL_H

#include "onnx-ml.pb.h"

#include <string>

inline onnx::ValueInfoProto makeValue(const char *name, const char *symbol) {
  onnx::ValueInfoProto value;
  value.set_name(name);
  value.set_doc_string("a value");
  auto *tensor = value.mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(onnx::TensorProto::FLOAT);
  tensor->mutable_shape()->add_dim()->set_dim_param(symbol);
  tensor->mutable_shape()->add_dim()->set_dim_value(4);
  return value;
}

inline onnx::NodeProto *addNode(onnx::GraphProto &graph, const char *type,
                                std::initializer_list<const char *> inputs, const char *output) {
  onnx::NodeProto *node = graph.add_node();
  node->set_op_type(type);
  for (const char *input : inputs)
    node->add_input(input);
  node->add_output(output);
  return node;
}

/// x[n,4] → Add weight[2048,4]'s … → If → y. `elements` floats of weights.
inline onnx::ModelProto makeTestModel(int rows = 300) {
  onnx::ModelProto model;
  model.set_ir_version(10);
  model.set_producer_name("test");
  model.add_opset_import()->set_version(20);
  onnx::OperatorSetIdProto *opset = model.add_opset_import();
  opset->set_domain("local");
  opset->set_version(1);
  onnx::GraphProto &graph = *model.mutable_graph();
  graph.set_name("g");
  *graph.add_input() = makeValue("x", "2*n");
  *graph.add_output() = makeValue("y", "2*n");

  onnx::TensorProto *large = graph.add_initializer();
  large->set_name("large");
  large->set_data_type(onnx::TensorProto::FLOAT);
  large->add_dims(rows);
  large->add_dims(4);
  large->set_raw_data(std::string(rows * 16, 'a'));
  onnx::TensorProto *typed = graph.add_initializer();
  typed->set_name("typed");
  typed->set_data_type(onnx::TensorProto::FLOAT);
  typed->add_dims(rows);
  typed->add_dims(4);
  for (int i = 0; i < rows * 4; ++i)
    typed->add_float_data(0.5f);
  onnx::TensorProto *small = graph.add_initializer();
  small->set_name("small");
  small->set_data_type(onnx::TensorProto::INT64);
  small->add_dims(2);
  small->add_int64_data(-1);
  small->add_int64_data(4);

  addNode(graph, "Scale", {"x"}, "scaled")->set_domain("local");
  addNode(graph, "ReduceSum", {"large"}, "a");
  addNode(graph, "ReduceSum", {"typed"}, "b");
  addNode(graph, "Less", {"a", "b"}, "c");
  onnx::NodeProto *branch = addNode(graph, "If", {"c"}, "d");
  for (const char *name : {"then_branch", "else_branch"}) {
    onnx::AttributeProto *attribute = branch->add_attribute();
    attribute->set_name(name);
    attribute->set_type(onnx::AttributeProto::GRAPH);
    addNode(*attribute->mutable_g(), "Neg", {"scaled"}, "n");
    attribute->mutable_g()->add_output()->set_name("n");
  }
  addNode(graph, "Reshape", {"d", "small"}, "y");

  onnx::FunctionProto *function = model.add_functions();
  function->set_domain("local");
  function->set_name("Scale");
  function->add_input("in");
  function->add_output("out");
  function->add_opset_import()->set_version(20);
  onnx::NodeProto *body = function->add_node();
  body->set_op_type("Mul");
  body->add_input("in");
  body->add_input("in");
  body->add_output("out");
  return model;
}

#endif // MOEC_TEST_UNIT_FRONTEND_TESTMODEL_H
