// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_CONVERSION_MOETOCPU_MOETOCPU_TD
#define MOEC_CONVERSION_MOETOCPU_MOETOCPU_TD

include "mlir/Pass/PassBase.td"

def MoEToCPUPass : Pass<"moe-to-cpu", "::mlir::ModuleOp"> {
  let summary = "generate vectorised CPU kernels for the moe ops";
  let description = [{
    Replaces every moe op of a function by calls of private kernel functions on memrefs,
    generated here with the vector dialect and shared by all ops of equal types, static
    dimensions and attributes. A fused layer becomes

    1. gating: per token, score, select and weigh over logits in registers, or in a stack
       buffer when they do not fit;
    2. routing lists: rows sorted by expert, cut into blocks of at most `MR` rows; made
       once for all ops that use a routing;
    3. packing of each block's rows of x (parallel over blocks);
    4. the first product with the activation in registers, and the second one
       (each parallel over active expert × column panels);
    5. the weighted combine (parallel over tokens), in the order of the slots, so
       that results do not depend on the number of workers.

    Ops that were not fused are lowered one by one to the same kernels, with rows as
    tensors of T·k rows, the last of them zero. A routing is two buffers: experts i32 [T,k],
    -1 in an empty slot, and weights f32 [T,k]; routings that are arguments or results of
    a function become such tensors. Scratch is planned for the most entries that a routing
    can have: T·k, or E·C per group when there is a capacity C. Everything is parallel over
    tokens, experts or groups but for what has to ask in turn: capacities, within a group;
    least-loaded replicas; sums of `moe.aux`, in f64.

    Constant weights are packed at emission: the pass appends `moe.weight` symbols that
    record the transforms (`#moe.panels`, `#moe.code_panels`) and puts the weights of a
    layer into one bank. Quantized codes stay quantized and are dequantized in the
    inner loops, exactly, in f32; codes that are not constant are an error. Other weights
    that are not constant are read as they are: each worker packs the panel that it is
    about to use into scratch of its own.

    Sizes of blocks and tasks come from a cost model over the machine (`vector-bits`, `l1-bytes`,
    `l2-bytes`; see CostModel and KernelTarget). Three quarters of the vector registers hold sums: blocks have at most
    12 rows by 32 columns with AVX-512, 3 with AVX2; smaller blocks have 1 to 4 rows, and then an even
    number. Weights are asked for a quarter of L1 ahead, and a task reads a sixteenth of L2
    of them at least.

    With `operands=bf16` the products of experts are those of AVX512-BF16: rows, the rows between
    the two products, and weights (after dequantization) are rounded to bfloat16, to nearest,
    ties to even; sums are f32. Rows then stay rows, and so are two columns side by side. With
    `tiles` blocks of 16 and 32 rows go through AMX's tiles (`amx`), or through the same
    loops with vectors, to test these without AMX (`vectors`).

    With `operands=int8` rows are rounded to 8-bit integers, q = round(x · 127 / a) for the largest
    |x|, a, of as many columns as one scale of the weight covers, and then multiplied with the
    weight's codes, which have to be constants of 2, 4 or 8 bits with one scale for at least 16.
    The sum over a range of at most 256 columns is exact, and is multiplied with a / 127 times
    the weight's scale in f32. So are the rows between the two products rounded. `vnni` says whether
    there is an instruction for it; else bytes are widened.

    Routings compute in f32; float64 operands, and ops inside of regions, are errors.
  }];
  let options = [
    Option<"vectorBits", "vector-bits", "int64_t", "512",
           "width of a vector register (128, 256 or 512)">,
    Option<"operandType", "operands", "std::string", "\"f32\"",
           "what products of experts multiply: f32, bf16 or int8">,
    Option<"tileUnit", "tiles", "std::string", "\"none\"",
           "how bf16 and int8 go through blocks of many rows: none, amx, or vectors, which do "
           "what amx does">,
    Option<"l1Bytes", "l1-bytes", "int64_t", "32768", "data cache of a core, first level">,
    Option<"l2Bytes", "l2-bytes", "int64_t", "1048576", "data cache of a core, second level">,
    Option<"hasVNNI", "vnni", "bool", "false",
           "operands = int8: there is AVX512-VNNI, or AVX-VNNI with vector-bits = 256">,
  ];
  let statistics = [
    Statistic<"numCalls", "calls", "ops replaced by kernel calls">,
  ];
  let dependentDialects = [
    "::mlir::amx::AMXDialect", "::mlir::arith::ArithDialect", "::mlir::bufferization::BufferizationDialect",
    "::mlir::func::FuncDialect", "::mlir::LLVM::LLVMDialect", "::mlir::math::MathDialect",
    "::mlir::memref::MemRefDialect", "::mlir::moe::MoEDialect", "::mlir::scf::SCFDialect",
    "::mlir::tensor::TensorDialect", "::mlir::vector::VectorDialect"];
}

#endif
