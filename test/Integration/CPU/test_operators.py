# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Each operator of --onnx-to-linalg against onnx.reference, with static and with
dynamic sizes."""

import math

import ml_dtypes
import numpy as np
import operators
import pytest
from onnx import TensorProto, numpy_helper
from operators import Case

RANDOM = np.random.default_rng(7)
F32, F64, F16, BF16 = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


def real(*shape, dtype=F32, low=-2.0, high=2.0):
    return RANDOM.uniform(low, high, shape).astype(dtype)


def whole(*shape, dtype=np.int64, low=-9, high=9):
    return RANDOM.integers(low, high, shape).astype(dtype)


def ints(*values, dtype=np.int64):
    return np.array(values, dtype)


def scalar(value, dtype=np.int64):
    return np.array(value, dtype)


def tensor(*values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype))


def element_wise():
    for op in ("Add", "Sub", "Mul", "Div"):
        for dtype in (F32, F64, F16, BF16):
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [real(2, 3, 5, dtype=dtype), real(5, dtype=dtype, low=0.5)])
        yield Case(f"{op}_int64", op, [whole(2, 3), whole(2, 1, low=1)])
        yield Case(f"{op}_int32", op, [whole(7, 2, 3, dtype=np.int32), whole(1, 3, low=-9, high=-1, dtype=np.int32)])
        yield Case(f"{op}_uint8", op, [whole(4, dtype=np.uint8, low=9, high=16), whole(4, dtype=np.uint8, low=1)])
        yield Case(f"{op}_scalar", op, [real(4, 3), real(low=1)])
        yield Case(f"{op}_constant", op, [real(4, 3), scalar(3, F32)], constants=[1])
        yield Case(f"{op}_both_ways", op, [real(4, 1, 3), real(2, 1, low=0.5)])
        yield Case(f"{op}_empty", op, [real(0, 3), real(1, 3)])
        yield Case(f"{op}_shapes", op, [ints(6, 4), ints(2)])
    yield Case("Add_one_and_empty", "Add", [real(1, 2), real(0, 1)])
    yield Case("Add_int8", "Add", [whole(5, dtype=np.int8), whole(5, dtype=np.int8)])
    yield Case("Sum_three", "Sum", [real(2, 3), real(3), real(1)])
    positive = real(3, 5, low=0.1, high=3)
    for op in ("Sqrt", "Log"):
        for dtype in (F32, F64, F16, BF16):
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [positive.astype(dtype)])
    for op in ("Neg", "Abs", "Relu", "Sign", "Exp", "Tanh", "Sigmoid", "Erf", "Reciprocal", "Floor", "Ceil", "Sin",
               "Cos", "Softplus", "LeakyRelu", "Round"):
        for dtype in (F32, F64, F16, BF16):
            x = real(3, 7, dtype=dtype)
            # onnx.reference computes erf in float32.
            expected = [np.vectorize(math.erf)(x.astype(F64))] if op == "Erf" else None
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [x], expected=expected)
    for op, low, high in (("Tan", -1, 1), ("Asin", -1, 1), ("Acos", -1, 1), ("Atan", -2, 2), ("Sinh", -2, 2), ("Cosh", -2, 2),
                          ("Asinh", -2, 2), ("Acosh", 1.1, 3), ("Atanh", -0.9, 0.9)):
        for dtype in (F32, F64, F16, BF16):
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [real(3, 7, dtype=dtype, low=low, high=high)])
    for dtype in (F32, F64, F16, BF16):
        name = np.dtype(dtype).name
        yield Case(f"Mean_{name}", "Mean", [real(3, 7, dtype=dtype), real(7, dtype=dtype), real(3, 1, dtype=dtype)])
        x = np.array([1, np.inf, -np.inf, np.nan], dtype)
        yield Case(f"IsInf_{name}", "IsInf", [x])
        # The sign is the divisor's, also that of 0.
        a, b = np.array([-4.5, 4.5, -4.5, 4, -4, 0, 3, -3], dtype), np.array([2, -2, -2, 2, 2, -2, np.inf, np.inf], dtype)
        yield Case(f"Mod_floor_{name}", "Mod", [a, b], version=28, expected=[np.mod(a.astype(F64), b.astype(F64))])
    yield Case("IsInf_positive", "IsInf", [np.array([np.inf, -np.inf], F32)], {"detect_negative": 0})
    yield Case("IsInf_negative", "IsInf", [np.array([np.inf, -np.inf], F32)], {"detect_positive": 0})
    yield Case("IsInf_neither", "IsInf", [np.array([np.inf, -np.inf], F32)], {"detect_positive": 0, "detect_negative": 0})
    for dtype in (np.int64, np.int32, np.int8, np.uint8):
        a, b = whole(3, 4, dtype=dtype), whole(4, dtype=dtype)
        name = np.dtype(dtype).name
        for op, function in (("BitwiseAnd", np.bitwise_and), ("BitwiseOr", np.bitwise_or), ("BitwiseXor", np.bitwise_xor)):
            yield Case(f"{op}_{name}", op, [a, b], expected=[function(a, b)])
        yield Case(f"BitwiseNot_{name}", "BitwiseNot", [a], expected=[~a])
        amount = ints(0, 1, 3, 70 if dtype == np.uint8 else 100, dtype=dtype)
        for direction, shift in (("LEFT", np.left_shift), ("RIGHT", np.right_shift)):
            yield Case(f"BitShift_{direction}_{name}", "BitShift", [a, amount], {"direction": direction}, version=28,
                       expected=[shift(a, amount)])
    yield Case("Sigmoid_far", "Sigmoid", [np.array([-200, -88, 0, 88, 200], F32)])
    yield Case("Softplus_far", "Softplus", [np.array([-200, -88, 0, 88, 200], F32)])
    yield Case("Gelu", "Gelu", [real(3, 7)], version=20)
    yield Case("Gelu_tanh", "Gelu", [real(3, 7)], {"approximate": "tanh"}, version=20)
    yield Case("Round_half", "Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], F32)])
    for op in ("Neg", "Abs", "Sign"):
        yield Case(f"{op}_int64", op, [whole(3, 7)])
        yield Case(f"{op}_shape", op, [ints(3, -7, 0)])
    yield Case("IsNaN", "IsNaN", [np.array([1, np.nan, np.inf], F32)])
    for dtype in (F32, F16, np.int64, np.int32, np.uint8):
        name = np.dtype(dtype).name
        make = real if operators.is_float(dtype) else whole
        x = make(3, 4, dtype=dtype)
        yield Case(f"Max_{name}", "Max", [x, make(4, dtype=dtype), make(3, 1, dtype=dtype)])
        yield Case(f"Min_{name}", "Min", [x, make(4, dtype=dtype)])
        yield Case(f"Clip_{name}", "Clip", [x, scalar(1, dtype), scalar(3, dtype)])
        for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
            yield Case(f"{op}_{name}", op, [x, make(4, dtype=dtype)])
    yield Case("Max_one", "Max", [real(3)])
    yield Case("Max_nan", "Max", [np.array([np.nan, 1, 2], F32), np.array([0, np.nan, 3], F32)])
    yield Case("Clip_only_max", "Clip", [real(3, 4), None, scalar(0.5, F32)], constants=[2])
    yield Case("Clip_only_min", "Clip", [real(3, 4), scalar(-0.5, F32)])
    yield Case("Clip_none", "Clip", [real(3, 4)])
    for dtype in (np.bool_,):
        a, b = whole(3, 4, low=0, high=2, dtype=bool), whole(4, low=0, high=2, dtype=bool)
        for op in ("And", "Or", "Xor", "Equal"):
            yield Case(f"{op}_bool", op, [a, b])
        yield Case("Not_bool", "Not", [a])
        yield Case("Where_float", "Where", [a, real(4), real(3, 1)])
        yield Case("Where_bf16", "Where", [a, real(4, dtype=BF16), real(3, 1, dtype=BF16)])
        yield Case("Where_int", "Where", [a, whole(4), whole()])
        yield Case("Where_shape", "Where", [np.array([True, False]), ints(1, 2), ints(3, 4)])
        yield Case("Where_uint8", "Where", [a, whole(4, dtype=np.uint8, low=0), whole(3, 1, dtype=np.uint8, low=0)])
    for fmod in (0, 1):
        yield Case(f"Mod_int_{fmod}", "Mod", [ints(-4, 7, 5, 4, -7, 8), ints(2, -3, 8, -2, 3, 5)], {"fmod": fmod})
    yield Case("Mod_float", "Mod", [np.array([-4.3, 7.2, 5.0], F32), np.array([2.1, -3.4, 8.0], F32)], {"fmod": 1})
    yield Case("Mod_large", "Mod", [whole(5, 5), whole(5, 5, low=1)], {"fmod": 0})
    for exponent in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 1.7):
        name = str(exponent).replace(".", "_").replace("-", "m")
        yield Case(f"Pow_{name}", "Pow", [real(3, 5, low=0.1), scalar(exponent, F32)], constants=[1])
    yield Case("Pow_half", "Pow", [real(3, 5, low=0.1, dtype=F16), scalar(2, F16)], constants=[1])
    yield Case("Pow_bf16", "Pow", [real(3, 5, low=0.1, dtype=BF16), scalar(1.5, F32)])
    yield Case("Pow_tensor", "Pow", [real(3, 5, low=0.1), real(5)])
    yield Case("Pow_int_exponent", "Pow", [real(3, 5), whole(5)])
    yield Case("Pow_ints", "Pow", [whole(3, 5), ints(5)], constants=[1])
    for dtype in (np.int64, np.int32, np.int8, np.uint8):
        name = np.dtype(dtype).name
        a, b = whole(3, 5, dtype=dtype), whole(5, dtype=dtype, low=0, high=20)
        yield Case(f"Pow_of_{name}", "Pow", [a, b], expected=[a**b])
    yield Case("Pow_int_float", "Pow", [whole(3, 5, low=1, dtype=np.int32), scalar(2.5, F32)])


def activations():
    """Formulas in float64, as the schemas of the operators state them."""
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def gelu_tanh(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    for op, attributes, function in [
        ("HardSigmoid", {}, lambda x: np.clip(float(F32(0.2)) * x + 0.5, 0, 1)),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, lambda x: np.clip(0.5 * x + 0.25, 0, 1)),
        ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
        ("Mish", {}, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("Swish", {}, lambda x: x * sigmoid(x)),
        ("Swish", {"alpha": 1.5}, lambda x: x * sigmoid(1.5 * x)),
        ("ThresholdedRelu", {}, lambda x: np.where(x > 1, x, 0)),
        ("ThresholdedRelu", {"alpha": -0.5}, lambda x: np.where(x > -0.5, x, 0)),
        ("LeakyRelu", {"alpha": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
        ("Elu", {}, lambda x: np.where(x < 0, np.expm1(x), x)),
        ("Elu", {"alpha": 2.0}, lambda x: np.where(x < 0, 2 * np.expm1(x), x)),
        ("Celu", {"alpha": 2.0}, lambda x: np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(x / 2))),
        ("Selu", {}, lambda x: 1.05070102214813232421875 * np.where(x > 0, x, 1.67326319217681884765625 * np.expm1(x))),
        ("Selu", {"alpha": 2.0, "gamma": 3.0}, lambda x: 3 * np.where(x > 0, x, 2 * np.expm1(x))),
        ("Shrink", {}, lambda x: np.where(np.abs(x) > 0.5, x, 0)),
        ("Shrink", {"lambd": 1.0, "bias": 0.5}, lambda x: np.where(np.abs(x) > 1, x - np.sign(x) * 0.5, 0)),
        ("com.microsoft.Gelu", {}, gelu), ("com.microsoft.FastGelu", {}, gelu_tanh),
        ("com.microsoft.QuickGelu", {}, lambda x: x * sigmoid(float(F32(1.702)) * x)),
        ("com.microsoft.QuickGelu", {"alpha": 1.0}, lambda x: x * sigmoid(x)),
    ]:
        for dtype in (F32, F64, F16, BF16):
            x = real(3, 7, dtype=dtype)
            name = "_".join([op.replace(".", "_"), *map(str, attributes.values())]).replace(".", "_").replace("-", "m")
            yield Case(f"{name}_{np.dtype(dtype).name}", op, [x], attributes, version=24, expected=[function(x.astype(F64))])
    x, y = real(3, 7), real(7)
    wide = x.astype(F64) + y.astype(F64)
    yield Case("BiasGelu", "com.microsoft.BiasGelu", [x, y], version=1, expected=[gelu(wide)])
    yield Case("FastGelu_bias", "com.microsoft.FastGelu", [x, y], version=1, expected=[gelu_tanh(wide)])
    yield Case("PRelu", "PRelu", [x, y], expected=[np.where(x < 0, x.astype(F64) * y.astype(F64), x)])
    z = real(3, 7)
    for alpha in (1.0, 1.5):
        yield Case(f"SwiGLU_{alpha:.0f}", "SwiGLU", [x, z], {"alpha": alpha}, version=28,
                   expected=[x.astype(F64) * sigmoid(alpha * x.astype(F64)) * z.astype(F64)])


def casts():
    kinds = (F32, F64, F16, np.int64, np.int32, np.int8, np.uint8, np.bool_)
    for source in kinds:
        for target in kinds:
            if source == target:
                continue
            a, b = np.dtype(source).name, np.dtype(target).name
            x = np.array([[0, 1, 2.75, 100, 7], [-0.0, 1, 0.5, 3, 126]]).astype(source)
            yield Case(f"Cast_{a}_{b}", "Cast", [x], {"to": operators.ONNX_TYPES[b]},
                       expected=[x.astype(target)])
    x = real(3, 5)
    yield Case("Cast_to_bf16", "Cast", [x], {"to": TensorProto.BFLOAT16}, expected=[x.astype(BF16)])
    yield Case("Cast_from_bf16", "Cast", [x.astype(BF16)], {"to": TensorProto.FLOAT},
               expected=[x.astype(BF16).astype(F32)])
    yield Case("Cast_negative_to_uint8", "Cast", [ints(-1, 300, 5, dtype=np.int32)], {"to": TensorProto.UINT8},
               expected=[np.array([255, 44, 5], np.uint8)])
    yield Case("Cast_shape", "Cast", [ints(3, 5)], {"to": TensorProto.INT32})


def products():
    for name, a, b in [
        ("2d", (3, 5), (5, 4)), ("batch", (2, 3, 5), (2, 5, 4)), ("weight", (2, 3, 5), (5, 4)),
        ("broadcast", (2, 1, 3, 5), (1, 7, 5, 4)), ("left", (3, 5), (2, 5, 4)), ("vector", (5,), (5,)),
        ("vector_left", (5,), (2, 5, 4)), ("vector_right", (2, 3, 5), (5,)), ("column", (3, 5), (5, 1)),
        ("no_rows", (0, 5), (5, 4)), ("no_inner", (3, 0), (0, 4)), ("one", (1, 1), (1, 1)),
    ]:
        for dtype in (F32, F64, F16, BF16, np.int64, np.int32):
            make = real if operators.is_float(dtype) else whole
            yield Case(f"MatMul_{name}_{np.dtype(dtype).name}", "MatMul", [make(*a, dtype=dtype), make(*b, dtype=dtype)])
    for ta in (0, 1):
        for tb in (0, 1):
            a, b = real(*((5, 3) if ta else (3, 5))), real(*((4, 5) if tb else (5, 4)))
            attributes = {"transA": ta, "transB": tb}
            yield Case(f"Gemm_{ta}{tb}", "Gemm", [a, b, real(4)], attributes)
            yield Case(f"Gemm_{ta}{tb}_bf16", "Gemm", [a.astype(BF16), b.astype(BF16), real(4, dtype=BF16)], attributes)
    for lhs in (np.int8, np.uint8):
        for rhs in (np.int8, np.uint8):
            a, b = whole(2, 3, 5, dtype=lhs, low=0, high=100), whole(5, 4, dtype=rhs, low=0, high=100)
            name = f"{np.dtype(lhs).name}_{np.dtype(rhs).name}"
            wide, other = a.astype(np.int32), b.astype(np.int32)
            yield Case(f"MatMulInteger_{name}", "MatMulInteger", [a, b], expected=[wide @ other])
            for kind, zeros, columns in (("one", scalar(7, lhs), scalar(3, rhs)), ("each", whole(3, dtype=lhs, low=0), whole(4, dtype=rhs, low=0))):
                less = zeros.astype(np.int32)[..., None] if zeros.ndim else 7
                yield Case(f"MatMulInteger_{kind}_{name}", "MatMulInteger", [a, b, zeros, columns],
                           expected=[(wide - less) @ (other - columns.astype(np.int32))])
    yield Case("MatMulInteger_vector", "MatMulInteger", [whole(5, dtype=np.int8), whole(5, 4, dtype=np.int8), scalar(1, np.int8)])
    a, b = real(3, 5), real(5, 4)
    for name, c in [("full", real(3, 4)), ("row", real(1, 4)), ("column", real(3, 1)), ("scalar", real()), ("none", None)]:
        yield Case(f"Gemm_c_{name}", "Gemm", [a, b] + ([] if c is None else [c]), {"alpha": 0.5, "beta": 0.25})
    yield Case("Gemm_plain", "Gemm", [a, b])
    yield Case("Gemm_no_rows", "Gemm", [real(0, 5), b, real(4)])


def reductions():
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceL2"):
        for keep in (0, 1):
            x = real(2, 3, 5, low=0.5, high=1.5)
            yield Case(f"{op}_last_{keep}", op, [x, ints(-1)], {"keepdims": keep}, constants=[1])
            yield Case(f"{op}_two_{keep}", op, [x, ints(2, 0)], {"keepdims": keep}, constants=[1])
            yield Case(f"{op}_all_{keep}", op, [x], {"keepdims": keep})
        for dtype in (F16, BF16, F64, np.int64, np.int32):
            x = real(4, 33, low=0.5, high=1.5, dtype=dtype) if operators.is_float(dtype) else whole(4, 3, dtype=dtype, low=1)
            if op == "ReduceL2" and not operators.is_float(dtype):
                continue
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [x, ints(1)], constants=[1])
        if op not in ("ReduceSumSquare", "ReduceL2"):
            yield Case(f"{op}_noop", op, [real(2, 3)], {"noop_with_empty_axes": 1})
        if op != "ReduceL2":
            yield Case(f"{op}_shape", op, [ints(3, 4, 5)], {"keepdims": 0})
    for op, function in (("ReduceL1", lambda x, axes: np.abs(x).sum(axes)),
                         ("ReduceL2", lambda x, axes: np.sqrt((x * x).sum(axes))),
                         ("ReduceLogSum", lambda x, axes: np.log(x.sum(axes))),
                         ("ReduceLogSumExp", lambda x, axes: np.log(np.exp(x).sum(axes)))):
        low = 0.1 if op == "ReduceLogSum" else -2
        for dtype in (F32, F64, F16, BF16):
            x = real(2, 3, 5, dtype=dtype, low=low)
            name = np.dtype(dtype).name
            yield Case(f"{op}_drop_{name}", op, [x, ints(0, -1)], {"keepdims": 0}, constants=[1],
                       expected=[function(x.astype(F64), (0, 2))])
            yield Case(f"{op}_noop_{name}", op, [x], {"noop_with_empty_axes": 1}, expected=[function(x.astype(F64), ())])
        x = whole(3, 5, low=1)
        yield Case(f"{op}_whole", op, [x, ints(1)], {"keepdims": 0}, constants=[1],
                   expected=[np.trunc(function(x.astype(F64), 1)).astype(np.int64)])
    x = whole(3, 5, low=0, high=2, dtype=bool)
    for op in ("ReduceMax", "ReduceMin"):
        yield Case(f"{op}_bool", op, [x, ints(1)], constants=[1], version=20)
        yield Case(f"{op}_bool_nothing", op, [x[:, :0], ints(1)], constants=[1], version=20,
                   expected=[np.full((3, 1), op == "ReduceMin")])
    yield Case("ReduceSumSquare_noop", "ReduceSumSquare", [real(2, 3)], {"noop_with_empty_axes": 1})
    x = np.array([[1e4, 1e4 + 1], [-np.inf, -np.inf], [np.inf, 1], [np.nan, 1]], F32)
    yield Case("ReduceLogSumExp_far", "ReduceLogSumExp", [x, ints(1)], {"keepdims": 0}, constants=[1],
               expected=[np.array([1e4 + 1 + np.log1p(np.exp(-1)), -np.inf, np.inf, np.nan])])
    x = real(2, 3, 4, low=0.5, high=1.5)
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"):
        for keep in (0, 1):
            for name, axes in (("one", ints(-2)), ("two", ints(2, 0)), ("all", ints(0, 1, 2)), ("none", ints()[:0])):
                yield Case(f"{op}_computed_{name}_{keep}", op, [x, axes], {"keepdims": keep})
    for name, axes in (("far", ints(3)), ("twice", ints(1, -2))):
        yield Case(f"ReduceSum_computed_{name}", "ReduceSum", [x, axes], {"keepdims": 0}, fails=True,
                   expected=[np.zeros((1,) * (3 - len(axes)), F32)], kinds=["dynamic"])
    yield Case("ReduceSum_empty", "ReduceSum", [real(0, 3), ints(0)], constants=[1])
    yield Case("ReduceSum_no_rows", "ReduceSum", [real(0, 3), ints(1)], constants=[1])
    yield Case("ReduceProd_empty", "ReduceProd", [real(2, 0), ints(1)], constants=[1])
    yield Case("ReduceSum_bf16_long", "ReduceSum", [real(2, 4096, dtype=BF16, low=0), ints(1)], constants=[1])
    for op in ("Softmax", "LogSoftmax"):
        for dtype in (F32, F64, F16, BF16):
            yield Case(f"{op}_{np.dtype(dtype).name}", op, [real(3, 7, dtype=dtype, low=-9, high=9)])
        for axis in (0, 1, -1):
            yield Case(f"{op}_axis_{axis % 3}_{axis < 0}", op, [real(2, 3, 5)], {"axis": axis})
        yield Case(f"{op}_no_rows", op, [real(0, 4)])
    x = np.array([[1e4, 1e4 + 1, -1e4], [-3e38, 0, 3e38]], F32)
    yield Case("Softmax_large", "Softmax", [x])
    # The logarithm of the softmax, as onnx.reference has it, would be -inf.
    log = x[:1] - np.log(np.exp(x[:1].astype(F64) - 10001).sum()) - 10001
    yield Case("LogSoftmax_large", "LogSoftmax", [x[:1]], expected=[log])
    yield Case("Softmax_masked", "Softmax", [np.array([[0, -np.inf, 1], [-np.inf, 2, -np.inf]], F32)])


def einsums():
    """Beside NumPy's einsum, which knows bfloat16 only as objects."""
    for name, equation, shapes in [
        ("product", "ij,jk->ik", [(3, 5), (5, 4)]), ("transposed", "ij,kj->ki", [(3, 5), (4, 5)]),
        ("batch", "bij,bjk->bik", [(2, 3, 5), (2, 5, 4)]), ("implicit", "bd,ac", [(2, 3), (4, 5)]),
        ("dot", "i,i->", [(5,), (5,)]), ("outer", "i,j", [(3,), (4,)]), ("trace", "ii", [(4, 4)]),
        ("diagonal", "bii->ib", [(2, 3, 3)]), ("sum", "ijk->j", [(2, 3, 4)]), ("permuted", "ijk->kij", [(2, 3, 4)]),
        ("same", "ij->ij", [(2, 3)]), ("unused", "ij,k->i", [(2, 3), (4,)]), ("experts", "th,ehi->tei", [(3, 5), (2, 5, 4)]),
        ("dispatch", "tec,th->ech", [(6, 2, 3), (6, 5)]), ("three", "ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("four", "a,ab,b,bc->c", [(2,), (2, 3), (3,), (3, 4)]), ("one_of_three", "ij,j,j->i", [(2, 1), (3,), (1,)]),
        ("ellipsis", "...ij,...jk->...ik", [(2, 1, 3, 5), (4, 5, 2)]), ("ellipsis_last", "i...->...i", [(2, 3, 4)]),
        ("ellipsis_none", "...i,...i->...", [(5,), (5,)]), ("ellipsis_implicit", "...ii", [(2, 3, 3)]),
        ("ellipsis_middle", "a...b,b...->a...", [(2, 3, 4, 5), (5, 3, 4)]), ("case", "aB,Ba->Ba", [(2, 3), (3, 2)]),
        ("empty", "ij,jk->ik", [(3, 0), (0, 4)]), ("spaces", " i j , j k -> i k ", [(3, 5), (5, 4)]),
    ]:
        inputs = [real(*shape, low=0.1) for shape in shapes]
        wide = [x.astype(F64) for x in inputs]
        yield Case(f"Einsum_{name}", "Einsum", inputs, {"equation": equation},
                   expected=[np.einsum(equation.replace(" ", ""), *wide)])
    a, b = real(3, 5), real(5, 4)
    for dtype in (F64, F16, BF16):
        x, y = a.astype(dtype), b.astype(dtype)
        yield Case(f"Einsum_{np.dtype(dtype).name}", "Einsum", [x, y], {"equation": "ij,jk"},
                   expected=[x.astype(F64) @ y.astype(F64)])
    for dtype in (np.int64, np.int32, np.int8, np.uint8):
        x, y = (whole(*shape, dtype=dtype, low=0, high=4) for shape in ((3, 5), (5, 4)))
        yield Case(f"Einsum_{np.dtype(dtype).name}", "Einsum", [x, y], {"equation": "ij,jk"}, expected=[x @ y])
    yield Case("Einsum_mismatch", "Einsum", [real(3), real(4)], {"equation": "i,i"}, fails=True,
               expected=[np.zeros((), F32)], kinds=["dynamic"])
    yield Case("Einsum_not_square", "Einsum", [real(3, 4)], {"equation": "ii"}, fails=True,
               expected=[np.zeros((), F32)], kinds=["dynamic"])


def normalized(x, axis, center, epsilon=float(F32(1e-5))):
    """The normalized tensor, the mean and the reciprocal of the deviation, in float64."""
    x, axes = x.astype(F64), tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True) if center else 0.0
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    return (x - mean) * inverse, mean, inverse


def normalizations():
    for dtype in (F32, F64, F16, BF16):
        x, scale, bias = real(4, 3, 5, dtype=dtype), real(5, dtype=dtype), real(5, dtype=dtype)
        name = np.dtype(dtype).name
        y = normalized(x, -1, True)[0] * scale.astype(F64) + bias.astype(F64)
        yield Case(f"LayerNormalization_{name}", "LayerNormalization", [x, scale, bias], expected=[y])
        y = normalized(x, -1, False)[0] * scale.astype(F64)
        yield Case(f"RMSNormalization_{name}", "RMSNormalization", [x, scale], version=23, expected=[y])
        yield Case(f"Simplified_{name}", "SimplifiedLayerNormalization", [x, scale], expected=[y])
    x = real(4, 3, 5)
    for axis in (0, 1, -2):
        scale, bias = real(*x.shape[axis:]), real(*x.shape[axis:])
        center, mean, inverse = normalized(x, axis, True, 0.5)
        y = center * scale.astype(F64) + bias.astype(F64)
        attributes = {"axis": axis, "epsilon": 0.5}
        name = str(axis % 7)
        yield Case(f"LayerNormalization_axis_{name}", "LayerNormalization", [x, scale, bias], attributes,
                   expected=[y, mean, inverse], outputs=3)
        yield Case(f"LayerNormalization_no_bias_{name}", "LayerNormalization", [x, scale], attributes,
                   expected=[center * scale.astype(F64), mean], outputs=2)
        center, _, inverse = normalized(x, axis, False, 0.5)
        y = center * scale.astype(F64)
        yield Case(f"RMSNormalization_axis_{name}", "RMSNormalization", [x, scale], attributes, version=23, expected=[y])
        yield Case(f"Simplified_axis_{name}", "SimplifiedLayerNormalization", [x, scale], attributes,
                   expected=[y, inverse], outputs=2)
    scale = real(1)
    yield Case("RMSNormalization_one_scale", "RMSNormalization", [x, scale], version=23,
               expected=[normalized(x, -1, False)[0] * scale.astype(F64)])
    yield Case("LayerNormalization_no_rows", "LayerNormalization", [real(0, 5), real(5)], expected=[np.zeros((0, 5))])
    far = (real(3, 64) + 8).astype(F32)
    yield Case("LayerNormalization_far", "LayerNormalization", [far, np.ones(64, F32)],
               expected=[normalized(far, -1, True)[0]])


def quantizations():
    """Formulas of the schemas in float64, which the exact quotients of the data do not need."""
    def quantized(x, scale, zero, dtype):
        limits = np.iinfo(dtype)
        ratio = np.rint(x.astype(F64) / scale.astype(F64))
        return np.clip(ratio + np.asarray(zero).astype(F64), limits.min, limits.max).astype(dtype)

    x = real(3, 4, 6, low=-9, high=9)
    x[0, 0, :3] = [1e9, -1e9, 0.25]
    one, per_axis, per_block = scalar(0.5, F32), real(4, low=0.1), real(3, 4, 2, low=0.1)
    for dtype in (np.uint8, np.int8):
        name = np.dtype(dtype).name
        zero = scalar(7, dtype)
        yield Case(f"QuantizeLinear_{name}", "QuantizeLinear", [x, one, zero], version=21,
                   expected=[quantized(x, one, zero, dtype)])
        yield Case(f"QuantizeLinear_vector_{name}", "QuantizeLinear", [x, ints(0.5, dtype=F32), ints(7, dtype=dtype)], version=21,
                   expected=[quantized(x, one, zero, dtype)])
        zeros = whole(4, dtype=dtype, low=0)
        for axis in (1, -2):
            yield Case(f"QuantizeLinear_axis_{axis % 5}_{name}", "QuantizeLinear", [x, per_axis, zeros], {"axis": axis},
                       version=21, expected=[quantized(x, per_axis[:, None], zeros[:, None], dtype)])
        zeros = whole(3, 4, 2, dtype=dtype, low=0)
        scales = np.repeat(per_block, 4, -1)[..., :6]
        yield Case(f"QuantizeLinear_block_{name}", "QuantizeLinear", [x, per_block, zeros], {"axis": 2, "block_size": 4},
                   version=21, expected=[quantized(x, scales, np.repeat(zeros, 4, -1)[..., :6], dtype)])
        q = whole(3, 4, 6, dtype=dtype, low=0, high=100)
        wide = q.astype(F64)
        yield Case(f"DequantizeLinear_{name}", "DequantizeLinear", [q, one, zero], version=21, expected=[(wide - 7) * 0.5])
        yield Case(f"DequantizeLinear_axis_{name}", "DequantizeLinear", [q, per_axis, zeros[0, :, 0].copy()], version=21,
                   expected=[(wide - zeros[0, :, :1].astype(F64)) * per_axis[:, None].astype(F64)])
        yield Case(f"DequantizeLinear_block_{name}", "DequantizeLinear", [q, per_block, zeros], {"axis": -1, "block_size": 3},
                   version=21, expected=[(wide - np.repeat(zeros, 3, -1)) * np.repeat(per_block, 3, -1).astype(F64)])
    yield Case("QuantizeLinear_no_zero", "QuantizeLinear", [x, one], version=21, expected=[quantized(x, one, 0, np.uint8)])
    yield Case("QuantizeLinear_output", "QuantizeLinear", [x, one], {"output_dtype": TensorProto.INT8}, version=21,
               expected=[quantized(x, one, 0, np.int8)])
    yield Case("QuantizeLinear_even", "QuantizeLinear", [np.array([0.5, 1.5, 2.5, -0.5], F32), scalar(1, F32), scalar(1, np.int8)],
               version=21, expected=[ints(1, 3, 3, 1, dtype=np.int8)])
    y = whole(3, 4, dtype=np.int32)
    yield Case("QuantizeLinear_of_int32", "QuantizeLinear", [y, scalar(2, F32), scalar(1, np.int8)], version=21,
               expected=[quantized(y, scalar(2, F32), 1, np.int8)])
    halves = real(3, 4, dtype=F16)
    yield Case("QuantizeLinear_float16", "QuantizeLinear", [halves, scalar(0.25, F16), scalar(1, np.int8)], version=21,
               expected=[quantized(halves, scalar(0.25, F16), 1, np.int8)])
    for dtype in (F16, BF16):
        q, scale = whole(3, 4, dtype=np.int8), real(dtype=dtype, low=0.1)
        yield Case(f"DequantizeLinear_to_{np.dtype(dtype).name}", "DequantizeLinear", [q, scale], version=21,
                   expected=[q.astype(F64) * scale.astype(F64)])
    yield Case("DequantizeLinear_of_int32", "DequantizeLinear", [y, one], version=21, expected=[y * 0.5])
    yield Case("DequantizeLinear_block_mismatch", "DequantizeLinear", [whole(3, 4, dtype=np.int8), real(3, 2)],
               {"axis": 1, "block_size": 5}, version=21, fails=True, expected=[np.zeros((3, 4), F32)], kinds=["dynamic"])
    for name, data in (("both", real(3, 4, low=-3, high=5)), ("positive", real(3, 4, low=1, high=5)),
                       ("negative", real(3, 4, low=-5, high=-1)), ("zeros", np.zeros((2, 3), F32))):
        low, high = min(0, data.min()), max(0, data.max())
        scale = F32((F32(high) - F32(low)) / F32(255)) or F32(1)
        zero = np.rint(np.clip(-low / scale, 0, 255))
        yield Case(f"DynamicQuantizeLinear_{name}", "DynamicQuantizeLinear", [data], outputs=3,
                   expected=[np.clip(np.rint(data / scale) + zero, 0, 255).astype(np.uint8), np.array(scale), np.array(zero, np.uint8)])


def convolutions():
    for name, data, filters, attributes in [
        ("1d", (2, 3, 9), (4, 3, 3), {}), ("2d", (2, 3, 7, 6), (4, 3, 3, 2), {}), ("3d", (1, 2, 4, 5, 6), (2, 2, 2, 2, 3), {}),
        ("pads", (1, 2, 5, 6), (3, 2, 3, 3), {"pads": [1, 0, 2, 1]}), ("strides", (1, 2, 9, 8), (3, 2, 3, 3), {"strides": [2, 3]}),
        ("dilations", (1, 2, 9, 8), (3, 2, 3, 2), {"dilations": [2, 3], "pads": [1, 1, 1, 1]}),
        ("groups", (2, 6, 5, 4), (4, 3, 2, 2), {"group": 2}), ("depthwise", (2, 4, 9), (4, 1, 4), {"group": 4, "pads": [3, 0]}),
        ("pointwise", (2, 3, 5), (4, 3, 1), {"kernel_shape": [1]}), ("valid", (1, 1, 6), (1, 1, 3), {"auto_pad": "VALID", "strides": [2]}),
        ("same_upper", (1, 1, 5, 6), (1, 1, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
        ("same_lower", (1, 1, 5, 6), (1, 1, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
        ("no_images", (0, 3, 9), (4, 3, 3), {}),
    ]:
        x, w = real(*data), real(*filters)
        # Filters of a known number are what groups need.
        kinds = ["static"] if "group" in attributes else ["static", "dynamic"]
        expected = convolved(x, w, attributes)
        yield Case(f"Conv_{name}", "Conv", [x, w], attributes, expected=[expected], kinds=kinds)
        bias = real(filters[0])
        yield Case(f"Conv_{name}_bias", "Conv", [x, w, bias], attributes, kinds=kinds,
                   expected=[expected + bias.astype(F64).reshape(-1, *[1] * (x.ndim - 2))])
    for dtype in (F64, F16, BF16):
        x, w = real(2, 3, 7, dtype=dtype), real(4, 3, 3, dtype=dtype)
        yield Case(f"Conv_{np.dtype(dtype).name}", "Conv", [x, w], expected=[convolved(x, w, {})])
    yield Case("Conv_short", "Conv", [real(1, 1, 2), real(1, 1, 3)], fails=True, expected=[np.zeros((1, 1, 1), F32)], kinds=["dynamic"])
    yield Case("Conv_channels", "Conv", [real(1, 2, 4), real(1, 3, 2)], fails=True, expected=[np.zeros((1, 1, 3), F32)], kinds=["dynamic"])


def convolved(x, w, attributes):
    """Convolution in float64 by its definition, one element of the result at a time."""
    x, w = x.astype(F64), w.astype(F64)
    rank, groups = x.ndim - 2, attributes.get("group", 1)
    strides, dilations = (np.array(attributes.get(name, [1] * rank)) for name in ("strides", "dilations"))
    pads, mode = np.array(attributes.get("pads", [0] * 2 * rank)).reshape(2, rank), attributes.get("auto_pad", "")
    reach = (np.array(w.shape[2:]) - 1) * dilations + 1
    if mode.startswith("SAME"):
        total = np.maximum((-(-np.array(x.shape[2:]) // strides) - 1) * strides + reach - x.shape[2:], 0)
        less = total // 2
        pads = np.array([less, total - less] if mode == "SAME_UPPER" else [total - less, less])
    x = np.pad(x, [(0, 0), (0, 0), *zip(*pads)])
    sizes = (np.array(x.shape[2:]) - reach) // strides + 1
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    for filter in range(w.shape[0]):
        first = filter // (w.shape[0] // groups) * w.shape[1]
        for position in np.ndindex(*sizes):
            window = tuple(slice(p * s, p * s + r, d) for p, s, r, d in zip(position, strides, reach, dilations))
            part = x[(slice(None), slice(first, first + w.shape[1]), *window)]
            y[(slice(None), filter, *position)] = (part * w[filter]).sum(tuple(range(1, x.ndim)))
    return y


def shapes():
    x = real(2, 3, 4)
    for name, shape, attributes in [
        ("flat", [-1], {}), ("copy", [0, -1], {}), ("split", [3, 8], {}), ("more", [2, 1, 3, 2, 2], {}),
        ("merge", [6, -1], {}), ("ones", [1, 0, 1, -1][:0] + [2, 3, 1, 4], {}), ("back", [0, 0, 2, -1], {}),
    ]:
        yield Case(f"Reshape_{name}", "Reshape", [x, ints(*shape)], attributes, constants=[1])
        yield Case(f"Reshape_{name}_at_run_time", "Reshape", [x, ints(*shape)], attributes)
    yield Case("Reshape_scalar", "Reshape", [real(1, 1), np.zeros(0, np.int64)], constants=[1])
    yield Case("Reshape_from_scalar", "Reshape", [real(), ints(1, 1)], constants=[1])
    yield Case("Reshape_allowzero", "Reshape", [real(0, 3), ints(3, 0)], {"allowzero": 1}, constants=[1])
    yield Case("Reshape_empty", "Reshape", [real(0, 3), ints(0, 3, 1)], constants=[1])
    yield Case("Reshape_empty_inferred", "Reshape", [real(0, 3), ints(-1, 3)], constants=[1])
    yield Case("Reshape_empty_otherwise", "Reshape", [real(0, 12), ints(0, 6)], {"allowzero": 1}, constants=[1])
    yield Case("Reshape_uint8", "Reshape", [whole(2, 6, dtype=np.uint8, low=0), ints(3, 4)], constants=[1])
    yield Case("Reshape_mismatch", "Reshape", [x, ints(5, 5)], fails=True, expected=[np.zeros((5, 5), F32)])
    for axis in (0, 1, 3, -1):
        yield Case(f"Flatten_{axis % 5}", "Flatten", [x], {"axis": axis})
    yield Case("Shape", "Shape", [x])
    yield Case("Shape_part", "Shape", [x], {"start": -2, "end": 9})
    yield Case("Shape_none", "Shape", [x], {"start": 2, "end": 1})
    yield Case("Size", "Size", [x])
    y = real(1, 3, 1, 4)
    yield Case("Squeeze_axes", "Squeeze", [y, ints(-2, 0)], constants=[1])
    yield Case("Squeeze_one", "Squeeze", [y, ints(0)], constants=[1])
    yield Case("Squeeze_vector", "Squeeze", [ints(7), ints(0)], constants=[1])
    yield Case("Squeeze_everything", "Squeeze", [real(1, 1), ints(0, 1)], constants=[1])
    yield Case("Unsqueeze", "Unsqueeze", [x, ints(0, -1)], constants=[1])
    yield Case("Unsqueeze_middle", "Unsqueeze", [x, ints(1, 3)], constants=[1])
    yield Case("Unsqueeze_scalar", "Unsqueeze", [scalar(5), ints(0)], constants=[1])
    yield Case("Unsqueeze_scalar_twice", "Unsqueeze", [scalar(5, F32), ints(0, 1)], constants=[1])
    yield Case("Expand", "Expand", [real(3, 1), ints(2, 1, 4)], constants=[1])
    yield Case("Expand_at_run_time", "Expand", [real(3, 1), ints(2, 1, 4)])
    yield Case("Expand_smaller", "Expand", [real(2, 3, 4), ints(3, 1)])
    yield Case("Expand_to_empty", "Expand", [real(1, 3), ints(0, 3)])
    yield Case("Expand_int", "Expand", [ints(5), ints(3)], constants=[1])
    yield Case("Expand_bool", "Expand", [np.array([[True], [False]]), ints(2, 3)])
    yield Case("Expand_mismatch", "Expand", [real(3), ints(2)], fails=True, expected=[np.zeros(2, F32)],
               kinds=["dynamic"])
    for perm in ([0, 2, 1], [2, 0, 1], [0, 1, 2]):
        yield Case("Transpose_" + "".join(map(str, perm)), "Transpose", [x], {"perm": perm})
    yield Case("Transpose_default", "Transpose", [x])
    yield Case("Transpose_bf16", "Transpose", [real(3, 5, dtype=BF16)])
    yield Case("Transpose_empty", "Transpose", [real(0, 5)])
    yield Case("Identity", "Identity", [x])
    yield Case("Dropout", "Dropout", [x, scalar(0.5, F32), np.array(False)], constants=[1, 2], outputs=2,
               expected=[x, np.ones_like(x, bool)])
    yield Case("ConstantOfShape", "ConstantOfShape", [ints(2, 3)], {"value": tensor(7)})
    yield Case("ConstantOfShape_default", "ConstantOfShape", [ints(2, 0, 3)])
    yield Case("ConstantOfShape_constant", "ConstantOfShape", [ints(2, 3)], {"value": tensor(-1.5, dtype=F32)}, constants=[0])
    yield Case("ConstantOfShape_uint8", "ConstantOfShape", [ints(40, 50)], {"value": tensor(200, dtype=np.uint8)})
    yield Case("ConstantOfShape_uint8_constant", "ConstantOfShape", [ints(2)], {"value": tensor(200, dtype=np.uint8)}, constants=[0])


def indexing():
    x = real(4, 3, 5)
    for axis in (0, 1, 2, -1):
        size = x.shape[axis]
        for name, where in [("some", whole(2, 3, low=-size, high=size)), ("scalar", scalar(1)), ("int32", whole(4, low=-size, high=size, dtype=np.int32))]:
            for constant in ([], [1]):
                yield Case(f"Gather_{name}_{axis % 5}_{len(constant)}", "Gather", [x, where], {"axis": axis}, constants=constant)
    yield Case("Gather_none", "Gather", [x, np.zeros((0, 2), np.int64)])
    yield Case("Gather_scalars", "Gather", [ints(5, 6, 7), scalar(-1)], constants=[1])
    yield Case("Gather_scalar_vector", "Gather", [ints(5, 6, 7), ints(2, 0)], constants=[1])
    yield Case("Gather_computed", "Gather", [ints(5, 6, 7), scalar(1)])
    yield Case("Gather_bf16", "Gather", [real(6, 4, dtype=BF16), ints(5, -6, 0)])
    yield Case("Gather_uint8", "Gather", [whole(6, 4, dtype=np.uint8, low=0), ints(5, -6, 0)])
    yield Case("Gather_out_of_range", "Gather", [real(3, 2), ints(3, -4, 1)], fails=True,
               expected=[np.zeros((3, 2), F32)])
    yield Case("Gather_from_nothing", "Gather", [real(0, 2), np.zeros(0, np.int64)])
    x = real(5, 6, 7)
    for name, starts, ends, axes, steps in [
        ("plain", [1, 0], [3, 4], None, None), ("ends", [-3, 1], [INT_MAX, -1], [2, 0], None),
        ("steps", [0, 1], [5, INT_MAX], [0, -1], [2, 3]), ("back", [-1, 4], [INT_MIN, 0], [1, 0], [-1, -2]),
        ("back_far", [99], [-99], [1], [-4]), ("empty", [4], [2], [0], None), ("over", [-99], [99], [1], None),
        ("back_empty", [0], [3], [1], [-1]),
    ]:
        inputs = [x, ints(*starts), ints(*ends)]
        if axes is not None:
            inputs.append(ints(*axes))
        if steps is not None:
            inputs.append(ints(*steps))
        fixed = [i for i in (3, 4) if i < len(inputs)]
        yield Case(f"Slice_{name}", "Slice", inputs, constants=[1, 2] + fixed)
        yield Case(f"Slice_{name}_at_run_time", "Slice", inputs, constants=fixed)
    yield Case("Slice_of_nothing", "Slice", [real(0, 3), ints(0), ints(INT_MAX), ints(0), ints(-1)], constants=[1, 2, 3, 4])
    yield Case("Slice_scalars", "Slice", [ints(1, 2, 3, 4), ints(-1), ints(INT_MIN), ints(0), ints(-2)], constants=[1, 2, 3, 4])
    yield Case("Slice_bool", "Slice", [whole(9, 2, low=0, high=2, dtype=bool), ints(1), ints(8), ints(0), ints(3)], constants=[1, 2, 3, 4])
    for axis in (0, 1, -1):
        a = np.moveaxis(real(4, 3, 2), 0, axis)
        b = np.moveaxis(real(1, 3, 2), 0, axis)
        c = np.moveaxis(real(0, 3, 2), 0, axis)
        yield Case(f"Concat_{axis % 3}", "Concat", [a, b, c], {"axis": axis})
    yield Case("Concat_scalars", "Concat", [ints(2, 3), ints(4)], {"axis": 0})
    yield Case("Concat_one", "Concat", [x], {"axis": 1})
    yield Case("Concat_uint8", "Concat", [whole(2, 3, dtype=np.uint8, low=0), whole(2, 1, dtype=np.uint8, low=0)], {"axis": 1})
    yield Case("Concat_mismatch", "Concat", [real(2, 3), real(2, 2)], {"axis": 0}, fails=True,
               expected=[np.zeros((4, 2), F32)], kinds=["dynamic"])
    y = real(7, 4)
    yield Case("Split_given", "Split", [y, ints(3, 0, 4)], {"axis": 0}, constants=[1], outputs=3)
    yield Case("Split_computed", "Split", [y, ints(3, 4)], {"axis": -2}, outputs=2)
    yield Case("Split_equal", "Split", [y], {"axis": 1, "num_outputs": 2}, outputs=2)
    yield Case("Split_uneven", "Split", [y], {"axis": 0, "num_outputs": 3}, outputs=3)
    yield Case("Split_scalars", "Split", [ints(5, 6, 7), ints(1, 2)], {"axis": 0}, constants=[1], outputs=2)
    for name, start, limit, delta in [("plain", 0, 5, 1), ("step", 3, 11, 3), ("back", 5, -4, -2), ("none", 5, 2, 1), ("exact", 0, 6, 3)]:
        values = [scalar(start), scalar(limit), scalar(delta)]
        yield Case(f"Range_{name}", "Range", values)
        yield Case(f"Range_{name}_step_1", "Range", values, constants=[2])
    yield Case("Range_float", "Range", [scalar(0.5, F32), scalar(3, F32), scalar(0.7, F32)])
    yield Case("Range_int32", "Range", [scalar(-1, np.int32), scalar(9, np.int32), scalar(4, np.int32)])


def top_k(x, k, axis=-1, largest=1):
    """Equal elements in the order of their indices; NaN is larger than every number."""
    keys = np.moveaxis(x, axis, -1).astype(F64)
    order = np.argsort(keys if not largest else -keys, axis=-1, kind="stable")
    if largest:
        nan_first = np.argsort(~np.isnan(np.take_along_axis(keys, order, -1)), axis=-1, kind="stable")
        order = np.take_along_axis(order, nan_first, -1)
    order = np.moveaxis(order[..., :k], -1, axis)
    return [np.take_along_axis(x, order, axis), order]


def ordering():
    nan, inf = np.nan, np.inf
    for dtype in (F32, F64, F16, BF16, np.int64, np.int32, np.int8, np.uint8):
        name = np.dtype(dtype).name
        x = real(3, 17, dtype=dtype) if operators.is_float(dtype) else whole(3, 17, dtype=dtype, low=0 if dtype == np.uint8 else -9)
        for largest in (0, 1):
            yield Case(f"TopK_{name}_{largest}", "TopK", [x, ints(5)], {"largest": largest}, outputs=2,
                       expected=top_k(x, 5, largest=largest))
    many = whole(2, 200, low=0, high=9).astype(F32)
    for k in (0, 1, 2, 3, 16, 199, 200):
        for largest in (0, 1):
            yield Case(f"TopK_ties_{k}_{largest}", "TopK", [many, ints(k)], {"largest": largest}, outputs=2,
                       constants=[1], expected=top_k(many, k, largest=largest))
    x = real(4, 5, 6)
    for axis in (0, 1, -1, -2):
        yield Case(f"TopK_axis_{axis % 7}", "TopK", [x, ints(3)], {"axis": axis, "sorted": 0}, outputs=2,
                   expected=top_k(x, 3, axis))
    odd = np.array([[1, nan, inf, -inf, nan, 0], [0.0, -0.0, 0.0, -1, -0.0, 0]], F32)
    for k in (2, 6):
        for largest in (0, 1):
            yield Case(f"TopK_nan_{k}_{largest}", "TopK", [odd, ints(k)], {"largest": largest}, outputs=2,
                       expected=top_k(odd, k, largest=largest))
    yield Case("TopK_vector", "TopK", [real(9), ints(9)], outputs=2)
    yield Case("TopK_no_rows", "TopK", [real(0, 4), ints(2)], outputs=2, expected=top_k(real(0, 4), 2))
    yield Case("TopK_of_nothing", "TopK", [real(3, 0), ints(0)], outputs=2, expected=top_k(real(3, 0), 0))
    yield Case("TopK_too_many", "TopK", [real(2, 3), ints(4)], outputs=2, fails=True,
               expected=[np.zeros((2, 3), F32), np.zeros((2, 3), np.int64)])
    yield Case("TopK_negative", "TopK", [real(2, 3), ints(-1)], outputs=2, fails=True,
               expected=[np.zeros((2, 0), F32), np.zeros((2, 0), np.int64)])
    for op, best in (("ArgMax", np.argmax), ("ArgMin", np.argmin)):
        for dtype in (F32, F64, F16, BF16, np.int64, np.int32, np.int8, np.uint8):
            name = np.dtype(dtype).name
            x = real(3, 17, dtype=dtype) if operators.is_float(dtype) else whole(3, 17, dtype=dtype, low=0 if dtype == np.uint8 else -9)
            yield Case(f"{op}_{name}", op, [x], {"axis": 1})
        x = whole(3, 4, 5, low=0, high=3).astype(F32)
        for axis in (0, 1, -1):
            for last in (0, 1):
                yield Case(f"{op}_axis_{axis % 3}_{last}", op, [x], {"axis": axis, "keepdims": 1 - last, "select_last_index": last})
        yield Case(f"{op}_nan", op, [odd], {"axis": 1, "keepdims": 0}, expected=[best(odd, 1)])
        yield Case(f"{op}_infinite", op, [np.full((2, 3), -inf if op == "ArgMax" else inf, F32)], {"axis": 1})
        yield Case(f"{op}_vector", op, [real(7)], {"axis": 0, "keepdims": 0})
        yield Case(f"{op}_no_rows", op, [real(0, 4)], {"axis": 1})
        yield Case(f"{op}_of_nothing", op, [real(2, 0)], {"axis": 1}, fails=True, expected=[np.zeros((2, 1), np.int64)],
                   kinds=["dynamic"])
    for dtype in (F32, F64, F16, BF16, np.int64, np.int32, np.uint8):
        name = np.dtype(dtype).name
        x = real(3, 9, dtype=dtype) if operators.is_float(dtype) else whole(3, 9, dtype=dtype, low=0)
        expected = [np.cumsum(x.astype(F64), 1)] if operators.is_float(dtype) else None
        yield Case(f"CumSum_{name}", "CumSum", [x, scalar(1)], constants=[1], expected=expected)
    x = real(3, 4, 5)
    for axis in (0, -1):
        for reverse in (0, 1):
            for exclusive in (0, 1):
                yield Case(f"CumSum_{axis % 3}_{reverse}_{exclusive}", "CumSum", [x, scalar(axis, np.int32)],
                           {"reverse": reverse, "exclusive": exclusive}, constants=[1])
    yield Case("CumSum_vector", "CumSum", [ints(3, 1, 4, 1, 5), scalar(0)], constants=[1])
    yield Case("CumSum_of_nothing", "CumSum", [real(0, 3), scalar(0)], constants=[1])


def gather_elements(data, indices, axis):
    result = np.empty(indices.shape, data.dtype)
    for at in np.ndindex(indices.shape):
        where = list(at)
        where[axis] = indices[at]
        result[at] = data[tuple(where)]
    return [result]


def gathering():
    x = real(4, 3, 5)
    for axis in (0, 1, -1):
        size = x.shape[axis]
        shape = [3, 2, 4]
        shape[axis] = 7
        where = whole(*shape, low=-size, high=size)
        yield Case(f"GatherElements_{axis % 3}", "GatherElements", [x, where], {"axis": axis}, expected=gather_elements(x, where, axis))
    for dtype in (F64, F16, BF16, np.int64, np.uint8, np.bool_):
        name = np.dtype(dtype).name
        y = real(4, 5, dtype=dtype) if operators.is_float(dtype) else whole(4, 5, dtype=dtype, low=0, high=2)
        where = whole(4, 2, low=-5, high=5, dtype=np.int32)
        yield Case(f"GatherElements_{name}", "GatherElements", [y, where], {"axis": 1}, expected=gather_elements(y, where, 1))
        yield Case(f"GatherND_{name}", "GatherND", [y, whole(6, 2, low=-4, high=4)])
    yield Case("GatherElements_constant", "GatherElements", [real(2, 3), ints(0, -1).reshape(2, 1)], {"axis": 1}, constants=[1])
    yield Case("GatherElements_none", "GatherElements", [x, np.zeros((0, 3, 5), np.int64)], {"axis": 1},
               expected=[np.zeros((0, 3, 5), F32)])
    yield Case("GatherElements_of_nothing", "GatherElements", [real(0, 3), np.zeros((0, 2), np.int64)], {"axis": 1},
               expected=[np.zeros((0, 2), F32)])
    yield Case("GatherElements_out_of_range", "GatherElements", [real(2, 3), ints(0, 3).reshape(2, 1)], {"axis": 1},
               fails=True, expected=[np.zeros((2, 1), F32)])
    yield Case("GatherElements_too_large", "GatherElements", [real(2, 3), ints(0, 1, 2).reshape(3, 1)], {"axis": 1},
               fails=True, expected=[np.zeros((2, 1), F32)], kinds=["dynamic"])
    yield Case("GatherND_rows", "GatherND", [x, whole(2, 6, 1, low=-4, high=4)])
    yield Case("GatherND_elements", "GatherND", [x, whole(7, 3, low=-3, high=3)])
    yield Case("GatherND_one", "GatherND", [x, ints(1, 2)])
    yield Case("GatherND_constant", "GatherND", [x, ints(1, 2, -1, 0).reshape(2, 2)], constants=[1])
    yield Case("GatherND_batch", "GatherND", [x, whole(4, 2, 1, low=-3, high=3)], {"batch_dims": 1})
    yield Case("GatherND_batches", "GatherND", [real(2, 3, 4, 5), whole(2, 3, 6, 2, low=-4, high=4)], {"batch_dims": 2})
    yield Case("GatherND_int32", "GatherND", [x, whole(2, 2, low=0, high=3, dtype=np.int32)])
    yield Case("GatherND_none", "GatherND", [x, np.zeros((0, 2), np.int64)], expected=[np.zeros((0, 5), F32)])
    yield Case("GatherND_of_nothing", "GatherND", [real(0, 3), np.zeros((0, 1), np.int64)], expected=[np.zeros((0, 3), F32)])
    yield Case("GatherND_out_of_range", "GatherND", [x, ints(0, 0, 3, 3).reshape(2, 2)], fails=True,
               expected=[np.zeros((2, 5), F32)])
    for name, dtype in (("int64", np.int64), ("int32", np.int32), ("float32", F32), ("uint8", np.uint8)):
        where = whole(2, 3, low=0 if dtype == np.uint8 else -4, high=4).astype(dtype)
        # onnx.reference wraps what is out of range around.
        yield Case(f"OneHot_{name}", "OneHot", [where, scalar(4, dtype), np.array([-1, 2], F32)])
    for axis in (0, 1, 2, -1, -2):
        yield Case(f"OneHot_axis_{axis % 4}_{axis < 0}", "OneHot", [whole(2, 3, low=-4, high=4), scalar(4), np.array([0, 1], np.int64)],
                   {"axis": axis}, constants=[1, 2])
    far = np.zeros((3, 4), bool)
    far[1, 3] = far[2, 0] = True
    yield Case("OneHot_out_of_range", "OneHot", [ints(4, -1, -4), ints(4), np.array([False, True])], expected=[far])
    yield Case("OneHot_half", "OneHot", [ints(2, 0), scalar(3), np.array([0, 1], F16)])
    yield Case("OneHot_no_depth", "OneHot", [ints(2, 0), scalar(0), np.array([0, 1], F32)], expected=[np.zeros((2, 0), F32)])


JOIN = {"none": lambda old, new: new, "add": lambda old, new: old + new, "mul": lambda old, new: old * new,
        "min": np.minimum, "max": np.maximum}


def scatter(data, updates, place, reduction="none"):
    """`data` with updates[i] joined to the element or slice at place(i), in float64."""
    result = data.astype(F64) if operators.is_float(data.dtype) else data.copy()
    for at, where in place:
        result[where] = JOIN[reduction](result[where], updates[at])
    return [result]


def scatter_nd(data, tuples, updates, reduction="none"):
    return scatter(data, updates, [(at, tuple(tuples[at])) for at in np.ndindex(tuples.shape[:-1])], reduction)


def scatter_elements(data, indices, updates, axis=0, reduction="none"):
    place = []
    for at in np.ndindex(indices.shape):
        where = list(at)
        where[axis] = indices[at]
        place.append((at, tuple(where)))
    return scatter(data, updates, place, reduction)


def scattering():
    x = real(4, 3, 5)
    for reduction in ("none", "add", "mul", "min", "max"):
        for dtype in (F32, F64, F16, BF16, np.int64, np.int32, np.int8, np.uint8):
            name = np.dtype(dtype).name
            make = real if operators.is_float(dtype) else whole
            low = 0 if dtype == np.uint8 else -3
            data, updates = make(3, 6, dtype=dtype, low=low, high=3), make(2, 5, dtype=dtype, low=low, high=3)
            # Places differ where the result would depend on rounding or on order.
            where = np.array([RANDOM.permutation(6)[:5] for _ in range(2)]) - 3
            yield Case(f"ScatterElements_{reduction}_{name}", "ScatterElements", [data, where, updates],
                       {"axis": 1, "reduction": reduction}, expected=scatter_elements(data, where, updates, 1, reduction))
            tuples = np.array([[0, 1], [2, -1], [-1, 0], [1, 1]])
            yield Case(f"ScatterND_{reduction}_{name}", "ScatterND", [data, tuples, updates.ravel()[:4]],
                       {"reduction": reduction}, expected=scatter_nd(data, tuples, updates.ravel()[:4], reduction))
        updates = real(2, 6, 3, 5)
        tuples = whole(2, 6, 1, low=-4, high=4)
        yield Case(f"ScatterND_rows_{reduction}", "ScatterND", [x, tuples, updates], {"reduction": reduction},
                   expected=scatter_nd(x, tuples, updates, reduction))
        where = whole(7, 3, 5, low=-4, high=4)
        updates = real(*where.shape)
        yield Case(f"ScatterElements_duplicates_{reduction}", "ScatterElements", [x, where, updates],
                   {"axis": 0, "reduction": reduction}, expected=scatter_elements(x, where, updates, 0, reduction))
    for name, data, where, updates, axis in [
        ("bool", np.zeros((2, 3), bool), ints(1, -1).reshape(2, 1), np.ones((2, 1), bool), 1),
        ("last", x, whole(4, 2, 3, low=-5, high=5, dtype=np.int32), real(4, 2, 3), -1),
        ("none", x, np.zeros((0, 3, 5), np.int64), real(0, 3, 5), 0),
        ("into_nothing", real(0, 3), np.zeros((0, 3), np.int64), real(0, 3), 0),
    ]:
        yield Case(f"ScatterElements_{name}", "ScatterElements", [data, where, updates], {"axis": axis},
                   expected=scatter_elements(data, where, updates, axis))
    yield Case("ScatterElements_out_of_range", "ScatterElements", [real(2, 3), ints(0, 3).reshape(2, 1), real(2, 1)], {"axis": 1},
               fails=True, expected=[np.zeros((2, 3), F32)])
    yield Case("ScatterElements_mismatch", "ScatterElements", [real(2, 3), ints(0, 1).reshape(2, 1), real(1, 1)], {"axis": 1},
               fails=True, expected=[np.zeros((2, 3), F32)], kinds=["dynamic"])
    yield Case("ScatterND_one", "ScatterND", [x, ints(1), real(3, 5)])
    yield Case("ScatterND_none", "ScatterND", [x, np.zeros((0, 2), np.int64), real(0, 5)], expected=[x])
    yield Case("ScatterND_out_of_range", "ScatterND", [x, ints(4).reshape(1, 1), real(1, 3, 5)], fails=True,
               expected=[np.zeros((4, 3, 5), F32)])
    yield Case("ScatterND_mismatch", "ScatterND", [x, ints(0, 1).reshape(2, 1), real(1, 3, 5)], fails=True,
               expected=[np.zeros((4, 3, 5), F32)], kinds=["dynamic"])


def filling():
    for name, shape, repeats in [("rows", (2, 3), (4, 1)), ("both", (2, 3), (2, 3)), ("last", (2, 1, 3), (1, 1, 2)), ("ones", (1, 3, 1), (2, 2, 2)),
                                 ("none", (2, 3), (1, 1)), ("empty", (2, 3), (0, 2)), ("of_nothing", (0, 3), (2, 2)), ("vector", (3,), (2,)),
                                 ("scalar", (), ())]:
        for constants in ([], [1]):
            yield Case(f"Tile_{name}_{len(constants)}", "Tile", [real(*shape), ints(*repeats)], constants=constants)
    for dtype in (F16, BF16, F64, np.int64, np.int32, np.uint8, np.bool_):
        x = real(2, 3, dtype=dtype) if operators.is_float(dtype) else whole(2, 3, dtype=dtype, low=0, high=2)
        yield Case(f"Tile_{np.dtype(dtype).name}", "Tile", [x, ints(2, 2)])
    x = real(3, 4)
    for mode in ("constant", "reflect", "edge", "wrap"):
        for name, pads, axes in [("all", [1, 2, 0, 1], None), ("columns", [2, 3], [-1]), ("cut", [-1, 1, 0, -2], None), ("none", [0, 0, 0, 0], None)]:
            before, after = np.zeros((2, 2), int)
            where = [0, 1] if axes is None else axes
            for i, axis in enumerate(where):
                before[axis], after[axis] = pads[i], pads[i + len(where)]
            kept = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, x.shape))]
            widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after)]
            expected = np.pad(kept, widths, mode, **({"constant_values": 7} if mode == "constant" else {}))
            inputs = [x, ints(*pads), scalar(7, F32)] + ([] if axes is None else [ints(*axes)])
            for at_run_time in (0, 1):
                yield Case(f"Pad_{mode}_{name}_{at_run_time}", "Pad", inputs, {"mode": mode}, expected=[expected], version=19,
                           constants=([] if at_run_time else [1]) + ([3] if axes else []))
    yield Case("Pad_default", "Pad", [whole(2, 3), ints(1, 0, 0, 1)], constants=[1])
    yield Case("Pad_bool", "Pad", [np.ones((2, 3), bool), ints(1, 0, 0, 1), scalar(True, bool)], constants=[1])
    yield Case("Pad_bf16", "Pad", [real(2, 3, dtype=BF16), ints(1, 0, 0, 1), scalar(2, BF16)], constants=[1])
    yield Case("Pad_far", "Pad", [real(3), ints(7, 8)], {"mode": "reflect"}, constants=[1])
    yield Case("Pad_nothing", "Pad", [real(0, 3), ints(1, 0, 1, 0)], constants=[1])
    yield Case("Pad_nothing_with_edges", "Pad", [real(0, 3), ints(1, 0, 1, 0)], {"mode": "edge"}, fails=True, constants=[1],
               expected=[np.zeros((2, 3), F32)], kinds=["dynamic"])
    yield Case("Pad_cut_too_much", "Pad", [real(2), ints(-3, 4)], fails=True, expected=[np.zeros(3, F32)])
    for upper in (0, 1):
        for i, k in enumerate((None, -1, 0, 2, 9)):
            inputs = [real(2, 4, 5)] + ([] if k is None else [scalar(k)])
            yield Case(f"Trilu_{upper}_{i}", "Trilu", inputs, {"upper": upper})
    for dtype in (F16, BF16, F64, np.int64, np.uint8, np.bool_):
        x = real(3, 3, dtype=dtype) if operators.is_float(dtype) else whole(3, 3, dtype=dtype, low=1, high=2)
        yield Case(f"Trilu_{np.dtype(dtype).name}", "Trilu", [x, scalar(1)], {"upper": 0}, constants=[1])
    yield Case("Tile_negative", "Tile", [real(2), ints(-1)], fails=True, expected=[np.zeros(0, F32)])


def selecting():
    for dtype in (F32, F64, F16, BF16, np.int64, np.int32, np.uint8, np.bool_):
        x = whole(3, 5, low=0, high=2).astype(dtype)
        yield Case(f"NonZero_{np.dtype(dtype).name}", "NonZero", [x], expected=[np.array(np.nonzero(x))], unknown=[(0, 1)])
    for name, x in [("cube", whole(2, 3, 4, low=0, high=2)), ("vector", ints(0, 3, 0, -1)), ("nowhere", np.zeros((3, 4), F32)),
                    ("everywhere", np.ones((3, 4), F32)), ("empty", np.zeros((0, 4), F32)), ("nan", np.array([np.nan, -0.0, 0.0], F32))]:
        yield Case(f"NonZero_{name}", "NonZero", [x], expected=[np.array(np.nonzero(x))], unknown=[(0, 1)])
    x = real(4, 3)
    for name, condition, axis in [("rows", [True, False, True, True], 0), ("columns", [False, True], 1), ("last", [False, True, True], -1),
                                  ("none", [False, False], 0), ("flat", [True, True, False, False, True], None)]:
        attributes = {} if axis is None else {"axis": axis}
        expected = [np.compress(condition, x, axis)]
        yield Case(f"Compress_{name}", "Compress", [x, np.array(condition)], attributes, expected=expected, unknown=[(0, (axis or 0) % 2)])


FAMILIES = (element_wise, activations, casts, products, einsums, reductions, normalizations, quantizations, convolutions, shapes,
            indexing, ordering, gathering, scattering, filling, selecting)
CASES = [case for family in FAMILIES for case in family()]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return operators.compile_cases(CASES, tmp_path_factory.mktemp("operators"), operators.find_tools())


RUNS = [pytest.param(case, kind, id=f"{case.name}-{kind}") for case in CASES for kind in case.kinds]


@pytest.mark.parametrize("case, kind", RUNS)
def test_operator(library, case, kind):
    operators.check(library, case, kind)


def test_names_differ():
    assert len({case.name for case in CASES}) == len(CASES)
