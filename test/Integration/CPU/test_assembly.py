# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The inner loops of kernels, as instructions: what they do in a step, and that they touch no stack."""

import re

import pytest
from harness import FLAGS, run
from references import generate

LAYER = generate.Layer(experts=4, k=2, hidden=512, intermediate=512, dtype="bfloat16", activation="silu")


def loops(library):
    """Instructions of each loop without another inside, as (name, operands)."""
    lines = run("objdump", "-d", "--no-show-raw-insn", library).stdout.splitlines()
    code = []
    for line in lines:
        match = re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line)
        if match:
            code.append((int(match[1], 16), match[2], match[3]))
    numbers = {address: number for number, (address, _, _) in enumerate(code)}
    found = []
    for number, (address, name, operands) in enumerate(code):
        target = re.match(r"([0-9a-f]+)\b", operands)
        if not name.startswith("j") or name == "jmp" or not target:
            continue
        begin = numbers.get(int(target[1], 16))
        if begin is not None and begin <= number:
            found.append((begin, number))
    innermost = [one for one in found if not any(one != other and one[0] <= other[0] and other[1] <= one[1] for other in found)]
    return [[(name, operands) for _, name, operands in code[begin : end + 1]] for begin, end in innermost]


def count(loop, name):
    return sum(instruction == name for instruction, _ in loop)


@pytest.mark.skipif(bool(FLAGS), reason="instrumented code has other loops")
def test_bf16_products(compiler):
    """A step takes two columns: a broadcast and two products for each row, and two vectors of the panel,
    loaded once; nothing is on the stack. So it is up to twelve rows."""
    package = compiler.package(generate.build(LAYER), "--cpu=znver4", "--compute=bf16", "--threads=none")
    steps = [loop for loop in loops(package.library) if count(loop, "vdpbf16ps")]
    rows = {count(loop, "vbroadcastss") for loop in steps}
    assert {3, 6, 8, 10, 12} <= rows, rows
    for loop in steps:
        assert count(loop, "vdpbf16ps") == 2 * count(loop, "vbroadcastss")
        assert not any("%rsp" in operands or "%rbp" in operands for _, operands in loop), loop
    for loop in steps:
        if count(loop, "vbroadcastss") == 12:
            assert count(loop, "vmovups") == 2
            assert not any("(" in operands for name, operands in loop if name == "vdpbf16ps")
