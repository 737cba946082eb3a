# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention, rotary embeddings and their com.microsoft forms against onnx.reference and
NumPy in float64; ONNX Runtime agrees with the latter."""

import ml_dtypes
import numpy as np
import onnxruntime
import operators
import pytest
from onnx import helper
from operators import Case

RANDOM = np.random.default_rng(11)
F32, F64, F16, BF16 = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
MS = "com.microsoft."


def real(*shape, dtype=F32, low=-2.0, high=2.0):
    return RANDOM.uniform(low, high, shape).astype(dtype)


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


def mask(*shape):
    """A boolean mask in which every row keeps a key."""
    kept = RANDOM.integers(0, 3, shape) > 0
    kept[..., 0] = True
    return kept


#
# ai.onnx
#


def attention_cases():
    def case(name, inputs, attributes=None, **options):
        return Case(f"Attention_{name}", "Attention", inputs, attributes, version=options.pop("version", 24), **options)

    q, k, v = real(2, 4, 5, 8), real(2, 4, 7, 8), real(2, 4, 7, 6)
    for dtype in (F32, F64, F16, BF16):
        inputs = [x.astype(dtype) for x in (q, k, v)]
        yield case(f"plain_{np.dtype(dtype).name}", inputs)
    yield case("scale", [q, k, v], {"scale": 0.7})
    yield case("softcap", [q, k, v], {"softcap": 1.5})
    yield case("groups", [q, real(2, 2, 7, 8), real(2, 2, 7, 6)])
    yield case("one_group", [q, real(2, 1, 7, 8), real(2, 1, 7, 6)])
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    yield case("rank_3", [real(2, 5, 32), real(2, 7, 16), real(2, 7, 12)], heads)
    yield case("rank_3_past", [real(2, 3, 32), real(2, 3, 16), real(2, 3, 12), None, real(2, 2, 4, 8), real(2, 2, 4, 6)],
               dict(heads, is_causal=1), outputs=3)
    yield case("rank_3_present", [real(2, 5, 32), real(2, 7, 16), real(2, 7, 12)], heads, outputs=3)
    yield case("causal", [q, k, v], {"is_causal": 1})
    yield case("more_queries_than_keys", [real(1, 2, 9, 4), real(1, 2, 5, 4), real(1, 2, 5, 4)], {"is_causal": 1})
    for name, array in {"full": mask(2, 4, 5, 7), "rows": mask(5, 7), "batch": mask(2, 1, 5, 7), "keys": mask(2, 1, 1, 7),
                        "heads": mask(4, 1, 7)}.items():
        yield case(f"mask_{name}", [q, k, v, array])
        yield case(f"mask_{name}_version_23", [q, k, v, array], version=23)
        yield case(f"bias_{name}", [q, k, v, real(*array.shape)])
    yield case("mask_causal", [q, k, v, mask(5, 7)], {"is_causal": 1})
    yield case("mask_f16", [x.astype(F16) for x in (q, k, v)] + [mask(2, 1, 5, 7)])
    yield case("mask_short", [q, k, v, mask(5, 4)])
    yield case("bias_short", [q, k, v, real(2, 1, 5, 3)])
    nothing = mask(5, 7)
    nothing[2] = False
    yield case("no_key", [q, k, v, nothing])
    yield case("no_key_bias", [q, k, v, np.where(nothing, 0, -np.inf).astype(F32)])
    lowest = np.where(nothing, 0, np.finfo(F32).min).astype(F32)
    yield case("lowest", [q, k, v, lowest], expected=[attend(q, k, v, lowest.astype(F64))])
    past = [real(2, 4, 6, 8), real(2, 4, 6, 6)]
    yield case("past", [q, real(2, 4, 5, 8), real(2, 4, 5, 6), None, *past], outputs=3)
    yield case("past_causal", [q, real(2, 4, 5, 8), real(2, 4, 5, 6), None, *past], {"is_causal": 1}, outputs=3)
    yield case("past_mask", [q, real(2, 4, 5, 8), real(2, 4, 5, 6), mask(2, 1, 5, 11), *past], outputs=3)
    yield case("past_empty", [q, real(2, 4, 5, 8), real(2, 4, 5, 6), None, real(2, 4, 0, 8), real(2, 4, 0, 6)],
               {"is_causal": 1}, outputs=3)
    yield case("step", [real(2, 4, 1, 8), real(2, 4, 1, 8), real(2, 4, 1, 6), None, *past], {"is_causal": 1}, outputs=3)
    yield case("lengths", [q, k, v, None, None, None, ints(7, 3, dtype=np.int64)])
    yield case("lengths_causal", [q, k, v, None, None, None, ints(7, 5, dtype=np.int64)], {"is_causal": 1})
    yield case("lengths_short", [q, k, v, None, None, None, ints(6, 2, dtype=np.int64)], {"is_causal": 1})
    # Several tiles of queries and of keys, with rests.
    long = [real(1, 2, 77, 8), real(1, 1, 150, 8), real(1, 1, 150, 8)]
    yield case("tiles", long)
    yield case("tiles_causal", long, {"is_causal": 1})
    yield case("tiles_mask", [*long, mask(77, 150)])
    yield case("tiles_rising", [long[0] * 3, np.sort(long[1], axis=2), long[2]])
    # Heads that are no whole number of vectors, and more rows than a task has.
    odd = [real(1, 6, 70, 40), real(1, 2, 150, 40), real(1, 2, 150, 72)]
    for dtype in (F32, F16, BF16):
        yield case(f"sizes_{np.dtype(dtype).name}", [x.astype(dtype) for x in odd], {"is_causal": 1})
    yield case("sizes_window", [*odd, real(6, 70, 150)], {"left_window_size": 20, "right_window_size": 5, "softcap": 3.0}, version=25)
    yield case("no_keys", [q, real(2, 4, 0, 8), real(2, 4, 0, 6)], expected=[np.zeros((2, 4, 5, 6), F32)])
    yield case("no_queries", [real(2, 4, 0, 8), k, v])
    yield case("other_heads", [q, real(2, 3, 7, 8), real(2, 3, 7, 8)], fails=True, kinds=["dynamic"],
               expected=[np.zeros((2, 4, 5, 8), F32)])
    yield case("other_size", [q, real(2, 4, 7, 6), v], fails=True, kinds=["dynamic"], attributes={"scale": 1.0},
               expected=[np.zeros((2, 4, 5, 6), F32)])
    for left, right in [(2, -1), (-1, 1), (1, 1), (0, 0)]:
        yield case(f"window_{left}_{right}".replace("-", "m"), [q, k, v],
                   {"left_window_size": left, "right_window_size": right}, version=25)
    yield case("window_causal", [q, k, v], {"left_window_size": 2, "is_causal": 1}, version=25)


def rotary_cases():
    def case(name, inputs, attributes=None, **options):
        return Case(f"RotaryEmbedding_{name}", "RotaryEmbedding", inputs, attributes, version=23, **options)

    x, cos, sin = real(2, 3, 5, 8), real(2, 5, 4), real(2, 5, 4)
    for dtype in (F32, F16, BF16):
        yield case(f"rank_4_{np.dtype(dtype).name}", [a.astype(dtype) for a in (x, cos, sin)])
    for interleaved in (0, 1):
        kind = {"interleaved": interleaved}
        yield case(f"interleaved_{interleaved}", [x, cos, sin], kind)
        yield case(f"part_{interleaved}", [x, cos[..., :2].copy(), sin[..., :2].copy()], dict(kind, rotary_embedding_dim=4))
        yield case(f"rank_3_{interleaved}", [real(2, 5, 24), cos, sin], dict(kind, num_heads=3))
        yield case(f"positions_{interleaved}", [x, real(9, 4), real(9, 4), RANDOM.integers(0, 9, (2, 5))], kind)
    # ONNX Runtime refuses one batch of angles for two of inputs; they broadcast.
    yield case("one_batch", [x, cos[:1].copy(), sin[:1].copy()])
    yield case("wrong_size", [x, cos[..., :3].copy(), sin[..., :3].copy()], fails=True, kinds=["dynamic"], expected=[x])
    yield case("wrong_position", [x, real(9, 4), real(9, 4), RANDOM.integers(9, 12, (2, 5))], fails=True, expected=[x])


#
# com.microsoft
#


def attend(q, k, v, bias=0.0, scale=None):
    """[batch, heads, rows, size] in float64."""
    q, k, v = (x.astype(F64) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) * (scale or 1 / np.sqrt(q.shape[-1])) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def split(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def join(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def multi_head_cases():
    def case(name, inputs, expected, attributes=None, **options):
        return Case(f"MultiHeadAttention_{name}", MS + "MultiHeadAttention", inputs, dict(attributes or {}, num_heads=2),
                    version=1, expected=expected, **options)

    q, k, v = real(2, 5, 16), real(2, 7, 16), real(2, 7, 12)
    heads = [split(x, 2) for x in (q, k, v)]
    yield case("plain", [q, k, v], [join(attend(*heads))])
    yield case("scale", [q, k, v], [join(attend(*heads, scale=0.3))], {"scale": 0.3})
    keys, values = real(2, 2, 7, 8), real(2, 2, 7, 8)
    yield case("rank_4", [q, keys, values], [join(attend(heads[0], keys, values))])
    for shape in [(2, 2, 5, 7), (1, 2, 5, 7), (2, 1, 5, 7), (1, 1, 5, 7)]:
        bias = real(*shape)
        yield case("bias_" + "_".join(map(str, shape)), [q, k, v, None, None, bias], [join(attend(*heads, bias.astype(F64)))])
    bias = real(16 + 16 + 12)
    added = [split(x + part, 2) for x, part in zip((q, k, v), np.split(bias, [16, 32]))]
    yield case("projection", [q, k, v, bias], [join(attend(*added))], kinds=["static"])
    padding = ints([1, 1, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0])
    low = np.where(padding, 0, -10000.0)[:, None, None]
    yield case("padding", [q, k, v, None, padding], [join(attend(*heads, low))])
    yield case("padding_bias", [q, k, v, None, padding, real(2, 1, 5, 7)], None)
    rows = mask(2, 5, 7).astype(np.int32)
    yield case("padding_rows", [q, k, v, None, rows], [join(attend(*heads, np.where(rows, 0, -10000.0)[:, None]))])
    keep = np.arange(7) < np.array([[3], [7]])
    yield case("lengths", [q, k, v, None, ints(3, 7)], [join(attend(*heads, np.where(keep, 0, -10000.0)[:, None, None]))])
    yield case("filter", [q, k, v, None, padding], [join(attend(*heads, low * 2e-4))], {"mask_filter_value": -2.0})
    packed = real(2, 7, 2, 3, 8)
    parts = [packed[:, :, :, i].transpose(0, 2, 1, 3) for i in range(3)]
    yield case("packed", [packed], [join(attend(*parts))])
    pair = real(2, 7, 2, 2, 8)
    parts = [pair[:, :, :, i].transpose(0, 2, 1, 3) for i in range(2)]
    yield case("packed_pair", [q, pair], [join(attend(split(q, 2), *parts))])
    new_k, new_v = real(2, 5, 16), real(2, 5, 16)
    for past in (4, 0):
        old = [real(2, 2, past, 8), real(2, 2, past, 8)]
        now = [np.concatenate(pair, 2) for pair in zip(old, (split(new_k, 2), split(new_v, 2)))]
        yield case(f"past_{past}", [q, new_k, new_v, None, None, None, *old], [join(attend(split(q, 2), *now)), *now], outputs=3)
        causal = np.where(np.tri(5, 5 + past, past), 0, -np.inf)
        yield case(f"causal_{past}", [q, new_k, new_v, None, None, None, *old],
                   [join(attend(split(q, 2), *now, causal)), *now], {"unidirectional": 1}, outputs=3)


def contrib_rotary_cases():
    def case(name, inputs, expected, attributes=None, **options):
        return Case(f"ms_RotaryEmbedding_{name}", MS + "RotaryEmbedding", inputs, attributes, version=1, expected=[expected],
                    **options)

    def rotate(x, cos, sin, interleaved):
        x, cos, sin = (a.astype(F64) for a in (x, cos, sin))
        a, b = (x[..., ::2], x[..., 1::2]) if interleaved else np.split(x, 2, axis=-1)
        real, imaginary = a * cos - b * sin, a * sin + b * cos
        return np.stack([real, imaginary], -1).reshape(x.shape) if interleaved else np.concatenate([real, imaginary], -1)

    x, cos, sin = real(2, 3, 5, 8), real(9, 4), real(9, 4)
    rows = x.transpose(0, 2, 1, 3).reshape(2, 5, 24)
    positions = RANDOM.integers(0, 9, (2, 5))
    for interleaved in (0, 1):
        kind = {"interleaved": interleaved}
        turned = rotate(x, cos[positions][:, None], sin[positions][:, None], interleaved)
        yield case(f"rank_4_{interleaved}", [x, positions, cos, sin], turned, kind)
        yield case(f"rank_3_{interleaved}", [rows, positions, cos, sin], join(turned), kind, kinds=["static"])
        yield case(f"heads_{interleaved}", [rows, positions, cos, sin], join(turned), dict(kind, num_heads=3))
        first = rotate(x, cos[3:8], sin[3:8], interleaved)
        yield case(f"first_{interleaved}", [rows, ints(3, dtype=np.int64), cos, sin], join(first), kind, kinds=["static"])
        part = np.concatenate([rotate(x[..., :4], cos[positions][:, None, :, :2], sin[positions][:, None, :, :2], interleaved),
                               x[..., 4:]], -1)
        yield case(f"part_{interleaved}", [rows, positions, cos[:, :2].copy(), sin[:, :2].copy()], join(part),
                   dict(kind, num_heads=3, rotary_embedding_dim=4))


def skip_cases():
    def normalize(x, gain, shift, centre, epsilon):
        x = x.astype(F64)
        x = x - x.mean(-1, keepdims=True) if centre else x
        x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * gain
        return x if shift is None else x + shift

    gain, shift, bias = real(16), real(16), real(16)
    for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        centre = op == "SkipLayerNormalization"
        for dtype in (F32, F16):
            kind = np.dtype(dtype).name
            for name, shape in {"3": (2, 5, 16), "2": (7, 16)}.items():
                x, skip, g, s, b = (a.astype(dtype) for a in (real(*shape), real(*shape), gain, shift, bias))
                yield Case(f"{op}_{kind}_{name}", MS + op, [x, skip, g], {"epsilon": 1e-3}, version=1,
                           expected=[normalize(x.astype(F64) + skip, g, None, centre, 1e-3)])
                inputs = [x, skip, g, s, b] if centre else [x, skip, g, b]
                total = x.astype(F64) + skip + b
                yield Case(f"{op}_{kind}_{name}_bias", MS + op, inputs, version=1,
                           expected=[normalize(total, g, s if centre else None, centre, 1e-12 if centre else 1e-5)])
    x, skip = real(2, 5, 16), real(5, 16)
    yield Case("SkipLayerNormalization_one_skip", MS + "SkipLayerNormalization", [x, skip, gain, shift], version=1,
               expected=[normalize(x.astype(F64) + skip, gain, shift, True, 1e-12)])


def fused_products():
    for name, a, b, attributes in [
        ("plain", (2, 3, 5), (2, 5, 4), {}), ("a", (2, 5, 3), (2, 5, 4), {"transA": 1}),
        ("b", (2, 3, 5), (4, 5), {"transB": 1, "alpha": 0.25}), ("both", (5, 3), (4, 5), {"transA": 1, "transB": 1}),
    ]:
        x, y = real(*a), real(*b)
        left, right = (m.astype(F64).swapaxes(-1, -2) if attributes.get(key) else m.astype(F64)
                       for m, key in ((x, "transA"), (y, "transB")))
        yield Case(f"FusedMatMul_{name}", MS + "FusedMatMul", [x, y], attributes, version=1,
                   expected=[left @ right * attributes.get("alpha", 1)])


def quantized_products():
    """8-bit weights, and blocks behind the last row, are what makes layouts differ."""
    def pack(numbers, bits):
        per_byte = 8 // bits
        padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % per_byte)]).astype(np.uint8)
        parts = padded.reshape(*numbers.shape[:-1], -1, per_byte)
        return np.bitwise_or.reduce([parts[..., i] << (bits * i) for i in range(per_byte)], axis=0).astype(np.uint8)

    for bits, size, inner, points in [(4, 32, 64, None), (4, 16, 48, "packed"), (4, 32, 72, "packed"), (8, 32, 64, None),
                                      (8, 16, 40, "packed"), (4, 32, 64, "float"), (2, 16, 32, None)]:
        columns, blocks = 10, -(-inner // size)
        weights = RANDOM.integers(0, 2**bits, (columns, blocks * size))
        scales, bias = real(columns, blocks, low=0.1, high=0.3), real(columns)
        zeros = RANDOM.integers(0, 2**bits, (columns, blocks)) if points else np.full((columns, blocks), 2 ** (bits - 1))
        full = (weights.reshape(columns, blocks, size) - zeros[..., None].astype(F64)) * scales[..., None]
        full = full.reshape(columns, -1)[:, :inner]
        x = real(2, 3, inner)
        stored = {None: None, "packed": pack(zeros, bits), "float": zeros.astype(F32)}[points]
        inputs = [x, pack(weights.reshape(columns, blocks, size), bits), scales, stored]
        attributes = {"N": columns, "K": inner, "bits": bits, "block_size": size}
        name = f"MatMulNBits_{bits}_{size}_{inner}_{points}"
        yield Case(name, MS + "MatMulNBits", inputs, attributes, version=1, expected=[x.astype(F64) @ full.T],
                   kinds=["static"])
        yield Case(name + "_bias", MS + "MatMulNBits", [*inputs, None, bias], attributes, version=1,
                   expected=[x.astype(F64) @ full.T + bias], kinds=["static"])


FAMILIES = (attention_cases, rotary_cases, multi_head_cases, contrib_rotary_cases, skip_cases, fused_products,
            quantized_products)
CASES = [case for family in FAMILIES for case in family()]


def run_in_onnxruntime(case):
    names = ["" if array is None else f"x{i}" for i, array in enumerate(case.inputs)]
    feeds = {name: array for name, array in zip(names, case.inputs) if array is not None}
    domain, _, op = case.op.rpartition(".")
    results = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(op, names, results, domain=domain, **case.attributes)
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in feeds.items()]
    element = helper.np_dtype_to_tensor_dtype(case.inputs[0].dtype)
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info(name, element, None) for name in results])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


for case in CASES:
    if case.op.startswith(MS) and case._expected is None:
        case._expected = run_in_onnxruntime(case)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return operators.compile_cases(CASES, tmp_path_factory.mktemp("attention"), operators.find_tools(),
                                   ["--normalize-onnx", "--onnx-to-linalg"])


RUNS = [pytest.param(case, kind, id=f"{case.name}-{kind}") for case in CASES for kind in case.kinds]


@pytest.mark.parametrize("case, kind", RUNS)
def test_operator(library, case, kind):
    operators.check(library, case, kind)


#
# The kernel, which heads of a static size have
#

KERNEL_CASES = [case for case in CASES if case.op in ("Attention", MS + "MultiHeadAttention") and "static" in case.kinds]
KERNEL_RUNS = [pytest.param(bits, case, id=f"{case.name}-{bits}") for case in KERNEL_CASES
               for bits in ([256, 512] if "sizes" in case.name or "tiles" in case.name else [512])]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Libraries by the width of vectors."""
    def compile_cases(bits):
        cases = [run.values[1] for run in KERNEL_RUNS if run.values[0] == bits]
        folder = tmp_path_factory.mktemp(f"attention{bits}")
        library = operators.compile_cases(cases, folder, operators.find_tools(),
                                          ["--normalize-onnx", f"--onnx-to-linalg=vector-bits={bits}"], kinds=["static"])
        # Only float64 has no kernel.
        calls = (folder / "lowered.mlir").read_text().count("call @moec_attention")
        assert calls == sum(case.inputs[0].dtype != F64 for case in cases)
        return library

    return {bits: compile_cases(bits) for bits in (256, 512)}


@pytest.mark.parametrize("bits, case", KERNEL_RUNS)
def test_kernel(kernels, bits, case):
    operators.check(kernels[bits], case, "static")


# ONNX Runtime's CPU kernel has no packed inputs.
IN_ONNXRUNTIME = [case for case in CASES if case.op.startswith(MS) and "packed" not in case.name]


@pytest.mark.parametrize("case", IN_ONNXRUNTIME, ids=lambda case: case.name)
def test_reference_is_what_onnxruntime_computes(case):
    for result, expected in zip(run_in_onnxruntime(case), case.expected()):
        tolerance = operators.TOLERANCES[result.dtype.name]
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=10 * tolerance * np.abs(expected).max())
