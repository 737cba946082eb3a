# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""docs/systems.md: the systems in this folder, read from their files.

    python test/Systems/make_table.py

A file begins with a comment of paragraphs: "NAME: what it is.", the source, and what to
look at. The attributes are those of the operations in its text."""

import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "systems.md"

INTRODUCTION = """\
# MoE systems of the literature

<!-- Generated from test/Systems by make_table.py there; a test compares. -->

Each system is a layer in the [moe dialect](Rationale.md), one commented file. The tests
compile every file with `-O0` and `-O3`, in two sets of sizes and in float32, float16 and
bfloat16, and compare it with a NumPy float64 reference written from the formulas
(`test/references/systems`). A file is compiled like a model:

```sh
moec test/Systems/mixtral.mlir --weights w.safetensors -o mixtral.moec
```

`w.safetensors`, beside the file, holds the tensors that its `moe.weight` operations name.

The operations stand in the order of the file, with the operands and attributes that tell
the systems apart; what is not mentioned has its default. One routing is a value like any
other: the columns are only a grouping.
"""

COLUMNS = {
    "router": ("logits", "score", "tree_select"),
    "selection": ("select", "given", "compose"),
    "weights and capacity": ("weigh", "filter", "capacity", "blend"),
    "experts": ("dispatch", "grouped_matmul", "activate", "expert_ffn", "experts", "combine", "shared"),
    "auxiliary outputs": ("aux", "bias_update"),
}

COLUMN_OF = {name: column for column, names in COLUMNS.items() for name in names}

# Operands that make a difference in kind; x, weights and routings are everywhere.
OPERANDS = (
    "bias|noise|token_mask|expert_mask|group_size|random|priority|permutation|node_bias|leaf_bias"
    "|up_bias|down_bias|constants|uncovered|weight|add"
)

OPERATION = re.compile(r"\bmoe\.(?P<name>\w+) (?P<rest>.*?)\s:\s", re.DOTALL)
ATTRIBUTE_ALIAS = re.compile(r"^(#\w+) = (.*?)(?: *//.*)?$", re.MULTILINE)


def paragraphs(text):
    """Those of the comment at the top."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:].strip())
    return [" ".join(part.split("\n")) for part in "\n".join(lines).split("\n\n")]


def body(text):
    """The function's operations after the weights, aliases of attributes written out."""
    text = text.replace("0x7FF0000000000000 : f64", "inf")
    for name, value in ATTRIBUTE_ALIAS.findall(text):
        text = re.sub(rf"{name}\b", value.replace(" : i64", ""), text)
    return re.sub(r"//[^\n]*", "", text[text.index("func.func") :])


def without_dialect(value):
    """#moe.weigh_norm<sum> -> sum, #moe.kind<ffn, 8> -> 8 ffn"""
    value = re.sub(r"#moe\.kind<(\w+), (\d+)>", r"\2 \1", value)
    return re.sub(r"#moe\.\w+<([^>]*)>", r"\1", value)


def operation(name, rest):
    """`name word operand(…) {attributes}` in short."""
    rest = without_dialect(" ".join(rest.split()))
    words = re.findall(r"<([^>]*)>", rest)
    operands = re.findall(rf"\b({OPERANDS})\(", rest)
    attributes = re.findall(r"\{(.*)\}", rest)
    return " ".join([f"`{name}`", ", ".join([*words, *operands, *attributes])]).strip()


def row(path):
    text = path.read_text()
    title, source, *_ = paragraphs(text)
    cells = {column: [] for column in COLUMNS}
    for match in OPERATION.finditer(body(text)):
        if match["name"] != "load_weight":
            cells[COLUMN_OF[match["name"]]].append(operation(match["name"], match["rest"]))
    # Equal operations next to each other, such as the two products of a gated expert.
    joined = ["<br>".join(dict.fromkeys(cell)) or "–" for cell in cells.values()]
    return [f"[{path.stem}](../test/Systems/{path.name}): {title}", *joined, source]


def page(folder=HERE):
    header = ["system", *COLUMNS, "source"]
    rows = [row(path) for path in sorted(folder.glob("*.mlir"))]
    table = [header, ["---"] * len(header), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table]
    return INTRODUCTION + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
