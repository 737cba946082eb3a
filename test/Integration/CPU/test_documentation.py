# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the documentation says is so: links lead somewhere, moec.md and --help name the
same options, the commands of the tour run."""

import pathlib
import re
import subprocess
import sys

import harness
import pytest

PAGES = sorted(
    path
    for folder in ("", "docs", "examples", "benchmarks", "test/models")
    for path in (harness.ROOT / folder).glob("**/*.md" if folder in ("docs", "examples") else "*.md")
)


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(harness.ROOT)))
def test_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_every_page_is_linked():
    index = harness.ROOT / "docs" / "README.md"
    seen, queue = set(), [index]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text()):
            queue.append((page.parent / target).resolve())
    assert seen >= set((harness.ROOT / "docs").glob("**/*.md"))


def test_options_are_documented():
    listed = set(re.findall(r"^  (--?[\w-]+)", harness.run(harness.tool("moec"), "--help").stdout, re.MULTILINE))
    text = (harness.ROOT / "docs" / "tools" / "moec.md").read_text()
    rows = re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
    described = set(re.findall(r"`(--?[A-Za-z][\w-]*)", " ".join(rows)))
    # "-O3" is a value of "-O".
    assert {re.sub(r"^-O\d$", "-O", option) for option in described} == listed


def test_the_tour_runs(tmp_path):
    """The blocks marked `shell` of getting-started.md, one after the other, in a folder
    that looks like the repository."""
    for name in ("test", "examples"):
        (tmp_path / name).symlink_to(harness.ROOT / name)
    (tmp_path / "build").symlink_to(harness.BUILD)
    (tmp_path / ".venv").symlink_to(pathlib.Path(sys.prefix))
    text = (harness.ROOT / "docs" / "getting-started.md").read_text()
    blocks = re.findall(r"^```shell\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    script = "set -e\n" + "\n".join(blocks)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=harness.TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    # What the text says that one sees.
    for line in ("moec can compile on this machine.", "MoE blocks: 1", "layer0.moec: 1 MoE block", "(5, 128)"):
        assert line in done.stdout


def described(section):
    """What a section of the generated reference says beside its summary and tables."""
    text = without_code(section.split("\n#### ")[0])
    return re.sub(r"^(_.*_|Syntax:|Traits: .*|Interfaces: .*|Effects: .*|\|.*|<.*)$", "", text, flags=re.MULTILINE).strip()


def test_the_reference_is_complete():
    """build/docs has every pass of moe-opt and every operation, each with a description."""
    folder = harness.BUILD / "docs"
    passes, operations = {}, {}
    for page in folder.glob("*/*.md"):
        for section in re.split(r"^### ", page.read_text(), flags=re.MULTILINE)[1:]:
            title, _, body = section.partition("\n")
            if match := re.match(r"`-([\w-]+)`", title):
                passes[match[1]] = body
            elif match := re.match(r"`(\w+\.\w+)`", title):
                operations[match[1]] = body
    assert {"raise-moe", "moe-to-cpu", "plan-weights", "order-loops"} <= set(passes)
    assert {"moe.select", "onnx.node"} <= set(operations)
    listed = set(re.findall(r"^ +--([\w-]+) ", harness.run(harness.tool("moe-opt"), "--help").stdout, re.MULTILINE))
    assert set(passes) <= listed
    for name, body in passes.items():
        assert len(described(body)) > 100, name
    # moe.profile_mark says all in its summary.
    assert [name for name, body in operations.items() if not described(body)] in ([], ["moe.profile_mark"])
