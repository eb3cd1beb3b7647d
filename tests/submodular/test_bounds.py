"""Floors and caps of groups: a partition matroid, or the intersection of two."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Bounded, best_value, hash64, naive_greedy, quick, random_instance
from setups import bounds_of, counts_of, random_bounded, setup, uids

from mads_ray.submodular import lazy_greedy_kernel as lazy_kernel
from mads_ray.submodular.greedy import (
    EXACT,
    SLACK,
    block_of,
    budgeted_greedy,
    first_fitting,
    lazy_greedy,
)
from mads_ray.submodular.problem import Bounds, Budget, Problem

seeds = st.integers(0, 2**31 - 1)
ONE, TWO = [(3,), (1,), (5,)], [(2, 3), (3, 3), (4, 1)]


def feasible_instance(seed, n, partitions):
    """Examples, how many are wanted, and bounds that some choice of so many keeps."""
    sizes = partitions[seed % len(partitions)]
    rng, spec, examples = random_instance(seed, n, bonus=True, sizes=sizes)
    some = rng.sample(examples, rng.randint(0, n))
    return rng, spec, examples, len(some), random_bounded(rng, sizes, some)


# --- greedy ---


@quick
@given(seeds, st.integers(1, 14))
def test_one_partition_keeps_its_bounds_and_half_of_the_optimum(seed, n):
    _, spec, examples, k, bounded = feasible_instance(seed, n, ONE)
    rows, objective = setup(spec, examples)
    problem = Problem(objective, Budget(rows=k), bounds_of(bounded), seed=seed)
    selection = lazy_greedy(rows, problem)
    assert len(selection.picks) == k
    assert bounded.met(examples[i] for i in selection.picks)
    assert 2 * selection.gains.sum() >= best_value(
        spec, examples, rows=k, allowed=lambda chosen: bounded.met(chosen)
    )


@quick
@given(seeds, st.integers(1, 40), st.booleans(), st.booleans())
def test_equals_naive_greedy_under_bounds(seed, n, two, by_cost):
    _, spec, examples, k, bounded = feasible_instance(seed, n, TWO if two else ONE)
    rows, objective = setup(spec, examples)
    problem = Problem(objective, Budget(rows=k, by_cost=by_cost), bounds_of(bounded), seed=seed)
    selection = lazy_greedy(rows, problem)
    expected = naive_greedy(spec, examples, seed, rows=k, bounded=bounded, by_cost=by_cost)
    assert [uids(rows)[i] for i in selection.picks] == [u for u, _ in expected]


@quick
@given(seeds, st.integers(1, 40), st.booleans())
def test_two_partitions_never_violate_a_cap(seed, n, with_slack):
    _, spec, examples, k, bounded = feasible_instance(seed, n, TWO)
    rows, objective = setup(spec, examples)
    problem = Problem(objective, Budget(rows=k), bounds_of(bounded), seed=seed)
    selection = lazy_greedy(rows, problem, slack=SLACK if with_slack else EXACT)
    used = Counter(g for i in selection.picks for g in examples[i].groups)
    assert all(used[g] <= high for g, high in enumerate(bounded.high))
    # A full set has kept a place for every floor.
    assert len(selection.picks) < k or bounded.met(examples[i] for i in selection.picks)


@quick
@given(seeds, st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_what_is_in_already_counts(seed, n, k, two):
    rng, spec, examples, _, _ = feasible_instance(seed, n, TWO if two else ONE)
    sizes = (TWO if two else ONE)[seed % 3]
    base = rng.sample(examples, rng.randint(0, n // 2))
    rest = [e for e in examples if e not in base]
    more = rng.sample(rest, min(k, len(rest)))
    bounded = random_bounded(rng, sizes, base + more)
    rows, objective = setup(spec, rest)
    bounds = bounds_of(bounded)
    if not rest:
        return
    used_G = bounds.used(np.array([e.groups for e in base], np.int32))
    counts_D, left = counts_of(spec, base), bounds.left(used_G)
    problem = Problem(objective, Budget(rows=len(more)), left, counts_D, seed)
    selection = lazy_greedy(rows, problem)
    expected = naive_greedy(spec, rest, seed, rows=len(more), base=base, bounded=bounded)
    assert [uids(rows)[i] for i in selection.picks] == [u for u, _ in expected]


@quick
@given(seeds, st.integers(1, 30), st.integers(0, 40))
def test_caps_hold_under_a_budget_in_tokens(seed, n, tokens):
    _, spec, examples, _, bounded = feasible_instance(seed, n, ONE)
    bounded = replace(bounded, low=(0,) * len(bounded.low))
    rows, objective = setup(spec, examples)
    problem = Problem(objective, Budget(tokens=tokens), bounds_of(bounded), seed=seed)
    found = budgeted_greedy(rows, problem)
    tries = [
        naive_greedy(spec, examples, seed, tokens=tokens, bounded=bounded, by_cost=by_cost)
        for by_cost in (True, False)
    ]
    better = max(tries, key=lambda t: sum(g for _, g in t))
    assert [uids(rows)[i] for i in found.picks] == [u for u, _ in better]
    assert bounded.met(examples[i] for i in found.picks)


def test_floors_that_no_budget_reaches_take_only_what_is_lacking():
    _, spec, examples = random_instance(1, 30, sizes=(3,))
    rows, objective = setup(spec, examples)
    bounds = Bounds(np.array([8, 0, 8]), np.array([99, 99, 99]), np.zeros(3, np.int64))
    selection = lazy_greedy(rows, Problem(objective, Budget(rows=5), bounds))
    assert len(selection.picks) == 5
    assert set(rows.groups_NT[selection.picks, 0].tolist()) <= {0, 2}


def test_no_bounds():
    none = Bounds.none()
    assert len(none) == 0
    limits = none.limits(Budget(rows=3, tokens=4))
    assert (limits.max_rows, limits.max_tokens, len(limits.need_T)) == (3, 4, 0)
    assert none.limits(Budget()).max_rows >= 2**60
    assert none.limits(Budget()).max_tokens >= 2**60
    assert none.used(np.zeros((5, 0), np.int32)).tolist() == []
    assert none.met(np.empty(0, np.int64))


# --- the bounds as such ---


@quick
@given(seeds, st.integers(1, 40))
def test_the_compiled_limits_follow_the_picks(seed, n):
    _, spec, examples, k, bounded = feasible_instance(seed, n, TWO)
    rows, objective = setup(spec, examples)
    bounds, counts_D = bounds_of(bounded), objective.empty_counts()
    limits, prices_D = bounds.limits(Budget(rows=k)), objective.prices(counts_D)
    block = block_of(rows, rows.tie_rank(seed))
    picks, _ = lazy_kernel.lazy_greedy(block, objective.space, limits, EXACT, counts_D, prices_D)
    used = bounds.used(rows.groups_NT[picks])
    assert (limits.used_G == used).all()
    lacking = np.maximum(bounds.low_G - used, 0)
    assert limits.need_T.tolist() == np.bincount(bounds.partition_G, lacking).tolist()


@quick
@given(seeds, st.integers(1, 30))
def test_used_and_met_equal_the_reference(seed, n):
    rng, spec, examples, _, bounded = feasible_instance(seed, n, TWO)
    rows, _ = setup(spec, examples)
    bounds = bounds_of(bounded)
    some = rng.sample(range(n), rng.randint(0, n))
    used_G = bounds.used(rows.groups_NT[np.array(some, np.int64)])
    counted = Counter(g for i in some for g in examples[i].groups)
    assert used_G.tolist() == [counted[g] for g in range(len(bounds))]
    assert bounds.met(used_G) == bounded.met(examples[i] for i in some)


@quick
@given(seeds, st.integers(1, 40))
def test_shared_bounds_used_up_by_all_blocks_hold(seed, blocks):
    rng, _, _, _, bounded = feasible_instance(seed, 30, TWO)
    bounds = bounds_of(bounded)
    used_G = np.array([rng.randint(a, b) for a, b in zip(bounded.low, bounded.high, strict=True)])
    shared = bounds.shared(used_G, blocks)
    assert (shared.partition_G == bounds.partition_G).all()
    assert shared.met(used_G)
    assert (used_G + blocks * (shared.low_G - used_G) >= bounds.low_G).all()
    assert (used_G + blocks * (shared.high_G - used_G) <= bounds.high_G).all()
    # As much as whole numbers allow.
    assert (used_G + blocks * (shared.low_G - 1 - used_G) < bounds.low_G).all()
    assert (used_G + blocks * (shared.high_G + 1 - used_G) > bounds.high_G).all()


def test_one_block_has_the_bounds_for_itself():
    bounds = bounds_of(Bounded((1, 0, 2), (5, 2**62, 2), (0, 0, 1)))
    alone = bounds.shared(np.array([3, 7, 2]), 1)
    assert alone.low_G.tolist() == [1, 0, 2]
    assert alone.high_G.tolist() == [5, 2**62, 2]


# --- random sets within bounds ---


@quick
@given(seeds, st.integers(1, 40), st.booleans(), st.one_of(st.none(), st.integers(0, 60)))
def test_first_fitting_walks_in_the_order_of_hashes(seed, n, two, tokens):
    _, spec, examples, k, bounded = feasible_instance(seed, n, TWO if two else ONE)
    rows, _ = setup(spec, examples)
    hashes = np.array([hash64(e.uid, seed, 1) for e in examples], np.uint64)
    budget = Budget(k, tokens)
    picks = first_fitting(hashes, rows.tokens_N, rows.groups_NT, bounds_of(bounded), budget)
    expected, spent, used = [], 0, Counter()
    for i in sorted(range(n), key=lambda i: int(hashes[i])):
        after, more = used + Counter(examples[i].groups), k - len(expected) - 1
        room = tokens is None or spent + examples[i].tokens <= tokens
        if more >= 0 and room and bounded.reachable(after, more):
            expected.append(i)
            used, spent = after, spent + examples[i].tokens
    assert picks.tolist() == expected
    if tokens is None and not two:
        assert len(picks) == k
        assert bounded.met(examples[i] for i in picks)


def test_first_fitting_without_bounds_is_a_random_draw():
    hashes = np.array([5, 2, 9, 2**64 - 1, 0], np.uint64)
    groups, tokens = np.zeros((5, 0), np.int32), np.array([3, 3, 3, 3, 9], np.int32)
    draw = first_fitting(hashes, tokens, groups, Bounds.none(), Budget(rows=3))
    assert draw.tolist() == [4, 1, 0]
    draw = first_fitting(hashes, tokens, groups, Bounds.none(), Budget(tokens=8))
    assert draw.tolist() == [1, 0]
    draw = first_fitting(hashes[:0], tokens[:0], groups[:0], Bounds.none(), Budget(rows=3))
    assert draw.tolist() == []


@pytest.mark.parametrize("partitions", [ONE, TWO])
def test_floors_cost_something_and_bind(partitions):
    """The instances above do have bounds that change the choice."""
    changed = 0
    for seed in range(60):
        _, spec, examples, k, bounded = feasible_instance(seed, 20, partitions)
        free = naive_greedy(spec, examples, seed, rows=k)
        changed += free != naive_greedy(spec, examples, seed, rows=k, bounded=bounded)
    assert changed > 15
