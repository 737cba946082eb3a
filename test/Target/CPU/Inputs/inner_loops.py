# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The innermost loops of expert products in a disassembly (llvm-objdump -d
--no-show-raw-insn) on stdin: one line for each kind, what one step has.

Those are the loops that ask for weights ahead. A spill is a vector that a step stores.
"""

import re
import sys


def instructions(lines):
    for line in lines:
        match = re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line)
        if match:
            yield int(match[1], 16), match[2], match[3]


def innermost_loops(code):
    """Bodies of backward jumps that hold no other; a body that begins before another
    function is none."""
    number = {address: i for i, (address, _, _) in enumerate(code)}
    spans = []
    for i, (address, name, operands) in enumerate(code):
        target = re.match(r"(?:0x)?([0-9a-f]+)\b", operands) if name.startswith("j") else None
        if target and int(target[1], 16) <= address and int(target[1], 16) in number:
            spans.append((number[int(target[1], 16)], i + 1))
    for first, end in spans:
        if not any(first <= a and b <= end and (a, b) != (first, end) for a, b in spans):
            yield code[first:end]


def describe(loop):
    def count(pattern):
        return sum(bool(re.match(pattern, f"{name} {operands}")) for _, name, operands in loop)

    counts = {
        "multiply-adds": count(r"vfmadd|vdpbf16ps|vpdpbusd"),
        "broadcasts": count(r"v(broadcastss|pbroadcastd) .*\(") + count(r"v(fmadd|pdpbusd).*\{1to"),
        "panel loads": count(r"v(movup|movap|movdq|pmovzx)\w* [^,]*\(%(?!rsp)\w+.*\), ?%[xyz]mm"),
        "look-ups": count(r"vperm(d|ps|b) "),
        "conversions": count(r"vcvtdq2ps"),
        "scalings": count(r"vmulps"),
        "prefetches": count(r"prefetch"),
        "spills": count(r"vmov\w+ %[xyz]mm\d+, .*\("),
    }
    return ", ".join(f"{value} {name}" for name, value in counts.items()), counts


def main():
    found = {}
    for loop in innermost_loops(list(instructions(sys.stdin))):
        text, counts = describe(loop)
        if counts["prefetches"] and counts["multiply-adds"]:
            found[text] = counts["multiply-adds"]
    for text in sorted(found, key=lambda text: (found[text], text)):
        print(text)


main()
