# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command line: `python -m moec` is moec."""

from __future__ import annotations

import os
import sys

from ._moec_c import load_compiler, tool_path
from .runtime import MoecError


def _run(name: str) -> None:
    try:
        path = tool_path(name)
        if name == "moec":
            load_compiler()  # says what is missing better than the loader of programs
        os.execv(path, [name, *sys.argv[1:]])
    except (MoecError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(5)


def moec() -> None:
    """Runs moec with the arguments of this process."""
    _run("moec")


def moe_run() -> None:
    """Runs moe-run with the arguments of this process."""
    _run("moe-run")


if __name__ == "__main__":
    moec()
