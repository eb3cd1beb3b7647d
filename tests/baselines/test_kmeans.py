import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.baselines import round_robin

quick = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def instance(seed, n):
    rng = random.Random(seed)
    clusters = rng.sample(range(12), rng.randint(1, 6))
    leaf = [rng.choice(clusters) for _ in range(n)]
    distance = [rng.choice([0.0, 0.25, rng.random()]) for _ in range(n)]
    return rng, leaf, distance, rng.sample(range(2**62), n)


def run(leaf, distance, hashes, k):
    return round_robin(np.array(leaf, np.int32), np.array(distance), np.array(hashes, np.uint64), k)


def naive(leaf, distance, hashes, k):
    queues = {}
    for i in sorted(range(len(leaf)), key=lambda i: (distance[i], hashes[i])):
        queues.setdefault(leaf[i], []).append(i)
    order = sorted(queues, key=lambda c: (-len(queues[c]), c))
    picks = []
    while any(queues.values()):
        picks += [queues[c].pop(0) for c in order if queues[c]]
    return picks[:k]


@quick
@given(seeds, st.integers(0, 40), st.integers(0, 50))
def test_equals_the_reference(seed, n, k):
    _, *problem = instance(seed, n)
    picks = run(*problem, k)
    assert picks.dtype == np.int64
    assert picks.tolist() == naive(*problem, k)


@quick
@given(seeds, st.integers(1, 40))
def test_clusters_give_equally_until_they_run_out(seed, n):
    _, leaf, distance, hashes = instance(seed, n)
    picks = run(leaf, distance, hashes, n).tolist()
    assert sorted(picks) == list(range(n))
    sizes = np.bincount(leaf)
    for k in range(n + 1):
        assert run(leaf, distance, hashes, k).tolist() == picks[:k]
        taken = np.bincount([leaf[i] for i in picks[:k]], minlength=len(sizes))
        assert (np.minimum(taken.max(), sizes) - taken <= 1).all()


@quick
@given(seeds, st.integers(1, 40), st.integers(0, 40))
def test_the_order_of_rows_does_not_matter(seed, n, k):
    rng, *columns = instance(seed, n)
    order = rng.sample(range(n), n)
    mixed = run(*([column[i] for i in order] for column in columns), k)
    assert [order[i] for i in mixed] == run(*columns, k).tolist()


def test_largest_clusters_first_then_lower_numbers_then_hashes():
    leaf = [4, 4, 4, 0, 0, 2, 2]
    assert run(leaf, [0.0] * 7, [7, 6, 5, 4, 3, 2, 1], 7).tolist() == [2, 4, 6, 1, 3, 5, 0]


def test_identical_rows_and_no_rows():
    assert run([0] * 4, [1.0] * 4, [3, 1, 2, 0], 3).tolist() == [3, 1, 2]
    assert run([], [], [], 3).tolist() == []
    assert run([1, 1], [0.0, 0.0], [1, 2], 0).tolist() == []
