# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A key/value cache in one buffer: past and present are views of it."""

import numpy as np
import onnx
import pytest
from moec.runtime import load

ROOM = 24
RANDOM = np.random.default_rng(14)

CONCAT = """<ir_version: 9, opset_import: ["" : 18]>
    agraph (float[B, 2, P, 4] past, float[B, 2, S, 4] new, float[B, 2, S, 4] q) => (float[B, 2, T, 4] present, float[B, 2, S, T] y) {
        present = Concat <axis = 2> (past, new)
        turned = Transpose <perm = [0, 1, 3, 2]> (present)
        y = MatMul (q, turned)
    }"""


def real(*shape):
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize("past, new", [(0, 5), (7, 1), (7, 3)])
def test_concat(compiler, level, past, new):
    package = compiler.package(onnx.parser.parse_model(CONCAT), level)
    assert [one.get("extends") for one in package.info["entries"][0]["outputs"]] == ["past", None]
    buffer = real(3, 2, ROOM, 4)
    buffer[:, :, past:] = np.nan
    before = buffer.copy()
    inputs = {"past": buffer[:, :, :past], "new": real(3, 2, new, 4), "q": real(3, 2, new, 4)}
    present = np.concatenate([inputs["past"], inputs["new"]], 2)
    with load(package.path) as model:
        y = model.run(inputs, out={"present": buffer[:, :, :past + new]})["y"]
        np.testing.assert_allclose(y, inputs["q"] @ present.swapaxes(2, 3), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(buffer[:, :, :past + new], present)
        np.testing.assert_array_equal(buffer[:, :, past + new:], before[:, :, past + new:])
        # In memory of its own, strided or not, as ever.
        apart = np.full((3, 2, ROOM, 4), np.nan, np.float32)
        model.run(inputs, out={"present": apart[:, :, :past + new]})
        np.testing.assert_array_equal(apart[:, :, :past + new], present)
        assert np.isnan(apart[:, :, past + new:]).all()
        np.testing.assert_array_equal(model.run(inputs)["present"], present)


def test_past_is_not_written(compiler):
    """Pages of the past are read-only in memory: writing the same values there would end the process."""
    import mmap

    page, row = mmap.PAGESIZE, 4
    rows = page // (4 * row)
    memory = mmap.mmap(-1, 3 * page)
    buffer = np.frombuffer(memory, np.float32).reshape(1, 1, 3 * rows, row)
    text = CONCAT.replace("B, 2,", "B, 1,")
    with load(compiler.package(onnx.parser.parse_model(text), "-O3").path) as model:
        buffer[...] = 1
        libc = __import__("ctypes").CDLL(None, use_errno=True)
        address = buffer.__array_interface__["data"][0]
        protect = lambda flags: libc.mprotect(__import__("ctypes").c_void_p(address), __import__("ctypes").c_size_t(page), flags)
        assert protect(mmap.PROT_READ) == 0
        new = real(1, 1, 2, row)
        model.run({"past": buffer[:, :, :rows], "new": new, "q": new}, out={"present": buffer[:, :, :rows + 2]})
        assert protect(mmap.PROT_READ | mmap.PROT_WRITE) == 0
    np.testing.assert_array_equal(buffer[:, :, rows:rows + 2], new)
    assert (buffer[:, :, :rows] == 1).all() and (buffer[:, :, rows + 2:] == 1).all()


def test_other_overlaps_are_refused(compiler):
    buffer, new = real(3, 2, ROOM, 4), real(3, 2, 2, 4)
    with load(compiler.package(onnx.parser.parse_model(CONCAT), "-O0").path) as model:
        def run(past, present, new=new):
            with pytest.raises(Exception, match="output 'present' overlaps input '(past|new)'"):
                model.run({"past": past, "new": new, "q": new}, out={"present": present})

        # Not the same address; other strides; and an input that is no prefix.
        run(buffer[:, :, 1:6], buffer[:, :, :7])
        run(buffer[:, :, :10:2], buffer[:, :, :7])
        run(real(3, 2, 5, 4), buffer[:, :, :7], buffer[:, :, :2])


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_trained_model(compiler, tinymoe, level):
    """Token by token with the cache in one buffer: the same numbers as with a new one each time."""
    with load(compiler.package(tinymoe.model("model_with_past"), level).path) as model:
        names = [f"past_key_values.{layer}.{part}" for layer in range(4) for part in ("key", "value")]
        buffers = {name: np.full((1, 2, ROOM, 32), np.nan, np.float32) for name in names}
        past = {name: np.zeros((1, 2, 0, 32), np.float32) for name in names}
        length = 0
        for rows in (6, 1, 1, 3):
            tokens = RANDOM.integers(0, 256, (1, rows))
            common = {"input_ids": tokens, "position_ids": length + np.arange(rows)[None],
                      "attention_mask": np.ones((1, length + rows), np.int64)}
            expected = model.run({**common, **past})
            views = {name: buffer[:, :, :length] for name, buffer in buffers.items()}
            length += rows
            out = {name.replace("past_key_values", "present"): buffer[:, :, :length] for name, buffer in buffers.items()}
            logits = model.run({**common, **views}, out=out)["logits"]
            np.testing.assert_array_equal(logits, expected["logits"])
            past = {name: expected[name.replace("past_key_values", "present")] for name in names}
            for name, buffer in buffers.items():
                np.testing.assert_array_equal(buffer[:, :, :length], past[name])
                assert np.isnan(buffer[:, :, length:]).all()
