# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What each operation of the moe dialect means, in NumPy float64.

Written from the descriptions of the operations, one function each, for reading beside
them; nothing here is fast. Operands and attributes have their names, enum values are
strings, `#moe.capacity` is Capacity. Decisions are reported as in systems/common.py.
"""

import dataclasses
import math
from typing import Optional, Union

import numpy as np

from .systems.common import NOBODY, cv2, decide, doubt, gelu_tanh, normal_cdf, sigmoid, softmax


@dataclasses.dataclass
class Routing:
    """Slot j of token t goes to expert ids[t,j] of `experts`, or nowhere (NOBODY), with
    weights[t,j] when weighted."""

    ids: np.ndarray
    weights: Optional[np.ndarray]
    experts: int

    def slots(self, t):
        """Those of token t that hold an entry, rising."""
        return [int(slot) for slot in np.flatnonzero(self.ids[t] != NOBODY)]

    def entries(self):
        """(token, slot) of all entries, token by token."""
        return [(t, slot) for t in range(len(self.ids)) for slot in self.slots(t)]

    def rows(self):
        """(token, slot) of the dispatched rows: by expert, then by token."""
        return sorted(self.entries(), key=lambda entry: (self.ids[entry], entry[0]))

    def weight(self, t, slot):
        return self.weights[t, slot] if self.weights is not None else 1.0


def routing_of(per_token, k, experts, weighted):
    """From a list of (expert, weight) for each token, in the order of the slots."""
    ids = np.full((len(per_token), k), NOBODY)
    weights = np.zeros(ids.shape)
    for t, entries in enumerate(per_token):
        for slot, (expert, weight) in enumerate(entries):
            ids[t, slot], weights[t, slot] = expert, weight
    return Routing(ids, weights if weighted else None, experts)


@dataclasses.dataclass(frozen=True)
class Capacity:
    """#moe.capacity: terms are the first factor, then (operator, factor)."""

    terms: tuple[Union[str, float, tuple[str, Union[str, float]]], ...]
    round: str = "floor"
    min: int = 0
    multiple: int = 1
    times: int = 1

    def evaluate(self, tokens, experts, k):
        known = {"tokens": tokens, "experts": experts, "k": k}

        def number(factor):
            return float(known.get(factor, factor))

        value = number(self.terms[0])
        for operator, factor in self.terms[1:]:
            value = value * number(factor) if operator == "*" else value / number(factor)
        rounded = {"floor": math.floor, "ceil": math.ceil, "nearest": round}[self.round](value)
        return -(-max(self.times * rounded, self.min) // self.multiple) * self.multiple


def groups_of(tokens, group_size):
    """Ranges of consecutive tokens."""
    if group_size is None or tokens == 0:
        return [range(tokens)]
    assert tokens % group_size == 0
    return [range(first, first + group_size) for first in range(0, tokens, group_size)]


# --- router -----------------------------------------------------------------------------


def logits(x, weight, bias=None, noise=None, *, layout="out_in", softcap=None):
    result = x @ (weight.T if layout == "out_in" else weight)
    if bias is not None:
        result = result + bias
    if softcap is not None:
        result = softcap * np.tanh(result / softcap)
    return result if noise is None else result + noise


def softplus(x):
    return np.logaddexp(0.0, x)


def score(fn, logits, group_size=None, *, axis="experts"):
    if fn == "softmax" and axis == "tokens":
        groups = [softmax(logits[group.start : group.stop], axis=0) for group in groups_of(len(logits), group_size)]
        return np.concatenate(groups)
    functions = {
        "identity": lambda x: x,
        "softmax": softmax,
        "sigmoid": sigmoid,
        "sqrtsoftplus": lambda x: np.sqrt(softplus(x)),
        "logsigmoid": lambda x: -softplus(-x),
    }
    return functions[fn](logits)


# --- selection ----------------------------------------------------------------------------


def falling(keys, candidates, token, count, higher_first=False):
    """Candidates by falling key; the first `count` places are decided about the token."""
    order = sorted(candidates, key=lambda e: (-keys[e], -e if higher_first else e))
    scale = max((abs(keys[e]) for e in order), default=0.0)
    for place in range(min(count, len(order) - 1)):
        decide(token, keys[order[place]], keys[order[place + 1]], scale)
    return order


def limit_groups(keys, allowed, token, n_group, topk_group, group_score, group_fill):
    """(keys, allowed) of one token after groups."""
    size = len(keys) // n_group
    members = [range(g * size, (g + 1) * size) for g in range(n_group)]
    scores = []
    for group in members:
        present = sorted((keys[e] for e in group if allowed[e]), reverse=True)
        best = present[: 2 if group_score == "top2sum" else 1]
        scores.append(sum(best) if best else -math.inf)
    chosen = falling(scores, range(n_group), token, topk_group)[:topk_group]
    keys, allowed = keys.copy(), allowed.copy()
    for g, group in enumerate(members):
        if g not in chosen:
            if group_fill == "zero":
                keys[list(group)] = 0.0
            else:
                allowed[list(group)] = False
    return keys, allowed


def number_selected(keys, order, token, mode, k, p, tau):
    """How many of `order` one token takes."""
    if mode == "threshold":
        return min(k, sum(decide(token, keys[e], tau) for e in order))
    if mode == "topp" and p < 1.0:
        held = np.cumsum([keys[e] for e in order])
        return min(k, 1 + sum(decide(token, p, value) for value in held))
    return k


def select(
    key,
    bias=None,
    token_mask=None,
    expert_mask=None,
    group_size=None,
    *,
    mode="topk",
    k,
    p=None,
    tau=None,
    capacity=None,
    n_group=1,
    topk_group=1,
    group_score="max",
    group_fill="neg_inf",
    tie_break="lower",
):
    tokens, experts = key.shape
    keys = key if bias is None else key + bias
    allowed = np.ones(keys.shape, dtype=bool)
    if token_mask is not None:
        allowed &= token_mask[:, None]
    if expert_mask is not None:
        allowed &= expert_mask
    if mode == "all":
        return Routing(np.where(allowed, np.arange(experts), NOBODY), None, experts)
    if mode == "expert_topk":
        return expert_top_k(keys, allowed, group_size, capacity, k)
    per_token = []
    for t in range(tokens):
        row, may = keys[t], allowed[t]
        if n_group > 1:
            row, may = limit_groups(row, may, t, n_group, topk_group, group_score, group_fill)
        order = falling(row, np.flatnonzero(may).tolist(), t, k, tie_break == "higher")
        count = number_selected(row, order, t, mode, k, p, tau)
        per_token.append([(e, 0.0) for e in order[:count]])
    return routing_of(per_token, k, experts, False)


def expert_top_k(keys, allowed, group_size, capacity, k):
    tokens, experts = keys.shape
    taken = np.zeros(keys.shape, dtype=bool)
    for group in groups_of(tokens, group_size):
        room = capacity.evaluate(len(group), experts, k)
        for e in range(experts):
            order = sorted((t for t in group if allowed[t, e]), key=lambda t: (-keys[t, e], t))
            if 0 < room < len(order):
                decide(order[room], keys[order[room - 1], e], keys[order[room], e], np.abs(keys[order[room]]).max())
            taken[order[:room], e] = True
    per_token = []
    for t in range(tokens):
        chosen = np.flatnonzero(taken[t]).tolist()
        per_token.append([(e, 0.0) for e in falling(keys[t], chosen, t, experts)])
    return routing_of(per_token, k, experts, False)


def given(ids, *, experts):
    per_slot = np.where((ids >= 0) & (ids < experts), ids, NOBODY)
    for row in per_slot:
        for slot in range(len(row)):
            if row[slot] in row[:slot]:
                row[slot] = NOBODY
    return Routing(per_slot, None, experts)


def smooth_step(v, gamma, token):
    if not decide(token, v, -gamma / 2):
        return 0.0
    if not decide(token, gamma / 2, v):
        return 1.0
    return -2.0 * v**3 / gamma**3 + 3.0 * v / (2.0 * gamma) + 0.5


def tree_select(
    x, nodes, leaves, node_bias=None, leaf_bias=None, permutation=None, *, gamma, log_eps=1e-8, p_min=0.0
):
    trees, experts = leaves.shape[:2]
    visited = np.zeros(len(x), dtype=np.int64)
    per_token = []
    for t, row in enumerate(x):
        values, ids = [], []
        for r in range(trees):
            # (node, probability), the left child on top: leaves come from left to right.
            stack, leaf = [(0, 1.0)], 0
            while stack:
                node, p = stack.pop()
                visited[t] += p > 0.0
                if node >= experts - 1:
                    value = leaves[r, leaf] @ row + (0.0 if leaf_bias is None else leaf_bias[r, leaf])
                    there = p > 0.0 if p_min == 0.0 else decide(t, p, p_min, 1e-2)
                    values.append(value + math.log(p + log_eps) if there else -math.inf)
                    order = range(experts) if permutation is None else permutation[r % len(permutation)]
                    ids.append(order[leaf])
                    leaf += 1
                    continue
                v = nodes[r, node] @ row + (0.0 if node_bias is None else node_bias[r, node])
                s = smooth_step(v, gamma, t) if p > 0.0 else 0.0
                stack += [(2 * node + 2, p * (1.0 - s)), (2 * node + 1, p * s)]
        weights = np.zeros(experts)
        for e, weight in zip(ids, softmax(np.array(values))):
            if 0 <= e < experts:
                weights[e] += weight
        weights /= weights.sum()
        order = falling(weights, np.flatnonzero(weights > 0.0).tolist(), t, experts)
        per_token.append([(e, weights[e]) for e in order])
    return routing_of(per_token, experts, experts, True), visited


# --- weights --------------------------------------------------------------------------------


def sparse_mixer(row, chosen, eps, token):
    """Weight of each of `chosen`, one round each."""
    weights, taken = [], set()
    for e in chosen:
        rest = [value for other, value in enumerate(row) if other not in taken]
        top = max(rest)
        total = 0.0
        for value in rest:
            margin = 2.0 * eps * max(abs(value), top)
            if value == top or not decide(token, top - value, margin):
                total += math.exp(value - top)
        weights.append(1.0 / total)
        taken.add(e)
    return weights


def normalize(values, norm, norm_eps, norm_p, token):
    if norm in ("sum", "clamp"):
        total = values.sum()
        # A sum of parts that cancel has few correct digits.
        if abs(total) < 0.1 * np.abs(values).sum():
            doubt(token)
        total = total + norm_eps if norm == "sum" else max(total, norm_eps)
    elif norm == "pnorm":
        total = (np.abs(values) ** norm_p).sum() ** (1.0 / norm_p)
    elif norm == "count":
        total = max(len(values), 1)
    else:
        return values
    return values / total if total != 0.0 else np.zeros_like(values)


def weigh(
    routing,
    source=None,
    bias=None,
    expert_scale=None,
    *,
    fn="none",
    eps=0.0,
    norm="none",
    norm_eps=0.0,
    norm_p=None,
    scale=1.0,
):
    weights = np.zeros(routing.ids.shape)
    for t in range(len(weights)):
        slots = routing.slots(t)
        chosen = routing.ids[t, slots]
        if source is None:
            values = routing.weights[t, slots]
        else:
            row = source[t] if bias is None else source[t] + bias
            values = row[chosen]
            if fn == "softmax" and slots:
                values = softmax(values)
            elif fn == "sigmoid":
                values = sigmoid(values)
            elif fn == "masked_softmax":
                values = np.array(sparse_mixer(row, chosen, eps, t))
        values = normalize(values, norm, norm_eps, norm_p, t) * scale
        weights[t, slots] = values if expert_scale is None else values * expert_scale[chosen]
    return Routing(routing.ids, weights, routing.experts)


def filter(routing, random=None, *, from_slot=1, threshold):
    ids = routing.ids.copy()
    for t, slot in routing.entries():
        weight = routing.weights[t, slot]
        if slot < from_slot:
            continue
        if random is None:
            stays = decide(t, weight, threshold)
        else:
            stays = decide(t, weight / max(threshold, 1e-9), random[t])
        if not stays:
            ids[t, slot] = NOBODY
    return Routing(ids, np.where(ids == NOBODY, 0.0, routing.weights), routing.experts)


def compact(routing, kept, k):
    """The entries in `kept`, renumbered in the order of their slots."""
    per_token = [
        [(routing.ids[t, slot], routing.weight(t, slot)) for slot in routing.slots(t) if (t, slot) in kept]
        for t in range(len(routing.ids))
    ]
    return routing_of(per_token, k, routing.experts, routing.weights is not None)


def capacity(routing, priority=None, group_size=None, *, capacity, order="choice", keep=None):
    tokens, k = routing.ids.shape
    keep = k if keep is None else keep

    def priority_of(t, slot):
        return routing.weights[t, slot] if priority is None else priority[t, routing.ids[t, slot]]

    kept = set()
    for group in groups_of(tokens, group_size):
        room = capacity.evaluate(len(group), routing.experts, k)
        entries = [(t, slot) for t in group for slot in routing.slots(t)]
        if order == "per_expert":
            for e in range(routing.experts):
                asking = [entry for entry in entries if routing.ids[entry] == e]
                asking.sort(key=lambda entry: (-priority_of(*entry), entry[0]))
                if 0 < room < len(asking):
                    last, out = asking[room - 1], asking[room]
                    scale = max(abs(priority_of(*entry)) for entry in asking)
                    decide(out[0], priority_of(*last), priority_of(*out), scale)
                kept |= set(asking[:room])
            continue
        turn = {t: place for place, t in enumerate(group)}
        if order == "bpr":
            best = {t: max(priority_of(t, slot) for slot in routing.slots(t)) for t in group if routing.slots(t)}
            ranked = sorted(best, key=lambda t: (-best[t], t))
            for a, b in zip(ranked, ranked[1:]):
                decide(b, best[a], best[b], max(abs(best[a]), abs(best[b])))
            turn = {t: place for place, t in enumerate(ranked)}
        if order != "token":
            entries.sort(key=lambda entry: (entry[1], turn[entry[0]]))
        load, of_token = [0] * routing.experts, dict.fromkeys(group, 0)
        for t, slot in entries:
            e = routing.ids[t, slot]
            if load[e] < room and of_token[t] < keep:
                load[e] += 1
                of_token[t] += 1
                kept.add((t, slot))
    return compact(routing, kept, keep)


def compose(outer, *inner):
    first = np.cumsum([0] + [one.experts for one in inner])
    weighted = outer.weights is not None
    per_token = []
    for t in range(len(outer.ids)):
        entries = []
        for slot in outer.slots(t):
            group = outer.ids[t, slot]
            chosen = inner[group]
            entries += [
                (first[group] + chosen.ids[t, i], outer.weight(t, slot) * chosen.weight(t, i)) for i in chosen.slots(t)
            ]
        per_token.append(entries)
    k = min(outer.ids.shape[1] * max(one.ids.shape[1] for one in inner), int(first[-1]))
    return routing_of(per_token, k, int(first[-1]), weighted)


def blend(mode, routing, source, shared_source):
    weights = np.zeros(routing.ids.shape)
    shared = np.zeros(shared_source.shape)
    for t in range(len(weights)):
        slots = routing.slots(t)
        q = softmax(np.concatenate([source[t, routing.ids[t, slots]], shared_source[t]]))
        mine = q[: len(slots)]
        weights[t, slots] = mine if mode == "joint" else routing.weights[t, slots] * mine.sum()
        shared[t] = q[len(slots) :]
    return Routing(routing.ids, weights, routing.experts), shared


def remap(routing, map, *, experts, policy="round_robin"):
    load = [0] * experts
    per_token = []
    for t in range(len(routing.ids)):
        sums = {}
        for slot in routing.slots(t):
            replicas = [int(e) for e in map[routing.ids[t, slot]] if 0 <= e < experts]
            if not replicas:
                continue
            if policy == "round_robin":
                chosen = replicas[t % len(replicas)]
            else:
                chosen = min(replicas, key=lambda e: load[e])
                load[chosen] += chosen not in sums  # merged entries are one
            sums[chosen] = sums.get(chosen, 0.0) + routing.weight(t, slot)
        per_token.append(list(sums.items()))
    return routing_of(per_token, min(routing.ids.shape[1], experts), experts, routing.weights is not None)


# --- experts ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Activation:
    """#moe.activation"""

    kind: str
    glu: str = "none"
    alpha: Optional[float] = None
    beta: Optional[float] = None
    limit: Optional[float] = None
    clamp: str = "pre"

    def function(self, v):
        return {
            "identity": lambda: v,
            "relu": lambda: np.maximum(v, 0.0),
            "gelu": lambda: v * np.vectorize(normal_cdf, otypes=[float])(v),
            "gelu_tanh": lambda: gelu_tanh(v),
            "silu": lambda: v * sigmoid((1.0 if self.alpha is None else self.alpha) * v),
            "relu2": lambda: np.maximum(v, 0.0) ** 2,
        }[self.kind]()

    def __call__(self, rows, linear=None):
        if self.glu == "none":
            return self.function(rows)
        gate = rows
        if self.glu == "interleaved":
            gate, linear = rows[..., 0::2], rows[..., 1::2]
        elif self.glu == "concat":
            gate, linear = np.split(rows, 2, axis=-1)
        limit = math.inf if self.limit is None else self.limit
        if self.clamp == "pre":
            gate = self.function(np.minimum(gate, limit))
        else:
            gate = np.minimum(self.function(gate), limit)
        return gate * (np.clip(linear, -limit, limit) + (self.beta or 0.0))


def activate(activation, rows, linear=None):
    return activation(rows, linear)


def dispatch(x, routing, *, scale_input=False):
    rows = [x[t] * (routing.weights[t, slot] if scale_input else 1.0) for t, slot in routing.rows()]
    return np.array(rows).reshape(-1, x.shape[1])


def product(row, weight, bias, e, layout):
    result = weight[e] @ row if layout == "out_in" else row @ weight[e]
    return result if bias is None else result + bias[e]


def grouped_matmul(rows, routing, weight, bias=None, *, layout="out_in"):
    out = [
        product(row, weight, bias, routing.ids[entry], layout) for row, entry in zip(rows, routing.rows())
    ]
    return np.array(out).reshape(-1, weight.shape[1 if layout == "out_in" else 2])


def feed_forward(row, e, activation, layout, up, up_bias, gate, gate_bias, down, down_bias):
    hidden = product(row, up, up_bias, e, layout)
    if gate is None:
        hidden = activation(hidden)
    else:
        hidden = activation(product(row, gate, gate_bias, e, layout), hidden)
    return product(hidden, down, down_bias, e, layout)


def expert_ffn(
    activation,
    input,
    routing,
    up,
    down,
    up_bias=None,
    gate=None,
    gate_bias=None,
    down_bias=None,
    constants=None,
    *,
    layout="out_in",
    kinds=None,
):
    kinds = kinds or (("ffn", routing.experts),)
    # Number of each expert among those of its kind.
    places, counts = [], {}
    for kind, count in kinds:
        for _ in range(count):
            places.append((kind, counts.get(kind, 0)))
            counts[kind] = counts.get(kind, 0) + 1
    out = np.zeros_like(input)
    for s, entry in enumerate(routing.rows()):
        kind, place = places[routing.ids[entry]]
        if kind == "ffn":
            out[s] = feed_forward(
                input[s], place, activation, layout, up, up_bias, gate, gate_bias, down, down_bias
            )
        elif kind == "identity":
            out[s] = input[s]
        elif kind == "constant":
            out[s] = constants[place]
    return out


def combine(
    rows, routing, tokens, uncovered=None, uncovered_routing=None, *, weight="output", accum="f32", post_scale=1.0
):
    """`accum` only rounds."""
    y = np.zeros((tokens, rows.shape[1]))
    for row, (t, slot) in zip(rows, routing.rows()):
        y[t] += row if weight == "already_applied" else routing.weights[t, slot] * row
    if uncovered is not None:
        for t in range(tokens):
            if not routing.slots(t):
                slots = uncovered_routing.slots(t)
                y[t] = uncovered_routing.weights[t, slots].sum() * uncovered[t]
    return post_scale * y


def experts(
    activation,
    input,
    routing,
    *,
    uncovered=None,
    scale_input=False,
    weight="output",
    accum="f32",
    post_scale=1.0,
    **feed_forward,
):
    rows = expert_ffn(activation, dispatch(input, routing, scale_input=scale_input), routing, **feed_forward)
    x = None if uncovered is None else input
    return combine(rows, routing, len(input), x, uncovered, weight=weight, accum=accum, post_scale=post_scale)


def shared(
    activation,
    input,
    up,
    down,
    up_bias=None,
    gate=None,
    gate_bias=None,
    down_bias=None,
    weight=None,
    add=None,
    *,
    layout="out_in",
    merge="add",
):
    y = np.zeros_like(input)
    for t, row in enumerate(input):
        for s in range(len(up)):
            part = feed_forward(row, s, activation, layout, up, up_bias, gate, gate_bias, down, down_bias)
            y[t] += part if weight is None else weight[t, s] * part
    if add is None:
        return y
    return (add + y) / 2.0 if merge == "average" else add + y


# --- auxiliary outputs ---------------------------------------------------------------------------


def counts(routing, only_first=False, tokens=None):
    number = np.zeros(routing.experts, dtype=np.int64)
    for t, slot in routing.entries():
        if (tokens is None or t in tokens) and not (only_first and slot > 0):
            number[routing.ids[t, slot]] += 1
    return number


def load_balance(probabilities, routing, group_size, fraction, per_slot):
    losses = []
    for group in groups_of(len(probabilities), group_size):
        if len(group) == 0:
            continue
        share = counts(routing, fraction == "first", group) / len(group)
        share = share / routing.ids.shape[1] if per_slot else share
        mean = probabilities[group.start : group.stop].mean(axis=0)
        losses.append(routing.experts * np.sum(share * mean))
    return np.mean(losses) if losses else 0.0


def load(logits, noisy_logits, noise_std, variant, k):
    result = np.zeros(logits.shape[1])
    noise_std = np.broadcast_to(noise_std, logits.shape)
    for t, row in enumerate(noisy_logits):
        for e in range(len(row)):
            seen = np.delete(row, e) if variant == "shazeer" else row
            threshold = np.sort(seen)[::-1][k - 1]
            result[e] += normal_cdf((logits[t, e] - threshold) / noise_std[t, e])
    return result


def aux(
    kind,
    *,
    logits=None,
    probabilities=None,
    routing=None,
    group_size=None,
    noisy_logits=None,
    noise_std=None,
    fraction="all",
    per_slot=False,
    variant=None,
    k=None,
):
    def mean(values):
        return np.array(values.mean() if values.size else 0.0)

    if kind == "load_balance":
        return np.array(load_balance(probabilities, routing, group_size, fraction, per_slot))
    if kind == "z_loss":
        return mean(np.logaddexp.reduce(logits, axis=-1) ** 2)
    if kind == "importance_cv2" and routing is None:
        return squared_variation(probabilities.sum(axis=0), np.abs(probabilities).sum(axis=0), len(probabilities))
    if kind == "importance_cv2":
        total, size = np.zeros(routing.experts), np.zeros(routing.experts)
        for t, slot in routing.entries():
            total[routing.ids[t, slot]] += routing.weights[t, slot]
            size[routing.ids[t, slot]] += abs(routing.weights[t, slot])
        return squared_variation(total, size, len(routing.ids))
    if kind == "load_cv2":
        return np.array(cv2(load(logits, noisy_logits, noise_std, variant, k)))
    if kind == "tokens_per_expert":
        return counts(routing)
    if kind == "mean_probability":
        return probabilities.mean(axis=0) if len(probabilities) else np.zeros(probabilities.shape[1])
    assert kind == "entropy"
    logarithm = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0.0)
    return mean(-(probabilities * logarithm).sum(axis=-1))


def squared_variation(values, sizes, tokens):
    """cv² of values, sums of numbers whose magnitudes add up to `sizes`."""
    if abs(values.sum()) < 0.1 * sizes.sum():
        for t in range(tokens):
            doubt(t)
    variation = cv2(values)
    # Values that are equal but for rounding do not vary.
    return np.array(variation if variation > 1e-24 else 0.0)


def bias_update(rule, bias, count, *, rate, recenter=False):
    total, experts = int(count.sum()), len(count)
    short = total - experts * count  # (mean - count) · experts, exact
    if rule == "sign":
        delta = rate * np.sign(short)
    else:
        delta = rate * short / (experts * total) if total else np.zeros(experts)
    return bias + delta - (delta.mean() if recenter else 0.0)
