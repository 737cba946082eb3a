# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiling in this process, by libmoec-c."""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from ._moec_c import (
    ON_DIAGNOSTIC,
    ON_PROGRESS,
    SEVERITY_NAMES,
    STATUS_NAMES,
    CompilerLibrary,
    load_compiler,
)
from ._progress import Display, Progress, make_display
from .runtime import Model, MoecError

_logger = logging.getLogger("moec")

_Value = Union[str, int, bool, "os.PathLike[str]"]
OptionValue = Union[_Value, Sequence[_Value], Mapping[str, int], None]


@dataclass(frozen=True)
class Diagnostic:
    """What the compiler says. `severity`: "error", "warning", "remark", or "note" that says more
    about the one before. `operator` as "com.microsoft.MoE"; `line`: the index of the node in an
    ONNX graph, or a line of an MLIR file; with `column` 0 the file as a whole is meant. What is
    not known is "" or 0."""

    severity: str
    message: str
    file: str
    node: str
    operator: str
    line: int
    column: int

    def __str__(self) -> str:
        # A file as a whole has no place; node 0 has line 0 and column 1.
        place = f":{self.line}:{self.column}" if self.line or self.column else ""
        return f"{self.file}{place}: {self.severity}: {self.message}" if self.file else self.message


class CompileError(MoecError):
    """A compilation that failed.

    `status`: "USAGE" (a wrong option), "BAD_MODEL" (missing, broken or not valid), "UNSUPPORTED"
    (valid, but uses what moec does not support), "OUTPUT" (the result could not be written) or
    "INTERNAL". `message`, `file`, `node` (name of the ONNX node) and `operator` are those of the
    first error, "" where not known; `diagnostics` has all, and the text of the exception too.
    """

    def __init__(self, status: str, message: str, diagnostics: Sequence[Diagnostic] = ()) -> None:
        super().__init__(status, message)
        self.diagnostics = tuple(diagnostics)
        first = next((one for one in self.diagnostics if one.severity == "error"), None)
        self.file = first.file if first else ""
        self.node = first.node if first else ""
        self.operator = first.operator if first else ""

    def __str__(self) -> str:
        return "\n".join(map(str, self.diagnostics)) or self.message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.status, self.message, self.diagnostics)


class CompileWarning(UserWarning):
    """Something in a model that compiles, but may not be what was meant."""


def _text(bytes: bytes | None) -> str:
    return (bytes or b"").decode(errors="replace")


# --- options ------------------------------------------------------------------------------------


def _values(value: OptionValue) -> Iterator[bytes]:
    """The texts of an option's values."""
    if value is None:
        return
    if isinstance(value, bool):
        yield b"true" if value else b"false"
    elif isinstance(value, Mapping):
        for name, size in value.items():
            yield f"{name}={size}".encode()
    elif isinstance(value, (str, os.PathLike)):
        yield os.fsencode(value)
    elif isinstance(value, int):
        yield str(value).encode()
    else:
        for one in value:
            yield from _values(one)


class _Options:
    """moec_compiler_options."""

    def __init__(self, library: CompilerLibrary) -> None:
        self._library = library
        self.handle = ctypes.c_void_p(library.options_create())

    def set(self, name: str, value: OptionValue) -> None:
        for text in _values(value):
            if self._library.options_set(self.handle, name.encode(), text):
                raise CompileError("USAGE", _text(self._library.last_error()))

    def __del__(self) -> None:
        self._library.options_destroy(self.handle)


# --- one compilation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    status: int
    message: str  # the first error
    package: str
    summary: str


class _Compilation:
    """A compilation in a thread of its own, so that this one can show progress and be interrupted:
    signals reach Python code of the main thread only."""

    def __init__(self, library: CompilerLibrary, options: _Options, model: bytes) -> None:
        self._library, self._options, self._model = library, options, model
        self._events: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
        self._cancelled = False
        self._result = _Result(STATUS_NAMES.index("INTERNAL"), "the compiler did not end", "", "")
        self.diagnostics: list[Diagnostic] = []
        self._callbacks = ON_DIAGNOSTIC(self._on_diagnostic), ON_PROGRESS(self._on_progress)
        library.options_on_diagnostic(options.handle, self._callbacks[0], None)
        library.options_on_progress(options.handle, self._callbacks[1], None)
        # A daemon: after a second interruption nobody waits for it.
        self._thread = threading.Thread(target=self._compile, name="moec.compile", daemon=True)

    def run(self, display: Display | None) -> _Result:
        try:
            self._thread.start()
            for event in iter(self._events.get, None):
                if display is not None:
                    display.update(*event)
        finally:
            # After KeyboardInterrupt, or an exception of the display, it stops soon.
            self._cancelled = True
            self._thread.join()
            if display is not None:
                display.close()
        return self._result

    def _compile(self) -> None:
        library, handle = self._library, ctypes.c_void_p()
        try:
            status = library.compile(self._options.handle, self._model, ctypes.byref(handle))
            message = _text(library.last_error()) if status else ""
            package, summary = library.result_package(handle), library.result_summary(handle)
            self._result = _Result(status, message, os.fsdecode(package), _text(summary))
            library.result_destroy(handle)
        finally:
            self._events.put(None)

    def _on_diagnostic(self, _: int, pointer: Any) -> None:
        one = pointer.contents
        message, file, node, operator = (_text(text) for text in (one.message, one.file, one.node, one.op))
        severity = SEVERITY_NAMES[one.severity]
        self.diagnostics.append(Diagnostic(severity, message, file, node, operator, one.line, one.column))

    def _on_progress(self, _: int, phase: bytes, done: int, total: int) -> int:
        self._events.put((_text(phase), done, total))
        return int(self._cancelled)


def _raise_error(result: _Result, diagnostics: list[Diagnostic]) -> None:
    if result.status:
        told = [one for one in diagnostics if one.severity in ("error", "note")]
        raise CompileError(STATUS_NAMES[result.status], result.message, told)


def compile(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    cpu: str = "native",
    dims: Mapping[str, int] | None = None,
    progress: Progress = True,
    **options: OptionValue,
) -> Model:
    """Compiles an ONNX model, or a phase of one that was dumped as .mlir, to a package.

    `output`: the package's folder; NAME.moec in the current folder for None. It appears only when
    everything succeeded; an existing package is replaced then. `cpu`: "native", "x86-64-v3",
    "sapphirerapids", …: the returned model can be looked at on any CPU, and run where the CPU has
    the features. `dims`: sizes for symbolic dimensions. `options`: the other options of moec by
    their names, with underscores: `O=1`, `threads="none"`, `keep=["router_logits"]`,
    `weight_type="int4"`, `report="report.json"`; a list repeats an option, True and False set a flag.

    `progress`: True shows a bar on a terminal or in a notebook; a function is called with the phase,
    and with the bytes of weights that are written and those in all, both 0 in other phases.

    An interruption (Ctrl-C) stops the compilation and leaves nothing. The compiler's warnings are
    warnings of the category CompileWarning; its remarks go to the logger "moec".

    Raises CompileError; MoecError "COMPILER" when the compiler is not installed.
    """
    if options.get("compile_to"):
        raise CompileError("USAGE", "compile returns a model, so that it cannot stop after a phase; moec --compile-to can")
    if options.get("emit", "package") != "package":
        raise CompileError("USAGE", "compile returns a model, which only a package is; moec --emit=onnx writes other files")
    library = load_compiler()
    settings = _Options(library)
    for name, value in {"o": output, "cpu": cpu, "dim": dims, **options}.items():
        settings.set(name.replace("_", "-"), value)
    compilation = _Compilation(library, settings, os.fsencode(model))
    result = compilation.run(make_display(progress))
    _raise_error(result, compilation.diagnostics)
    for one in compilation.diagnostics:
        if one.severity == "warning":
            warnings.warn(str(one), CompileWarning, stacklevel=2)
        else:
            _logger.info("%s", one)
    _logger.info("%s", result.summary)
    return Model(result.package)


def unpack(package: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Writes the tensors of the model that a package was compiled from to a safetensors file, bit for
    bit and under their names. Constants of at most 4 KiB are in the package's code and not among them.

    Raises CompileError: "BAD_MODEL" for a package that is missing or damaged, "UNSUPPORTED" when its
    weights were converted while compiling, "OUTPUT"; MoecError "COMPILER" when the compiler is not
    installed.
    """
    library = load_compiler()
    status = library.unpack(os.fsencode(package), os.fsencode(output))
    if status:
        raise CompileError(STATUS_NAMES[status], _text(library.last_error()))
