import numpy as np
import pytest

from mads_ray.clustering import summaries
from mads_ray.clustering.summaries import (
    SketchSummary,
    merge_levels,
    merge_summaries,
    summarise,
    weighted_kmeans,
)


def sketches(n, seed=0, size=8):
    x = np.random.default_rng(seed).normal(size=(n, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def parts_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        SketchSummary(sketches(n, i).astype(np.float32), rng.integers(1, 50, n))
        for i, n in enumerate(sizes)
    ]


@pytest.mark.parametrize("n", [1, 5, 257, 700])
def test_whole_summary_is_the_sketches(n):
    x = sketches(n)
    got = summarise(x, None, True, 256, 5, 0)
    assert got.points_PS.dtype == np.float32
    assert (got.points_PS == x).all()
    assert got.weights_P.tolist() == [1] * n


@pytest.mark.parametrize("n", [257, 700, 1500])
def test_reduced_summary_keeps_the_weight_in_256_points(n):
    x = sketches(n)
    got = summarise(x, None, False, 256, 5, 0)
    assert 128 < len(got.points_PS) <= 256
    assert got.weights_P.dtype == np.int64
    assert got.weights_P.sum() == n
    assert got.weights_P.min() > 0
    # Every example is near a point: far nearer than to a random one.
    d = ((x.astype(np.float32)[:, None] - got.points_PS[None]) ** 2).sum(2)
    assert d.min(1).mean() < 0.5 * d.mean()
    assert np.bincount(d.argmin(1), minlength=len(d[0])).tolist() == got.weights_P.tolist()


@pytest.mark.parametrize("n", [1, 2, 256])
def test_a_small_shard_is_not_reduced(n):
    x = sketches(n)
    got = summarise(x, None, False, 256, 5, 0)
    assert (got.points_PS == x).all()
    assert got.weights_P.tolist() == [1] * n


def test_summary_is_deterministic():
    x = sketches(900)
    a, b = summarise(x, None, False, 256, 5, 3), summarise(x, None, False, 256, 5, 3)
    assert a.points_PS.tobytes() == b.points_PS.tobytes()
    assert a.weights_P.tolist() == b.weights_P.tolist()


@pytest.mark.parametrize("whole", [False, True])
def test_merge_keeps_canonical_order(whole):
    parts = parts_of([3, 40, 1, 7])
    got = merge_summaries(parts, whole, 4, 5, 0)
    assert (got.points_PS == np.concatenate([p.points_PS for p in parts])).all()
    assert got.weights_P.tolist() == [w for p in parts for w in p.weights_P.tolist()]


def test_merge_of_too_many_points_conserves_the_weight(monkeypatch):
    monkeypatch.setattr(summaries, "MERGED_POINTS", 100)
    parts = parts_of([50, 60, 70])
    weight = sum(p.weights_P.sum() for p in parts)
    got = merge_summaries(parts, False, 4, 5, 0)
    assert 5 < len(got.points_PS) <= 25
    assert got.weights_P.sum() == weight
    assert len(got.weights_P) == len(got.points_PS)
    assert len(merge_summaries(parts, True, 4, 5, 0).points_PS) == 180
    assert len(merge_summaries(parts[:1], False, 4, 5, 0).points_PS) == 50
    again = merge_summaries(parts, False, 4, 5, 0)
    assert again.points_PS.tobytes() == got.points_PS.tobytes()


def test_merging_in_two_steps_conserves_the_weight(monkeypatch):
    monkeypatch.setattr(summaries, "MERGED_POINTS", 64)
    parts = parts_of([60] * 6)
    first = [merge_summaries(parts[i : i + 2], False, 2, 5, 0) for i in (0, 2, 4)]
    root = merge_summaries(first, False, 2, 5, 0)
    assert root.weights_P.sum() == sum(p.weights_P.sum() for p in parts)
    assert len(root.points_PS) <= 64


def test_kmeans_finds_separated_blobs():
    rng = np.random.default_rng(0)
    centres = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    points = np.repeat(centres, 100, axis=0) + rng.normal(0, 0.01, (400, 3)).astype(np.float32)
    blobs = SketchSummary(points, np.ones(400, np.int64))
    found = [weighted_kmeans(blobs, 4, 25, seed) for seed in range(12)]
    assert all(c.shape == (4, 3) for c in found)
    # A start with two centroids in one blob stays there: not every seed finds all four.
    d = np.array([((centres[:, None] - c[None]) ** 2).sum(2).min(1).max() for c in found])
    assert (d < 0.01**2).sum() >= 1


def test_weights_move_the_centroid():
    points = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    for weights in ([1, 1, 1], [1, 1, 8], [1000, 1, 1]):
        got = weighted_kmeans(SketchSummary(points, np.array(weights)), 1, 5, 0)
        assert got.shape == (1, 2)
        np.testing.assert_allclose(got[0], np.average(points, axis=0, weights=weights), atol=1e-6)


def test_as_many_centroids_as_points_are_the_points():
    points = sketches(7).astype(np.float32)
    got = weighted_kmeans(SketchSummary(points, np.arange(1, 8)), 9, 5, 0)
    assert (got == points).all()


@pytest.mark.parametrize("fan_in", [2, 3, 5, 16, 100, 1000])
def test_levels_cover_every_leaf_once_and_end_in_one_root(fan_in):
    for leaves in range(1, 101):
        covered = [[i] for i in range(leaves)]
        for groups in merge_levels(leaves, fan_in):
            assert [i for group in groups for i in group] == list(range(len(covered)))
            assert all(1 <= len(group) <= fan_in for group in groups)
            assert len(groups) == -(-len(covered) // fan_in)  # no more tasks than needed
            covered = [[leaf for i in group for leaf in covered[i]] for group in groups]
        assert covered == [list(range(leaves))]


def test_a_single_leaf_is_the_root():
    assert merge_levels(1, 2) == []
    assert merge_levels(16, 16) == [[range(16)]]
    assert [len(groups) for groups in merge_levels(17, 16)] == [2, 1]
    assert [len(groups) for groups in merge_levels(257, 16)] == [17, 2, 1]


@pytest.mark.parametrize("fan_in", [2, 3])
def test_merging_level_by_level_keeps_every_sketch_in_order(fan_in):
    parts = parts_of([4, 1, 7, 3, 2, 9, 5])
    at = parts
    for groups in merge_levels(len(parts), fan_in):
        at = [merge_summaries([at[i] for i in group], True, fan_in, 5, 0) for group in groups]
    whole = merge_summaries(parts, True, fan_in, 5, 0)
    assert len(at) == 1
    assert (at[0].points_PS == whole.points_PS).all()
    assert at[0].weights_P.tolist() == whole.weights_P.tolist()
