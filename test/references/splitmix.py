# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The generator of the rows that the report's rounding errors are of, as documented."""

import numpy as np


def uniform(count):
    """The first numbers of splitmix64 with seed 0, between 0 and 1."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(rows, columns):
    """float32 [rows, columns] of normally distributed numbers."""
    u = uniform(2 * rows * columns).reshape(rows, columns, 2)
    return (np.sqrt(-2 * np.log(u[..., 0])) * np.cos(2 * np.pi * u[..., 1])).astype(np.float32)


def relative_rms(actual, expected):
    return float(np.sqrt(np.sum((actual - expected) ** 2) / np.sum(expected**2)))
