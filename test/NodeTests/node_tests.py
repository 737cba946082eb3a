# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The node tests of the ONNX project (onnx.backend.test), run through moec.backend, and
docs/operators.md, which says how many of them pass:

    PYTHONPATH=build/python_packages python test/NodeTests/node_tests.py
"""

import collections
import dataclasses
import pathlib
import re
import sys
import textwrap
import warnings

import numpy as np
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner, _normalize_tensor

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "operators.md"

# Why a test is skipped, by what moec says of its model. Anything else that it refuses is
# a failure of the test.
REASONS = {
    r"operator set \d+; supported are": "the model is of an operator set before 11",
    r"is of type string": "strings",
    r"sequences, maps, optional and sparse values are not supported": "sequences, optional values",
    r"cannot cross the library's interface": "inputs or outputs of 4 or 2 bits, or of float8",
    r"(a cast from|a cast from \S+ to) f(4|6|8)E|to this type is not supported": "arithmetic on float4, float6 and float8",
    r"training_mode must be a constant false": "training",
    r"quantization (of|to) f(4|6|8)E": "arithmetic on float4, float6 and float8",
    r"the axes must be constants": "axes that are computed while the model runs",
    r"has not the same rank and element type in both branches": "an If on data whose branches have different ranks",
    r"output dimension depends on data": "sizes of outputs that are computed from data",
    r"a size that is not arithmetic on the dimensions of the inputs": "sizes of temporaries that are computed from data",
}

TWO_UNITS_OF_FLOAT16 = 2**-9

NO_OPERATOR = re.compile(r"operators? (?:is|are) not supported: (?P<list>.*)")


@dataclasses.dataclass(frozen=True, eq=False)
class NodeTest:
    """`operator` is that of the one node; a test whose model is the operator's definition
    as a function has the same."""

    name: str
    operator: str
    case: object


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Passed when `skipped`, the reason, is empty."""

    skipped: str = ""


def load_tests():
    with warnings.catch_warnings():
        # Some of the numbers of the tests overflow while they are made.
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = {case.name: case for case in load_model_tests(kind="node")}

    def operator(name):
        plain = re.sub(r"_expanded(_ver\d+)?$", "", name)
        (node,) = cases[plain if plain in cases else name].model.graph.node
        domain = node.domain if node.domain != "ai.onnx" else ""
        return f"{domain}.{node.op_type}" if domain else node.op_type

    return [NodeTest(name, operator(name), case) for name, case in sorted(cases.items())]


def skip_reason(message):
    """Empty when there is none."""
    if missing := NO_OPERATOR.search(message):
        names = re.findall(r"([\w.]+(?: version \d+)?) \(node", missing["list"])
        return "no operator " + ", ".join(names)
    return next((reason for pattern, reason in REASONS.items() if re.search(pattern, message)), "")


def run(test, cpu="native"):
    """Compiles the model as a user does, runs it, and compares as the ONNX project does.
    Raises what goes wrong."""
    from moec import CompileError
    from moec.backend import prepare

    try:
        model = prepare(test.case.model, threads="none", cpu=cpu)
    except CompileError as error:
        reason = skip_reason(str(error)) if error.status == "UNSUPPORTED" else ""
        if not reason:
            raise
        return Outcome(reason)
    for inputs, expected in test.case.data_sets:
        results = model.run([_normalize_tensor(one) for one in inputs])
        expected = [_normalize_tensor(one) for one in expected]
        # As Runner does for bfloat16: the expected numbers were rounded after each step.
        half = any(getattr(one, "dtype", None) == np.float16 for one in expected)
        rtol = max(test.case.rtol, TWO_UNITS_OF_FLOAT16) if half else test.case.rtol
        Runner.assert_similar_outputs(expected, results, rtol, test.case.atol)
    return Outcome()


# --- docs/operators.md --------------------------------------------------------------------------

INTRODUCTION = """\
# Operators

<!-- Generated from the node tests by test/NodeTests/node_tests.py; a test compares. -->

Which operators of ONNX `moec` compiles, measured by the ONNX project's own node tests (`onnx.backend.test`
of onnx {version}): models of one node with inputs and expected outputs, and the same models with the node
replaced by its definition in terms of others. Every test passes or is skipped because moec refuses its model; the reason is given.
The tests run through [moec.backend](python.md#as-a-backend-of-onnx), compiled with the default options.

`com.microsoft.MoE` and `com.microsoft.QMoE`, and the other operators of that domain, have no such tests; ours are in
`test/Integration`.

"""


def page(outcomes):
    """The text of docs/operators.md. `outcomes`: by NodeTest."""
    import onnx

    passed, skipped, reasons = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter)
    for test, outcome in outcomes.items():
        if not outcome.skipped:
            passed[test.operator] += 1
        else:
            skipped[test.operator] += 1
            reasons[test.operator][outcome.skipped] += 1
    lines = [f"{passed.total()} tests pass, {skipped.total()} are skipped.", ""]
    lines += ["| operator | pass | skipped | why |", "|---|---|---|---|"]
    # An operator may be there although each of its tests is of something that is refused.
    missing = {operator for operator in reasons if not passed[operator] and any("no operator" in r for r in reasons[operator])}
    for operator in sorted((passed.keys() | skipped.keys()) - missing):
        why = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons[operator].items()))
        lines.append(f"| {operator} | {passed[operator] or ''} | {skipped[operator] or ''} | {why} |")
    lines += ["", "## Operators that are not supported", ""]
    lines += textwrap.wrap(", ".join(f"{operator} ({skipped[operator]})" for operator in sorted(missing)) + ".", 150)
    return INTRODUCTION.format(version=onnx.__version__) + "\n".join(lines) + "\n"


def summary(outcomes):
    """What a test run prints: the counts by operator."""
    counts = collections.defaultdict(lambda: [0, 0])
    for test, outcome in outcomes.items():
        counts[test.operator][bool(outcome.skipped)] += 1
    words = [f"{name} {good}" + (f"+{bad}" if bad else "") for name, (good, bad) in sorted(counts.items()) if good]
    without = [f"{name} {bad}" for name, (good, bad) in sorted(counts.items()) if not good]
    text = ["passed+skipped: " + ", ".join(words), "only skipped: " + ", ".join(without)]
    return "\n".join(line for part in text for line in textwrap.wrap(part, 150))


if __name__ == "__main__":
    outcomes = {test: run(test) for test in load_tests()}
    PAGE.write_text(page(outcomes))
    print(summary(outcomes), file=sys.stderr)
