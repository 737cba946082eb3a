// RUN: moe-opt %s --round-to-bfloat16 | FileCheck %s

// CHECK-LABEL: func @vector
// CHECK:       arith.bitcast %arg0 : vector<8xf32> to vector<8xi32>
// CHECK:       arith.trunci %{{.*}} : vector<8xi32> to vector<8xi16>
// CHECK:       arith.cmpf uno, %arg0, %arg0
// CHECK:       %[[R:.*]] = arith.ori %{{.*}} : vector<8xi16>
// CHECK:       arith.bitcast %[[R]] : vector<8xi16> to vector<8xbf16>
func.func @vector(%x: vector<8xf32>) -> vector<8xbf16> {
  %0 = arith.truncf %x : vector<8xf32> to vector<8xbf16>
  return %0 : vector<8xbf16>
}

// CHECK-LABEL: func @scalar
// CHECK:       arith.bitcast %{{.*}} : i16 to bf16
func.func @scalar(%x: f32) -> bf16 {
  %0 = arith.truncf %x : f32 to bf16
  return %0 : bf16
}

// CHECK-LABEL: func @others
// CHECK:       arith.truncf %arg0 : f32 to f16
// CHECK:       arith.truncf %arg1 : f64 to bf16
func.func @others(%x: f32, %y: f64) -> (f16, bf16) {
  %0 = arith.truncf %x : f32 to f16
  %1 = arith.truncf %y : f64 to bf16
  return %0, %1 : f16, bf16
}
