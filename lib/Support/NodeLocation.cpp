// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "moec/Support/NodeLocation.h"

using namespace mlir;

Location mlir::moe::getNodeLocation(MLIRContext *context, StringRef fileName, unsigned index,
                                    StringRef nodeName, StringRef opType) {
  Location file = FileLineColLoc::get(context, fileName, index, 1);
  Location name = NameLoc::get(StringAttr::get(context, nodeName));
  Attribute metadata = opType.empty() ? nullptr : StringAttr::get(context, opType);
  return FusedLoc::get(context, {name, file}, metadata);
}

StringRef mlir::moe::getNodeName(Location location) {
  StringRef name;
  location->walk([&](Location inner) {
    auto nameLoc = dyn_cast<NameLoc>(inner);
    if (!nameLoc)
      return WalkResult::advance();
    name = nameLoc.getName();
    return WalkResult::interrupt();
  });
  return name;
}

StringRef mlir::moe::getNodeOperator(Location location) {
  StringRef opType;
  location->walk([&](Location inner) {
    auto fused = dyn_cast<FusedLoc>(inner);
    auto metadata = fused ? dyn_cast_or_null<StringAttr>(fused.getMetadata()) : StringAttr();
    if (!metadata)
      return WalkResult::advance();
    opType = metadata.getValue();
    return WalkResult::interrupt();
  });
  return opType;
}

std::string mlir::moe::describeNode(Location location, StringRef opType) {
  return ("node '" + getNodeName(location) + "' (" + opType + ")").str();
}

std::pair<StringRef, unsigned> mlir::moe::getNodePosition(Location location) {
  std::pair<StringRef, unsigned> position("", 0);
  location->walk([&](Location inner) {
    auto file = dyn_cast<FileLineColLoc>(inner);
    if (!file)
      return WalkResult::advance();
    position = {file.getFilename(), file.getLine()};
    return WalkResult::interrupt();
  });
  return position;
}
