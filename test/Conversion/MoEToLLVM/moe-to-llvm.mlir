// RUN: moe-opt %s --moe-to-llvm --split-input-file --verify-diagnostics | FileCheck %s

moe.weight @w from [#moe.segment<"m.data", offset = 64, length = 64, tensor<4x2x2xf32>>]
    {offset = 4096 : i64, expert_stride = 8192 : i64} : tensor<4x2x2xf32>

// CHECK-DAG: llvm.mlir.global internal constant @[[TEXT:[a-z0-9_-]+]]("too many\00")
// CHECK-DAG: llvm.func @moec_check(!llvm.ptr, i1 {llvm.zeroext}, !llvm.ptr)
// CHECK-DAG: llvm.func @moec_profile_mark(!llvm.ptr, i32)
// CHECK-DAG: llvm.func @moec_num_workers(!llvm.ptr) -> i32
// CHECK-NOT: moe.weight_buffer

// CHECK-LABEL: func.func private @main
// CHECK-SAME: %[[X:[a-z0-9_-]+]]: memref<?xf32>, %[[WS:[a-z0-9_-]+]]: memref<?xi8>, %[[WEIGHTS:[a-z0-9_-]+]]: !llvm.ptr, %[[CALL:[a-z0-9_-]+]]: !llvm.ptr)
// CHECK-SAME: llvm.linkage = #llvm.linkage<internal>
// CHECK: %[[WORKERS:[a-z0-9_-]+]] = llvm.call @moec_num_workers(%[[CALL]])
// CHECK: llvm.zext %[[WORKERS]]
// CHECK: %[[AT:[a-z0-9_-]+]] = llvm.getelementptr %[[WEIGHTS]][%{{.*}}]
// CHECK: llvm.insertvalue %[[AT]]
// CHECK: llvm.mlir.constant(2048 : index)
// CHECK: llvm.call @moec_check(%[[CALL]], %{{.*}}, %{{.*}}) : (!llvm.ptr, i1 {llvm.zeroext}, !llvm.ptr)
// Nothing happens in region 2.
// CHECK: llvm.call @moec_profile_mark(%[[CALL]], %{{.*}})
// CHECK-NOT: @moec_profile_mark
// CHECK: %[[MEMORY:[a-z0-9_-]+]] = llvm.call @moec_allocate(%[[CALL]], %{{.*}}) : (!llvm.ptr, i64) -> !llvm.ptr
// CHECK: llvm.call @moec_release(%[[CALL]], %{{.*}})
func.func @main(%x: memref<?xf32>, %ws: memref<?xi8> {moe.workspace},
                %weights: !llvm.ptr {moe.weights}, %call: !llvm.ptr {moe.call})
    attributes {moe.entry} {
  %n = moe.num_workers %call : !llvm.ptr
  %w = moe.weight_buffer %weights @w : !llvm.ptr, memref<4x2x2xf32, strided<[2048, 2, 1]>>
  %c100 = arith.constant 100 : index
  %ok = arith.cmpi ult, %n, %c100 : index
  moe.check %call, %ok, "too many" : !llvm.ptr
  moe.profile_mark %call, 2 : !llvm.ptr
  %two = arith.addi %n, %n : index
  moe.profile_mark %call, 3 : !llvm.ptr
  %m = moe.allocate %call, %n : !llvm.ptr, memref<?xi8>
  moe.release %call, %m : !llvm.ptr, memref<?xi8>
  call @use(%w) : (memref<4x2x2xf32, strided<[2048, 2, 1]>>) -> ()
  return
}
func.func @main_shapes(%x: memref<?xf32>) {
  return
}
func.func @main_workspace(%x: memref<?xf32>, %workers: index) -> index {
  return %workers : index
}
func.func private @use(memref<4x2x2xf32, strided<[2048, 2, 1]>>)

// CHECK-LABEL: func.func @moec_entry_main_shapes(%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr)
// CHECK-LABEL: func.func @moec_entry_main_workspace(%{{.*}}: !llvm.ptr, %{{.*}}: i32) -> i64
// CHECK-LABEL: func.func @moec_entry_main_run
// CHECK-SAME: (%[[ARGS:[a-z0-9_-]+]]: !llvm.ptr, %[[WS2:[a-z0-9_-]+]]: !llvm.ptr, %[[WEIGHTS2:[a-z0-9_-]+]]: !llvm.ptr, %[[CALL2:[a-z0-9_-]+]]: !llvm.ptr)
// CHECK: call @main(%{{.*}}, %{{.*}}, %[[WEIGHTS2]], %[[CALL2]])

// -----

// expected-error@+1 {{has no workspace function; run --lower-entry and --plan-memory}}
func.func @main(%ws: memref<?xi8> {moe.workspace}, %weights: !llvm.ptr {moe.weights},
                %call: !llvm.ptr {moe.call}) attributes {moe.entry} {
  return
}
func.func @main_shapes() {
  return
}
