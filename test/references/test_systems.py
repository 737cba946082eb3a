# Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Properties that the references of the systems must have, and second formulations of
some: a wrong formula breaks one of these or a recorded block (test_hugging_face.py)."""

import numpy as np
import pytest

from references import moe, systems
from references.evaluate import relative_error
from references.systems import (
    aux_free_balancing,
    comet,
    common,
    deepseek_v3,
    expert_choice,
    gpt_oss,
    grok_1,
    gshard,
    jacobs,
    language_pairs,
    longcat_flash,
    mixtral,
    nllb_moe,
    phimoe,
    shazeer,
    st_moe,
    switch,
    tutorial,
    uni_moe,
    v_moe,
)
from references.systems.common import NOBODY, softmax, top_k

MODULES = systems.modules()
CASES = [pytest.param(module, case, id=case) for module in MODULES.values() for case in module.CASES]
# Tokens do not see each other: no capacity, no statistics that change the result.
INDEPENDENT = [
    pytest.param(module, case, id=case)
    for name, module in MODULES.items()
    for case in module.CASES
    if name not in ("expert_choice", "gshard", "nllb_moe", "qmoe", "st_moe", "switch", "v_moe")
    and case not in ("tutorial", "uni_moe")
]


def draw(module, case, tokens=32, dims=None, seed=3, **options):
    dims = dims or module.DIMS
    arrays = module.draw(np.random.default_rng(seed), dims, tokens, case, **options)
    return arrays, module.reference(arrays, dims, case)


def rows(value):
    """[T,H] of [T,H] or [G,S,H]."""
    return value.reshape(-1, value.shape[-1])


# --- all systems ------------------------------------------------------------------------


def test_every_case_has_its_own_name():
    names = [case for module in MODULES.values() for case in module.CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MODULES)
def test_sizes_are_told_apart(name):
    module = MODULES[name]
    for dims in (module.DIMS, module.OTHER_DIMS):
        numbers = list(dims.values()) + [2 * dims["I"]]
        assert len(set(numbers)) == len(numbers)
    assert module.DIMS != module.OTHER_DIMS


@pytest.mark.parametrize("tokens", [0, 1, 7, 32])
@pytest.mark.parametrize("module, case", CASES)
def test_shapes_and_clear_decisions(module, case, tokens):
    for dims in (module.DIMS, module.OTHER_DIMS):
        arrays, outputs = draw(module, case, tokens, dims, seed=tokens)
        assert next(iter(outputs)) == "y"
        assert outputs["y"].shape == arrays["x"].shape
        assert np.isfinite(outputs["y"]).all()
        assert all(np.isfinite(value).all() for value in outputs.values())
        with common.watch() as unclear:
            module.reference(arrays, dims, case)
        assert not unclear
        if tokens == 0:
            assert all(value == 0.0 for value in outputs.values() if value.ndim == 0)


@pytest.mark.parametrize("module, case", CASES)
def test_a_small_change_decides_nothing(module, case):
    """What `draw` promises: rounding the arrays to float32 changes y by rounding only."""
    arrays, outputs = draw(module, case)
    rounded = {
        name: value.astype(np.float32).astype(np.float64) if value.dtype.kind == "f" else value
        for name, value in arrays.items()
    }
    again = module.reference(rounded, module.DIMS, case)
    for name in outputs:
        assert relative_error(again[name], outputs[name]) < 1e-5, name


@pytest.mark.parametrize("module, case", INDEPENDENT)
def test_a_token_alone(module, case):
    arrays, outputs = draw(module, case, 9)
    for t in range(9):
        alone = dict(arrays)
        for name in set(module.INPUTS) & set(arrays):
            if arrays[name].shape[0] == 9:
                alone[name] = arrays[name][t : t + 1]
        y = module.reference(alone, module.DIMS, case)["y"]
        assert relative_error(y[0], outputs["y"][t]) < 1e-12


GROUPED = (expert_choice, gshard, st_moe, switch, v_moe)


@pytest.mark.parametrize("module, case", [case for case in CASES if case.values[0] in GROUPED])
def test_a_group_alone(module, case):
    arrays, outputs = draw(module, case)
    groups, size = arrays["x"].shape[:2]
    for g in range(groups):
        alone = arrays | {"x": arrays["x"][g : g + 1]}
        if "u" in arrays:
            alone["u"] = arrays["u"][g * size : (g + 1) * size]
        assert relative_error(module.reference(alone, module.DIMS, case)["y"][0], outputs["y"][g]) < 1e-12


# --- capacity -----------------------------------------------------------------------------


def check_capacity(asked, kept, experts, capacity):
    """Nobody but those that asked, at most C per expert, and only a full expert refuses."""
    assert ((kept == asked) | (kept == NOBODY)).all()
    load, wanted = common.tokens_per_expert(kept, experts), common.tokens_per_expert(asked, experts)
    assert (load == np.minimum(wanted, capacity)).all()
    assert (wanted > capacity).any(), "no expert was full"


def probabilities(arrays, layout="in_out"):
    router = arrays["router"] if layout == "in_out" else arrays["router"].T
    return softmax(arrays["x"][0] @ router)


@pytest.mark.parametrize("case", ["gshard_normalize_after"])
def test_gshard_capacity_prefers_first_choices(case):
    arrays, _ = draw(gshard, case)
    p = probabilities(arrays)
    ids, weights = gshard.route(p, None, **gshard.CASES[case])
    check_capacity(top_k(p, 2), ids, 8, gshard.capacity_of(len(p), 8))
    first_kept = (ids[:, 0] != NOBODY).sum()
    assert first_kept == np.minimum(common.tokens_per_expert(top_k(p, 1), 8), 4).sum()
    total = weights.sum(axis=1)
    assert np.allclose(total[(ids != NOBODY).any(axis=1)], 1.0)
    assert (total[(ids == NOBODY).all(axis=1)] == 0.0).all()


def test_gshard_normalises_before_capacity():
    arrays, _ = draw(gshard, "gshard_threshold")
    p = probabilities(arrays)
    ids, weights = gshard.route(p, None, **gshard.CASES["gshard_threshold"])
    kept = weights[ids != NOBODY]
    best = np.sort(p, axis=1)[:, -2:]
    assert np.isin(np.round(kept, 7), np.round(best / best.sum(axis=1, keepdims=True), 7)).all()
    assert (weights[:, 1][ids[:, 1] != NOBODY] > 0.2).all()


def test_gshard_second_expert_at_random():
    """Algorithm 1 of the paper: the second expert where 2·g2 > u; no room is scarce here."""
    arrays, _ = draw(gshard, "gshard", tokens=4)
    p, u = probabilities(arrays), np.array([0.2, 0.9])
    ids, weights = gshard.route(p, u, **gshard.CASES["gshard"])
    best = np.sort(p, axis=1)[:, :-3:-1]
    gates = best / best.sum(axis=1, keepdims=True)
    assert ((ids[:, 1] != NOBODY) == (2 * gates[:, 1] > u)).all()
    after, weights = gshard.route(p, u, **gshard.CASES["gshard_random_after"])
    assert ((after[:, 1] != NOBODY) == (2 * best[:, 1] > u)).all()
    assert np.allclose(weights.sum(axis=1), 1.0)


def test_gshard_capacity_is_a_multiple_of_four():
    assert [gshard.capacity_of(size, 8) for size in (0, 1, 16, 19, 20, 32)] == [4, 4, 4, 4, 8, 8]


@pytest.mark.parametrize("case, capacity", [("st_moe", 7), ("st_moe_unnormalized", 8)])
def test_st_moe_capacity(case, capacity):
    arrays, _ = draw(st_moe, case, tokens=96)  # 48 * 1.25 / 8 = 7.5: down, or half to even
    p = probabilities(arrays)
    ids, weights = st_moe.route(p, **st_moe.CASES[case])
    best = np.sort(p, axis=1)[:, :-3:-1]
    asked = top_k(p, 2)
    if case == "st_moe":
        best = best / best.sum(axis=1, keepdims=True)
        asked[:, 1] = np.where(best[:, 1] > 0.2, asked[:, 1], NOBODY)
    assert np.allclose(weights, best)
    check_capacity(asked, ids, 8, capacity)
    firsts = np.minimum(common.tokens_per_expert(asked[:, 0], 8), capacity)
    assert (common.tokens_per_expert(ids[:, 0], 8) == firsts).all()


def test_v_moe_lets_the_surest_tokens_ask_first():
    arrays, _ = draw(v_moe, "v_moe")
    p = probabilities(arrays)
    ids, _ = v_moe.route(p, **v_moe.CASES["v_moe"])
    check_capacity(top_k(p, 2), ids, 8, 4)
    for e in range(8):
        asked = np.flatnonzero(top_k(p, 1)[:, 0] == e)
        in_order = asked[np.argsort(-p[asked, e])]
        assert set(np.flatnonzero(ids[:, 0] == e)) == set(in_order[:4])


def test_v_moe_result():
    arrays, outputs = draw(v_moe, "v_moe")
    for x, y in zip(arrays["x"], outputs["y"]):
        p = softmax(x @ arrays["router"])
        ids, _ = v_moe.route(p, **v_moe.CASES["v_moe"])
        weights = p * (ids[:, :, None] == np.arange(8)).any(axis=1)
        hidden = moe.gelu_tanh(np.einsum("th,eih->tei", x, arrays["up"]) + arrays["up_bias"])
        results = np.einsum("tei,ehi->teh", hidden, arrays["down"]) + arrays["down_bias"]
        assert relative_error(np.einsum("te,teh->th", weights, results), y) < 1e-12


def test_nllb_capacity_and_padding():
    for case in ("nllb_moe", "nllb_moe_prioritized"):
        arrays, outputs = draw(nllb_moe, case)
        p = softmax(arrays["x"] @ arrays["router"].T + arrays["router_bias"])
        ids, weights = nllb_moe.route(p, arrays["mask"], None, **nllb_moe.CASES[case])
        asked = np.where(arrays["mask"][:, None], top_k(p, 2), NOBODY)
        check_capacity(asked, ids, 8, 8)
        assert not arrays["mask"].all() and (outputs["y"][~arrays["mask"]] == 0.0).all()
        weights = np.where(ids == NOBODY, 0.0, weights).sum(axis=1)
        assert np.allclose(weights[(ids != NOBODY).any(axis=1)], 1.0)


def test_nllb_order_matters():
    arrays, outputs = draw(nllb_moe, "nllb_moe_prioritized")
    attributes = nllb_moe.CASES["nllb_moe_prioritized"] | {"order": "choice"}
    p = softmax(arrays["x"] @ arrays["router"].T + arrays["router_bias"])
    ids = nllb_moe.route(p, arrays["mask"], None, **attributes)[0]
    assert (ids != nllb_moe.route(p, arrays["mask"], None, **nllb_moe.CASES["nllb_moe_prioritized"])[0]).any()


def test_switch_overflow():
    arrays, zero = draw(switch, "switch")
    through = switch.reference(arrays, switch.DIMS, "switch_pass_through")
    p = softmax(rows(arrays["x"]) @ arrays["router"].T).max(axis=1, keepdims=True)
    dropped = (rows(zero["y"]) == 0.0).all(axis=1)
    assert 0 < dropped.sum() < 32
    assert np.allclose(rows(through["y"])[dropped], (p * rows(arrays["x"]))[dropped])
    assert (rows(through["y"])[~dropped] == rows(zero["y"])[~dropped]).all()


@pytest.mark.parametrize("case, capacity", [("switch", 5), ("switch_per_sequence", 5)])
def test_switch_capacity(case, capacity):
    arrays, outputs = draw(switch, case, tokens=64)  # int(32 * 1.25 / 8) is 5 too
    for x, y in zip(arrays["x"], outputs["y"]):
        ids = top_k(x @ arrays["router"].T, 1)[:, 0]
        served = ids[(y != 0.0).any(axis=1)]
        assert (common.tokens_per_expert(served, 8) == np.minimum(common.tokens_per_expert(ids, 8), capacity)).all()


def test_tutorial_capacity_is_filled_token_by_token():
    arrays, outputs = draw(tutorial, "tutorial")
    ids = top_k(arrays["x"] @ arrays["router"].T + arrays["router_bias"], 2)
    kept = common.fill(ids, 8, int(32 * 0.3), common.by_token(ids))
    check_capacity(ids, kept, 8, 9)
    for e in range(8):
        assert np.flatnonzero((kept == e).any(axis=1)).tolist() == np.flatnonzero((ids == e).any(axis=1))[:9].tolist()
    # The same by a sum of one-hot rows up to the entry.
    hot = np.eye(8)[ids.reshape(-1)]
    position = (np.cumsum(hot, axis=0) * hot).sum(axis=1)
    assert ((position <= 9) == (kept.reshape(-1) != NOBODY)).all()
    weights = common.softmax_of_selected(arrays["x"] @ arrays["router"].T + arrays["router_bias"], ids)
    y = common.run_experts(arrays["x"], kept, weights, common.relu_expert(arrays))
    assert relative_error(y, outputs["y"]) < 1e-12


@pytest.mark.parametrize("case, axis", [("expert_choice", 1), ("expert_choice_over_tokens", 0)])
def test_expert_choice_takes_the_best_tokens(case, axis):
    arrays, outputs = draw(expert_choice, case, tokens=64)
    assert (outputs["tokens_per_expert"] == 2 * 8).all()  # 32 * 2 / 8 of each group
    for x, y in zip(arrays["x"], outputs["y"]):
        scores = softmax(x @ arrays["router"], axis=axis)
        taken = scores >= np.sort(scores, axis=0)[-8]
        assert len(set(taken.sum(axis=1))) > 1, "all tokens have as many experts"
        weights = np.where(taken, scores, 0.0)
        if axis == 0:
            weights /= np.maximum(taken.sum(axis=1, keepdims=True), 1)
        hidden = np.maximum(np.einsum("th,eih->tei", x, arrays["up"]), 0.0)
        expected = np.einsum("te,tei,ehi->th", weights, hidden, arrays["down"])
        assert relative_error(expected, y) < 1e-12


def test_uni_moe_capacity_binds_and_weights_sum_to_one():
    arrays, _ = draw(uni_moe, "uni_moe", tokens=48, seed=1)
    attributes = uni_moe.CASES["uni_moe"]
    ids, weights, shared = uni_moe.route(arrays["x"], arrays, uni_moe.DIMS, **attributes)
    free, _, _ = uni_moe.route(arrays["x"], arrays, uni_moe.DIMS, **attributes | {"capacity": False})
    assert (common.tokens_per_expert(ids, 5) <= 29).all() and (ids != free).any()
    assert np.allclose(weights.sum(axis=1) + shared.sum(axis=1), 1.0, atol=1e-5)
    padding = ~arrays["mask"]
    assert padding.any() and np.allclose(shared[padding].sum(axis=1), 1.0)


def test_uni_moe_null_expert_gives_nothing():
    arrays, _ = draw(uni_moe, "uni_moe_audio")
    ids, _, shared = uni_moe.route(arrays["x"], arrays, uni_moe.DIMS, **uni_moe.CASES["uni_moe_audio"])
    null = (np.where(ids == NOBODY, 4, ids) == 4).all(axis=1)
    assert (ids[null] == 4).any(), "no token has the null expert alone"
    y = uni_moe.reference(arrays, uni_moe.DIMS, "uni_moe_audio")["y"]
    beside = np.einsum("ts,sth->th", shared, common.shared_swiglu(arrays["x"], arrays))
    assert np.allclose(y[null], beside[null]) and not np.allclose(y[~null], beside[~null])


def test_uni_moe_takes_experts_until_they_hold_p():
    logits = np.log([[0.5, 0.3, 0.15, 0.05], [0.75, 0.1, 0.1, 0.05]])
    assert common.top_p(softmax(logits), 0.7).tolist() == [[0, 1, -1, -1], [0, -1, -1, -1]]
    assert common.top_p(softmax(logits), 0.9)[0].tolist() == [0, 1, 2, -1]


# --- weights and selections of single systems ---------------------------------------------


def test_mixtral_is_a_softmax_over_the_two_largest_logits():
    arrays, outputs = draw(mixtral, "mixtral")
    logits = arrays["x"] @ arrays["router"].T
    ids = top_k(logits, 2)
    y = common.run_experts(
        arrays["x"], ids, common.softmax_of_selected(logits, ids), common.swiglu_expert(arrays)
    )
    assert relative_error(y, outputs["y"]) < 1e-12


def test_mixtral_as_the_contrib_operator():
    """The reference of com.microsoft.MoE, written apart from this one."""
    arrays, outputs = draw(mixtral, "mixtral")
    logits = arrays["x"] @ arrays["router"].T
    y = moe.moe(
        arrays["x"],
        logits,
        arrays["gate_up"],
        None,
        arrays["down"],
        k=2,
        normalize_routing_weights=1,
        activation_type="swiglu",
        swiglu_fusion=2,
    )
    assert relative_error(y, outputs["y"]) < 1e-12


def test_gpt_oss_as_the_contrib_operator():
    arrays, outputs = draw(gpt_oss, "gpt_oss")
    y = moe.moe(
        arrays["x"],
        arrays["x"] @ arrays["router"].T + arrays["router_bias"],
        arrays["gate_up"].transpose(0, 2, 1),
        arrays["gate_up_bias"],
        arrays["down"].transpose(0, 2, 1),
        arrays["down_bias"],
        k=4,
        normalize_routing_weights=1,
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_alpha=1.702,
        activation_beta=1.0,
        swiglu_limit=7.0,
    )
    assert relative_error(y, outputs["y"]) < 1e-12
    both = np.einsum("th,ehi->tei", arrays["x"], arrays["gate_up"])
    assert (both > 7).any() and (both[..., 1::2] < -7).any(), "no limit binds"


def test_grok_as_the_contrib_operator():
    arrays, outputs = draw(grok_1, "grok_1")
    gate, up, down = (arrays[name].transpose(0, 2, 1) for name in ("gate", "up", "down"))
    logits = arrays["x"] @ arrays["router"]
    y = moe.moe(
        arrays["x"], logits, gate, None, down, None, up, k=2, normalize_routing_weights=0, activation_type="gelu"
    )
    assert relative_error(y, outputs["y"]) < 1e-12


def test_jacobs_as_the_contrib_operator():
    arrays, outputs = draw(jacobs, "jacobs")
    y = moe.moe(
        arrays["x"],
        arrays["x"] @ arrays["router"].T + arrays["router_bias"],
        arrays["up"],
        arrays["up_bias"],
        arrays["down"],
        arrays["down_bias"],
        k=8,
        activation_type="relu",
    )
    assert relative_error(y, outputs["y"]) < 1e-12


def test_phimoe_as_the_contrib_operator():
    arrays, _ = draw(phimoe, "phimoe")
    logits = arrays["x"] @ arrays["router"].T
    ids, weights = moe.route_sparse_mixer(logits)
    routes = [common.sparse_mixer(row, 2, 0.01, t) for t, row in enumerate(logits)]
    assert [route[0] for route in routes] == ids.tolist()
    assert np.allclose([route[1] for route in routes], weights, rtol=1e-12)
    assert (weights < 1.0).any(axis=0).all(), "no weight is shared"


def test_sparse_mixer_by_hand():
    # 1.99 lies within 2 % of 2.0, and so it does below zero.
    assert common.sparse_mixer([1.99, 2.0, 1.9], 2, 0.01, 0)[0] == [1, 0]
    assert common.sparse_mixer([1.99, 2.0, 1.9], 1, 0.01, 0)[1] == pytest.approx([1 / (1 + np.exp(-0.01))])
    assert common.sparse_mixer([-2.0, -1.99, -2.1], 1, 0.01, 0)[1] == pytest.approx([1 / (1 + np.exp(-0.01))])


def test_both_margins_of_the_sparse_mixer_are_one():
    top = np.random.default_rng(0).standard_normal((1000, 1))
    others = top - np.random.default_rng(1).exponential(size=(1000, 8))
    assert (np.maximum(np.abs(others), top) == np.maximum(np.abs(others), np.abs(top))).all()


@pytest.mark.parametrize("case", deepseek_v3.CASES)
def test_deepseek_v3_weights_and_groups(case):
    arrays, _ = draw(deepseek_v3, case)
    ids, weights = deepseek_v3.route(arrays["x"], arrays, **deepseek_v3.CASES[case])
    assert np.allclose(weights.sum(axis=1), 2.5)
    groups = [len(set(row // 4)) for row in ids]
    assert max(groups) <= 2 if case == "deepseek_v3" else max(groups) > 2
    scores = common.sigmoid(arrays["x"] @ arrays["router"].T)
    for t in range(len(ids)):
        ratio = scores[t, ids[t]] / weights[t]
        assert np.allclose(ratio, ratio[0]), "the bias is in the weights"


def test_comet_leaves_are_counted_from_left_to_right():
    # Three leaves: nodes 0 and 1 are inner nodes; left to right the leaves are 3, 4 and 2.
    leaves, visited = comet.walk(np.array([0.1, -0.2]), 0, 1.0, 0)
    s0, s1 = comet.smooth_step(0.1, 0), comet.smooth_step(-0.2, 0)
    assert leaves == pytest.approx([s0 * s1, s0 * (1 - s1), 1 - s0])
    assert sum(leaves) == pytest.approx(1.0) and visited == 5
    leaves, visited = comet.walk(np.array([0.6, 0.0]), 0, 1.0, 0)  # the right child is not reached
    assert leaves == [0.5, 0.5, 0.0] and visited == 4


def test_smooth_step():
    values = np.linspace(-0.5, 0.5, 101)
    steps = [comet.smooth_step(value, 0) for value in values]
    assert steps[0] == 0.0 and steps[50] == 0.5 and steps[100] == 1.0
    assert (np.diff(steps) > 0.0).all()
    assert np.allclose(np.array(steps) + steps[::-1], 1.0)


@pytest.mark.parametrize("dims", [comet.DIMS, comet.OTHER_DIMS], ids=["power_of_two", "not"])
def test_comet_visits_few_nodes_when_saturated(dims):
    arrays, outputs = draw(comet, "comet_saturated", dims=dims)
    attributes = comet.CASES["comet_saturated"]
    depth = int(np.ceil(np.log2(dims["E"])))
    assert (outputs["visited"] <= dims["R"] * (depth + 1)).all()
    assert (outputs["visited"] >= dims["R"] * int(np.log2(dims["E"]) + 1)).all()
    for t, x in enumerate(arrays["x"]):
        weights, _ = comet.route_token(arrays, dims, x, t, attributes["log_eps"], attributes["p_min"])
        assert np.isclose(weights.sum(), 1.0) and 1 <= (weights > 0.0).sum() <= dims["R"]


def test_comet_permutation_moves_the_leaves():
    arrays, _ = draw(comet, "comet_shared_permutation")
    attributes = comet.CASES["comet_shared_permutation"]
    order = arrays.pop("permutation")[0]
    for t, x in enumerate(arrays["x"][:4]):
        plain, _ = comet.route_token(arrays, comet.DIMS, x, t, attributes["log_eps"], attributes["p_min"])
        moved, _ = comet.route_token(
            arrays | {"permutation": order[None]}, comet.DIMS, x, t, attributes["log_eps"], attributes["p_min"]
        )
        # As in the paper: g'[l] = Σ_j g[j] · P[j,l]
        assert np.allclose(moved, plain @ np.eye(len(order))[order])


def test_shazeer_adds_the_noise():
    arrays, _ = draw(shazeer, "shazeer")
    shift = 0.3 * np.random.default_rng(1).standard_normal(arrays["router"].shape)
    noisy = arrays | {"noise": arrays["x"] @ shift, "noise_std": np.ones((32, 15))}
    y = shazeer.reference(noisy, shazeer.DIMS, "shazeer_noisy")["y"]
    moved = arrays | {"router": arrays["router"] + shift}
    assert relative_error(y, shazeer.reference(moved, shazeer.DIMS, "shazeer")["y"]) < 1e-12


def test_shazeer_load_without_noise_counts():
    arrays, _ = draw(shazeer, "shazeer_noisy")
    clean = arrays["x"] @ arrays["router"]
    load = shazeer.expected_load(clean, clean, np.full(clean.shape, 1e-9), 4)
    assert np.allclose(load, common.tokens_per_expert(top_k(clean, 4), clean.shape[1]))


def test_shazeer_load_is_a_probability():
    """Against drawing the noise of one expert again, the others' noise kept."""
    rng = np.random.default_rng(0)
    clean, std, k = rng.standard_normal((1, 5)), np.full((1, 5), 0.7), 2
    noisy = clean + rng.standard_normal((1, 5)) * std
    for e in range(5):
        again = np.repeat(noisy, 40000, axis=0)
        again[:, e] = clean[0, e] + 0.7 * rng.standard_normal(40000)
        inside = (np.argsort(-again, axis=1)[:, :k] == e).any(axis=1).mean()
        assert shazeer.expected_load(clean, noisy, std, k)[e] == pytest.approx(inside, abs=0.01)


def test_v_moe_load_without_noise_counts():
    arrays, _ = draw(v_moe, "v_moe_noisy")
    clean = arrays["x"][0] @ arrays["router"]
    # The k-th largest itself has probability 1/2 to stay above its own threshold.
    ids = top_k(clean, 2)
    expected = (common.tokens_per_expert(ids, 8) - 0.5 * common.tokens_per_expert(ids[:, 1], 8)) / len(clean)
    assert np.isclose(v_moe.load_loss(clean, clean, 1e-9, 2), common.cv2(expected))


def test_hierarchical_weights_are_products():
    dims = shazeer.DIMS
    arrays, outputs = draw(shazeer, "shazeer_hierarchical")
    full = shazeer.hierarchical(arrays, dims, dims["G"], dims["N"])["y"]
    outer = softmax(arrays["x"] @ arrays["router"].T)
    inner = np.stack([softmax(arrays["x"] @ arrays[f"router_{g}"].T) for g in range(dims["G"])], axis=1)
    weights = (outer[:, :, None] * inner).reshape(len(outer), -1)
    everyone = np.tile(np.arange(dims["E"]), (len(outer), 1))
    assert relative_error(full, common.run_experts(arrays["x"], everyone, weights, common.relu_expert(arrays))) < 1e-12


@pytest.mark.parametrize("case", longcat_flash.CASES)
def test_longcat_experts_without_weights(case):
    arrays, _ = draw(longcat_flash, case)
    arrays["down"] = np.zeros_like(arrays["down"])
    y = longcat_flash.reference(arrays, longcat_flash.DIMS, case)["y"]
    p = softmax(arrays["x"] @ arrays["router"].T)
    ids = top_k(p + arrays["bias"], 3)
    weights = 6.0 * np.where((ids[:, :, None] == np.arange(16)).any(axis=1), p, 0.0)[:, 11:]
    assert (weights > 0.0).any()
    results = {
        "longcat_flash": weights.sum(axis=1, keepdims=True) * arrays["x"],
        "longcat_flash_zero": np.zeros_like(y),
        "longcat_flash_constant": weights @ arrays.get("constants", np.zeros((5, 1))),
    }
    assert np.allclose(y, results[case])


def test_language_pairs_stay_among_their_experts():
    arrays, outputs = draw(language_pairs, "language_pairs_uneven")
    only = np.flatnonzero(arrays["pair"] == 0)
    assert only.size
    expert = common.relu_expert(arrays)
    assert np.allclose(outputs["y"][only], [expert(3, arrays["x"][t]) for t in only])
    arrays["experts_of_pair"][1:, 4:] = False  # the popularity of other experts must not matter
    again = language_pairs.reference(arrays, language_pairs.DIMS, "language_pairs_uneven")
    assert (again["tokens_per_expert"][4:] == 0).all()


def test_tutorial_bias_is_in_the_weights():
    """The bias moved into the router's own bias gives the same result."""
    arrays, outputs = draw(tutorial, "tutorial_bias")
    moved = arrays | {"router_bias": arrays["router_bias"] + arrays["balance"]}
    plain = tutorial.plain(moved, tutorial.DIMS, k=2, factor=1.0)
    assert relative_error(outputs["y"], plain["y"]) < 1e-12
    logits = arrays["x"] @ arrays["router"].T + moved["router_bias"]
    kept = np.where(logits >= np.sort(logits, axis=1)[:, -2:-1], logits, 0.0)
    hidden = np.maximum(np.einsum("th,eih->tei", arrays["x"], arrays["up"]) + arrays["up_bias"], 0.0)
    results = np.einsum("tei,ehi->teh", hidden, arrays["down"]) + arrays["down_bias"]
    raw = tutorial.reference(arrays, tutorial.DIMS, "tutorial_bias_raw")["y"]
    assert relative_error(np.einsum("te,teh->th", kept, results), raw) < 1e-12


def test_tutorial_bias_is_the_balancing_rule():
    arrays, outputs = draw(tutorial, "tutorial_bias")
    logits = arrays["x"] @ arrays["router"].T + arrays["router_bias"]
    count = common.tokens_per_expert(top_k(logits, 1), 8)
    expected = aux_free_balancing.updated(arrays["balance"], count, "proportional", 0.1, False)
    assert np.allclose(outputs["updated_balance"], expected)


# --- auxiliary outputs ------------------------------------------------------------------------


def test_losses_by_hand():
    uniform = np.full((8, 4), 0.25)
    assert common.load_balance(uniform, np.arange(8)[:, None] % 4) == 1.0
    assert common.load_balance(np.eye(4)[[0, 0, 0]], np.zeros((3, 1), dtype=int)) == 4.0
    assert common.z_loss(np.zeros((3, 5))) == pytest.approx(np.log(5.0) ** 2)
    assert common.cv2(np.array([1.0, 3.0])) == pytest.approx(0.25)
    assert common.cv2(np.ones(5)) == 0.0


@pytest.mark.parametrize("module, case", [(gshard, "gshard"), (st_moe, "st_moe"), (v_moe, "v_moe"), (switch, "switch")])
def test_load_balance_counts_first_choices_before_capacity(module, case):
    arrays, outputs = draw(module, case)
    losses = []
    for x in arrays["x"]:
        p = softmax(x @ (arrays["router"].T if module is switch else arrays["router"]))
        first = (p == p.max(axis=1, keepdims=True)).mean(axis=0)
        losses.append(8**2 * np.mean(first * p.mean(axis=0)))
    assert np.isclose(outputs["load_balance_loss"], np.mean(losses))


def test_v_moe_importance_is_that_of_all_experts():
    arrays, outputs = draw(v_moe, "v_moe_noisy")
    total = softmax(arrays["x"][0] @ arrays["router"]).sum(axis=0)
    assert np.isclose(outputs["importance_loss"], (total.std() / total.mean()) ** 2)


def test_bias_update_by_hand():
    bias, count = np.array([0.5, 0.0, -0.5, 0.0]), np.array([4, 2, 2, 0])
    update = aux_free_balancing.updated
    assert update(bias, count, "sign", 0.1, False) == pytest.approx([0.4, 0.0, -0.5, 0.1])
    assert update(bias, count, "proportional", 0.1, False) == pytest.approx([0.475, 0.0, -0.5, 0.025])
    assert update(bias, np.array([4, 0, 0, 0]), "sign", 0.1, True) - bias == pytest.approx([-0.15, 0.05, 0.05, 0.05])
    assert (update(bias, np.zeros(4, dtype=int), "proportional", 0.1, False) == bias).all()


@pytest.mark.parametrize("rule, rate", [("sign", 1e-2), ("proportional", 1e-1)])
def test_bias_balances_a_skewed_stream(rule, rate):
    router, batches = aux_free_balancing.stream(np.random.default_rng(0), aux_free_balancing.DIMS, 200, 64)
    _, without = aux_free_balancing.simulate(router, batches, rate=0.0)
    _, counts = aux_free_balancing.simulate(router, batches, rule, rate)
    assert aux_free_balancing.violation(without[-20:].sum(axis=0)) > 1.0
    assert aux_free_balancing.violation(counts[-20:].sum(axis=0)) < 0.15
    assert (counts.sum(axis=1) == 128).all()
