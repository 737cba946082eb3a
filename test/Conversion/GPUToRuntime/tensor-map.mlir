// RUN: moe-opt %s --gpu-to-runtime --canonicalize --cse | FileCheck %s
// RUN: moe-opt %s --gpu-to-runtime --convert-to-llvm --reconcile-unrealized-casts -o /dev/null

// A tensor map is described to the runtime, and its 128 bytes are one parameter: the pointer to them is in the
// place of that of a value, and is given back behind the launch. A map of two launches is one.

// CHECK: module attributes {{.*}}moe.tensor_maps = 2 : i32
module attributes {gpu.container_module} {
  gpu.module @kernels {
    gpu.func @product(%n: index, %w: !nvgpu.tensormap.descriptor<tensor = memref<1x128x64xbf16, 3>, swizzle = swizzle_128b, l2promo = l2promo_256b, oob = zero, interleave = none>, %x: !nvgpu.tensormap.descriptor<tensor = memref<128x8xf32, 3>, swizzle = none, l2promo = l2promo_128b, oob = nan, interleave = none>) kernel {
      gpu.return
    }
  }
  // CHECK-LABEL: func.func @main
  // CHECK-SAME: %[[W:.*]]: memref<4x256x64xbf16>, %[[X:.*]]: memref<?x8xf32, strided<[16, 1], offset: ?>>
  // CHECK-SAME: %[[CALL:[a-z0-9]+]]: !llvm.ptr {moe.call}
  func.func @main(%w: memref<4x256x64xbf16>, %x: memref<?x8xf32, strided<[16, 1], offset: ?>>, %n: index, %call: !llvm.ptr {moe.call}) {
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    %c64 = arith.constant 64 : index
    %c128 = arith.constant 128 : index
    %w_any = memref.cast %w : memref<4x256x64xbf16> to memref<*xbf16>
    %x_any = memref.cast %x : memref<?x8xf32, strided<[16, 1], offset: ?>> to memref<*xf32>
    %wm = nvgpu.tma.create.descriptor %w_any box[%c1, %c128, %c64] : memref<*xbf16> -> !nvgpu.tensormap.descriptor<tensor = memref<1x128x64xbf16, 3>, swizzle = swizzle_128b, l2promo = l2promo_256b, oob = zero, interleave = none>
    %xm = nvgpu.tma.create.descriptor %x_any box[%c128, %c8] : memref<*xf32> -> !nvgpu.tensormap.descriptor<tensor = memref<128x8xf32, 3>, swizzle = none, l2promo = l2promo_128b, oob = nan, interleave = none>
    // CHECK: %[[DESC:.*]] = llvm.alloca %{{.*}} x !llvm.struct<(i32, i32, i32, i32, i32, i32, i32, i32, ptr, array<5 x i64>, array<5 x i64>, array<5 x i64>)>
    // CHECK: %[[SLOTS:.*]] = llvm.alloca %{{.*}} x !llvm.array<3 x i64>
    // CHECK: %[[POINTERS:.*]] = llvm.alloca %{{.*}} x !llvm.array<3 x ptr>
    // CHECK: %[[SLOT:.*]] = llvm.getelementptr %[[SLOTS]][1]
    // CHECK: %[[PLACE:.*]] = llvm.getelementptr %[[POINTERS]][1]
    // CHECK: %[[XSLOT:.*]] = llvm.getelementptr %[[SLOTS]][2]
    // CHECK: %[[XPLACE:.*]] = llvm.getelementptr %[[POINTERS]][2]
    // CHECK: %[[BYTES:.*]] = llvm.call @moec_tensor_map(%[[CALL]], %[[DESC]])
    // CHECK-NEXT: llvm.store %[[BYTES]], %[[PLACE]]
    // CHECK: %[[XBYTES:.*]] = llvm.call @moec_tensor_map(%[[CALL]], %[[DESC]])
    // CHECK-NEXT: llvm.store %[[XBYTES]], %[[XPLACE]]
    // CHECK: llvm.call @moec_launch
    // CHECK-NEXT: llvm.store %[[SLOT]], %[[PLACE]]
    // CHECK-NEXT: llvm.store %[[XSLOT]], %[[XPLACE]]
    gpu.launch_func @kernels::@product blocks in (%c1, %c1, %c1) threads in (%c128, %c1, %c1) args(%n : index, %wm : !nvgpu.tensormap.descriptor<tensor = memref<1x128x64xbf16, 3>, swizzle = swizzle_128b, l2promo = l2promo_256b, oob = zero, interleave = none>, %xm : !nvgpu.tensormap.descriptor<tensor = memref<128x8xf32, 3>, swizzle = none, l2promo = l2promo_128b, oob = nan, interleave = none>)
    // CHECK: llvm.call @moec_launch
    gpu.launch_func @kernels::@product blocks in (%c8, %c1, %c1) threads in (%c128, %c1, %c1) args(%n : index, %wm : !nvgpu.tensormap.descriptor<tensor = memref<1x128x64xbf16, 3>, swizzle = swizzle_128b, l2promo = l2promo_256b, oob = zero, interleave = none>, %xm : !nvgpu.tensormap.descriptor<tensor = memref<128x8xf32, 3>, swizzle = none, l2promo = l2promo_128b, oob = nan, interleave = none>)
    return
  }
  // CHECK-NOT: nvgpu.tma.create
}
