# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The references themselves: against formulas worked by hand, recorded outputs of
other implementations, and ONNX Runtime where it computes what its documentation says."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from references import generate, moe
from references.evaluate import evaluate, relative_error


def run_onnxruntime(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs)))


# --- worked by hand ---------------------------------------------------------------


def test_pack_and_unpack_are_inverse_and_little_end_first():
    assert moe.pack([[1, 2, 3, 0]], 2, axis=1).tolist() == [[0b00111001]]
    assert moe.pack([[0xA, 0x5, 0xF]], 4, axis=1).tolist() == [[0x5A, 0x0F]]
    values = np.random.default_rng(0).integers(0, 16, (3, 5, 7))
    for axis in range(3):
        packed = moe.pack(values, 4, axis)
        assert (moe.unpack(packed, 4, axis, values.shape[axis]) == values).all()


def test_moe_routing_normalises_after_a_softmax_over_all():
    logits = np.array([[2.0, 1.0, 0.0]])
    ids, weights = moe.route_moe(logits, 2, normalize=False)
    assert ids.tolist() == [[0, 1]]
    assert weights == pytest.approx(np.array([[0.66524096, 0.24472847]]))
    assert moe.route_moe(logits, 2, normalize=True)[1] == pytest.approx(np.array([[0.73105858, 0.26894142]]))


def test_qmoe_routing_normalises_over_the_chosen():
    logits = np.array([[2.0, 1.0, 0.0]])
    for normalize in (False, True):
        assert moe.route_qmoe(logits, 2, normalize)[1] == pytest.approx(np.array([[0.73105858, 0.26894142]]))


def test_router_weights_are_mixed_as_they_are_or_divided_by_their_sum():
    logits, mixing = np.array([[2.0, 1.0, 0.0]]), np.array([[0.3, 0.1, 9.0]])
    assert moe.route_qmoe(logits, 2, False, mixing)[1].tolist() == [[0.3, 0.1]]
    assert moe.route_qmoe(logits, 2, True, mixing)[1] == pytest.approx(np.array([[0.75, 0.25]]))
    assert moe.route_qmoe(logits, 2, True, np.zeros((1, 3)))[1].tolist() == [[0.0, 0.0]]


def test_equal_logits_choose_the_lower_index():
    assert moe.top_k_ids(np.zeros((1, 5)), 3).tolist() == [[0, 1, 2]]
    assert moe.top_k_ids(np.array([[1.0, 3.0, 1.0, 3.0]]), 3).tolist() == [[1, 3, 0]]


def test_sparse_mixer_masks_the_far_and_the_first_winner():
    # 1.99 lies within 2 % of 2.0, 1.9 does not; the second round leaves out the winner.
    ids, weights = moe.route_sparse_mixer(np.array([[1.99, 2.0, 1.9, 0.0]]))
    assert ids.tolist() == [[1, 0]]
    assert weights == pytest.approx(np.array([[1 / (1 + np.exp(-0.01)), 1.0]]))


def test_one_expert_by_hand():
    x = np.array([[1.0, -2.0]])
    fc1 = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]])  # rows: 1, -2, -1, 3
    fc2 = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    logits = np.array([[0.0]])

    def run(**attributes):
        return moe.moe(x, logits, fc1, None, fc2, normalize_routing_weights=1, activation_type="swiglu", **attributes)[0]

    def silu(value):
        return value / (1 + np.exp(-value))

    assert run(swiglu_fusion=1) == pytest.approx([silu(1) * -2, 2 * silu(-1) * 3])
    assert run(swiglu_fusion=2) == pytest.approx([silu(1) * -1, 2 * silu(-2) * 3])
    assert run(swiglu_fusion=1, activation_beta=1.0, swiglu_limit=0.5) == pytest.approx(
        [silu(0.5) * (-0.5 + 1), 2 * silu(-1) * (0.5 + 1)]
    )


def test_nan_in_the_logits_gives_a_row_of_nan():
    layer = generate.Layer()
    inputs = generate.draw_inputs(layer, 4)
    inputs["logits"][2, 1] = np.nan
    output = evaluate(generate.build(layer), inputs)["output"]
    assert np.isnan(output[2]).all() and not np.isnan(output[[0, 1, 3]]).any()


# --- recorded by others -----------------------------------------------------------


def test_recorded_contrib_cases(contrib_case):
    model = onnx.load(contrib_case / "model.onnx")
    # The recorded float16 case rounded its logits, which the reference does not.
    tolerance = 1e-3 if contrib_case.name.endswith("_f16") else 1e-8
    for index in range(3):
        expected = np.load(contrib_case / f"out{index}_f64.npz")
        actual = evaluate(model, dict(np.load(contrib_case / f"in{index}.npz")))
        for name in expected:
            assert relative_error(actual[name], expected[name]) < tolerance


@pytest.mark.parametrize("name", ["layer0_moe", "layer1_qmoe_int4", "layer1_qmoe_int8", "layer1_qmoe_int4_asym"])
def test_recorded_activations_of_the_trained_model(tinymoe, name):
    inputs, expected = tinymoe.recorded(name)
    actual = evaluate(onnx.load(tinymoe.model(name)), inputs)
    assert relative_error(actual["output"], expected["output"]) < 2e-6


# --- ONNX Runtime -----------------------------------------------------------------


def onnxruntime_computes(layer):
    """Whether its CPU kernels implement this layer, and implement it right."""
    return not (
        layer.third
        or layer.fusion == 2
        or layer.sparse_mixer  # accepted and ignored
        or layer.ties  # the higher index is chosen there
        or layer.dtype != "float32"
        or (layer.bits in (2, 8) and layer.block)  # activations are quantised too
        or (layer.bits == 4 and layer.scale_column and layer.zero_points)  # reads other zero points
        or (layer.bits == 4 and layer.legacy)  # repacks by the declared dimensions
    )


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    layer=generate.layers(dtypes=("float32",)).filter(onnxruntime_computes),
    tokens=generate.token_counts(),
)
def test_references_against_onnxruntime(layer, tokens):
    model, inputs = generate.build(layer), generate.draw_inputs(layer, tokens)
    expected = run_onnxruntime(model, inputs)["output"]
    assert relative_error(expected, evaluate(model, inputs)["output"]) < 1e-5
