import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import quick

from mads_ray.submodular.near_duplicates import (
    band_keys,
    bands_for,
    candidate_pairs,
    collapse,
    near,
    overlap,
    unique_pairs,
)

seeds = st.integers(0, 2**31 - 1)


def collapse_rows(neurons_NA, per_layer, leaf_N, hashes_N, threshold):
    """The whole for rows in one place: the row number of each row's leader, (N,)."""
    keys_NB = band_keys(neurons_NA, per_layer, leaf_N, *bands_for(threshold))
    ids_N = np.arange(len(keys_NB))
    entries = keys_NB.shape[1]
    pairs_P2 = candidate_pairs(
        keys_NB.ravel(), np.repeat(ids_N, entries), np.repeat(hashes_N, entries)
    )
    return collapse(ids_N, hashes_N, pairs_P2[near(neurons_NA, pairs_P2, per_layer, threshold)])


def random_states(rng, n, layers, width, per_layer, twins=0.0, changes=0):
    """Lists of layers of sorted neurons; a share are `changes` neurons away from an earlier row."""
    states = []
    for _ in range(n):
        if states and rng.random() < twins:
            state = [list(layer) for layer in rng.choice(states)]
            for _ in range(rng.randint(0, changes)):
                layer = rng.choice(state)
                fresh = [j for j in range(width) if j not in layer]
                if fresh:
                    layer[rng.randrange(per_layer)] = rng.choice(fresh)
            state = [sorted(layer) for layer in state]
        else:
            state = [sorted(rng.sample(range(width), per_layer)) for _ in range(layers)]
        states.append(state)
    return states


def as_array(states, layers, per_layer):
    flat = [[j for layer in state for j in layer] for state in states]
    return np.array(flat, np.uint16).reshape(len(states), layers * per_layer)


def naive_shared(a, b):
    return sum(len(set(x) & set(y)) for x, y in zip(a, b, strict=True))


def naive_leaders(states, leaves, hashes, threshold):
    """Every pair is compared; rows are named by their number, which breaks ties of hash."""
    leader, kept = {}, []
    for i in sorted(range(len(states)), key=lambda i: (hashes[i], i)):
        active = sum(len(layer) for layer in states[i])
        near = (
            j
            for j in kept
            if leaves[i] == leaves[j]
            and naive_shared(states[i], states[j]) >= threshold * active - 1e-9
        )
        leader[i] = next(near, i)
        if leader[i] == i:
            kept.append(i)
    return [leader[i] for i in range(len(states))]


def naive_keys(state, leaf, bands, rows):
    """Stored keys of one version must meet those of the next, so this is a golden, too."""

    def hash32(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    neurons = [layer * 2**16 + j for layer, js in enumerate(state) for j in js]
    bins, turn = {}, 0
    while len(bins) < bands * rows:
        found = {}
        for h in (hash32((x + turn * 0x9E3779B9) % 2**32) for x in neurons):
            found.setdefault(h * bands * rows // 2**32, []).append(turn * 2**32 + h)
        bins = {b: min(hs) for b, hs in found.items()} | bins
        turn += 1
    start = mix((leaf + 0xD1B54A32D192ED03) % 2**64)
    keys = [mix(start ^ sum(hash32(x) ** 2 for x in neurons) % 2**64)]
    for band in range(bands):
        key = start ^ mix((band + 1) * 0xD1B54A32D192ED03 % 2**64)
        for b in range(band * rows, band * rows + rows):
            key = mix(key ^ bins[b])
        keys.append(key)
    return keys


def instance(seed, n):
    rng = random.Random(seed)
    layers, width = rng.randint(1, 4), rng.randint(2, 12)
    per_layer = rng.randint(1, min(5, width))
    states = random_states(rng, n, layers, width, per_layer, twins=0.6, changes=3)
    leaves = [rng.randrange(3) for _ in range(n)]
    hashes = [rng.choice([rng.getrandbits(64), 7]) for _ in range(n)]
    return rng, states, leaves, hashes, as_array(states, layers, per_layer), per_layer


def arrays(leaves, hashes):
    return np.array(leaves, np.int32), np.array(hashes, np.uint64)


def near_pairs(states, leaves, threshold):
    active = sum(len(layer) for layer in states[0]) if states else 1
    return [
        (i, j)
        for i in range(len(states))
        for j in range(i)
        if leaves[i] == leaves[j]
        and naive_shared(states[i], states[j]) >= threshold * active - 1e-9
    ]


def planted(n, twins, keep, seed=0, layers=30, width=1536, per_layer=64):
    """n rows without anything in common and, for the first, twins that keep a share of neurons."""
    rng = np.random.default_rng(seed)
    scores = rng.random((n, layers, width), np.float32)
    rows = np.argpartition(scores, per_layer)[:, :, :per_layer]
    copies = rows[:twins].copy()
    for state in copies:
        changed = rng.permutation(layers * per_layer)[: round((1 - keep) * layers * per_layer)]
        for slot in changed:
            layer, a = divmod(slot, per_layer)
            while (j := rng.integers(width)) in state[layer]:
                pass
            state[layer, a] = j
    both = np.sort(np.concatenate([rows, copies]), axis=2).astype(np.uint16)
    return both.reshape(n + twins, -1), per_layer


# The choice of bands


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99])
def test_bands_find_pairs_at_the_threshold(threshold):
    bands, rows = bands_for(threshold)
    jaccard = threshold / (2 - threshold)
    assert 1 - (1 - jaccard**rows) ** bands >= 0.999
    assert bands <= 48
    assert rows <= 8


def test_default_bands_keep_unrelated_rows_apart():
    bands, rows = bands_for(0.9)
    assert 1 - (1 - (1 / 3) ** rows) ** bands < 0.005  # overlap 0.5
    assert bands_for(1.0) == (0, 1)
    assert bands_for(1e-9) == (48, 1)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_thresholds_outside_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        bands_for(threshold)


# Keys


def test_a_bin_agrees_as_often_as_the_jaccard_similarity_says():
    for keep in (0.9, 0.5):
        neurons, per_layer = planted(60, 60, keep)
        keys = band_keys(neurons, per_layer, np.zeros(120, np.int32), 250, 1)[:, 1:]
        agree = (keys[:60] == keys[60:]).mean()
        assert agree == pytest.approx(keep / (2 - keep), abs=0.015)


def test_a_bin_agrees_so_also_with_many_more_bins_than_neurons():
    rng = random.Random(3)
    states = random_states(rng, 300, 2, 9, 3)
    neurons = as_array(states, 2, 3)
    keys = band_keys(neurons, 3, np.zeros(300, np.int32), 64, 1)[:, 1:]
    expected, agree = [], []
    for i in range(0, 300, 2):
        shared = naive_shared(states[i], states[i + 1])
        expected.append(shared / (12 - shared))
        agree.append((keys[i] == keys[i + 1]).mean())
    assert np.mean(agree) == pytest.approx(np.mean(expected), abs=0.02)
    assert np.corrcoef(expected, agree)[0, 1] > 0.9


@quick
@given(seeds, st.integers(1, 12))
def test_keys_are_equal_for_equal_rows_and_never_across_leaves_or_bands(seed, n):
    _, states, leaves, _, neurons, per_layer = instance(seed, n)
    keys = band_keys(neurons, per_layer, np.array(leaves, np.int32), 7, 3)
    assert keys.shape == (n, 8)
    assert keys.dtype == np.uint64
    assert all(len(set(row)) == 8 for row in keys.tolist())
    for i in range(n):
        for j in range(i):
            same = states[i] == states[j] and leaves[i] == leaves[j]
            assert (keys[i] == keys[j]).all() == same
            assert (keys[i, 0] == keys[j, 0]) == same
            if leaves[i] != leaves[j]:
                assert not set(keys[i].tolist()) & set(keys[j].tolist())


@quick
@given(seeds, st.integers(1, 3), st.integers(0, 5), st.integers(1, 4))
def test_keys_equal_the_reference(seed, n, bands, rows):
    _, states, leaves, _, neurons, per_layer = instance(seed, n)
    keys = band_keys(neurons, per_layer, np.array(leaves, np.int32), bands, rows)
    expected = [naive_keys(s, leaf, bands, rows) for s, leaf in zip(states, leaves, strict=True)]
    assert keys.tolist() == expected


# Candidates


@quick
@given(seeds, st.integers(0, 40), st.integers(1, 5))
def test_candidates_equal_the_reference(seed, n, leaders):
    rng = random.Random(seed)
    hash_of = [rng.choice([rng.getrandbits(64), 9]) for _ in range(8)]
    entries = [(rng.randrange(4), rng.randrange(8)) for _ in range(n)]
    expected = set()
    for key in range(4):
        ids = sorted((i for k, i in entries if k == key), key=lambda i: (hash_of[i], i))
        for at, later in enumerate(ids):
            expected |= {(i, later) for i in ids[: min(at, leaders)] if i != later}
    keys = np.array([k for k, _ in entries], np.uint64)
    ids = np.array([i for _, i in entries], np.int64)
    hashes = np.array([hash_of[i] for i in ids], np.uint64)
    pairs = candidate_pairs(keys, ids, hashes, leaders)
    assert pairs.dtype == np.int64
    assert pairs.tolist() == [list(p) for p in sorted(expected)]


def test_a_clump_costs_a_few_pairs_a_row():
    n = 5000
    ids = np.random.default_rng(0).permutation(n)
    pairs = candidate_pairs(np.zeros(n, np.uint64), ids, np.zeros(n, np.uint64))
    assert len(pairs) == 4 * n - 10
    assert set(pairs[:, 0].tolist()) == {0, 1, 2, 3}


def test_pairs_of_several_buckets_are_united():
    pairs = np.array([[3, 1], [0, 2], [3, 1], [0, 1]])
    assert unique_pairs(pairs).tolist() == [[0, 1], [0, 2], [3, 1]]
    assert unique_pairs(np.empty((0, 2), np.int64)).shape == (0, 2)


# Comparison


@quick
@given(seeds, st.integers(1, 12), st.floats(0.01, 1))
def test_overlap_equals_the_reference(seed, n, threshold):
    rng, states, _, _, neurons, per_layer = instance(seed, n)
    pairs = np.array([[rng.randrange(n), rng.randrange(n)] for _ in range(20)])
    shared = [naive_shared(states[i], states[j]) for i, j in pairs.tolist()]
    active = neurons.shape[1]
    got = overlap(neurons, pairs, per_layer)
    assert got.dtype == np.float32
    assert got.tolist() == [np.float32(s / active) for s in shared]
    expected = [s >= threshold * active - 1e-9 for s in shared]
    assert near(neurons, pairs, per_layer, threshold).tolist() == expected


def test_a_threshold_is_met_by_exactly_as_many_neurons():
    base = np.arange(100, dtype=np.uint16)
    other = base.copy()
    other[:45] += 1000
    for threshold, expected in [(0.55, True), (0.5501, False), (0.5499, True)]:
        pair = np.array([[0, 1]])
        assert near(np.stack([base, np.sort(other)]), pair, 100, threshold)[0] == expected


def test_layers_are_kept_apart():
    neurons = np.array([[1, 2], [2, 1], [1, 3]], np.uint16)
    pairs = np.array([[0, 1], [0, 2], [1, 1]])
    assert overlap(neurons, pairs, 1).tolist() == [0, 0.5, 1]
    assert overlap(np.sort(neurons), pairs, 2).tolist() == [1, 0.5, 1]


# Leaders


@quick
@given(seeds, st.integers(1, 25), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_leaders_of_all_pairs_equal_the_reference(seed, n, threshold):
    rng, states, leaves, hashes, _, _ = instance(seed, n)
    pairs = near_pairs(states, leaves, threshold)
    pairs += [tuple(reversed(p)) for p in pairs if rng.random() < 0.3]
    rng.shuffle(pairs)
    order = rng.sample(range(n), n)  # the order of rows does not matter either
    leaders = collapse(
        np.array(order),
        np.array([hashes[i] for i in order], np.uint64),
        np.array(pairs, np.int64).reshape(-1, 2),
    )
    expected = naive_leaders(states, leaves, hashes, threshold)
    assert leaders.dtype == np.int64
    assert leaders.tolist() == [expected[i] for i in order]


def test_a_chain_does_not_drift():
    hashes = np.arange(5, dtype=np.uint64)
    chain = np.array([[i, i + 1] for i in range(4)])
    assert collapse(np.arange(5), hashes, chain).tolist() == [0, 0, 2, 2, 4]
    assert collapse(np.arange(5), hashes[::-1], chain).tolist() == [0, 2, 2, 4, 4]


def test_ids_may_be_any_numbers():
    ids = np.array([-(2**63), 2**63 - 1, 5])
    hashes = np.array([3, 2**64 - 1, 2**63], np.uint64)
    pairs = np.array([[2**63 - 1, 5], [5, 5]])
    assert collapse(ids, hashes, pairs).tolist() == [-(2**63), 5, 5]


def test_wrong_ids_are_refused():
    with pytest.raises(ValueError, match="not unique"):
        collapse(np.array([1, 1]), np.array([1, 2], np.uint64), np.empty((0, 2), np.int64))
    for ids in ([1, 2], []):
        with pytest.raises(ValueError, match="not among"):
            collapse(np.array(ids, np.int64), np.zeros(len(ids), np.uint64), np.array([[1, 9]]))


# All together


@quick
@given(seeds, st.integers(1, 25), st.floats(0.05, 1))
def test_nothing_below_the_threshold_or_across_leaves_collapses(seed, n, threshold):
    _, states, leaves, hashes, neurons, per_layer = instance(seed, n)
    leaders = collapse_rows(neurons, per_layer, *arrays(leaves, hashes), threshold).tolist()
    for i, leader in enumerate(leaders):
        assert leaders[leader] == leader
        assert leaves[i] == leaves[leader]
        assert naive_shared(states[i], states[leader]) >= threshold * neurons.shape[1] - 1e-9
        assert (hashes[leader], leader) <= (hashes[i], i)


@quick
@given(seeds, st.integers(1, 30), st.floats(0.05, 1))
def test_identical_rows_always_collapse(seed, n, threshold):
    _, states, leaves, hashes, neurons, per_layer = instance(seed, n)
    leaders = collapse_rows(neurons, per_layer, *arrays(leaves, hashes), threshold).tolist()
    kept = [(leaves[i], str(states[i])) for i in range(n) if leaders[i] == i]
    assert len(kept) == len(set(kept))


@quick
@given(seeds, st.integers(1, 30))
def test_threshold_1_collapses_exactly_identical_states(seed, n):
    _, states, leaves, hashes, neurons, per_layer = instance(seed, n)
    leaders = collapse_rows(neurons, per_layer, *arrays(leaves, hashes), 1.0)
    assert leaders.tolist() == naive_leaders(states, leaves, hashes, 1.0)


@quick
@given(seeds, st.integers(1, 25), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_order_of_rows_does_not_matter(seed, n, threshold):
    rng, _, leaves, hashes, neurons, per_layer = instance(seed, n)
    hashes = rng.sample(range(2**40), n)  # without ties, which row numbers would break
    leaf, hash64 = arrays(leaves, hashes)
    leaders = collapse_rows(neurons, per_layer, leaf, hash64, threshold)
    order = np.array(rng.sample(range(n), n))
    mixed = collapse_rows(neurons[order], per_layer, leaf[order], hash64[order], threshold)
    assert order[mixed].tolist() == leaders[order].tolist()


@pytest.mark.parametrize("threshold", [0.85, 0.9])
def test_planted_near_duplicates_are_found(threshold):
    neurons, per_layer = planted(400, 300, 0.92)
    rng = np.random.default_rng(1)
    leaf = np.concatenate([np.arange(400) % 5, np.arange(300) % 5]).astype(np.int32)
    hashes = rng.integers(0, 2**63, 700).astype(np.uint64)
    leaders = collapse_rows(neurons, per_layer, leaf, hashes, threshold)
    states = neurons.reshape(700, 30, 64).tolist()
    pairs = [(i, j) for i in range(700) for j in range(i) if leaf[i] == leaf[j]]
    pairs = [p for p in pairs if len({*states[p[0]][0]} & {*states[p[1]][0]}) > 32]
    shared = {(i, j): naive_shared(states[i], states[j]) for i, j in pairs}
    true = np.array([p for p, s in shared.items() if s >= threshold * 1920])
    expected = collapse(np.arange(700), hashes, true)
    assert (expected != np.arange(700)).sum() == 300
    assert ((leaders == expected) & (expected != np.arange(700))).sum() > 0.98 * 300


def test_a_large_clump_of_near_duplicates_has_its_first_row_as_leader():
    neurons, per_layer = planted(1, 1, 1.0)
    rng = np.random.default_rng(2)
    states = np.repeat(neurons[:1], 600, axis=0)
    for state in states:  # 2% of a row's own: any two share 96%
        slots = rng.permutation(1920)[:38]
        state[slots] = 2000 + slots % 64 * 500 + rng.integers(0, 500, 38)
    states = np.sort(states.reshape(600, 30, 64), axis=2).reshape(600, 1920)
    hashes = rng.integers(0, 2**63, 600).astype(np.uint64)
    leaders = collapse_rows(states, per_layer, np.zeros(600, np.int32), hashes, 0.9)
    assert (leaders == hashes.argmin()).all()


def test_shards_find_what_the_whole_finds():
    neurons, per_layer = planted(60, 60, 0.92)
    rng = np.random.default_rng(4)
    hashes = rng.integers(0, 2**63, 120).astype(np.uint64)
    leaf = (np.arange(120) % 60 % 4).astype(np.int32)
    whole = collapse_rows(neurons, per_layer, leaf, hashes, 0.9)
    bands = bands_for(0.9)
    shards = np.array_split(rng.permutation(120), 5)
    keys = np.concatenate([band_keys(neurons[s], per_layer, leaf[s], *bands) for s in shards])
    ids = np.repeat(np.concatenate(shards), keys.shape[1])
    keys = keys.ravel()
    found = []
    for bucket in range(3):
        mine = keys % np.uint64(3) == bucket
        found.append(candidate_pairs(keys[mine], ids[mine], hashes[ids[mine]]))
    pairs = unique_pairs(np.concatenate(found))
    pairs = pairs[near(neurons, pairs, per_layer, 0.9)]
    some = np.unique(pairs)  # rows without a pair need not be gathered
    leaders = np.arange(120)
    leaders[some] = collapse(some, hashes[some], pairs)
    assert leaders.tolist() == whole.tolist()
    assert (whole != np.arange(120)).sum() == 60


def test_no_rows_at_all():
    none = np.empty((0, 6), np.uint16)
    no_leaf, no_hash = arrays([], [])
    no_id, no_pair = np.empty(0, np.int64), np.empty((0, 2), np.int64)
    assert band_keys(none, 3, no_leaf, 4, 2).shape == (0, 5)
    assert candidate_pairs(no_hash, no_id, no_hash).shape == (0, 2)
    assert overlap(none, no_pair, 3).shape == (0,)
    assert near(none, no_pair, 3, 0.5).shape == (0,)
    assert collapse(no_id, no_hash, no_pair).shape == (0,)
    for threshold in (0.5, 1.0):
        assert collapse_rows(none, 3, no_leaf, no_hash, threshold).shape == (0,)
