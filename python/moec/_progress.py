# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How far a compilation is, for whoever watches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, Union

# Gets the phase, what is done and what there is in all: bytes of weights, or 0 and 0.
ProgressFunction = Callable[[str, int, int], object]
Progress = Union[bool, ProgressFunction]

_WIDTH = 40


class Display(Protocol):
    def update(self, phase: str, done: int, total: int) -> None: ...

    def close(self) -> None: ...


class _Call:
    """Calls a function of the user's."""

    def __init__(self, function: ProgressFunction) -> None:
        self._function = function

    def update(self, phase: str, done: int, total: int) -> None:
        self._function(phase, done, total)

    def close(self) -> None:
        pass


def _text(phase: str, done: int, total: int) -> str:
    if total == 0:
        return phase
    full = done * _WIDTH // total
    return f"{phase} [{'#' * full}{' ' * (_WIDTH - full)}] {100 * done // total:3}% of {total / 1e9:.1f} GB"


class _Terminal:
    """A line on stderr that is erased at the end."""

    def __init__(self) -> None:
        self._shown = ""

    def update(self, phase: str, done: int, total: int) -> None:
        self._show(_text(phase, done, total))

    def close(self) -> None:
        self._show("")

    def _show(self, text: str) -> None:
        if text == self._shown:
            return
        blanks = " " * max(0, len(self._shown) - len(text))
        sys.stderr.write(f"\r{text}{blanks}" if text else f"\r{blanks}\r")
        sys.stderr.flush()
        self._shown = text


class _Notebook:
    """One output of the cell, replaced again and again."""

    def __init__(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        self._shown = ""
        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def update(self, phase: str, done: int, total: int) -> None:
        text = _text(phase, done, total)
        if text != self._shown:
            self._handle.update({"text/plain": text}, raw=True)
            self._shown = text

    def close(self) -> None:
        self._handle.update({"text/plain": ""}, raw=True)


def _in_notebook() -> bool:
    """In a kernel of Jupyter: IPython is there already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def make_display(progress: Progress) -> Display | None:
    """None: there is nobody to show it to."""
    if callable(progress):
        return _Call(progress)
    if progress and _in_notebook():
        return _Notebook()
    return _Terminal() if progress and sys.stderr is not None and sys.stderr.isatty() else None
