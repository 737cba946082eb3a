// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The C functions of an entry: descriptors in arrays of pointers.

#include "moec/Conversion/LowerEntry/LowerEntry.h"
#include "moec/Conversion/MoEToLLVM/MoEToLLVM.h"
#include "moec/Dialect/MoE/IR/MoE.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class WrapperBuilder {
public:
  explicit WrapperBuilder(func::FuncOp entry)
      : entry(entry), builder(entry.getContext()), types(entry.getContext()), loc(entry.getLoc()),
        pointer(LLVM::LLVMPointerType::get(entry.getContext())), i64(builder.getI64Type()) {}

  /// void run(void *const *args, void *workspace, const void *weights, void *call)
  void makeRun(func::FuncOp checks) {
    func::FuncOp run = start("run", {pointer, pointer, pointer, pointer}, {});
    SmallVector<Value> arguments =
        loadMemRefs(run.getArgument(0), entry.getArgumentTypes().take_front(getNumInputs(entry) +
                                                                            getNumOutputs(entry)));
    arguments.push_back(makeWorkspace(run.getArgument(1)));
    arguments.push_back(run.getArgument(2));
    arguments.push_back(run.getArgument(3));
    OpBuilder::InsertionGuard guard(builder);
    if (checks) {
      ArrayRef<Value> inputs = ArrayRef(arguments).take_front(getNumInputs(entry));
      auto ifOp = scf::IfOp::create(builder, loc, makeChecks(checks, inputs, run.getArgument(3)));
      func::ReturnOp::create(builder, loc);
      builder.setInsertionPointToStart(ifOp.thenBlock());
    } else {
      auto ret = func::ReturnOp::create(builder, loc);
      builder.setInsertionPoint(ret);
    }
    func::CallOp::create(builder, loc, entry, arguments);
  }

  /// int64_t workspace(void *const *args, int32_t workers)
  void makeWorkspaceSize(func::FuncOp workspace) {
    func::FuncOp size = start("workspace", {pointer, builder.getI32Type()}, {i64});
    SmallVector<Value> arguments = loadMemRefs(size.getArgument(0), getInputTypes());
    arguments.push_back(
        arith::IndexCastUIOp::create(builder, loc, builder.getIndexType(), size.getArgument(1)));
    auto call = func::CallOp::create(builder, loc, workspace, arguments);
    Value bytes = arith::IndexCastOp::create(builder, loc, i64, call.getResult(0));
    func::ReturnOp::create(builder, loc, bytes);
  }

  /// void shapes(void *const *args, int64_t *dims)
  void makeShapes(func::FuncOp shapes) {
    func::FuncOp function = start("shapes", {pointer, pointer}, {});
    SmallVector<Value> arguments = loadMemRefs(function.getArgument(0), getInputTypes());
    auto call = func::CallOp::create(builder, loc, shapes, arguments);
    for (auto [i, dim] : llvm::enumerate(call.getResults())) {
      Value address = LLVM::GEPOp::create(builder, loc, pointer, i64, function.getArgument(1),
                                          ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
      LLVM::StoreOp::create(builder, loc, arith::IndexCastOp::create(builder, loc, i64, dim),
                            address);
    }
    func::ReturnOp::create(builder, loc);
  }

private:
  /// Reports what does not hold; true when everything does.
  Value makeChecks(func::FuncOp checks, ArrayRef<Value> inputs, Value call) {
    auto results = func::CallOp::create(builder, loc, checks, inputs).getResults();
    auto messages = checks->getAttrOfType<ArrayAttr>(kMessagesAttr);
    Value all = arith::ConstantOp::create(builder, loc, builder.getBoolAttr(true));
    for (auto [ok, message] : llvm::zip(results, messages)) {
      CheckOp::create(builder, loc, call, ok, cast<StringAttr>(message));
      all = arith::AndIOp::create(builder, loc, all, ok);
    }
    return all;
  }

  ArrayRef<Type> getInputTypes() {
    return entry.getArgumentTypes().take_front(getNumInputs(entry));
  }

  func::FuncOp start(StringRef suffix, ArrayRef<Type> arguments, ArrayRef<Type> results) {
    builder.setInsertionPointAfter(entry);
    auto function =
        func::FuncOp::create(builder, loc, ("moec_entry_" + entry.getName() + "_" + suffix).str(),
                             builder.getFunctionType(arguments, results));
    builder.setInsertionPointToStart(function.addEntryBlock());
    return function;
  }

  /// The memrefs whose descriptors the pointers at `args` point to.
  SmallVector<Value> loadMemRefs(Value args, ArrayRef<Type> memrefs) {
    SmallVector<Value> results;
    for (auto [i, type] : llvm::enumerate(memrefs)) {
      Value address = LLVM::GEPOp::create(builder, loc, pointer, pointer, args,
                                          ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
      Value descriptor = LLVM::LoadOp::create(builder, loc, pointer, address);
      Value value = LLVM::LoadOp::create(builder, loc, types.convertType(type), descriptor);
      results.push_back(toMemRef(value, type));
    }
    return results;
  }

  /// Its size is not known here and not looked at: views of it carry theirs.
  Value makeWorkspace(Value base) {
    Type type = getMarkedArgument(entry, kWorkspaceAttr).getType();
    auto descriptor = MemRefDescriptor::poison(builder, loc, types.convertType(type));
    Value size = LLVM::ConstantOp::create(builder, loc, i64, INT64_MAX);
    descriptor.setAllocatedPtr(builder, loc, base);
    descriptor.setAlignedPtr(builder, loc, base);
    descriptor.setConstantOffset(builder, loc, 0);
    descriptor.setSize(builder, loc, 0, size);
    descriptor.setConstantStride(builder, loc, 0, 1);
    return toMemRef(descriptor, type);
  }

  Value toMemRef(Value descriptor, Type type) {
    return UnrealizedConversionCastOp::create(builder, loc, type, descriptor).getResult(0);
  }

  func::FuncOp entry;
  OpBuilder builder;
  LLVMTypeConverter types;
  Location loc;
  Type pointer, i64;
};

} // namespace

LogicalResult moe::makeEntryWrappers(func::FuncOp entry) {
  auto lookup = [&](StringRef suffix) {
    return SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
        entry, StringAttr::get(entry.getContext(), entry.getName() + suffix));
  };
  func::FuncOp shapes = lookup(kShapesSuffix), workspace = lookup(kWorkspaceSuffix);
  if (!shapes || !workspace)
    return entry.emitError("has no ")
           << (shapes ? "workspace" : "shapes") << " function; run --lower-entry and --plan-memory";
  WrapperBuilder wrappers(entry);
  func::FuncOp checks = lookup(kChecksSuffix);
  wrappers.makeRun(checks);
  wrappers.makeWorkspaceSize(workspace);
  wrappers.makeShapes(shapes);
  for (func::FuncOp func : {entry, workspace, shapes, checks})
    if (func)
      func.setPrivate();
  return success();
}
