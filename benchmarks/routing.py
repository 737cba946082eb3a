# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Which experts tokens choose: logits for a routing that is drawn anew each time.

A distribution is the popularity of each expert. A token draws k different experts one
after the other by popularity: the k largest of log(popularity) + Gumbel noise.
"""

import functools

import numpy as np

DISTRIBUTIONS = ("uniform", "gini0.25", "gini0.4", "hot", "trace")


def gini(loads):
    """0: all are equal; towards 1: one has everything."""
    loads = np.sort(np.asarray(loads, np.float64))
    ranks = np.arange(1, loads.size + 1)
    return float((2 * ranks - loads.size - 1) @ loads / (loads.size * loads.sum()))


def _chosen(popularity, k, tokens, random):
    noise = random.gumbel(size=(tokens, popularity.size))
    return np.argpartition(-(np.log(popularity) + noise), k - 1, axis=1)[:, :k]


def _loads(popularity, k):
    return np.bincount(_chosen(popularity, k, 4096, np.random.default_rng(0)).ravel(), minlength=popularity.size)


def _geometric(experts, steepness):
    return np.exp(-steepness * np.arange(experts) / experts)


@functools.cache
def _with_gini(experts, k, wanted):
    """A geometric popularity whose loads have this Gini coefficient."""
    low, high = 0.0, 60.0
    for _ in range(30):
        middle = (low + high) / 2
        if gini(_loads(_geometric(experts, middle), k)) < wanted:
            low = middle
        else:
            high = middle
    return _geometric(experts, high)


def popularity(name, experts, k, trace=None):
    """Of each expert, all above 0. `trace`: counts of a recorded trace's experts."""
    if name == "uniform":
        return np.ones(experts)
    if name.startswith("gini"):
        return _with_gini(experts, k, float(name[4:]))
    if name == "hot":  # every token chooses the first
        return np.where(np.arange(experts) == 0, 1e30, 1.0)
    if name == "trace":
        # The recorded profile, stretched to this number of experts.
        recorded = np.sort(np.asarray(trace, np.float64))[::-1]
        at = np.linspace(0, recorded.size - 1, experts)
        return np.interp(at, np.arange(recorded.size), recorded)
    raise ValueError(f"unknown distribution {name}; there are {', '.join(DISTRIBUTIONS)}")


def draw_logits(weights, k, tokens, random):
    """Logits f32 [tokens, E] of a new routing. Those that are not chosen are far below, so
    that every program finds the same k."""
    chosen = _chosen(random.permutation(weights), k, tokens, random)
    logits = np.full((tokens, weights.size), -30, np.float32)
    np.put_along_axis(logits, chosen, random.standard_normal(chosen.shape, dtype=np.float32), axis=1)
    return logits + random.random(logits.shape, dtype=np.float32) * np.float32(0.01)
