import random
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.baselines import length_counts, length_edges, length_matched

quick = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def instance(seed, n):
    rng = random.Random(seed)
    tokens = [rng.randint(1, 30) for _ in range(n)]
    hashes = [rng.choice([rng.getrandbits(64), 5]) for _ in range(n)]
    edges = sorted(rng.sample(range(1, 32), rng.randint(0, 6)))
    wanted = [0] * (len(edges) + 1)
    for _ in range(rng.randint(0, n)):
        wanted[rng.randrange(len(wanted))] += 1
    return tokens, hashes, edges, wanted


def naive(tokens, hashes, edges, wanted):
    """One row at a time."""
    bins = [[] for _ in wanted]
    for i in sorted(range(len(tokens)), key=lambda i: (hashes[i], i)):
        bins[bisect_right(edges, tokens[i])].append(i)
    picks, short = [], []
    for rows, want in zip(bins, wanted, strict=True):
        picks += [rows.pop(0) for _ in range(min(want, len(rows)))]
        short.append(want)
    for i in picks:
        short[bisect_right(edges, tokens[i])] -= 1
    for away in range(1, len(bins)):
        for b in range(len(bins)):
            for other in (b - away, b + away):
                while 0 <= other < len(bins) and short[b] and bins[other]:
                    picks.append(bins[other].pop(0))
                    short[b] -= 1
    return sorted(picks, key=lambda i: (hashes[i], i))


def run(tokens, hashes, edges, wanted):
    return length_matched(
        np.array(tokens, np.int32),
        np.array(hashes, np.uint64),
        np.array(wanted, np.int64),
        np.array(edges, np.int64),
    )


@quick
@given(seeds, st.integers(0, 40))
def test_equals_the_reference(seed, n):
    problem = instance(seed, n)
    picks = run(*problem)
    assert picks.dtype == np.int64
    assert picks.tolist() == naive(*problem)
    assert len(set(picks.tolist())) == sum(problem[3])


@quick
@given(seeds, st.integers(1, 40))
def test_a_distribution_that_fits_is_met_exactly(seed, n):
    tokens, hashes, edges, _ = instance(seed, n)
    core = random.Random(seed).sample(range(n), n // 2)
    inner = np.array(edges, np.int64)
    wanted = length_counts(np.array(tokens)[core], inner)
    picks = run(tokens, hashes, edges, wanted)
    assert length_counts(np.array(tokens)[picks], inner).tolist() == wanted.tolist()


@quick
@given(seeds, st.integers(1, 40))
def test_the_order_of_rows_does_not_matter(seed, n):
    tokens, _, edges, wanted = instance(seed, n)
    rng = random.Random(seed)
    hashes = rng.sample(range(2**60), n)
    order = rng.sample(range(n), n)
    picks = run(tokens, hashes, edges, wanted)
    mixed = run([tokens[i] for i in order], [hashes[i] for i in order], edges, wanted)
    assert [order[i] for i in mixed] == picks.tolist()


def test_a_shortage_goes_to_the_nearest_bins():
    tokens, edges = [1, 1, 11, 31, 31, 31], [10, 20, 30]
    hashes = list(range(6))
    assert run(tokens, hashes, edges, [0, 0, 3, 0]).tolist() == [2, 3, 4]
    assert run(tokens, hashes, edges, [0, 2, 2, 0]).tolist() == [0, 2, 3, 4]
    assert run(tokens, hashes, edges, [0, 0, 0, 5]).tolist() == [0, 2, 3, 4, 5]


def test_nothing_everything_and_too_much():
    tokens, hashes = [3, 30, 4], [2, 2, 1]
    assert run(tokens, hashes, [10], [0, 0]).tolist() == []
    assert run(tokens, hashes, [10], [0, 3]).tolist() == [2, 0, 1]
    assert run([], [], [10], [0, 0]).tolist() == []
    assert run([7] * 4, [9, 8, 9, 8], [], [3]).tolist() == [1, 3, 0]
    with pytest.raises(ValueError, match="4 rows wanted of 3"):
        run(tokens, hashes, [10], [1, 3])
    with pytest.raises(ValueError, match="make 2 bins"):
        run(tokens, hashes, [10], [1, 1, 1])


@quick
@given(seeds, st.integers(0, 60), st.integers(1, 12))
def test_edges_make_bins_with_rows(seed, n, bins):
    tokens = np.array(instance(seed, n)[0], np.int32)
    edges = length_edges(tokens, bins)
    counts = length_counts(tokens, edges)
    assert len(edges) < bins
    assert (np.diff(edges) > 0).all()
    assert counts.sum() == n
    if n:
        assert counts.min() > 0


def test_edges_share_different_lengths_equally():
    tokens = np.random.default_rng(0).permutation(1000)
    assert length_counts(tokens, length_edges(tokens, 8)).tolist() == [125] * 8


def test_a_draw_is_as_long_as_the_core_set_it_follows():
    rng = np.random.default_rng(1)
    pool = rng.lognormal(5, 0.8, 4000).astype(np.int32)
    core = rng.choice(4000, 600, replace=False, p=pool / pool.sum())  # longer than the pool
    edges = length_edges(pool[core], 20)
    hashes = rng.integers(0, 2**63, 4000).astype(np.uint64)
    picks = length_matched(pool, hashes, length_counts(pool[core], edges), edges)
    assert len(picks) == 600
    assert pool[core].mean() > 1.5 * pool.mean()
    assert pool[picks].mean() == pytest.approx(pool[core].mean(), rel=0.05)
