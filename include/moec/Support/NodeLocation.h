// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Locations of model nodes: where in the model file, and which node.

#ifndef MOEC_SUPPORT_NODELOCATION_H
#define MOEC_SUPPORT_NODELOCATION_H

#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/Location.h"

namespace mlir::moe {

/// Location of the `index`-th node of `fileName`: prints as
/// `model.onnx:7:1` and carries the node's name and operator. (A bare NameLoc would
/// print as `<unknown>`.) `index` is taken as the line as is. `opType` is "" for what
/// is no node, such as an input.
Location getNodeLocation(MLIRContext *context, StringRef fileName, unsigned index,
                         StringRef nodeName, StringRef opType = "");

/// Name of the node that an op came from, "" when the location has none. Looks
/// through fused and call-site locations; the first name found counts.
StringRef getNodeName(Location location);

/// Operator of the node that an op came from, such as "com.microsoft.MoE"; "" when the
/// location has none.
StringRef getNodeOperator(Location location);

/// Start of each message about a node: "node 'layers.0/add' (Add)".
std::string describeNode(Location location, StringRef opType);

/// File and node index of a location; an empty file name when it has none.
std::pair<StringRef, unsigned> getNodePosition(Location location);

} // namespace mlir::moe

#endif // MOEC_SUPPORT_NODELOCATION_H
