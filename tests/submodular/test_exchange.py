"""Selecting a block again, given all the rest."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import count, gain, naive_greedy, quick, random_instance, value
from setups import bounds_of, counts_of, random_bounded, setup, uids

from mads_ray.submodular.exchange import reselect
from mads_ray.submodular.greedy import SLACK
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.totals import Delta, Totals

seeds = st.integers(0, 2**31 - 1)
SIZES = [(), (3,), (2, 3)]


class State:
    """Examples, which of them are in, and the driver's sums."""

    def __init__(self, seed, n, sizes, by_cost=False, shards=1):
        self.rng, self.spec, self.examples = random_instance(seed, n, bonus=True, sizes=sizes)
        self.inside = {e.uid for e in self.examples if self.rng.random() < 0.4}
        self.bounded = random_bounded(self.rng, sizes, self.members(), slack=3)
        if by_cost:  # floors need a budget in rows
            self.bounded = replace(self.bounded, low=(0,) * sum(sizes))
        self.bounds = bounds_of(self.bounded)
        self.by_cost = by_cost
        self.sums = self.recomputed()

    def members(self, inside=None):
        inside = self.inside if inside is None else inside
        return [e for e in self.examples if e.uid in inside]

    def recomputed(self, inside=None):
        """The sums from the ids, by the reference."""
        members = self.members(inside)
        used = Counter(g for e in members for g in e.groups)
        return Delta(
            counts_of(self.spec, members),
            np.array([used[g] for g in range(len(self.bounds))], np.int64),
            sum(e.bonus for e in members),
            len(members),
            sum(e.tokens for e in members),
        )

    def f(self, inside=None):
        return value(self.spec, self.members(inside))

    def step(self, block, open_N=None, bounds=None, spare=0):
        """Reselect a block of examples against the sums now; uids that are in after it."""
        rows, objective = setup(self.spec, block)
        selected_N = np.array([e.uid in self.inside for e in block], bool)
        budget = (
            Budget(tokens=self.sums.tokens + spare) if self.by_cost else Budget(rows=self.sums.rows)
        )
        problem = Problem(objective, budget, self.bounds if bounds is None else bounds)
        picks, delta = reselect(rows, selected_N, problem, self.totals(), open_N=open_N)
        assert len(set(picks.tolist())) == len(picks)
        names = uids(rows)
        self.order = [names[i] for i in picks]
        return self.inside - set(names) | set(self.order), delta, objective

    def totals(self):
        sums = (getattr(self.sums, f) for f in ("counts_D", "used_G", "bonus", "rows", "tokens"))
        return Totals(*sums, f=self.f())

    def accept(self, inside, delta):
        self.inside, self.sums = inside, self.sums + delta


def same(a, b, swaps=True):
    """Deltas are equal, but for their swaps where those do not count."""
    pairs = list(zip(_fields(a), _fields(b), strict=True))
    return all(np.array_equal(x, y) for x, y in pairs[: 5 + swaps])


def _fields(delta):
    return [delta.counts_D, delta.used_G, delta.bonus, delta.rows, delta.tokens, delta.swaps]


def difference(after, before, swaps):
    pairs = zip(_fields(after)[:5], _fields(before)[:5], strict=True)
    return Delta(*(a - b for a, b in pairs), swaps)


@quick
@given(seeds, st.integers(1, 25), st.sampled_from(SIZES), st.booleans())
def test_the_change_equals_a_recomputation_from_the_ids(seed, n, sizes, by_cost):
    state = State(seed, n, sizes, by_cost)
    block = state.rng.sample(state.examples, state.rng.randint(1, n))
    inside, delta, _ = state.step(block, spare=state.rng.randint(0, 5))
    new = len(inside - state.inside)
    assert same(delta, difference(state.recomputed(inside), state.sums, new))
    assert delta.counts_D.dtype == np.int32
    if not by_cost:
        assert len(inside) == len(state.inside)
        assert len(state.inside - inside) == new


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("by_cost", [False, True])
def test_f_only_rises_over_a_sequence_of_steps(sizes, by_cost):
    rose = 0
    for seed in range(12):
        state = State(seed, 30, sizes, by_cost)
        limit = state.sums.tokens + 6
        for _ in range(15):
            before = state.f()
            block = state.rng.sample(state.examples, state.rng.randint(1, 15))
            spare = limit - state.sums.tokens
            inside, delta, objective = state.step(block, spare=spare)
            after = state.totals().plus(delta, objective).f
            assert after == state.f(inside)
            if after > before:
                state.accept(inside, delta)
                rose += 1
            assert same(state.sums, state.recomputed(), swaps=False)
            assert state.f() >= before
            assert state.bounded.met(state.members())
            assert state.sums.tokens <= limit or not by_cost
    assert rose > 20


@quick
@given(seeds, st.integers(4, 30), st.integers(1, 4), st.sampled_from(SIZES[1:]))
def test_blocks_at_the_same_time_keep_the_bounds_they_share(seed, n, blocks, sizes):
    state = State(seed, n, sizes)
    parts = [state.examples[b::blocks] for b in range(blocks)]
    shared = state.bounds.shared(state.sums.used_G, blocks)
    total = Delta.none(setup(state.spec, state.examples)[1], len(state.bounds))
    inside = set(state.inside)
    for part in parts:
        after, delta, _ = state.step(part, bounds=shared)
        total = total + delta
        mine = {e.uid for e in part}
        inside = inside - mine | (after & mine)
    swaps = len(inside - state.inside)
    assert same(total, difference(state.recomputed(inside), state.sums, swaps))
    assert state.bounded.met(state.members(inside))
    assert len(inside) == len(state.inside)


@quick
@given(seeds, st.integers(2, 25))
def test_only_open_rows_enter(seed, n):
    state = State(seed, n, ())
    open_N = np.array([e.uid in state.inside or state.rng.random() < 0.5 for e in state.examples])
    inside, _, _ = state.step(state.examples, open_N)
    may = {e.uid for e, is_open in zip(state.examples, open_N, strict=True) if is_open}
    assert inside <= may


@quick
@given(seeds, st.integers(2, 25), st.booleans())
def test_the_new_choice_is_greedy_given_the_rest(seed, n, by_cost):
    state = State(seed, n, (), by_cost)
    block = state.rng.sample(state.examples, state.rng.randint(1, n))
    left = {e.uid: e for e in block}
    counts = count(e for e in state.members() if e.uid not in left)
    room = sum(e.tokens for e in state.members() if e.uid in left)
    state.step(block)

    def worth(e):
        return Fraction(gain(state.spec, e, counts), e.tokens if by_cost else 1)

    for uid in state.order:
        best = max(worth(e) for e in left.values() if e.tokens <= room or not by_cost)
        picked = left.pop(uid)
        assert worth(picked) * (1 + Fraction(1, 2**SLACK)) >= best
        counts.update(picked.features)
        room -= picked.tokens
    if by_cost:
        assert room >= 0
        assert all(e.tokens > room for e in left.values())


def test_a_short_choice_is_not_taken_over_a_full_one():
    """Two partitions may leave greedy short: then the old choice stays."""
    kept = 0
    for seed in range(400):
        state = State(seed, 16, (3, 3))
        inside, delta, objective = state.step(state.examples)
        assert len(inside) == len(state.inside)
        naive = naive_greedy(state.spec, state.examples, 0, rows=len(inside), bounded=state.bounded)
        if len(naive) < len(inside) and inside == state.inside:
            assert same(delta, Delta.none(objective, len(state.bounds)))
            kept += 1
    assert kept > 0


def test_an_empty_choice_stays_empty():
    state = State(3, 10, ())
    block = [e for e in state.examples if e.uid not in state.inside]
    inside, delta, objective = state.step(block)
    assert inside == state.inside
    assert same(delta, Delta.none(objective, 0))


# --- deltas ---


@quick
@given(seeds, st.integers(1, 20), st.sampled_from(SIZES))
def test_putting_rows_in_is_a_change_that_adds_up(seed, n, sizes):
    state = State(seed, n, sizes)
    rows, objective = setup(state.spec, state.examples)
    index = np.array([i for i, e in enumerate(state.examples) if e.uid in state.inside], np.int64)
    whole = Delta.of(rows, index, objective, len(state.bounds))
    expected = replace(state.sums, swaps=len(index))
    assert same(whole, expected)
    cut = state.rng.randint(0, len(index))
    halves = [Delta.of(rows, i, objective, len(state.bounds)) for i in (index[:cut], index[cut:])]
    assert same(halves[0] + halves[1], whole)
    assert same(whole + Delta.none(objective, len(state.bounds)), whole)
