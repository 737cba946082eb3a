# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The mixture-of-experts systems of the literature, one module each, in NumPy float64.

Written from the formulas of the papers and the semantics of their implementations;
nothing here is fast, and nothing comes from the compiler. A module holds

- CASES: name of a file test/Systems/NAME.mlir -> the attributes that this file fixes;
- DIMS, OTHER_DIMS: two sets of sizes. The numbers of a set differ from each other (and
  from twice I where gate and up are one tensor), so that none is confused;
- INPUTS: names of the arrays that a call gets; the others are weights;
- make(rng, dims, tokens, case): random arrays, not yet free of near-ties;
- draw(rng, dims, tokens, case): the same, with every decision clear (see common.py);
- reference(arrays, dims, case): the outputs by name, the layer's result first.

Sizes: H hidden, I intermediate (J of shared experts), E experts, S shared experts,
G groups, R trees; T tokens. Matrices are [out, in] unless the module says otherwise.
A mean over no token is 0.
"""

import importlib
import pkgutil


def modules():
    """Every system, by name."""
    names = [entry.name for entry in pkgutil.iter_modules(__path__) if entry.name != "common"]
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
