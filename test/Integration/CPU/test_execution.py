# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How a compiled model behaves: threads, memory, strides, unusual values, bad calls."""

import concurrent.futures

import numpy as np
import pytest
from harness import TOLERANCES
from moec.runtime import MoecError, TensorInfo, borrow, load
from references import generate
from references.evaluate import evaluate, relative_error

MOE = generate.Layer(experts=8, k=3, hidden=96, intermediate=64, activation="swiglu", fusion=1, biases=True)
QMOE = generate.Layer(experts=8, k=3, hidden=96, intermediate=64, activation="silu", bits=4, block=32, zero_points=True)
LAYERS = [pytest.param(MOE, id="moe"), pytest.param(QMOE, id="qmoe")]


@pytest.fixture(params=LAYERS)
def layer(request):
    return request.param


@pytest.fixture
def package(compiler, layer):
    return compiler.package(generate.build(layer), "-O3")


@pytest.fixture
def model(package):
    with load(package.path) as opened:
        yield opened


@pytest.fixture
def context(model):
    with model.context() as made:
        yield made


# --- threads -------------------------------------------------------------------------


def test_results_do_not_depend_on_the_number_of_threads(model, layer):
    inputs = generate.draw_inputs(layer, 133)
    outputs = []
    for workers in (1, 2, 4):
        with model.context(threads=workers) as context:
            outputs.append(context.run(inputs)["output"])
    for other in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], other)


def test_results_repeat_exactly(context, layer):
    inputs = generate.draw_inputs(layer, 64)
    first = context.run(inputs)["output"]
    for _ in range(5):
        np.testing.assert_array_equal(context.run(inputs)["output"], first)


def test_a_tokens_result_does_not_depend_on_the_others(context, layer):
    """Not promised bit by bit, since kernels differ with the number of rows."""
    inputs = generate.draw_inputs(layer, 40)
    together = context.run(inputs)["output"]
    for token in (0, 17, 39):
        alone = context.run({name: values[token : token + 1] for name, values in inputs.items()})["output"]
        assert relative_error(alone, together[token : token + 1]) < TOLERANCES[layer.dtype]


def test_several_threads_share_a_model(model, layer):
    cases = [generate.draw_inputs(layer, 20 + index, seed=index) for index in range(4)]
    with model.context() as context:
        expected = [context.run(inputs)["output"] for inputs in cases]

    def work(index):
        with model.context(threads=2) as context:
            return [context.run(cases[index])["output"] for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for index, outputs in enumerate(pool.map(work, range(4))):
            for output in outputs:
                np.testing.assert_array_equal(output, expected[index])


def test_tasks_may_run_in_any_order(model, layer):
    """A parallel_for of ours that runs the tasks backwards, and one worker at random."""
    inputs = generate.draw_inputs(layer, 50)
    with model.context(threads=1) as context:
        expected = context.run(inputs)["output"]
    random = np.random.default_rng(0)

    def backwards(n, body):
        for task in reversed(range(n)):
            body(task, int(random.integers(3)))

    with model.context(threads=3, parallel_for=backwards) as context:
        np.testing.assert_array_equal(context.run(inputs)["output"], expected)


@pytest.mark.parametrize("threads", ["none", "custom"])
def test_libraries_without_openmp(compiler, layer, threads):
    package = compiler.package(generate.build(layer), "-O3", f"--threads={threads}")
    inputs = generate.draw_inputs(layer, 21)

    def serial(n, body):
        for task in range(n):
            body(task, 0)

    options = dict(threads=1, parallel_for=serial) if threads == "custom" else {}
    with load(package.path) as opened, opened.context(**options) as context:
        output = context.run(inputs)["output"]
    assert relative_error(output, evaluate(generate.build(layer), inputs)["output"]) < TOLERANCES[layer.dtype]


# --- memory --------------------------------------------------------------------------


class CountingAllocator:
    """Aligned memory out of NumPy arrays."""

    def __init__(self):
        self.calls, self.live = 0, {}

    def allocate(self, size, alignment):
        self.calls += 1
        block = np.empty(size + alignment, np.uint8)
        address = -(-block.ctypes.data // alignment) * alignment
        self.live[address] = block
        return address

    def deallocate(self, address, size):
        del self.live[address]


def test_nothing_is_allocated_after_the_first_run_at_a_size(model, layer):
    memory = CountingAllocator()
    with model.context(allocate=memory.allocate, deallocate=memory.deallocate) as context:
        context.run(generate.draw_inputs(layer, 64))
        calls = memory.calls
        for tokens in (64, 1, 63, 0, 64):
            context.run(generate.draw_inputs(layer, tokens))
        assert memory.calls == calls
        assert context.workspace_size(generate.draw_inputs(layer, 64)) > 0
    assert not memory.live


def test_workspace_contents_do_not_matter(model, layer):
    """The workspace holds what an earlier, larger run left there."""
    inputs = generate.draw_inputs(layer, 9)
    with model.context() as context:
        expected = context.run(inputs)["output"]
    with model.context() as context:
        large = generate.draw_inputs(layer, 200)
        large["hidden"][:] = np.inf
        context.run(large)
        np.testing.assert_array_equal(context.run(inputs)["output"], expected)


# --- strides and shapes ----------------------------------------------------------------


def test_strided_inputs_and_outputs(context, layer):
    inputs = generate.draw_inputs(layer, 30)
    expected = context.run(inputs)["output"]
    hidden = layer.hidden
    wide = np.zeros((60, hidden + 5), np.float32)
    wide[::2, 2 : 2 + hidden] = inputs["hidden"]
    transposed = np.asfortranarray(inputs["logits"])
    target = np.full((hidden, 90), 7, np.float32)
    view = target.T[::3]
    strided = {"hidden": wide[::2, 2 : 2 + hidden], "logits": transposed}
    assert not strided["hidden"].flags.c_contiguous and not view.flags.c_contiguous
    context.run(strided, {"output": view})
    np.testing.assert_array_equal(view, expected)
    assert (target.T[1::3] == 7).all() and (target.T[2::3] == 7).all()


def test_byte_offset_is_honoured(context, layer):
    inputs = generate.draw_inputs(layer, 12)
    expected = context.run(inputs)["output"]
    ins = [borrow(inputs["hidden"]), borrow(inputs["logits"])]
    padded = np.concatenate([np.zeros(layer.hidden, np.float32), inputs["hidden"].ravel()])
    ins[0].data, ins[0].byte_offset = padded.ctypes.data, 4 * layer.hidden
    output = np.empty_like(expected)
    context.run_tensors(ins, [borrow(output)])
    np.testing.assert_array_equal(output, expected)


def test_inputs_are_not_changed(context, layer):
    inputs = generate.draw_inputs(layer, 31)
    copies = {name: values.copy() for name, values in inputs.items()}
    context.run(inputs)
    for name, values in inputs.items():
        np.testing.assert_array_equal(values, copies[name])


def test_output_shapes(context, layer):
    expected = TensorInfo("output", "float32", (17, layer.hidden))
    assert context.output_shapes(generate.draw_inputs(layer, 17)) == {"output": expected}


def test_zero_tokens(context, layer):
    assert context.run(generate.draw_inputs(layer, 0))["output"].shape == (0, layer.hidden)
    inputs = generate.draw_inputs(layer, 3)
    expected = evaluate(generate.build(layer), inputs)["output"]
    assert relative_error(context.run(inputs)["output"], expected) < TOLERANCES[layer.dtype]


# --- unusual values --------------------------------------------------------------------


def test_nan_logits_give_nan_rows_and_leave_the_others_alone(context, layer):
    inputs = generate.draw_inputs(layer, 20)
    expected = context.run(inputs)["output"]
    inputs["logits"][3, 2] = np.nan
    inputs["logits"][11, :] = np.nan
    actual = context.run(inputs)["output"]
    assert np.isnan(actual[[3, 11]]).all()
    others = np.delete(np.arange(20), [3, 11])
    np.testing.assert_allclose(actual[others], expected[others], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_nan_hidden_rows_stay_in_their_row(context, layer):
    inputs = generate.draw_inputs(layer, 20)
    inputs["hidden"][5, 0] = np.nan
    actual = context.run(inputs)["output"]
    assert np.isnan(actual[5]).any()
    assert not np.isnan(np.delete(actual, 5, axis=0)).any()


def test_infinite_and_large_logits(context, layer):
    inputs = generate.draw_inputs(layer, 6)
    inputs["logits"][0, 1:] = -np.inf  # one expert gets everything
    inputs["logits"][1] *= 1e30
    inputs["logits"][2] = -1e30 * np.arange(layer.experts)
    expected = evaluate(generate.build(layer), inputs)["output"]
    assert relative_error(context.run(inputs)["output"], expected) < TOLERANCES[layer.dtype]


def test_all_tokens_to_the_same_experts(context, layer):
    inputs = generate.draw_inputs(layer, 150)
    inputs["logits"][:] = np.arange(layer.experts)[::-1]
    expected = evaluate(generate.build(layer), inputs)["output"]
    assert relative_error(context.run(inputs)["output"], expected) < TOLERANCES[layer.dtype]


# --- bad calls -------------------------------------------------------------------------


class expect_error:
    """`with expect_error("TENSOR", "hidden")`: a MoecError with this status, whose
    message has these words."""

    def __init__(self, status, *words):
        self.status, self.words = status, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert kind is not None, "no error"
        if kind is not MoecError:
            return False
        assert error.status == self.status, str(error)
        for word in self.words:
            assert word in error.message, str(error)
        return True


@pytest.mark.parametrize("layer", [MOE], ids=["moe"])
class TestBadCalls:
    def test_wrong_dtype(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        inputs["hidden"] = inputs["hidden"].astype(np.float64)
        with expect_error("TENSOR", "hidden"):
            context.run(inputs)

    def test_wrong_rank(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        inputs["hidden"] = inputs["hidden"][None]
        with expect_error("TENSOR", "hidden"):
            context.run(inputs)

    def test_wrong_static_dimension(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        inputs["hidden"] = np.zeros((3, layer.hidden + 1), np.float32)
        with expect_error("TENSOR", "hidden", str(layer.hidden), str(layer.hidden + 1)):
            context.run(inputs)

    def test_disagreeing_symbolic_dimension(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        inputs["logits"] = np.zeros((4, layer.experts), np.float32)
        with expect_error("TENSOR", "tokens"):
            context.run(inputs)

    def test_output_overlapping_an_input(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        with expect_error("TENSOR", "output"):
            context.run(inputs, {"output": inputs["hidden"]})

    def test_output_whose_elements_overlap(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        output = np.broadcast_to(np.zeros(layer.hidden, np.float32), (3, layer.hidden))
        with expect_error("TENSOR", "output"):
            context.run(inputs, {"output": output})

    def test_missing_borrow(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        output = np.zeros((3, layer.hidden), np.float32)
        with expect_error("ARGUMENT"):
            context.run_tensors([borrow(inputs["hidden"])], [borrow(output)])

    def test_null_data(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        ins = [borrow(inputs["hidden"]), borrow(inputs["logits"])]
        ins[0].data = None
        output = np.zeros((3, layer.hidden), np.float32)
        with expect_error("TENSOR", "hidden"):
            context.run_tensors(ins, [borrow(output)])

    def test_unknown_entry(self, context, layer):
        inputs = generate.draw_inputs(layer, 3)
        ins = [borrow(inputs["hidden"]), borrow(inputs["logits"])]
        output = np.zeros((3, layer.hidden), np.float32)
        with expect_error("ARGUMENT", "nothing"):
            context.run_tensors(ins, [borrow(output)], entry="nothing")

    def test_custom_threads_need_a_parallel_for(self, compiler, layer):
        package = compiler.package(generate.build(layer), "-O3", "--threads=custom")
        with load(package.path) as opened:
            with expect_error("PARALLEL"):
                opened.context()


# --- weights files -----------------------------------------------------------------------


@pytest.mark.parametrize("layer", [MOE], ids=["moe"])
class TestWeightsFiles:
    def copy(self, package, tmp_path):
        path = tmp_path / package.weights.name
        path.write_bytes(package.weights.read_bytes())
        return path

    def test_another_place(self, package, model, layer, tmp_path):
        inputs = generate.draw_inputs(layer, 3)
        expected = model.run(inputs)["output"]
        with load(package.path, weights=self.copy(package, tmp_path)) as other:
            np.testing.assert_array_equal(other.run(inputs)["output"], expected)

    def test_missing(self, package, tmp_path):
        with expect_error("WEIGHTS", "absent.safetensors"):
            load(package.path, weights=tmp_path / "absent.safetensors")

    def test_truncated(self, package, tmp_path):
        path = self.copy(package, tmp_path)
        path.write_bytes(path.read_bytes()[:-100])
        with expect_error("WEIGHTS"):
            load(package.path, weights=path)

    def test_of_another_model(self, compiler, package, tmp_path):
        other = compiler.package(generate.build(generate.Layer(**{**vars(MOE), "seed": 5})), "-O3")
        assert other.weights.stat().st_size == package.weights.stat().st_size
        with expect_error("WEIGHTS", "digest"):
            load(package.path, weights=other.weights)

    def test_not_a_weights_file(self, package, tmp_path):
        path = tmp_path / "text.safetensors"
        path.write_text("not a weights file" * 100)
        with expect_error("WEIGHTS"):
            load(package.path, weights=path)
