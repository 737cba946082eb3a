# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The attribute space of the moe dialect, and random points of it.

A dimension has values; a point gives each dimension one. A value may need other
dimensions to have certain values: because a verifier wants it (the constraint is named),
or because the test's layers are built so. Two values are a valid pair when a point has
both.
"""

import dataclasses
import itertools
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Need:
    """`dimension` has one of `values`; otherwise `operation` violates `constraint`."""

    dimension: str
    values: tuple
    operation: Optional[str] = None
    constraint: Optional[str] = None


def need(dimension, *values):
    return Need(dimension, values)


def verified(operation, constraint, dimension, *values):
    return Need(dimension, values, operation, constraint)


ANY_LENGTH = need("tokens", 0, 4, 12)  # multiples of the group size
AUX = (
    "no",
    "load_balance",
    "z_loss",
    "importance_routing",
    "importance_probabilities",
    "load_shazeer",
    "load_vmoe",
    "tokens_per_expert",
    "mean_probability",
    "entropy",
)
CHOOSING = ("topk", "topp", "threshold")
HAS_LOGITS = need("router", "out_in", "in_out")
HAS_KEY = need("mode", "all", "topk", "topp", "threshold", "expert_topk")
IS_TREE = need("mode", "tree")
HAS_CAPACITY = need("capacity", "choice", "bpr", "per_expert", "token")
HAS_WEIGH = need("weigh_source", "score", "logits", "no")
HAS_AUX = need("aux", *(value for value in AUX if value != "no"))
POSITIVE = need("score", "softmax", "sigmoid", "sqrtsoftplus")

# dimension -> value -> needs
DIMENSIONS = {
    # What is computed, and on what.
    "dtype": {"f32": (), "f16": (), "bf16": ()},
    "experts": {4: (), 8: (), 12: (), 20: ()},
    "tokens": {0: (), 1: (), 4: (), 12: ()},
    "weights": {"file": (), "arguments": ()},
    # moe.logits; `given`: the logits are an argument, `ties`: one with equal values.
    "router": {"out_in": (), "in_out": (), "given": (), "ties": (need("score", "identity"),)},
    "logits_bias": {"no": (), "yes": (HAS_LOGITS,)},
    "noise": {"no": (), "yes": (HAS_LOGITS,)},
    "softcap": {"no": (), "yes": (HAS_LOGITS,)},
    # moe.score
    "score": {"identity": (), "softmax": (), "sigmoid": (), "sqrtsoftplus": (), "logsigmoid": ()},
    "axis": {"experts": (), "tokens": (need("score", "softmax"),)},
    "score_group": {
        "no": (),
        "yes": (
            ANY_LENGTH,
            verified("moe.score", "C2", "axis", "tokens"),
        ),
    },
    # moe.select, moe.given, moe.tree_select
    "mode": {
        "all": (),
        "topk": (),
        "topp": (POSITIVE,),
        "threshold": (),
        "expert_topk": (),
        "given": (need("tie_break", "lower"),),
        "tree": (need("weigh_source", "no"), need("tie_break", "lower")),
    },
    "k": {1: (), 2: (), 4: (need("experts", 8, 12, 20),)},
    "key_bias": {"no": (), "yes": (HAS_KEY,)},
    "token_mask": {"no": (), "yes": (HAS_KEY,)},
    "expert_mask": {"no": (), "vector": (HAS_KEY,), "matrix": (HAS_KEY,)},
    "groups": {
        "no": (),
        "max": (HAS_KEY, verified("moe.select", "C8", "mode", *CHOOSING)),
        "top2sum": (HAS_KEY, verified("moe.select", "C8", "mode", *CHOOSING)),
    },
    "group_fill": {"neg_inf": (), "zero": (need("groups", "max", "top2sum"),)},
    "tie_break": {"lower": (), "higher": (verified("moe.select", "C13", "mode", *CHOOSING), HAS_KEY)},
    "select_group": {"no": (), "yes": (HAS_KEY, verified("moe.select", "C12", "mode", "expert_topk"), ANY_LENGTH)},
    "tree_bias": {"no": (), "yes": (IS_TREE,)},
    "permutation": {"no": (), "shared": (IS_TREE,), "each": (IS_TREE,)},
    "p_min": {"no": (), "yes": (IS_TREE,)},
    "visited": {"no": (), "yes": (IS_TREE,)},
    # moe.weigh; `no`: the routing is weighted already (a tree, moe.blend joint).
    "weigh_source": {
        "score": (),
        "logits": (),
        "no": (need("mode", "tree"), need("blend", "no", "mass")),
        "blend": (need("blend", "joint"), need("mode", "all", "topk", "topp", "threshold", "expert_topk", "given")),
    },
    "weigh_bias": {"no": (), "yes": (HAS_WEIGH, verified("moe.weigh", "C4", "weigh_source", "score", "logits"),)},
    "expert_scale": {"no": (), "yes": (HAS_WEIGH,)},
    "fn": {
        "none": (),
        "softmax": (HAS_WEIGH, verified("moe.weigh", "C4", "weigh_source", "score", "logits"),),
        "sigmoid": (HAS_WEIGH, verified("moe.weigh", "C4", "weigh_source", "score", "logits"),),
        "masked_softmax": (HAS_WEIGH, verified("moe.weigh", "C4", "weigh_source", "score", "logits"),),
    },
    "norm": {
        "none": (),
        "sum": (HAS_WEIGH,),
        "sum_eps": (HAS_WEIGH,),
        "clamp": (HAS_WEIGH,),
        # A token's only weight becomes 1 or nearly so, which is no clear priority.
        "pnorm": (HAS_WEIGH, need("capacity", "no", "choice", "token")),
        "count": (HAS_WEIGH,),
    },
    "scale": {1.0: (), 2.5: (HAS_WEIGH,)},
    # moe.filter
    "filter": {"no": (), "threshold": (), "random": ()},
    "from_slot": {1: (), 0: (need("filter", "threshold", "random"),)},
    # moe.capacity
    "capacity": {
        "no": (),
        "choice": (),
        # Priorities of equal tokens may be rounded differently.
        "bpr": (need("router", "out_in", "in_out", "given"),),
        "per_expert": (need("router", "out_in", "in_out", "given"),),
        "token": (),
    },
    "round": {"floor": (), "ceil": (HAS_CAPACITY,), "nearest": (HAS_CAPACITY,)},
    "min": {"no": (), "yes": (HAS_CAPACITY,)},
    "multiple": {"no": (), "yes": (HAS_CAPACITY,)},
    "times": {"no": (), "yes": (HAS_CAPACITY,)},
    "priority": {"no": (), "yes": (HAS_CAPACITY, verified("moe.capacity", "C3", "capacity", "bpr", "per_expert"))},
    "capacity_group": {"no": (), "yes": (HAS_CAPACITY, ANY_LENGTH)},
    "keep": {
        "no": (),
        "yes": (HAS_CAPACITY, verified("moe.capacity", "C4", "capacity", "choice", "bpr", "token"), need("k", 2, 4)),
    },
    "renormalize": {"no": (), "sum": (), "count": ()},
    # moe.blend, moe.remap, moe.compose
    "blend": {"no": (), "joint": (need("weigh_source", "blend"),), "mass": ()},
    "after": {"no": (), "round_robin": (), "least_loaded": (), "compose": ()},
    # The experts: moe.experts, moe.expert_ffn, or moe.grouped_matmul and moe.activate.
    "form": {"fused": (), "ffn": (), "parts": (need("kinds", "ffn"),)},
    "activation": {"identity": (), "relu": (), "gelu": (), "gelu_tanh": (), "silu": (), "relu2": ()},
    "glu": {"none": (), "interleaved": (), "concat": (), "separate": ()},
    "alpha": {"no": (), "yes": (verified(None, "alpha is a parameter of silu", "activation", "silu"),)},
    "beta": {
        "no": (),
        "yes": (verified(None, "beta and limit need a gate", "glu", "interleaved", "concat", "separate"),),
    },
    "limit": {
        "no": (),
        "yes": (verified(None, "beta and limit need a gate", "glu", "interleaved", "concat", "separate"),),
    },
    "clamp": {"pre": (), "post": (verified(None, "clamp = post needs a limit", "limit", "yes"),)},
    "layout": {"out_in": (), "in_out": ()},
    "biases": {"no": (), "yes": ()},
    "kinds": {"ffn": (), "zero": (), "identity": (), "constant": (), "mixed": ()},
    "combine_weight": {"output": (), "already_applied": ()},
    "scale_input": {"no": (), "yes": ()},
    "accum": {"f32": (), "native": ()},
    "post_scale": {1.0: (), 0.5: ()},
    "uncovered": {"no": (), "yes": (need("after", "no"),)},
    # moe.shared
    "shared": {
        "no": (),
        "alone": (),
        "add": (),
        "average": (),
    },
    "shared_weight": {
        "no": (),
        "gate": (need("shared", "alone", "add", "average"),),
        "blend": (need("shared", "alone", "add", "average"), need("blend", "joint", "mass")),
    },
    # moe.aux, moe.bias_update
    "aux": {
        "no": (),
        "load_balance": (),
        "z_loss": (),
        # Sums of numbers of both signs would have few correct digits, and so would the
        # variance of sums that are all 1.
        "importance_routing": (need("fn", "softmax", "sigmoid", "masked_softmax"),),
        "importance_probabilities": (
            need("score", "softmax", "sigmoid", "sqrtsoftplus", "logsigmoid"),
            need("axis", "experts"),
        ),
        "load_shazeer": (need("noise", "yes"),),
        "load_vmoe": (need("noise", "yes"),),
        "tokens_per_expert": (),
        "mean_probability": (),
        "entropy": (POSITIVE,),
    },
    "fraction": {"all": (), "first": (verified("moe.aux", "C2", "aux", "load_balance"), HAS_AUX)},
    "per_slot": {"no": (), "yes": (verified("moe.aux", "C2", "aux", "load_balance"), HAS_AUX)},
    "aux_group": {"no": (), "yes": (need("aux", "load_balance"), ANY_LENGTH)},
    "noise_std": {"matrix": (), "scalar": (need("aux", "load_shazeer", "load_vmoe"),)},
    "bias_update": {"no": (), "sign": (), "proportional": ()},
    "recenter": {"no": (), "yes": (need("bias_update", "sign", "proportional"),)},
}


class Contradiction(Exception):
    """No point has these values."""


class Space:
    def __init__(self, dimensions, without=None):
        """`without`: a (dimension, value, need) that does not hold."""
        self.values = {name: tuple(values) for name, values in dimensions.items()}
        # (dimension, value) -> [(other dimension, its values)]
        self.needs = {}
        for name, values in dimensions.items():
            for value, needs in values.items():
                for one in needs:
                    if without != (name, value, one):
                        self.needs.setdefault((name, value), []).append((one.dimension, frozenset(one.values)))
        # Dimension -> the (dimension, value) whose needs a change of it may touch.
        self.touched = {name: set() for name in self.values}
        for (name, value), needs in self.needs.items():
            for other in {name, *(other for other, _ in needs)}:
                self.touched[other].add((name, value))

    def narrow(self, domains, changed):
        """Removes what the needs rule out after `changed` dimensions, until nothing changes."""
        changed = set(changed)
        while changed:
            for name, value in self.touched[changed.pop()]:
                domain = domains[name]
                if value not in domain:
                    continue
                needs = self.needs[name, value]
                if any(domains[other].isdisjoint(values) for other, values in needs):
                    domains[name] = domain - {value}
                    changed.add(name)
                    if not domains[name]:
                        raise Contradiction
                elif len(domain) == 1:
                    for other, values in needs:
                        if not domains[other] <= values:
                            domains[other] &= values
                            changed.add(other)

    def domains(self, fixed):
        domains = {name: frozenset(values) for name, values in self.values.items()}
        for name, value in fixed.items():
            domains[name] = frozenset([value])
        self.narrow(domains, fixed)
        return domains

    def draw(self, rng, fixed=None):
        """A random point with the fixed values."""
        start = self.domains(fixed or {})
        for _ in range(50):
            try:
                return self._complete(rng, dict(start))
            except Contradiction:
                continue
        raise Contradiction

    @staticmethod
    def _choose(rng, choices):
        """What can be left out is left out more often than not: a layer with everything takes
        long to compile, and hides one fault behind another."""
        if choices[0] in ("no", "none") and rng.random() < 0.5:
            return choices[0]
        return choices[rng.integers(len(choices))]

    def _complete(self, rng, domains):
        names = list(self.values)
        for index in rng.permutation(len(names)):
            name = names[index]
            choices = [value for value in self.values[name] if value in domains[name]]
            if len(choices) > 1:
                domains[name] = frozenset([self._choose(rng, choices)])
                self.narrow(domains, [name])
        return {name: next(iter(domains[name])) for name in names}

    def valid_pairs(self):
        pairs = []
        for a, b in itertools.combinations(self.values, 2):
            for v, w in itertools.product(self.values[a], self.values[b]):
                try:
                    self.domains({a: v, b: w})
                except Contradiction:
                    continue
                pairs.append(((a, v), (b, w)))
        return pairs


class Coverage:
    """How often values and pairs were drawn."""

    def __init__(self, space):
        self.values = {(name, value): 0 for name, values in space.values.items() for value in values}
        self.pairs = dict.fromkeys(space.valid_pairs(), 0)

    def add(self, point):
        items = list(point.items())
        for item in items:
            self.values[item] += 1
        for pair in itertools.combinations(items, 2):
            self.pairs[pair] += 1

    def rare(self, values, pairs):
        """What was drawn less often than that."""
        rare_values = [(item,) for item, count in self.values.items() if count < values]
        return rare_values + [pair for pair, count in self.pairs.items() if count < pairs]


class Wanted:
    """Values and pairs that were drawn too rarely, in random order."""

    def __init__(self, coverage, rng, values, pairs):
        self.coverage, self.least = coverage, {1: values, 2: pairs}
        self.items = coverage.rare(values, pairs)
        rng.shuffle(self.items)

    def _is_rare(self, item):
        count = self.coverage.values[item[0]] if len(item) == 1 else self.coverage.pairs[item]
        return count < self.least[len(item)]

    def next(self, fixed, only=None):
        """One that has no other values than those fixed, of the dimensions `only`."""
        self.items = [item for item in self.items if self._is_rare(item)]
        for item in self.items:
            if all(fixed.get(name, value) == value and (only is None or name in only) for name, value in item):
                return dict(item)
        return {}


def draw_modules(space, rng, count, values, pairs, together, size):
    """Modules of `size` points that agree in the dimensions `together`: `count` points (more
    where that is not enough) that have each value and each valid pair so often. Returns them
    and their coverage."""
    coverage, modules = Coverage(space), []
    while len(modules) * size < count or coverage.rare(values, pairs):
        wanted = Wanted(coverage, rng, values, pairs)
        first = space.draw(rng, wanted.next({}, together) or wanted.next({}))
        common = {name: first[name] for name in together}
        points = [first]
        coverage.add(first)
        while len(points) < size:
            fixed = wanted.next(common)
            try:
                points.append(space.draw(rng, common | fixed))
            except Contradiction:
                # Not together with these; another module has it.
                wanted.items.remove(tuple(fixed.items()))
                continue
            coverage.add(points[-1])
        modules.append(points)
    return modules, coverage


SPACE = Space(DIMENSIONS)

# What the experts' kernels are made of: equal ones of a module are compiled once.
EXPERT_DIMENSIONS = (
    "dtype experts weights form activation glu alpha beta limit clamp layout biases kinds shared"
).split()
