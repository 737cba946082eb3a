# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A module of small functions that a test file calls through --moe-to-reference, and
what such tests share. Expected values are float64."""

import numpy as np
from mlir_functions import Functions

TOLERANCES = {"f64": 1e-6, "f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}


class Module:
    def __init__(self):
        self.functions = {}

    def define(self, name, arguments, results, body):
        """Arguments are MLIR types, named %a0, %a1, ... in `body`, whose last value is returned."""
        assert name not in self.functions
        signature = ", ".join(f"%a{i}: {type}" for i, type in enumerate(arguments))
        self.functions[name] = f"func.func @{name}({signature}) -> ({', '.join(results)}) {{\n{body}\n}}\n"
        return name

    def define_op(self, name, arguments, results, operation, attributes=""):
        """A function of one op; `operation` is its text up to the attributes."""
        values = "%r" if len(results) == 1 else f"%r:{len(results)}"
        returned = "%r" if len(results) == 1 else ", ".join(f"%r#{i}" for i in range(len(results)))
        types = f"({', '.join(arguments)}) -> ({', '.join(results)})"
        body = f"  {values} = {operation} {{{attributes}}} : {types}\n  return {returned} : {', '.join(results)}"
        return self.define(name, arguments, results, body)

    def compile(self, folder):
        return Functions("".join(self.functions.values()), ["--moe-to-reference"], folder)


def routing(experts, k, weighted=True):
    return f"!moe.routing<experts = {experts}, k = {k}{', weighted' if weighted else ''}>"


def matrix(columns, element="f32"):
    return f"tensor<?x{columns}x{element}>"


def rng(*seed):
    return np.random.default_rng([ord(c) for word in seed for c in str(word)])


def check(actual, expected, element="f32"):
    """The largest difference against the largest expected value; NaN where it is expected."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    actual = actual.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite & ~np.isnan(expected)], expected[~finite & ~np.isnan(expected)])
    if finite.any():
        largest = np.abs(expected[finite]).max()
        assert np.abs(actual - expected)[finite].max() <= TOLERANCES[element] * max(largest, 1e-30)


def falling(values, tie="lower"):
    """Indices by falling value; NaN first, of equals the lower (or higher) index."""
    sign = 1 if tie == "lower" else -1
    return sorted(range(len(values)), key=lambda i: (not np.isnan(values[i]), 0 if np.isnan(values[i]) else -values[i], sign * i))


def random_routing(name, tokens, experts, k):
    """Slots and weights in which tokens have 0 to k experts, with empty slots among them."""
    random = rng("routing", name, tokens)
    slots = np.full((tokens, experts), -1, np.int32)
    for t in range(tokens):
        for slot, e in enumerate(random.permutation(experts)[:k]):
            slots[t, e] = slot if random.uniform() < 0.8 else -1
    weights = np.where(slots >= 0, random.uniform(0.05, 1, size=slots.shape), 0).astype(np.float32)
    return slots, weights


def entries(slots, t):
    """Experts of token t in the order of their slots."""
    return sorted((e for e in range(slots.shape[1]) if slots[t, e] >= 0), key=lambda e: slots[t, e])


def slots_of(lists, experts):
    """Slots 0, 1, ... from the lists of each token's experts."""
    slots = np.full((len(lists), experts), -1, np.int32)
    for t, chosen in enumerate(lists):
        for slot, e in enumerate(chosen):
            slots[t, e] = slot
    return slots


def kept(slots, weights):
    return np.where(slots >= 0, weights, 0)
