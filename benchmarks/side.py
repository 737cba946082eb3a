# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What every program has that takes part in layer_vs_peers.py."""

import importlib


class Missing(Exception):
    """Why a side cannot take part."""


def find_module(name):
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise Missing(f"{name} cannot be imported: {error}") from error


class Side:
    """Has `prepare(x, logits)`, before the clock starts, `run()`, and `result()`, after it
    stops, and several copies of the layer: runs go round them, so that no cache keeps the
    weights. Making a side raises Missing where it does not exist here."""

    def __init__(self, copies):
        self.copies, self.next = copies, 0

    def ready(self):
        """Called once, when all sides are made: what is mapped is read now, as the others have read their
        weights before the clock starts; earlier, what they read could have pushed it out of memory."""

    def copy(self):
        self.next = (self.next + 1) % len(self.copies)
        return self.copies[self.next]
