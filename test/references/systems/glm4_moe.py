# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""GLM-4.5: DeepSeek-V3's router with one group, 8 experts of a token, one shared expert.

GLM-4.5 Team, "GLM-4.5" (arXiv 2508.06471), section 2.1; Hugging Face Glm4MoeMoE.

s = sigmoid(router·x); the k = 8 largest s + b; w = s / (Σs + 1e-20) · 2.5; experts SwiGLU, the
shared one of width J added.

    as deepseek_v3 with moe.select {k = 8} and no groups
"""

from . import deepseek_v3
from .common import drawing

DIMS = {"H": 24, "I": 20, "J": 52, "E": 32}
OTHER_DIMS = {"H": 36, "I": 14, "J": 44, "E": 19}
INPUTS = ("x",)
CASES = {"glm4_moe": {"k": 8, "groups": None, "fill": None, "eps": 1e-20, "scale": 2.5}}

make = deepseek_v3.make
draw = drawing(__name__)


def reference(arrays, dims, case):
    return {"y": deepseek_v3.layer(arrays, CASES[case])[1]}
