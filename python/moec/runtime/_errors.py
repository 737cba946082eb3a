# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The exception of this package."""

from __future__ import annotations


class MoecError(Exception):
    """What a function of moec could not do.

    `status` says what kind of error it is: "ARGUMENT", "TENSOR", "WEIGHTS", "CPU", "MEMORY",
    "RUN", "PARALLEL" and "DEVICE" as MOEC_ERROR_… in moec.h; "PACKAGE": the folder is no package,
    or its library cannot be loaded. `message` names the tensor or file, what was found and what
    was expected.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.status, self.message)
