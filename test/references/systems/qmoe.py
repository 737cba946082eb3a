# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""QMoE's layer: Switch routing whose overflow passes through, capacity per sequence.

E. Frantar, D. Alistarh, "QMoE" (arXiv 2310.16795); IST-DASLab/qmoe `sub1.py`, over Hugging Face
Switch of its time. As `switch` with a fixed capacity per sequence (64 there) and p·x for a
token over it. The compressed weights are another matter.

    as switch_pass_through, with #moe.capacity<4>; y alone
"""

from . import switch
from .common import drawing

DIMS = {"H": 32, "I": 44, "E": 8}
OTHER_DIMS = {"H": 20, "I": 28, "E": 6}
INPUTS = switch.INPUTS
CASES = {"qmoe": {"capacity": 4, "overflow": "pass_through"}}

make = switch.make
draw = drawing(__name__)


def reference(arrays, dims, case):
    return {"y": switch.switch(arrays, dims, **CASES[case])["y"]}
