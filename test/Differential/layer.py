# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A point of the attribute space as a layer: its text in the moe dialect, random
arguments, and its outputs by references.ops."""

import contextlib
import dataclasses

import ml_dtypes
import numpy as np
from references import ops
from references.systems.common import draw_clear

H, I, J, SHARED, TREES, GROUP = 20, 12, 8, 2, 2, 4

NUMPY_TYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "i1": np.bool_,
    "i64": np.int64,
}

# Attributes that are enums, by (operation or None, name).
ENUMS = {
    (None, "layout"): "layout",
    (None, "axis"): "axis",
    (None, "mode"): "select_mode",
    (None, "group_score"): "group_score",
    (None, "group_fill"): "group_fill",
    (None, "tie_break"): "tie_break",
    (None, "fn"): "weigh_fn",
    (None, "norm"): "weigh_norm",
    (None, "order"): "capacity_order",
    (None, "policy"): "remap_policy",
    (None, "weight"): "combine_weight",
    (None, "accum"): "accum",
    (None, "merge"): "merge",
    (None, "fraction"): "aux_fraction",
    (None, "variant"): "load_variant",
}


@dataclasses.dataclass(frozen=True)
class Value:
    name: str
    type: str


def tensor(sizes, element):
    return f"tensor<{''.join(f'{size}x' for size in sizes)}{element}>"


def dtype_and_rank(type):
    """What `tensor` was given."""
    *sizes, element = type[len("tensor<") : -1].split("x")
    return NUMPY_TYPES[element], len(sizes)


def routing_type(experts, k, weighted):
    return f"!moe.routing<experts = {experts}, k = {k}{', weighted' if weighted else ''}>"


def literal(name, value):
    """An attribute in the dialect's syntax, after `name = `."""
    if isinstance(value, ops.Capacity):
        terms = " ".join(
            str(term) if not isinstance(term, tuple) else f"{term[0]} {term[1]}" for term in value.terms
        )
        return f"#moe.capacity<{terms}, round = {value.round}, min = {value.min}, multiple = {value.multiple}, times = {value.times}>"
    if isinstance(value, tuple):  # kinds
        return "[" + ", ".join(f"#moe.kind<{kind}, {count}>" for kind, count in value) + "]"
    if isinstance(value, str):
        return f"#moe.{ENUMS[None, name]}<{value}>"
    return f"{value:.17e} : f64" if isinstance(value, float) else str(value)


def activation_text(activation):
    words = [activation.kind]
    words += [f"glu = {activation.glu}"] if activation.glu != "none" else []
    for name in ("alpha", "beta", "limit"):
        value = getattr(activation, name)
        words += [f"{name} = {value:.17e} : f64"] if value is not None else []
    words += [f"clamp = {activation.clamp}"] if activation.clamp != "pre" else []
    return f"<{', '.join(words)}>"


class Layer:
    """Statements, each both text and a call of references.ops, over named values."""

    def __init__(self, name, point):
        self.name, self.point = name, point
        self.arguments = []  # (Value, dims)
        self.weights = []  # Value
        self.draws = {}  # argument or weight -> function of (rng, tokens)
        self.lines, self.calls, self.results = [], [], []
        build(self)

    # --- building

    def argument(self, name, sizes, element, draw):
        """`sizes` may begin with "?": the tokens. `draw(rng, shape)` makes the numbers."""
        value = Value(f"%{name}", tensor(sizes, element))
        fixed = "?" not in sizes
        self.draws[name] = lambda rng, tokens: draw(rng, [tokens if size == "?" else size for size in sizes])
        if fixed and self.point["weights"] == "file":
            self.weights.append(value)
        else:
            self.arguments.append((value, ["tokens" if size == "?" else "" for size in sizes]))
        return value

    def op(self, name, *positional, result, word=None, named=None, activation=None, head=None, **attributes):
        """One operation; `result`: its types (one, or a list). `named` operands that are None
        are left out, and so are attributes that are None or False."""
        named = {key: value for key, value in (named or {}).items() if value is not None}
        attributes = {key: value for key, value in attributes.items() if value is not None and value is not False}
        types = result if isinstance(result, list) else [result]
        values = [Value(f"%v{len(self.lines)}_{i}", type) for i, type in enumerate(types)]
        operands = [*positional, *(part for value in named.values() for part in (value if isinstance(value, tuple) else (value,)))]
        text = [f"moe.{name}"]
        text += [f"<{word}>"] if word else []
        text += [activation_text(activation)] if activation and head else []
        text += [", ".join(value.name for value in positional)] if positional else []
        for key, value in named.items():
            parts = value if isinstance(value, tuple) else (value,)
            text.append(f"{key}({', '.join(part.name for part in parts)})")
        text += [activation_text(activation)] if activation and not head else []
        if attributes:
            written = (key if value is True else f"{key} = {literal(key, value)}" for key, value in attributes.items())
            text.append("{" + ", ".join(written) + "}")
        if name == "score":
            type = f"{positional[0].type} -> {types[0]}"
        elif name == "bias_update":
            type = ", ".join(value.type for value in positional)
        else:
            outputs = types[0] if len(types) == 1 else f"({', '.join(types)})"
            type = f"({', '.join(value.type for value in operands)}) -> {outputs}"
        left = ", ".join(value.name for value in values)
        self.lines.append(f"{left} = {' '.join(text)} : {type}")
        self.calls.append((name, word or activation, positional, named, attributes, values))
        return values[0] if not isinstance(result, list) else values

    def index(self, value):
        result = Value(f"%v{len(self.lines)}_0", "index")
        self.lines.append(f"{result.name} = arith.constant {value} : index")
        self.calls.append(("constant", value, (), {}, {}, [result]))
        return result

    def tokens(self, x):
        zero = self.index(0)
        result = Value(f"%v{len(self.lines)}_0", "index")
        self.lines.append(f"{result.name} = tensor.dim {x.name}, {zero.name} : {x.type}")
        self.calls.append(("dim", None, (x,), {}, {}, [result]))
        return result

    # --- text

    def symbol(self, weight):
        return f"{self.name}_{weight.name[1:]}"

    def text(self):
        arguments = ", ".join(
            f'{value.name}: {value.type} {{onnx.name = "{value.name[1:]}", onnx.dims = ['
            + ", ".join(f'"{dim}"' for dim in dims)
            + "]}"
            for value, dims in self.arguments
        )
        results = ", ".join(f'{value.type} {{onnx.name = "out{i}"}}' for i, value in enumerate(self.results))
        weights = [
            f'moe.weight @{self.symbol(value)} from [#moe.tensor<"{self.symbol(value)}">] : {value.type}'
            for value in self.weights
        ]
        loads = [f"  {value.name} = moe.load_weight @{self.symbol(value)} : {value.type}" for value in self.weights]
        end = f"  return {', '.join(v.name for v in self.results)} : {', '.join(v.type for v in self.results)}"
        head = f"func.func @{self.name}({arguments}) -> ({results}) {{"
        return "\n".join([*weights, head, *loads, *(f"  {line}" for line in self.lines), end, "}", ""])

    # --- numbers

    def types(self):
        """NumPy type by name, of arguments and weights."""
        values = [*(value for value, _ in self.arguments), *self.weights]
        return {value.name[1:]: dtype_and_rank(value.type)[0] for value in values}

    def outputs(self):
        """NumPy type and rank of each result."""
        return [dtype_and_rank(value.type) for value in self.results]

    def cast(self, arrays):
        """Arguments and weights of `draw` in their types."""
        types = self.types()
        return {name: np.asarray(array.astype(types[name]), order="C") for name, array in arrays.items()}

    def draw(self, rng):
        """Arguments and weights, in float64, with clear decisions."""
        for _ in range(10):
            # New weights as well: a decision may be about them alone, such as two biases.
            with contextlib.suppress(ValueError):
                return draw_clear(Drawing(self), rng, None, self.point["tokens"], None)
        raise ValueError(f"no layer with clear decisions found: {self.point}")

    def evaluate(self, arrays):
        known = {f"%{name}": array for name, array in arrays.items()}

        def get(value):
            return tuple(known[one.name] for one in value) if isinstance(value, tuple) else known[value.name]

        for name, word, positional, named, attributes, values in self.calls:
            if name == "constant":
                results = word
            elif name == "dim":
                results = known[positional[0].name].shape[0]
            else:
                head = () if word is None else (word,)
                # Names of operands that are attributes' too have no conflict in any operation.
                keywords = {key: get(value) for key, value in named.items()}
                if isinstance(keywords.get("uncovered"), tuple):
                    keywords["uncovered"], keywords["uncovered_routing"] = keywords["uncovered"]
                if name in ("given", "remap"):
                    keywords["experts"] = experts_of(values[0])
                results = getattr(ops, name)(*head, *(get(one) for one in positional), **keywords, **attributes)
            for value, result in zip(values, results if len(values) > 1 else [results]):
                known[value.name] = result
        return [known[value.name] for value in self.results]


def experts_of(value):
    return int(value.type.split("experts = ")[1].split(",")[0])


def k_of(value):
    return int(value.type.split("k = ")[1].split(",")[0].rstrip(">"))


class Drawing:
    """What draw_clear wants of a module."""

    __name__ = "a layer"

    def __init__(self, layer):
        self.layer = layer
        self.types = layer.types()
        self.INPUTS = tuple(value.name[1:] for value, dims in layer.arguments if "tokens" in dims)

    def make(self, rng, _dims, tokens, _case):
        arrays = {name: draw(rng, tokens) for name, draw in self.layer.draws.items()}
        return {
            name: array.astype(self.types[name]).astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in arrays.items()
        }

    def reference(self, arrays, _dims, _case):
        return self.layer.evaluate(arrays)


# --- a layer of a point ---------------------------------------------------------------------------


def normal(scale=1.0):
    return lambda rng, shape: scale * rng.standard_normal(shape)


def matrix(rng, shape):
    return rng.standard_normal(shape) / np.sqrt(H)


def uniform(low, high):
    return lambda rng, shape: rng.uniform(low, high, shape)


def flags(probability):
    return lambda rng, shape: rng.uniform(size=shape) < probability


def build(layer):
    """The operations in the order of their dimensions in space.py."""
    p = layer.point
    x = layer.argument("x", ["?", H], p["dtype"], normal())
    logits, noise, scores = build_scores(layer, x)
    selected, visited = build_selection(layer, x, logits, scores)
    shared_logits = shared_weights = None
    if p["blend"] != "no" or p["shared_weight"] == "gate":
        router = layer.argument("shared_router", [SHARED, H], p["dtype"], matrix)
        shared_logits = layer.op("logits", x, router, result=tensor(["?", SHARED], "f32"))
    routing, shared_weights = build_weights(layer, selected, logits, scores, shared_logits)
    weighed = routing
    routing = build_capacity(layer, routing, scores)
    if p["blend"] == "mass":
        routing, shared_weights = layer.op(
            "blend",
            routing,
            logits,
            shared_logits,
            word="softmax_mass",
            result=[routing.type, tensor(["?", SHARED], "f32")],
        )
    routing = build_after(layer, routing)
    y = build_experts(layer, x, routing, weighed)
    if p["shared_weight"] == "gate":
        shared_weights = layer.op("score", shared_logits, word="sigmoid", result=shared_logits.type)
    y = build_shared(layer, x, y, shared_weights)
    layer.results = [*y, *([visited] if visited else []), *build_auxiliary(layer, logits, noise, scores, routing)]


def build_scores(layer, x):
    """(logits, (clean logits, noisy logits) where there is noise, scores)."""
    p, e = layer.point, layer.point["experts"]
    type, noise = tensor(["?", e], "f32"), None
    if p["router"] == "given":
        logits = layer.argument("logits", ["?", e], "f32", normal(1.5))
    elif p["router"] == "ties":
        logits = layer.argument("logits", ["?", e], "f32", lambda rng, shape: rng.integers(-4, 5, shape) / 2.0)
    else:
        out_in = p["router"] == "out_in"
        router = layer.argument("router", [e, H] if out_in else [H, e], p["dtype"], matrix)
        bias = layer.argument("router_bias", [e], p["dtype"], normal(0.5)) if p["logits_bias"] == "yes" else None
        attributes = {"layout": p["router"], "softcap": 2.0 if p["softcap"] == "yes" else None, "result": type}
        logits = layer.op("logits", x, router, named={"bias": bias}, **attributes)
        if p["noise"] == "yes":
            random = layer.argument("noise", ["?", e], "f32", normal(0.5))
            clean = logits
            logits = layer.op("logits", x, router, named={"bias": bias, "noise": random}, **attributes)
            noise = (clean, logits)
    size = layer.index(GROUP) if p["score_group"] == "yes" else None
    scores = layer.op(
        "score",
        logits,
        word=p["score"],
        named={"group_size": size},
        axis=p["axis"] if p["axis"] == "tokens" or p["score"] == "softmax" else None,
        result=type,
    )
    return logits, noise, scores


def capacity_of(p):
    terms = {
        "floor": ("tokens", ("*", 0.7), ("*", "k"), ("/", "experts")),
        "ceil": ("tokens", ("/", "experts"), ("*", 1.25)),
        "nearest": (1.3, ("*", "tokens"), ("/", "experts")),
    }[p["round"]]
    return ops.Capacity(
        terms,
        p["round"],
        min=2 if p["min"] == "yes" else 0,
        multiple=3 if p["multiple"] == "yes" else 1,
        times=2 if p["times"] == "yes" else 1,
    )


def build_selection(layer, x, logits, scores):
    """(routing, visited or None)"""
    p, e = layer.point, layer.point["experts"]
    if p["mode"] == "tree":
        return build_tree(layer, x)
    if p["mode"] == "given":
        # Some ids are out of range, some twice.
        ids = layer.argument("ids", ["?", p["k"]], "i64", lambda rng, shape: rng.integers(-1, e + 1, shape))
        return layer.op("given", ids, result=routing_type(e, p["k"], False)), None
    k = e if p["mode"] in ("all", "expert_topk") else p["k"]
    named = {}
    if p["key_bias"] == "yes":
        # Positive: keys of topp are probabilities.
        named["bias"] = layer.argument("key_bias", [e], "f32", uniform(0.05, 0.5))
    if p["token_mask"] == "yes":
        named["token_mask"] = layer.argument("token_mask", ["?"], "i1", flags(0.8))
    if p["expert_mask"] != "no":
        sizes = [e] if p["expert_mask"] == "vector" else ["?", e]
        named["expert_mask"] = layer.argument("expert_mask", sizes, "i1", flags(0.7))
    if p["select_group"] == "yes":
        named["group_size"] = layer.index(GROUP)
    attributes = {}
    if p["groups"] != "no":
        # As many groups as leave room for k experts.
        n_group = 2 if p["k"] > 2 or e == 4 else 4
        kept = 1 if p["k"] <= e // n_group else 2
        attributes = {"n_group": n_group, "topk_group": max(kept, n_group // 2), "group_score": p["groups"]}
        attributes["group_fill"] = p["group_fill"]
    return (
        layer.op(
            "select",
            scores,
            named=named,
            mode=p["mode"],
            k=k,
            p=0.6 if p["mode"] == "topp" else None,
            tau=0.3 if p["mode"] == "threshold" else None,
            capacity=capacity_of(p) if p["mode"] == "expert_topk" else None,
            tie_break=p["tie_break"],
            result=routing_type(e, k, False),
            **attributes,
        ),
        None,
    )


def build_tree(layer, x):
    p, e = layer.point, layer.point["experts"]
    named = {
        "nodes": layer.argument("nodes", [TREES, e - 1, H], p["dtype"], matrix),
        "leaves": layer.argument("leaves", [TREES, e, H], p["dtype"], matrix),
    }
    if p["tree_bias"] == "yes":
        named["node_bias"] = layer.argument("node_bias", [TREES, e - 1], p["dtype"], normal(0.3))
        named["leaf_bias"] = layer.argument("leaf_bias", [TREES, e], p["dtype"], normal(0.3))
    if p["permutation"] != "no":
        rows = TREES if p["permutation"] == "each" else 1
        named["permutation"] = layer.argument(
            "permutation", [rows, e], "i64", lambda rng, shape: np.stack([rng.permutation(e) for _ in range(rows)])
        )
    routing, visited = layer.op(
        "tree_select",
        x,
        named=named,
        gamma=1.0,
        log_eps=1e-6,
        p_min=1e-3 if p["p_min"] == "yes" else None,
        result=[routing_type(e, e, True), tensor(["?"], "i64")],
    )
    return routing, visited if p["visited"] == "yes" else None


NORMS = {
    "none": {},
    "sum": {"norm": "sum"},
    "sum_eps": {"norm": "sum", "norm_eps": 0.01},
    "clamp": {"norm": "clamp", "norm_eps": 0.5},
    "pnorm": {"norm": "pnorm", "norm_p": 2.0},
    "count": {"norm": "count"},
}


def build_weights(layer, selected, logits, scores, shared_logits):
    """(weighted routing, weights of the shared experts or None)"""
    p, e = layer.point, layer.point["experts"]
    weighted = routing_type(e, k_of(selected), True)
    if p["weigh_source"] == "blend":
        return layer.op(
            "blend",
            selected,
            logits,
            shared_logits,
            word="joint",
            result=[weighted, tensor(["?", SHARED], "f32")],
        )
    named = {}
    if p["weigh_bias"] == "yes":
        named["bias"] = layer.argument("weigh_bias", [e], "f32", normal(0.5))
    if p["expert_scale"] == "yes":
        named["expert_scale"] = layer.argument("expert_scale", [e], "f32", uniform(0.5, 1.5))
    sources = {"score": (scores,), "logits": (logits,), "no": ()}[p["weigh_source"]]
    routing = layer.op(
        "weigh",
        selected,
        *sources,
        named=named,
        fn=p["fn"] if p["fn"] != "none" else None,
        eps=0.1 if p["fn"] == "masked_softmax" else None,
        scale=p["scale"],
        **NORMS[p["norm"]],
        result=weighted,
    )
    return routing, None


def build_capacity(layer, routing, scores):
    """moe.filter, moe.capacity and the weights that are normalised after it."""
    p = layer.point
    if p["filter"] != "no":
        random = layer.argument("random", ["?"], "f32", uniform(0.0, 1.0)) if p["filter"] == "random" else None
        routing = layer.op(
            "filter", routing, named={"random": random}, from_slot=p["from_slot"], threshold=0.3, result=routing.type
        )
    if p["capacity"] != "no":
        keep = 1 if p["keep"] == "yes" else None
        routing = layer.op(
            "capacity",
            routing,
            named={
                "priority": scores if p["priority"] == "yes" else None,
                "group_size": layer.index(GROUP) if p["capacity_group"] == "yes" else None,
            },
            capacity=capacity_of(p),
            order=p["capacity"],
            keep=keep,
            result=routing_type(experts_of(routing), keep or k_of(routing), True),
        )
    if p["renormalize"] != "no":
        routing = layer.op("weigh", routing, norm=p["renormalize"], result=routing.type)
    return routing


def build_after(layer, routing):
    """Routing to other experts."""
    p, e = layer.point, experts_of(routing)
    if p["after"] in ("round_robin", "least_loaded"):
        replicas = layer.argument("map", [e, 2], "i64", lambda rng, shape: rng.integers(-1, e + 2, shape))
        result = routing_type(e + 2, min(k_of(routing), e + 2), True)
        return layer.op("remap", routing, replicas, policy=p["after"], result=result)
    if p["after"] == "compose":

        def one_of(name, count):
            keys = layer.argument(name, ["?", count], "f32", normal())
            chosen = layer.op("select", keys, k=1, result=routing_type(count, 1, False))
            return layer.op("weigh", chosen, keys, fn="sigmoid", result=routing_type(count, 1, True))

        outer, inner = one_of("outer", 2), one_of("inner", 3)
        result = routing_type(e + 3, k_of(routing), True)
        return layer.op("compose", outer, routing, inner, result=result)
    return routing


def kinds_of(p, experts):
    return {
        "ffn": None,
        "zero": (("ffn", experts - 1), ("zero", 1)),
        "identity": (("identity", 2), ("ffn", experts - 2)),
        "constant": (("ffn", experts - 2), ("constant", 2)),
        "mixed": (("constant", 1), ("ffn", experts - 3), ("zero", 1), ("identity", 1)),
    }[p["kinds"]]


def banks(layer, prefix, count, width):
    """Weights of `count` networks: operands, by name."""
    p = layer.point
    rows = 2 * width if p["glu"] in ("interleaved", "concat") else width

    def bank(name, outer, inner):
        sizes = [count, outer, inner] if p["layout"] == "out_in" else [count, inner, outer]
        return layer.argument(f"{prefix}{name}", sizes, p["dtype"], matrix)

    def bias(name, size):
        if p["biases"] == "no":
            return None
        return layer.argument(f"{prefix}{name}", [count, size], p["dtype"], normal(0.3))

    separate = p["glu"] == "separate"
    return {
        "up": bank("up", rows, H),
        "up_bias": bias("up_bias", rows),
        "gate": bank("gate", width, H) if separate else None,
        "gate_bias": bias("gate_bias", width) if separate else None,
        "down": bank("down", H, width),
        "down_bias": bias("down_bias", H),
    }


def activation_of(p):
    return ops.Activation(
        p["activation"],
        p["glu"],
        alpha=1.702 if p["alpha"] == "yes" else None,
        beta=1.0 if p["beta"] == "yes" else None,
        limit=0.8 if p["limit"] == "yes" else None,
        clamp=p["clamp"],
    )


def build_experts(layer, x, routing, weighed):
    p, experts = layer.point, experts_of(routing)
    kinds = kinds_of(p, experts)
    networks = experts if kinds is None else sum(count for kind, count in kinds if kind == "ffn")
    constants = None
    if p["kinds"] in ("constant", "mixed"):
        count = sum(count for kind, count in kinds if kind == "constant")
        constants = layer.argument("constants", [count, H], p["dtype"], normal())
    operands = banks(layer, "", networks, I)
    activation, scale_input = activation_of(p), p["scale_input"] == "yes"
    how = {"weight": p["combine_weight"], "accum": p["accum"], "post_scale": p["post_scale"]}
    if p["form"] == "fused":
        uncovered = weighed if p["uncovered"] == "yes" else None
        return layer.op(
            "experts",
            x,
            routing,
            named={**operands, "constants": constants, "uncovered": uncovered},
            activation=activation,
            layout=p["layout"],
            kinds=kinds,
            scale_input=scale_input,
            **how,
            result=x.type,
        )
    tokens = layer.tokens(x)
    rows = layer.op("dispatch", x, routing, scale_input=scale_input, result=x.type)
    if p["form"] == "ffn":
        rows = layer.op(
            "expert_ffn",
            rows,
            routing,
            named={**operands, "constants": constants},
            activation=activation,
            layout=p["layout"],
            kinds=kinds,
            result=x.type,
        )
    else:
        rows = build_parts(layer, rows, routing, operands, activation)
    uncovered = (x, weighed) if p["uncovered"] == "yes" else None
    return layer.op(
        "combine", rows, routing, named={"tokens": tokens, "uncovered": uncovered}, **how, result=x.type
    )


def build_parts(layer, rows, routing, operands, activation):
    p = layer.point

    def product(rows, name, size):
        return layer.op(
            "grouped_matmul",
            rows,
            routing,
            operands[name],
            named={"bias": operands[f"{name}_bias"]},
            layout=p["layout"],
            result=tensor(["?", size], p["dtype"]),
        )

    up = product(rows, "up", 2 * I if p["glu"] in ("interleaved", "concat") else I)
    gate = product(rows, "gate", I) if p["glu"] == "separate" else None
    hidden = layer.op(
        "activate",
        up if gate is None else gate,
        named={"linear": None if gate is None else up},
        activation=activation,
        head=True,
        result=tensor(["?", I], p["dtype"]),
    )
    return product(hidden, "down", H)


def build_shared(layer, x, y, weights):
    """The layer's results: two where the shared experts are apart."""
    p = layer.point
    if p["shared"] == "no":
        return [y, weights] if weights else [y]
    add = y if p["shared"] in ("add", "average") else None
    operands = banks(layer, "shared_", SHARED, J)
    result = layer.op(
        "shared",
        x,
        named={**operands, "weight": weights if p["shared_weight"] != "no" else None, "add": add},
        activation=activation_of(p),
        layout=p["layout"],
        merge="average" if p["shared"] == "average" else None,
        result=x.type,
    )
    return [result] if add else [y, result]


def build_auxiliary(layer, logits, noise, scores, routing):
    p, e = layer.point, experts_of(routing)
    results = []
    if p["aux"] != "no":
        results.append(build_aux(layer, logits, noise, scores, routing))
    if p["bias_update"] != "no":
        bias = layer.argument("balance", [e], "f32", normal(0.1))
        count = layer.op("aux", word="tokens_per_expert", named={"routing": routing}, result=tensor([e], "i64"))
        results.append(
            layer.op(
                "bias_update",
                bias,
                count,
                word=p["bias_update"],
                rate=0.1,
                recenter=p["recenter"] == "yes",
                result=bias.type,
            )
        )
    return results


def build_aux(layer, logits, noise, scores, routing):
    p = layer.point
    # The experts of a routing may be others than those of the scores.
    e, same = p["experts"], experts_of(routing) == p["experts"]
    scalar = tensor([], "f32")
    if p["aux"] in ("load_balance",):
        if not same:
            scores = layer.argument("probabilities", ["?", experts_of(routing)], "f32", uniform(0.1, 1.0))
        size = layer.index(GROUP) if p["aux_group"] == "yes" else None
        return layer.op(
            "aux",
            word="load_balance",
            named={"probabilities": scores, "routing": routing, "group_size": size},
            fraction=p["fraction"],
            per_slot=p["per_slot"] == "yes",
            result=scalar,
        )
    extra = {"fraction": "first" if p["fraction"] == "first" else None, "per_slot": p["per_slot"] == "yes"}
    if p["aux"] in ("load_shazeer", "load_vmoe"):
        sizes = ["?", e] if p["noise_std"] == "matrix" else []
        std = layer.argument("noise_std", sizes, "f32", uniform(0.3, 1.0))
        return layer.op(
            "aux",
            word="load_cv2",
            named={"logits": noise[0], "noisy_logits": noise[1], "noise_std": std},
            variant=p["aux"].split("_")[1],
            k=min(p["k"], e - 1),
            **extra,
            result=scalar,
        )
    word, named, result = {
        "z_loss": ("z_loss", {"logits": logits}, scalar),
        "importance_routing": ("importance_cv2", {"routing": routing}, scalar),
        "importance_probabilities": ("importance_cv2", {"probabilities": scores}, scalar),
        "tokens_per_expert": ("tokens_per_expert", {"routing": routing}, tensor([experts_of(routing)], "i64")),
        "mean_probability": ("mean_probability", {"probabilities": scores}, tensor([e], "f32")),
        "entropy": ("entropy", {"probabilities": scores}, scalar),
    }[p["aux"]]
    return layer.op("aux", word=word, named=named, result=result, **extra)
