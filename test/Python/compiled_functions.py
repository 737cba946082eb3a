# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls functions written in MLIR on NumPy arrays: one package, compiled by moec.

A routing is a pair (ids, weights) in Python: ids[T,k], -1 for an empty slot, and
weights[T,k] or None. What crosses the interface differs between the levels: slots[T,E]
and weights[T,E] at -O0, ids and weights from -O1 on."""

import re

import numpy as np
from harness import run, tool
from moec.runtime import load


def split_types(text):
    """Types at the top level of a comma-separated list."""
    types, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += letter in "<("
        depth -= letter in ">)"
        if letter == "," and depth == 0:
            types.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return types + [last] if last else types


def parse_routing(type):
    """(experts, k, weighted), or None for a tensor."""
    found = re.fullmatch(r"!moe\.routing<experts = (\d+), k = (\d+)(, weighted)?>", type)
    return found and (int(found[1]), int(found[2]), bool(found[3]))


def to_slots(ids, weights, experts):
    """The form of -O0."""
    slots = np.full((len(ids), experts), -1, np.int32)
    dense = np.zeros((len(ids), experts), np.float32)
    for t, slot in zip(*np.nonzero(ids >= 0)):
        slots[t, ids[t, slot]] = slot
        if weights is not None:
            dense[t, ids[t, slot]] = weights[t, slot]
    return slots, dense


def from_slots(slots, dense, k):
    ids = np.full((len(slots), k), -1, np.int32)
    weights = np.zeros((len(slots), k), np.float32)
    for t, e in zip(*np.nonzero(slots >= 0)):
        ids[t, slots[t, e]] = e
        if dense is not None:
            weights[t, slots[t, e]] = dense[t, e]
    return ids, weights if dense is not None else None


class CompiledFunctions:
    """`functions`: the text of a func.func @name(%a0: type, ...) -> (types) by name."""

    def __init__(self, functions, folder, level, *flags):
        self.level = level
        self.types = {}
        for name, text in functions.items():
            arguments, results = re.match(r"func\.func @\w+\((.*)\) -> \((.*)\) \{\n", text).groups()
            self.types[name] = (
                [type.split(": ", 1)[1] for type in split_types(arguments)],
                split_types(results),
            )
        source = folder / f"functions{level}.mlir"
        source.write_text("".join(functions.values()))
        package = folder / f"functions{level}.moec"
        run(tool("moec"), source, f"-O{level}", "-o", package, *flags)
        self.model = load(package)
        self.contexts = {}

    def context(self, workers):
        if workers not in self.contexts:
            self.contexts[workers] = self.model.context(threads=workers)
        return self.contexts[workers]

    def lower(self, type, argument):
        routing = parse_routing(type)
        if routing is None:
            return [argument]
        ids, weights = argument
        experts, _, weighted = routing
        if self.level == 0:
            ids, weights = to_slots(ids, weights, experts)
        return [ids, np.asarray(weights, np.float32)] if weighted else [ids]

    def call(self, name, arguments, workers=2):
        """Arrays and routings, in the order of the function's types."""
        argument_types, result_types = self.types[name]
        assert len(arguments) == len(argument_types)
        flat = [
            np.array(array, order="C")
            for type, argument in zip(argument_types, arguments)
            for array in self.lower(type, argument)
        ]
        inputs = {f"input{i}": array for i, array in enumerate(flat)}
        outputs = self.context(workers).run(inputs, entry=name)
        values = iter([outputs[f"output{i}"] for i in range(len(outputs))])
        results = []
        for type in result_types:
            routing = parse_routing(type)
            if routing is None:
                results.append(next(values))
                continue
            ids, weights = next(values), next(values) if routing[2] else None
            if self.level == 0:
                ids, weights = from_slots(ids, weights, routing[1])
            results.append((ids, weights))
        return results
