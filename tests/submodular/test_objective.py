import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    OBJECTIVES,
    UNIT,
    Spec,
    count,
    dense,
    feature_index,
    marginals,
    quick,
    random_examples,
    random_instance,
    value_of,
    weight,
)
from setups import counts_of, objective_of, setup

from mads_ray.submodular import objective as module
from mads_ray.submodular.greedy import gains
from mads_ray.submodular.objective import FeatureSpace, make_objective

SPEC = Spec("sqrt", 2, 10, 3, (2, 5), 0.5)
seeds = st.integers(0, 2**31 - 1)


def test_units():
    assert (module.CURVE_UNIT, module.WEIGHT_UNIT, module.UNIT) == (2**20, 2**8, UNIT)


@quick
@given(seeds, st.integers(1, 9))
def test_value_prices_and_losses_equal_the_reference(seed, n):
    rng, spec, examples = random_instance(seed, n)
    rows, objective = setup(spec, examples)
    chosen = rng.sample(range(n), rng.randint(0, n))
    counts = objective.counts(rows, np.array(chosen, np.int64))
    in_dict = count(examples[i] for i in chosen)
    assert counts.dtype == np.int32
    assert counts.tolist() == dense(spec, in_dict)
    assert objective.value(counts) == value_of(spec, in_dict)
    prices, losses = objective.prices(counts), objective.losses(counts)
    assert prices.dtype == losses.dtype == np.int64
    for f in count(examples):
        one = {f: in_dict[f] + 1}
        now = value_of(spec, {f: in_dict[f]})
        assert prices[feature_index(spec, f)] == value_of(spec, one) - now
        if in_dict[f]:
            less = value_of(spec, {f: in_dict[f] - 1})
            assert losses[feature_index(spec, f)] == now - less
        else:
            assert losses[feature_index(spec, f)] == prices[feature_index(spec, f)]


@pytest.mark.parametrize("name", [*OBJECTIVES, "cap:90000"])
@quick
@given(seed=seeds)
def test_prices_and_losses_are_differences_of_value_at_any_count(name, seed):
    rng, objective = random.Random(seed), make_objective(name, FeatureSpace(1, 4, 2, (3,)), 0.7)
    high = rng.choice([3, 2**16 + 2, 2**17 + 3, 2**31 - 2])
    counts = np.array([rng.randint(max(1, high - 9), high) for _ in range(7)], np.int32)
    for j in range(7):
        for step, slope in [(1, objective.prices(counts)), (-1, objective.losses(counts))]:
            other = counts.copy()
            other[j] += step
            assert (objective.value(other) - objective.value(counts)) * step == slope[j]


@quick
@given(seeds, st.integers(1, 9))
def test_monotone_and_submodular(seed, n):
    rng, spec, examples = random_instance(seed, n)
    rows, objective = setup(spec, examples)
    large = rng.sample(range(n), rng.randint(0, n))
    small = large[: rng.randint(0, len(large))]
    counts_small = objective.counts(rows, np.array(small, np.int64))
    counts_large = objective.counts(rows, np.array(large, np.int64))
    over_small = gains(rows, objective, objective.prices(counts_small))
    over_large = gains(rows, objective, objective.prices(counts_large))
    assert over_small.dtype == np.int64
    assert (over_small >= over_large).all()
    assert (over_large >= 0).all()
    for i in set(range(n)) - set(large):
        union = objective.counts(rows, np.array([*large, i]))
        assert objective.value(union) - objective.value(counts_large) == over_large[i]


@pytest.mark.parametrize("name", [*OBJECTIVES, "cap:90000"])
def test_submodular_across_all_sizes_of_counts(name):
    objective = make_objective(name, FeatureSpace(1, 1, 1))
    counts = np.unique(np.geomspace(1, 2**31 - 2, 500).astype(np.int64))
    slopes = [int(objective.prices(np.array([c], np.int32))[0]) for c in counts]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[-1] >= 0


@quick
@given(seeds, st.integers(1, 9))
def test_value_is_the_sum_of_gains_in_any_order(seed, n):
    rng, spec, examples = random_instance(seed, n)
    rows, objective = setup(spec, examples)
    chosen = rng.sample(range(n), rng.randint(1, n))
    total, done = 0, []
    for i in chosen:
        prices = objective.prices(objective.counts(rows, np.array(done, np.int64)))
        total += int(gains(rows.take(np.array([i])), objective, prices)[0])
        done.append(i)
    assert total == objective.value(objective.counts(rows, np.array(chosen)))


def test_counts_of_many_rows():
    examples = random_examples(random.Random(1), SPEC, 2500)
    rows, objective = setup(SPEC, examples)
    assert (objective.counts(rows) == counts_of(SPEC, examples)).all()
    some = [examples[i] for i in range(0, 2500, 3)]
    assert (objective.counts(rows, np.arange(0, 2500, 3)) == counts_of(SPEC, some)).all()
    assert not objective.counts(rows, np.empty(0, np.int64)).any()


def test_features_are_numbered_by_layer_and_then_by_level():
    objective = objective_of(SPEC)
    assert objective.neurons == 20
    assert objective.layer_start_A.tolist() == [0, 0, 0, 10, 10, 10]
    assert objective.weight_D.tolist() == [256] * 20 + [round(256 * 0.5 * 6 / 2)] * 7
    assert objective.value(objective.empty_counts()) == 0
    assert objective.empty_counts().dtype == np.int32


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tree_share_zero_makes_nodes_weightless(name):
    _, spec, examples = random_instance(3, 9, name)
    spec = replace(spec, tree_share=0.0)
    rows, objective = setup(spec, examples)
    counts = objective.counts(rows)
    neurons_only = counts.copy()
    neurons_only[objective.neurons :] = 0
    assert counts[objective.neurons :].sum() > 0
    assert objective.value(counts) == objective.value(neurons_only) > 0
    assert not objective.prices(counts)[objective.neurons :].any()


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("levels", [(4,), (2, 5), (1, 2, 3)])
def test_a_path_weighs_tree_share_times_the_active_neurons(share, levels):
    spec = replace(SPEC, name="union", tree_share=share, level_sizes=levels)
    objective = objective_of(spec)
    one = objective.empty_counts()
    one[objective.neurons + np.concatenate([[0], np.cumsum(levels)[:-1]])] = 1
    assert objective.value(one) / UNIT == pytest.approx(share * 6, abs=len(levels) / 256)


def test_no_tree_at_all():
    objective = objective_of(replace(SPEC, level_sizes=(), tree_share=0.3))
    assert len(objective.weight_D) == 20


# --- target weights ---


@quick
@given(seeds, st.integers(1, 12), st.integers(1, 6))
def test_target_weights_equal_the_reference(seed, n, shown):
    _, spec, examples = random_instance(seed, n)
    target = count(examples[:shown])
    counts_D = counts_of(spec, examples[:shown])
    objective = objective_of(spec, target_counts_D=counts_D)
    everything = count(examples)
    for f in everything:
        assert objective.weight_D[feature_index(spec, f)] == weight(spec, f, target)
    assert objective.value(counts_of(spec, examples)) == value_of(spec, everything, target)
    assert (objective.weight_D[counts_D == 0] == 0).all()


def test_target_weights_have_the_mean_of_their_kind():
    rng = np.random.default_rng(0)
    sizes = (3 * 200, 4, 30, 100)
    counts_D = np.concatenate([rng.zipf(1.5, n).clip(0, 500) - 1 for n in sizes]).astype(np.int32)
    space = FeatureSpace(3, 200, 5, sizes[1:])
    plain = make_objective("sqrt", space, 0.3)
    aimed = make_objective("sqrt", space, 0.3, counts_D)
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        # Weights are rounded to 1/256 each.
        assert aimed.weight_D[here].mean() == pytest.approx(plain.weight_D[here].mean(), abs=0.5)
        some = here.start + np.argsort(counts_D[here])[-2:]
        ratio = aimed.weight_D[some[0]] / aimed.weight_D[some[1]]
        assert ratio == pytest.approx(counts_D[some[0]] / counts_D[some[1]], rel=0.01)
        start += size
    assert (aimed.weight_D[counts_D == 0] == 0).all()
    assert (aimed.weight_D >= 0).all()


def test_a_target_that_shows_every_feature_alike_changes_nothing():
    plain = objective_of(SPEC)
    for often in (1, 7, 10**6):
        same = objective_of(SPEC, target_counts_D=np.full(27, often, np.int32))
        assert same.weight_D.tolist() == plain.weight_D.tolist()


def test_a_level_that_the_target_does_not_show_weighs_nothing():
    counts_D = np.array([1] * 20 + [0, 0] + [3, 0, 0, 1, 0], np.int32)
    objective = objective_of(SPEC, target_counts_D=counts_D)
    assert objective.weight_D.tolist() == [256] * 20 + [0, 0] + [384 * 15 // 4, 0, 0, 480, 0]


def test_reference_marginals_never_rise():
    for name in OBJECTIVES:
        assert marginals(name) == sorted(marginals(name), reverse=True)
    assert value_of(SPEC, Counter()) == 0


@pytest.mark.parametrize("seed", range(5))
def test_pool_weights_are_roots_of_counts_and_keep_a_random_example_s_worth(seed):
    rng = np.random.default_rng(seed)
    layers, width, k, n = 3, 12, 4, 50
    states = [[rng.choice(width, k, replace=False) for _ in range(layers)] for _ in range(n)]
    shown = Counter((layer, int(j)) for s in states for layer in range(layers) for j in s[layer])
    counts = np.array([shown[layer, j] for layer in range(layers) for j in range(width)] + [n, 0])
    space = FeatureSpace(layers, width, k, (2,))
    objective = make_objective("sqrt", space, 0.5, pool_counts_D=counts)
    weight = objective.weight_D / module.WEIGHT_UNIT
    worth = [sum(weight[i * width + j] for i in range(layers) for j in s[i]) for s in states]
    assert np.mean(worth) == pytest.approx(layers * k, rel=0.01)  # as with weights of 1
    ratios = weight[: layers * width] / np.sqrt(counts[: layers * width])
    assert np.ptp(ratios) < 0.01 * ratios.mean() + 1 / 256
    uniform = make_objective("sqrt", space, 0.5)
    assert (objective.weight_D[-2:] == uniform.weight_D[-2:]).all()


def test_f_under_pool_weights_is_the_bhattacharyya_coefficient():
    """Of the distributions of neurons: largest for a set in the pool's own proportions."""
    pool = np.array([40, 30, 20, 10])
    objective = make_objective("sqrt", FeatureSpace(1, 4, 1), pool_counts_D=pool)
    scale = objective.value(pool.astype(np.int32))
    for counts in ([8, 6, 4, 2], [5, 5, 5, 5], [20, 0, 0, 0], [17, 1, 1, 1]):
        p, q = pool / pool.sum(), np.array(counts) / 20
        found = objective.value(np.array(counts, np.int32)) / scale
        assert found == pytest.approx(np.sqrt(p * q).sum() * np.sqrt(20 / 100), rel=0.005)
