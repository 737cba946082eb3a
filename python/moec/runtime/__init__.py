# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs models that moec compiled.

This package needs no compiler: it may be copied alone, under any name, into a program that ships
compiled models. It needs NumPy only for results as NumPy arrays.
"""

from ._arrays import Array, SupportsDLPack, borrow
from ._context import Context
from ._dlpack import Tensor
from ._errors import MoecError
from ._library import Entry, Library, TensorInfo
from ._model import Model, load

__all__ = [
    "Array",
    "Context",
    "Entry",
    "Library",
    "Model",
    "MoecError",
    "SupportsDLPack",
    "Tensor",
    "TensorInfo",
    "borrow",
    "load",
]
