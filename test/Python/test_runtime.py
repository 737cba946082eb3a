# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""moec.runtime: arrays in and out, errors, threads, and that it needs nothing else."""

import concurrent.futures
import ctypes
import gc
import pathlib
import pickle
import shutil
import sys

import harness
import numpy as np
import pytest
from moec import runtime
from moec.runtime import MoecError, Tensor, TensorInfo, load
from types_model import DTYPES, build, draw, expect


@pytest.fixture(scope="module")
def package(compiler):
    return compiler.package(build()).path


@pytest.fixture
def model(package):
    with load(package) as opened:
        yield opened


@pytest.fixture
def inputs():
    return draw(5)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(actual[name], expected[name])


class expect_error:
    """`with expect_error("TENSOR", "half")`: a MoecError with this status, whose message has
    these words."""

    def __init__(self, status, *words):
        self.status, self.words = status, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert kind is not None, "no error"
        if not issubclass(kind, MoecError):
            return False
        assert error.status == self.status, str(error)
        assert error.message == str(error)
        for word in self.words:
            assert word in error.message, str(error)
        return True


# --- descriptions ------------------------------------------------------------------------------


def test_description(model, package):
    assert model.package == package and model.info["name"] == model.name
    assert list(model.entries) == ["main"]
    entry = model.entries["main"]
    assert entry.inputs == model.inputs and entry.outputs == model.outputs and entry.symbols == ("rows",)
    expected = {name: TensorInfo(name, dtype, ("rows", 4)) for name, (dtype, _, _) in DTYPES.items()}
    assert {one.name: one for one in model.inputs} == expected | {"scale": TensorInfo("scale", "float32", ())}
    assert "half: float16[rows, 4]" in repr(model)


# --- arrays in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_every_dtype(model, rows):
    inputs = draw(rows)
    assert_same(model(**inputs), expect(inputs))


def test_read_only_inputs(model, inputs):
    for values in inputs.values():
        values.flags.writeable = False
    assert_same(model.run(inputs), expect(inputs))


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "columns of a wider array": lambda x: np.concatenate([x, x, x], axis=1)[:, 4:8],
    "offset by one element": lambda x: np.concatenate([x[0, :1], x.ravel()])[1:].reshape(x.shape),
    "offset by one byte": lambda x: np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_inputs(model, inputs, layout):
    given = {name: layout(values) if values.ndim else values for name, values in inputs.items()}
    assert_same(model.run(given), expect(inputs))


def test_broadcast_input(model, inputs):
    inputs["single"] = np.broadcast_to(np.float32(3), (5, 4))
    assert_same(model.run(inputs), expect(inputs))


def test_inputs_are_read_in_place(inputs):
    for values in inputs.values():
        tensor = runtime.borrow(values)
        assert tensor.data == np.asarray(values).ctypes.data or values.ndim == 0
        assert tensor.byte_offset == 0


def test_other_buffers(model, inputs):
    """The buffer interface is not NumPy's alone."""
    given = dict(inputs)
    given["single"] = ((ctypes.c_float * 4) * 5)(*(tuple(row) for row in inputs["single"]))
    given["uint8"] = memoryview(inputs["uint8"].tobytes()).cast("B", (5, 4))
    given["int32"] = memoryview(inputs["int32"])[:]
    assert_same(model.run(given), expect(inputs))


def test_an_input_is_kept_alive_and_let_go(model, inputs):
    values = inputs["single"].copy()
    count = sys.getrefcount(values)
    tensor = runtime.borrow(values)
    assert sys.getrefcount(values) > count
    del tensor
    assert sys.getrefcount(values) == count
    model.run(inputs | {"single": values})
    assert sys.getrefcount(values) == count


# --- DLPack in -------------------------------------------------------------------------------------


class Producer:
    """An object that has DLPack and no buffer; `asked` has what was asked for."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device, self.asked = array, device, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **arguments):
        self.asked.append(arguments)
        return self.array.__dlpack__(**arguments)


class OldProducer(Producer):
    """From before version 1: `max_version` is unknown."""

    def __dlpack__(self, *, stream=None):
        self.asked.append({})
        return self.array.__dlpack__()


def capsule_name(capsule):
    function = ctypes.pythonapi["PyCapsule_GetName"]
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return function(capsule)


def test_version_1_is_asked_for_first(model, inputs):
    new, old = Producer(inputs["single"]), OldProducer(inputs["double"])
    assert capsule_name(new.array.__dlpack__(max_version=(1, 0))) == b"dltensor_versioned"
    assert capsule_name(old.array.__dlpack__()) == b"dltensor"
    assert_same(model.run(inputs | {"single": new, "double": old}), expect(inputs))
    assert new.asked == [{"max_version": (1, 0)}] and old.asked == [{}]


def test_dlpack_layouts(model, inputs):
    given = {name: Producer(inputs[name]) for name in ("single", "half", "int64", "flag")}
    given["single"].array = np.asfortranarray(inputs["single"])
    given["half"].array = np.repeat(inputs["half"], 2, axis=0)[::2]
    assert_same(model.run(inputs | given), expect(inputs))


def test_read_only_dlpack(model, inputs):
    inputs["single"].flags.writeable = False
    assert_same(model.run(inputs | {"single": Producer(inputs["single"])}), expect(inputs))


def test_dlpack_byte_offset(model, inputs):
    tensor = Tensor((6, 4), "float32")
    np.from_dlpack(tensor)[1:] = inputs["single"]
    shifted = tensor._describe()
    shifted.byte_offset, shifted.shape[0] = 16, 5
    tensor._describe = lambda: shifted
    assert_same(model.run(inputs | {"single": Producer(tensor)}), expect(inputs))


@pytest.mark.parametrize("device, name", [((2, 0), "CUDA:0"), ((10, 3), "ROCM:3"), ((99, 0), "type 99")])
def test_devices_are_refused_by_name(model, inputs, device, name):
    producer = Producer(inputs["single"], device)
    with expect_error("TENSOR", "input 'single'", name):
        model.run(inputs | {"single": producer})
    assert producer.asked == []


def test_pinned_memory_is_the_cpus(model, inputs):
    assert_same(model.run(inputs | {"single": Producer(inputs["single"], (3, 0))}), expect(inputs))


def test_capsules_are_let_go(model, inputs):
    values = inputs["single"].copy()
    count = sys.getrefcount(values)
    for producer in (Producer, OldProducer):
        model.run(inputs | {"single": producer(values)})
        gc.collect()
        assert sys.getrefcount(values) == count


def test_wrong_dlpack_objects(model, inputs):
    producer = Producer(inputs["single"])
    producer.__class__ = type("Wrong", (Producer,), {"__dlpack__": lambda self, **_: 7})
    with expect_error("TENSOR", "input 'single'", "7"):
        model.run(inputs | {"single": producer})
    producer.__class__ = type("Failing", (Producer,), {"__dlpack__": lambda self, **_: self.fail()})
    producer.fail = lambda: (_ for _ in ()).throw(BufferError("requires grad"))
    with expect_error("TENSOR", "input 'single'", "requires grad"):
        model.run(inputs | {"single": producer})


# --- outputs -----------------------------------------------------------------------------------------


def test_given_outputs(model, inputs):
    expected = expect(inputs)
    out = {name: np.empty_like(expected[name]) for name in ("single_out", "brain_out", "flag_out")}
    actual = model.run(inputs, out)
    assert all(actual[name] is out[name] for name in out)
    assert_same(actual, expected)


def test_given_outputs_may_be_strided(model, inputs):
    wide = np.full((4, 10), 7, np.float32)
    model.run(inputs, {"single_out": wide.T[::2]})
    np.testing.assert_array_equal(wide.T[::2], 2 * inputs["single"])
    assert (wide.T[1::2] == 7).all()


def test_given_outputs_may_be_dlpack(model, inputs):
    values = np.empty((5, 4), np.float32)
    out = {"single_out": Producer(values), "brain_out": Tensor((5, 4), "bfloat16")}
    actual = model.run(inputs, out)
    assert actual["single_out"] is out["single_out"]
    np.testing.assert_array_equal(values, 2 * inputs["single"])
    assert actual["brain_out"].tobytes() == (inputs["brain"] + inputs["brain"]).tobytes()


def test_dlpack_results(model, inputs):
    expected = expect(inputs)
    actual = model.run(inputs, results="dlpack")
    for name, tensor in actual.items():
        assert tensor.shape == expected[name].shape and tensor.dtype == expected[name].dtype.name
        assert tensor.__dlpack_device__() == (1, 0)
        assert tensor.tobytes() == expected[name].tobytes()
    again = model.run({**inputs, "single": actual["single_out"]}, results="dlpack")
    np.testing.assert_array_equal(np.from_dlpack(again["single_out"]), 4 * inputs["single"])


def test_dlpack_results_are_shared_and_freed():
    from moec.runtime import _dlpack

    tensor = Tensor((2, 3), "int32")
    first, second = np.from_dlpack(tensor), np.from_dlpack(tensor)
    first[:] = 5
    assert (second == 5).all() and tensor.tobytes() == first.tobytes()
    copied = np.from_dlpack(tensor, copy=True)
    copied[:] = 6
    assert (first == 5).all()
    assert len(_dlpack._exported) == 3
    del first, second, copied
    assert not _dlpack._exported
    for version in (None, (0, 8), (1, 1)):
        capsule = tensor.__dlpack__(max_version=version)
        assert capsule_name(capsule) == (b"dltensor_versioned" if version == (1, 1) else b"dltensor")
        del capsule
        assert not _dlpack._exported
    with pytest.raises(BufferError):
        tensor.__dlpack__(dl_device=(2, 0))


def test_memory_outlives_the_tensor():
    view = np.from_dlpack(Tensor((1000,), "float32"))
    view[:] = 3
    gc.collect()
    assert view.sum() == 3000


# --- bad calls -------------------------------------------------------------------------------------


BAD_INPUTS = {
    "dtype": (np.zeros((5, 4)), ["dtype float64", "expected float32"]),
    "rank": (np.zeros((5, 4, 1), np.float32), ["rank 3", "expected 2"]),
    "static dimension": (np.zeros((5, 3), np.float32), ["3", "4"]),
    "symbolic dimension": (np.zeros((6, 4), np.float32), ["rows", "6", "5"]),
    "order of bytes": (np.zeros((5, 4), ">f4"), ["'>f'"]),
    "texts": (np.zeros((5, 4), "U3"), ["format"]),
    "objects": (np.zeros((5, 4), object), ["format 'O'"]),
    "structures": (np.zeros((5, 4), "f4,f4"), ["format"]),
    "dates": (np.zeros((5, 4), "M8[s]"), ["buffer"]),
    "list": ([[0.0] * 4] * 5, ["type list", "__dlpack__"]),
    "none": (None, ["type NoneType"]),
    "strides of a packed field": (np.zeros((5, 4), "f4,u1")["f0"], ["strides", "4-byte"]),
}


@pytest.mark.parametrize("value, words", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_inputs(model, inputs, value, words):
    with expect_error("TENSOR", "single" if "rows" not in words else "rows", *words):
        model.run(inputs | {"single": value})


def test_names(model, inputs):
    with expect_error("ARGUMENT", "main", "no input 'sinlge'", "'single'"):
        model.run(inputs | {"sinlge": inputs["single"]})
    with expect_error("ARGUMENT", "main", "'half', 'single'"):
        model.run({name: values for name, values in inputs.items() if name not in ("single", "half")})
    with expect_error("ARGUMENT", "no output 'single'", "'single_out'"):
        model.run(inputs, {"single": inputs["single"]})
    with expect_error("ARGUMENT", "'decode'", "main"):
        model.run(inputs, entry="decode")
    with expect_error("ARGUMENT", "'torch'", "'numpy' or 'dlpack'"):
        model.run(inputs, results="torch")


def test_bad_outputs(model, inputs):
    read_only = np.zeros((5, 4), np.float32)
    read_only.flags.writeable = False
    for out in (read_only, Producer(read_only)):
        with expect_error("TENSOR", "output 'single_out'", "read-only"):
            model.run(inputs, {"single_out": out})
    with expect_error("TENSOR", "output 'single_out'", "float16"):
        model.run(inputs, {"single_out": np.zeros((5, 4), np.float16)})
    with expect_error("TENSOR", "'single_out'"):
        model.run(inputs, {"single_out": inputs["single"]})

    class Copier(Producer):
        def __dlpack__(self, max_version=None):
            return self.array.__dlpack__(max_version=max_version, copy=True)

    with expect_error("TENSOR", "output 'single_out'", "copy"):
        model.run(inputs, {"single_out": Copier(np.zeros((5, 4), np.float32))})


def test_no_package(tmp_path, package):
    with expect_error("PACKAGE", "absent.moec"):
        load(tmp_path / "absent.moec")
    with expect_error("PACKAGE", "no package"):
        load(tmp_path)
    broken = tmp_path / "broken.moec"
    shutil.copytree(package, broken)
    (library,) = broken.glob("*.so")
    whole = library.read_bytes()
    for size in (0, 10, 1000, 10000, len(whole) // 2, len(whole) - 1):
        library.write_bytes(whole[:size])
        with expect_error("PACKAGE", library.name):
            load(broken)


def test_errors_survive_pickling(tmp_path):
    """As those of a process pool do."""
    with pytest.raises(MoecError) as caught:
        load(tmp_path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.status, copy.message) == (caught.value.status, caught.value.message)


# --- life and threads --------------------------------------------------------------------------------


def test_closed_model(package, inputs):
    model = load(package)
    model.run(inputs)
    context = model.context()
    model.close()
    model.close()
    with expect_error("ARGUMENT", "closed"):
        model.run(inputs)
    assert_same(context.run(inputs), expect(inputs))  # lives until its last context ends
    context.close()
    with expect_error("ARGUMENT", "context"):
        context.run(inputs)


def test_threads_share_a_model(package):
    cases = [draw(3 + index, index) for index in range(8)]
    with load(package, threads=1) as model, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for inputs, outputs in zip(cases, pool.map(model.run, cases)):
                assert_same(outputs, expect(inputs))
        assert 1 <= len(model._idle) <= 4


def test_model_closed_while_it_runs(package):
    inputs = draw(2000)

    def work(model):
        try:
            while True:
                assert_same(model.run(inputs), expect(inputs))
        except MoecError as error:
            return error

    for _ in range(5):
        model = load(package)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            ends = [pool.submit(work, model) for _ in range(3)]
            model.run(inputs)
            model.close()
            assert all("closed" in end.result(60).message for end in ends)


def test_number_of_threads(package):
    with load(package, threads=2) as model:
        assert model.context().threads == 2
        assert model.context(threads=1).threads == 1


# --- alone -------------------------------------------------------------------------------------------

ALONE = """
import array, sys
sys.modules["numpy"] = None  # as if it were not installed
from engine import MoecError, Tensor, load
model = load(sys.argv[1])
inputs = {one.name: Tensor([1 if dim == "rows" else dim for dim in one.dims], one.dtype) for one in model.inputs}
inputs["int64"] = memoryview(array.array("q", [1, 2, 3, 4])).cast("B").cast("q", (1, 4))
outputs = model.run(inputs, results="dlpack")
print(array.array("q", outputs["int64_out"].tobytes()).tolist())
try:
    model.run(inputs)
except MoecError as error:
    print(error)
print(sorted(name for name in sys.modules if name.startswith("moec")))
"""


def test_it_can_be_shipped_alone(package, tmp_path):
    """A copy under another name, without NumPy, and nothing of this repository on the path."""
    shutil.copytree(pathlib.Path(runtime.__file__).parent, tmp_path / "engine")
    program = tmp_path / "program.py"
    program.write_text(ALONE)
    # The first folder of sys.path is the program's; -s, -E: nothing of the environment.
    done = harness.run(sys.executable, "-s", "-E", program, package)
    numbers, error, modules = done.stdout.splitlines()
    assert numbers == "[2, 4, 6, 8]"
    assert "numpy" in error and "results='dlpack'" in error
    assert modules == "[]"
