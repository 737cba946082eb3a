# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Results have the same bits whoever runs the tasks: 1, 2 and 4 threads, more than there are
processors, a serial pool, tasks backwards on any worker, and a pool of other threads."""

import concurrent.futures

import numpy as np
import pytest
from harness import FIXTURES
from moec.runtime import load
from references import generate

BASE = {"experts": 8, "k": 2, "hidden": 72, "intermediate": 104, "activation": "silu", "third": True}
LAYERS = {
    "f32": generate.Layer(**BASE, biases=True),
    "bf16": generate.Layer(**BASE, dtype="bfloat16"),
    "int4": generate.Layer(**{**BASE, "hidden": 96, "intermediate": 96}, bits=4, block=32, zero_points=True),
}
MANY = 300  # more than there are ranges of tasks, too


def serially(n, body):
    for task in range(n):
        body(task, 0)


def backwards(n, body):
    random = np.random.default_rng(n)
    for task in reversed(range(n)):
        body(task, int(random.integers(3)))


def by_a_pool(n, body):
    """Five threads that take every fifth task, at their own pace."""

    def work(worker):
        for task in range(worker, n, 5):
            body(task, worker)

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))


WAYS = {
    "two": {"threads": 2},
    "four": {"threads": 4},
    "many": {"threads": MANY},
    "serial": {"threads": 1, "parallel_for": serially},
    "backwards": {"threads": 3, "parallel_for": backwards},
    "pool": {"threads": 5, "parallel_for": by_a_pool},
}


def check(package, cases):
    """Each of `cases` (inputs) in every way, each context used for all of them."""
    with load(package.path) as model:
        with model.context(threads=1) as context:
            expected = [context.run(inputs) for inputs in cases]
        assert any(np.asarray(value, np.float32).any() for outputs in expected for value in outputs.values())
        for way, options in WAYS.items():
            with model.context(**options) as context:
                for inputs, outputs in zip(cases, expected):
                    for name, value in context.run(inputs).items():
                        assert value.tobytes() == outputs[name].tobytes(), (way, name)


def with_experts(layer, inputs, experts):
    """The inputs with logits that choose only some of the experts."""
    logits = inputs["logits"].copy()
    logits[:, [expert for expert in range(layer.experts) if expert not in experts]] -= 100
    return {**inputs, "logits": logits}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(compiler, name):
    """One token, few, and enough for blocks of all sizes; most experts without any."""
    layer = LAYERS[name]
    cases = [generate.draw_inputs(layer, tokens, seed=tokens) for tokens in (1, 5, 130)]
    cases += [with_experts(layer, cases[-1], experts) for experts in ({0, 7}, {3, 4, 5})]
    check(compiler.package(generate.build(layer)), cases)


def test_tinymoe(compiler, tinymoe):
    """The whole model: attention, norms, four routed layers; a prompt, and a step with its cache."""
    package = compiler.package(tinymoe.model("model_with_past"))
    past = {}
    for tensor in package.info["entries"][0]["inputs"]:
        if tensor["name"].startswith("past"):
            # Batch and length are symbols; nothing is cached yet.
            shape = [size if isinstance(size, int) else int(axis == 0) for axis, size in enumerate(tensor["dims"])]
            past[tensor["name"]] = np.zeros(shape, np.float32)
    prompt = np.frombuffer((FIXTURES / "tinymoe" / "prompt.txt").read_bytes(), np.uint8).astype(np.int64)[None]
    length = prompt.shape[1]
    positions = np.arange(length + 1)[None]
    first = {"input_ids": prompt, "attention_mask": np.ones_like(prompt), "position_ids": positions[:, :length], **past}
    with load(package.path) as model:
        outputs = model.run(first)
    present = [value for name, value in outputs.items() if name.startswith("present")]
    assert len(present) == len(past) > 0
    step = {"input_ids": prompt[:, :1], "attention_mask": np.ones_like(positions), "position_ids": positions[:, length:]}
    step |= dict(zip(past, present))
    check(package, [first, step])
