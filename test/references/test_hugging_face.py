# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The references of the systems against blocks of Hugging Face, recorded by
hugging_face/record.py: their weights, inputs and results in float64."""

import json
import pathlib

import numpy as np
import pytest

from references import systems
from references.evaluate import relative_error

CASES = sorted((pathlib.Path(__file__).parent / "hugging_face" / "cases").glob("*.npz"))


def test_there_are_cases():
    assert len(CASES) >= 30


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_block(path):
    record = np.load(path)
    about = json.loads(str(record["about"]))
    arrays = {
        name.removeprefix("in."): record[name].astype(np.float64) if record[name].dtype.kind == "f" else record[name]
        for name in record.files
        if name.startswith("in.")
    }
    outputs = systems.modules()[about["system"]].reference(arrays, about["dims"], path.stem)
    expected = {name.removeprefix("out."): record[name] for name in record.files if name.startswith("out.")}
    assert "y" in expected
    for name, value in expected.items():
        # Most routers compute in float32 even in a float64 model.
        assert relative_error(outputs[name], value) < 1e-6, name
