# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kimi-K2: DeepSeek-V3's layer without groups, very many experts.

Kimi Team, "Kimi K2" (arXiv 2507.20534), section 2.3; published as DeepseekV3ForCausalLM with
n_group = 1: 384 experts (48 here), k = 8, one shared expert, scale 2.827.

    as glm4_moe with moe.weigh {scale = 2.827}
"""

from . import deepseek_v3
from .common import drawing

DIMS = {"H": 24, "I": 18, "J": 52, "E": 48}
OTHER_DIMS = {"H": 40, "I": 14, "J": 44, "E": 37}
INPUTS = ("x",)
CASES = {"kimi_k2": {"k": 8, "groups": None, "fill": None, "eps": 1e-20, "scale": 2.827}}

make = deepseek_v3.make
draw = drawing(__name__)


def reference(arrays, dims, case):
    return {"y": deepseek_v3.layer(arrays, CASES[case])[1]}
