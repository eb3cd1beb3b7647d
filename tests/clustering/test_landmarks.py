from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.clustering import landmarks as module
from mads_ray.clustering.landmarks import Landmarks, directions_of, threshold


def sketches(n, seed=0, size=12, kinds=4):
    """Rows around a few directions."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, size))
    x = centres[rng.integers(kinds, size=n)] + rng.normal(size=(n, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def uids(n, seed=0):
    return np.random.default_rng(seed).integers(2**64, size=(n, 2), dtype=np.uint64)


def landmarks_of(uids_N2, directions, shard=0, rows=None):
    rows = np.arange(len(uids_N2)) if rows is None else rows
    places = np.stack([np.full(len(rows), shard), rows], axis=1).astype(np.int32)
    return Landmarks.merge([Landmarks(uids_N2[rows], directions[rows], places)])


def slow_count(directions, marks):
    """By whole numbers and fractions, a pair at a time; all landmarks are of shard 0."""
    found = []
    for mine, a in enumerate(directions.astype(int).tolist()):
        n = 0
        others = zip(marks.places_M2, marks.directions_MS.astype(int).tolist(), strict=True)
        for (_, other), b in others:
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            squares = sum(x * x for x in a) * sum(y * y for y in b)
            alike = dot > 0 and dot * dot > Fraction(module.ALIKE) ** 2 * squares
            n += alike and mine != other
        found.append(n)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_a_slow_loop(seed):
    x = directions_of(sketches(70, seed))
    marks = landmarks_of(uids(70, seed), x, rows=np.arange(5, 45))
    got = marks.count_alike(0, x)
    assert got.dtype == np.int32
    assert got.tolist() == slow_count(x, marks)
    assert got.min() < got.max()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5))
def test_landmarks_and_counts_do_not_depend_on_shards(n, parts, seed):
    x, u = directions_of(sketches(n, seed)), uids(n, seed)
    cuts = np.sort(np.random.default_rng(seed).integers(0, n + 1, parts - 1))
    pieces = np.split(np.random.default_rng(seed + 1).permutation(n), cuts)
    whole = landmarks_of(u, x)
    of_parts = Landmarks.merge([landmarks_of(u[p], x[p], shard) for shard, p in enumerate(pieces)])
    assert of_parts.uids_M2.tolist() == whole.uids_M2.tolist()
    assert (of_parts.directions_MS == whole.directions_MS).all()
    together = np.empty(n, np.int32)
    for shard, p in enumerate(pieces):
        together[p] = of_parts.count_alike(shard, x[p])
    assert together.tolist() == whole.count_alike(0, x).tolist()


def test_blocks_of_rows_make_no_difference(monkeypatch):
    x = directions_of(sketches(50))
    marks = landmarks_of(uids(50), x)
    whole = marks.count_alike(0, x)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert marks.count_alike(0, x).tolist() == whole.tolist()


def test_a_row_is_not_counted_for_itself_but_its_copies_are():
    x, u = directions_of(np.tile(sketches(1), (5, 1))), uids(5)
    assert landmarks_of(u, x).count_alike(0, x).tolist() == [4] * 5
    assert landmarks_of(u, x, rows=np.arange(2)).count_alike(0, x).tolist() == [1, 1, 2, 2, 2]


def test_rows_without_a_direction_are_like_none():
    sketch = sketches(4)
    sketch[[1, 3]] = 0
    x = directions_of(sketch)
    counts = landmarks_of(uids(4), x).count_alike(0, x)
    assert counts[1] == counts[3] == 0
    assert counts.tolist() == slow_count(x, landmarks_of(uids(4), x))


@pytest.mark.parametrize("size", [1, 256, 1040, 1041, 4096])
def test_products_of_the_longest_directions_are_exact(size):
    directions = directions_of(np.ones((1, size), np.float16))
    product = (directions.astype(np.float32) @ directions.astype(np.float32).T).item()
    assert product == sum(int(v) ** 2 for v in directions[0]) < 2**24
    assert directions.max() > 60


def test_the_length_of_a_sketch_has_no_part():
    x = sketches(30).astype(np.float32)
    scaled = x * np.random.default_rng(0).uniform(0.01, 50, (30, 1)).astype(np.float32)
    assert np.abs(directions_of(x).astype(int) - directions_of(scaled)).max() <= 1


def test_a_small_pool_is_all_landmarks_and_a_large_one_a_sample():
    assert threshold(0) == threshold(1) == threshold(module.LANDMARKS) == 2**64 - 1
    many = uids(400_000)
    assert (many[:, 0] <= threshold(400_000)).sum() == pytest.approx(module.LANDMARKS, rel=0.1)


def test_a_row_of_the_pool_goes_before_the_same_row_of_a_base():
    x, u = directions_of(sketches(6)), uids(6)
    pool, base = landmarks_of(u[:4], x[:4], shard=3), landmarks_of(u[2:], x[2:], shard=-1)
    for parts in ([pool, base], [base, pool]):
        got = Landmarks.merge(parts)
        assert got.uids_M2.tolist() == sorted(u.tolist())
        shard_of = dict(zip(map(tuple, got.uids_M2), got.places_M2[:, 0].tolist(), strict=True))
        assert [shard_of[tuple(v)] for v in u] == [3, 3, 3, 3, -1, -1]


def test_no_landmarks_at_all():
    none = landmarks_of(uids(0), directions_of(sketches(0)))
    assert len(none) == 0
    assert none.count_alike(0, directions_of(sketches(3))).tolist() == [0, 0, 0]


def test_saved_landmarks_are_read_back(tmp_path):
    marks = landmarks_of(uids(9), directions_of(sketches(9)))
    marks.save(tmp_path / "landmarks.npz")
    got = Landmarks.load(tmp_path / "landmarks.npz")
    for name in Landmarks.__slots__:
        assert getattr(got, name).tobytes() == getattr(marks, name).tobytes()
        assert getattr(got, name).dtype == getattr(marks, name).dtype
