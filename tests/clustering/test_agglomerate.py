import numpy as np
import pytest
import scipy.cluster.hierarchy as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.clustering.agglomerate import cut, weighted_ward


def partition(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(0, 10_000), st.data())
def test_equal_weights_are_scipys_ward(n, seed, data):
    points = np.random.default_rng(seed).normal(size=(n, 4))
    merges = weighted_ward(points, np.ones(n, np.int64))
    linkage = reference.ward(points)
    np.testing.assert_allclose([c for c, _, _ in merges], linkage[:, 2] ** 2 / 2, rtol=1e-6)
    clusters = data.draw(st.integers(1, n))
    expected = reference.fcluster(linkage, clusters, "maxclust")
    assert partition(cut(merges, n, clusters)) == partition(expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 15), st.integers(0, 10_000), st.data())
def test_a_weight_is_so_many_equal_points(n, seed, data):
    rng = np.random.default_rng(seed)
    points, weights = rng.normal(size=(n, 3)), rng.integers(1, 6, n)
    clusters = data.draw(st.integers(1, n))
    mine = np.repeat(cut(weighted_ward(points, weights), n, clusters), weights)
    linkage = reference.ward(np.repeat(points, weights, axis=0))
    assert partition(mine) == partition(reference.fcluster(linkage, clusters, "maxclust"))


def test_a_far_but_light_pair_does_not_hold_a_coarse_cluster():
    """Two heavy groups that overlap little, and two near-duplicates further out."""
    rng = np.random.default_rng(0)
    here, there = rng.normal(0, 0.1, (5, 2)), rng.normal(0, 0.1, (5, 2))
    there[:, 0] += 1
    points = np.concatenate([here, there, [[3.0, 0.0]]])
    weights = np.array([400] * 10 + [2])
    light = cut(weighted_ward(points, weights), 11, 2)
    assert (light[:5] == light[0]).all()
    assert light[5] != light[0]
    unweighted = cut(weighted_ward(points, np.ones(11, np.int64)), 11, 2)
    assert (unweighted[:10] == unweighted[0]).all()


def test_cuts_are_nested_and_numbered_by_first_point():
    merges = weighted_ward(np.random.default_rng(1).normal(size=(30, 3)), np.arange(1, 31))
    fine, coarse = cut(merges, 30, 12), cut(merges, 30, 4)
    for group in partition(fine):
        assert len({coarse[i] for i in group}) == 1
    for labels, n in ((fine, 12), (coarse, 4)):
        first = [int(np.flatnonzero(labels == c)[0]) for c in range(n)]
        assert first == sorted(first)


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_inputs(n):
    assert cut(weighted_ward(np.zeros((n, 2)), np.ones(n, np.int64)), n, n).tolist() == [*range(n)]
