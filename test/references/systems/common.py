# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the systems share: functions, selection, capacity, experts, auxiliary outputs,
and random layers whose decisions are all clear.

A routing is a pair of arrays ids[T,K] and weights[T,K]: slot j of token t goes to expert
ids[t,j], or nowhere where that is NOBODY.

Decisions. Two programs that round differently may decide differently when two keys are
almost equal. So each comparison that decides something here is reported (`decide`) with
the token that it is about; `draw` replaces that token's inputs until none is left whose
keys lie within CLEARANCE of each other.
"""

import contextlib
import math
import sys

import numpy as np

NOBODY = -1
CLEARANCE = 1e-3  # relative to the larger key

# --- decisions ----------------------------------------------------------------------

_unclear = None  # tokens with a decision that was too close, while being watched
_first_token = 0  # the call's number of what the reference calls token 0


@contextlib.contextmanager
def watch():
    """Collects the tokens for which a decision within the block was too close."""
    global _unclear
    assert _unclear is None
    _unclear = set()
    try:
        yield _unclear
    finally:
        _unclear = None


def decide(token, a, b, scale=0.0):
    """Whether a > b, a decision about `token`. Equal values are exact constants (a filled
    key, a saturated probability): rounding does not part them. `scale` is a size of which
    the values may be small differences."""
    if _unclear is not None and a != b and math.isfinite(a) and math.isfinite(b):
        if abs(a - b) <= CLEARANCE * max(abs(a), abs(b), 1e-2 * scale):
            _unclear.add(_first_token + int(token))
    return a > b


def doubt(token):
    """What is computed for `token` has few correct digits."""
    if _unclear is not None:
        _unclear.add(_first_token + int(token))


def each_group(x):
    """(g, x[g]) of x[G,S,H] for the groups that have tokens; decisions about token t of
    group g are about token g·S + t."""
    global _first_token
    for g, rows in enumerate(x):
        if len(rows):
            _first_token = g * len(rows)
            yield g, rows
    _first_token = 0


def draw_clear(module, rng, dims, tokens, case, dtype=np.float64, given=None):
    """Arrays of `module.make`, rounded to dtype (kept as float64), with every decision
    of its reference clear. Only the inputs of unclear tokens are drawn again. Arrays in
    `given` are taken as they are."""

    def fresh():
        arrays = module.make(rng, dims, tokens, case)
        rounded = {
            name: value.astype(dtype).astype(np.float64) if value.dtype.kind == "f" else value
            for name, value in arrays.items()
        }
        return rounded | (given or {})

    def redraw(value, other, unclear):
        """Takes over other's rows; of [T, ...] or [groups, T / groups, ...]."""
        if value.shape[0] == tokens:
            value[unclear] = other[unclear]
        elif value.ndim > 2 and value.shape[0] * value.shape[1] == tokens:
            groups, rows = np.divmod(unclear, value.shape[1])
            value[groups, rows] = other[groups, rows]

    arrays = fresh()
    for _ in range(500):
        with watch() as unclear:
            module.reference(arrays, dims, case)
        if not unclear:
            return arrays
        again, unclear = fresh(), sorted(unclear)
        for name in set(module.INPUTS) & set(arrays):
            redraw(arrays[name], again[name], unclear)
    raise ValueError(f"{module.__name__}: no layer with clear decisions found")


def drawing(name):
    """The `draw` of module `name`: draw_clear of it."""
    return lambda *arguments, **keywords: draw_clear(sys.modules[name], *arguments, **keywords)


# --- random layers ------------------------------------------------------------------


def tokens_like(rng, *shape):
    """x[..., H]: normal, plus a common part along the direction (1, …, 1) by which
    `router_like` makes experts popular or unpopular."""
    return rng.standard_normal(shape) + 4.0 / math.sqrt(shape[-1])


def router_like(rng, experts, hidden, empty=(1,), spread=0.8):
    """[E, H], for `tokens_like`: experts of different popularity, those of `empty` with
    logits far below the others."""
    popularity = spread * rng.standard_normal(experts)
    popularity[[e for e in empty if e < experts]] = -9.0
    return rng.standard_normal((experts, hidden)) / math.sqrt(hidden) + popularity[:, None] / (
        4.0 * math.sqrt(hidden)
    )


def matrices(rng, *shape):
    """[..., out, in] with results of about the size of the arguments."""
    return rng.standard_normal(shape) / math.sqrt(shape[-1])


def biases(rng, *shape):
    return 0.3 * rng.standard_normal(shape)


def groups_of(tokens):
    """(groups, tokens per group) to split `tokens` into: two where that is possible."""
    return (2, tokens // 2) if tokens % 2 == 0 and tokens > 2 else (1, tokens)


# --- functions ----------------------------------------------------------------------


def softmax(x, axis=-1):
    if x.shape[axis] == 0:
        return x.copy()
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def relu(x):
    return np.maximum(x, 0.0)


def silu(x):
    return x * sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def normal_cdf(x):
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


# --- selection ----------------------------------------------------------------------


def ranking(row, token=None, count=None):
    """Indices of the row by falling value, the lower index first among equals. The first
    `count` places, and the place after them, are decided about `token`."""
    order = sorted(range(len(row)), key=lambda index: (-row[index], index))
    if token is not None:
        scale = max((abs(value) for value in row if math.isfinite(value)), default=0.0)
        for place in range(min(count, len(row) - 1)):
            decide(token, row[order[place]], row[order[place + 1]], scale)
    return order


def top_k(keys, k):
    """ids[T,k] of the k largest keys of each token, largest first. Keys of -inf are not
    eligible: a token with fewer than k others has empty slots."""
    ids = np.full((len(keys), k), NOBODY)
    for t, row in enumerate(keys):
        chosen = [e for e in ranking(row, t, k)[:k] if row[e] > -np.inf]
        ids[t, : len(chosen)] = chosen
    return ids


def top_p(probabilities, p):
    """ids[T,E]: experts by falling probability, until those before hold at least p."""
    count, experts = probabilities.shape
    ids = np.full((count, experts), NOBODY)
    for t, row in enumerate(probabilities):
        held = 0.0
        for slot, e in enumerate(ranking(row, t, experts)):
            if slot > 0 and not decide(t, p, held):
                break
            ids[t, slot] = e
            held += row[e]
    return ids


def limit_groups(keys, groups, kept, score, fill):
    """Keys whose experts lie in the `kept` of `groups` consecutive groups with the largest
    score; the others become `fill`."""
    limited = np.full_like(keys, fill)
    size = keys.shape[1] // groups
    for t, row in enumerate(keys):
        scores = [score(row[g * size : (g + 1) * size]) for g in range(groups)]
        for g in ranking(scores, t, kept)[:kept]:
            limited[t, g * size : (g + 1) * size] = row[g * size : (g + 1) * size]
    return limited


def sum_of_top_two(row):
    return sum(sorted(row)[-2:])


def gather(values, ids):
    """values[t, ids[t,j]], 0 where nobody is."""
    taken = np.take_along_axis(values, np.where(ids == NOBODY, 0, ids), axis=-1)
    return np.where(ids == NOBODY, 0.0, taken)


def softmax_of_selected(logits, ids):
    """softmax over the selected logits of each token."""
    weights = np.zeros(ids.shape)
    for t, row in enumerate(ids):
        slots = np.flatnonzero(row != NOBODY)
        if slots.size:
            weights[t, slots] = softmax(logits[t, row[slots]])
    return weights


def divide_by_sum(weights, eps=0.0):
    """w / (Σw + eps), 0 where that is 0."""
    total = weights.sum(axis=-1, keepdims=True) + eps
    return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)


def sparse_mixer(row, rounds, eps, token):
    """(ids, weights) of `rounds` rounds over one token's logits (SparseMixer, arXiv
    2409.12136): the winner's weight is its part in a softmax over the experts not yet
    taken that lie within 2·eps·max(|s|, M) of the winner's logit M. Uni-MoE's max(|s|, |M|)
    is the same: of s <= M < 0 |s| is the larger one."""
    ids, weights, taken = [], [], set()
    for _ in range(rounds):
        rest = [e for e in ranking(row, token, rounds) if e not in taken]
        winner, total = rest[0], 0.0
        top = row[winner]
        for e in rest:
            if not decide(token, top - row[e], 2.0 * eps * max(abs(row[e]), top)):
                total += math.exp(row[e] - top)
        ids.append(winner)
        weights.append(1.0 / total)
        taken.add(winner)
    return ids, weights


# --- capacity -------------------------------------------------------------------------


def fill(ids, experts, capacity, entries):
    """ids with NOBODY for the entries that find their expert full; `entries` yields
    (token, slot) in the order in which they ask."""
    kept, load = np.full_like(ids, NOBODY), [0] * experts
    for t, slot in entries:
        e = ids[t, slot]
        if e != NOBODY and load[e] < capacity:
            load[e] += 1
            kept[t, slot] = e
    return kept


def by_choice(ids, order=None):
    """All first choices, then all second choices, …; tokens in `order`."""
    tokens = range(len(ids)) if order is None else order
    return [(t, slot) for slot in range(ids.shape[1]) for t in tokens]


def by_token(ids):
    return [(t, slot) for t in range(len(ids)) for slot in range(ids.shape[1])]


def by_falling(priority, tokens=None):
    """All tokens, or those given, by falling priority[T], of equals the lower first."""
    order = sorted(range(len(priority)) if tokens is None else tokens, key=lambda t: (-priority[t], t))
    for a, b in zip(order, order[1:]):
        decide(b, priority[a], priority[b])
    return order


def fill_by_priority(ids, experts, capacity, priority):
    """Each expert keeps the `capacity` entries with the largest priority[T,E]."""
    kept = np.full_like(ids, NOBODY)
    for e in range(experts):
        entries = [(t, slot) for t, slot in zip(*np.nonzero(ids == e))]
        entries.sort(key=lambda entry: (-priority[entry[0], e], entry[0]))
        if 0 < capacity < len(entries):
            last, first_out = entries[capacity - 1][0], entries[capacity][0]
            decide(first_out, priority[last, e], priority[first_out, e], np.abs(priority[first_out]).max())
        for t, slot in entries[:capacity]:
            kept[t, slot] = e
    return kept


def round_up(value, multiple):
    return -(-value // multiple) * multiple


# --- experts --------------------------------------------------------------------------


def run_experts(x, ids, weights, expert):
    """y[t] = Σ_slots weight · expert(e, x[t])."""
    y = np.zeros_like(x)
    for t in range(len(x)):
        for slot, e in enumerate(ids[t]):
            if e != NOBODY:
                y[t] += weights[t, slot] * expert(e, x[t])
    return y


def relu_expert(w):
    """FFN without gate: down · relu(up · x + up_bias) + down_bias, biases where there."""
    return lambda e, row: plain(row, e, w, relu)


def plain(row, e, w, activation):
    hidden = w["up"][e] @ row
    if "up_bias" in w:
        hidden = hidden + w["up_bias"][e]
    result = w["down"][e] @ activation(hidden)
    return result + w["down_bias"][e] if "down_bias" in w else result


def swiglu_expert(w):
    """down · (silu(gate · x) ⊙ (up · x)); gate_up [E,2I,H] has the gate rows first."""

    def expert(e, row):
        gate, up = np.split(w["gate_up"][e] @ row, 2)
        return w["down"][e] @ (silu(gate) * up)

    return expert


def shared_swiglu(x, w):
    """[S,T,H]: the S shared experts shared_gate, shared_up [S,J,H], shared_down [S,H,J]."""
    return np.stack(
        [
            (silu(x @ gate.T) * (x @ up.T)) @ down.T
            for gate, up, down in zip(w["shared_gate"], w["shared_up"], w["shared_down"])
        ]
    )


def make_swiglu(rng, dims):
    h, i, e = dims["H"], dims["I"], dims["E"]
    return {"gate_up": matrices(rng, e, 2 * i, h), "down": matrices(rng, e, h, i)}


def make_shared_swiglu(rng, dims, count=1):
    h, j = dims["H"], dims["J"]
    return {
        "shared_gate": matrices(rng, count, j, h),
        "shared_up": matrices(rng, count, j, h),
        "shared_down": matrices(rng, count, h, j),
    }


def make_plain(rng, dims, with_biases=True):
    h, i, e = dims["H"], dims["I"], dims["E"]
    weights = {"up": matrices(rng, e, i, h), "down": matrices(rng, e, h, i)}
    if with_biases:
        weights |= {"up_bias": biases(rng, e, i), "down_bias": biases(rng, e, h)}
    return weights


# --- auxiliary outputs ------------------------------------------------------------------


def tokens_per_expert(ids, experts):
    return np.array([np.count_nonzero(ids == e) for e in range(experts)], dtype=np.int64)


def load_balance(probabilities, ids):
    """E · Σ_e f_e · P_e, f_e the entries of expert e per token, P_e its mean probability."""
    count, experts = probabilities.shape
    if count == 0:
        return np.array(0.0)
    fraction = tokens_per_expert(ids, experts) / count
    return np.array(experts * np.sum(fraction * probabilities.mean(axis=0)))


def z_loss(logits):
    """mean over tokens of (ln Σ_e e^L)²"""
    if len(logits) == 0:
        return np.array(0.0)
    top = logits.max(axis=-1)
    return np.array(np.mean((top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))) ** 2))


def cv2(values):
    """The squared coefficient of variation, population variance over mean²."""
    return np.array(np.var(values) / (np.mean(values) ** 2 + 1e-10))


def importance(ids, weights, experts):
    """Σ_t of the weights, by expert."""
    return np.array([np.sum(weights[ids == e]) for e in range(experts)])


def mean(values):
    return np.array(np.mean(values)) if len(values) else np.array(0.0)
