import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.clustering import tree as tree_module
from mads_ray.clustering.summaries import SketchSummary
from mads_ray.clustering.tree import ClusterTree, build_tree, default_levels, unit_sketches

LEVELS = (4, 16, 64)


def sketches(n, seed=0, size=12):
    x = np.random.default_rng(seed).normal(size=(n, size))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def summary_of(x, weights=None):
    weights = np.ones(len(x), np.int64) if weights is None else np.array(weights)
    return SketchSummary(np.asarray(x, np.float32), weights)


def flat_tree(centroids):
    """A tree of leaves only, from quantised centroids."""
    c = np.array(centroids, np.int32)
    return ClusterTree(c, np.arange(len(c), dtype=np.int32)[:, None], (len(c),))


def check_nested(tree):
    sizes, paths = tree.level_sizes, tree.paths_CP
    assert paths.shape == (len(tree.centroids_CS), len(sizes))
    assert paths.dtype == np.int32
    assert tree.nodes == sum(sizes)
    start = 0
    for level, size in enumerate(sizes):
        # Contiguous, and in the order of their first leaves.
        assert list(dict.fromkeys(paths[:, level].tolist())) == list(range(start, start + size))
        start += size
    assert sizes[-1] == len(tree.centroids_CS)
    for fine, coarse in itertools.pairwise(reversed(range(len(sizes)))):
        pairs = set(zip(paths[:, fine].tolist(), paths[:, coarse].tolist(), strict=True))
        assert len(pairs) == sizes[fine]  # a node has one parent


@pytest.fixture(scope="module")
def tree():
    return build_tree(summary_of(sketches(600)), LEVELS, 10, 0)


def exact_nearest(tree, row):
    """Leaf and squared distance by integers, for one float16 row."""
    q = [round(Fraction(float(v)) * 2**14) for v in row]
    d = [sum((a - int(b)) ** 2 for a, b in zip(q, c, strict=True)) for c in tree.centroids_CS]
    leaf = d.index(min(d))
    return leaf, d[leaf] / 2**28


def test_levels_are_nested_and_numbered_level_by_level(tree):
    assert tree.level_sizes == LEVELS
    check_nested(tree)
    assert tree.paths_CP[:, -1].tolist() == list(range(20, 84))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 60),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
)
def test_any_levels_are_nested(seed, n, levels):
    x = np.round(sketches(n, seed, 3) * 4) / 4  # repeated points
    built = build_tree(summary_of(x), levels, 3, seed)
    check_nested(built)
    assert len(built.level_sizes) <= len(set(levels))
    assert list(built.level_sizes) == sorted(built.level_sizes)
    assert built.level_sizes[-1] <= min(n, max(levels))


def test_coarse_nodes_hold_separated_blobs():
    rng = np.random.default_rng(0)
    centres = np.eye(4)
    x = (np.repeat(centres, 50, axis=0) + rng.normal(0, 0.02, (200, 4))).astype(np.float16)
    built = build_tree(summary_of(x), (4, 40), 10, 0)
    leaves, _ = built.assign(x)
    coarse = built.paths_CP[leaves, 0].reshape(4, 50)
    assert (coarse == coarse[:, :1]).all()
    assert sorted(coarse[:, 0].tolist()) == [0, 1, 2, 3]


def test_more_levels_wanted_than_points():
    built = build_tree(summary_of(sketches(20)), (4, 16, 64), 5, 0)
    assert built.level_sizes == (4, 16, 20)
    check_nested(built)


def test_same_input_same_tree():
    x = summary_of(sketches(300, 4), np.random.default_rng(0).integers(1, 9, 300))
    a, b = build_tree(x, LEVELS, 8, 5), build_tree(x, LEVELS, 8, 5)
    assert a.centroids_CS.tobytes() == b.centroids_CS.tobytes()
    assert a.paths_CP.tobytes() == b.paths_CP.tobytes()
    assert a.level_sizes == b.level_sizes


def test_weights_reach_the_leaves():
    x = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    built = build_tree(summary_of(x, [1, 3]), (1,), 5, 0)
    assert built.centroids_CS.tolist() == [[3 * 2**12, 0]]


def test_assign_equals_exact_integers(tree):
    x = sketches(150, 1)
    leaves, distances = tree.assign(x)
    assert leaves.dtype == np.int32
    expected = [exact_nearest(tree, row) for row in x]
    assert leaves.tolist() == [leaf for leaf, _ in expected]
    assert distances.tolist() == [d for _, d in expected]
    assert len(set(leaves.tolist())) > 20


def test_distances_are_the_true_ones(tree):
    x = sketches(200, 2)
    leaves, distances = tree.assign(x)
    centroids = tree.centroids_CS / 2**14
    true = ((x.astype(np.float64)[:, None] - centroids[None]) ** 2).sum(2)
    np.testing.assert_allclose(distances, true[np.arange(200), leaves], atol=1e-3)
    np.testing.assert_allclose(distances, true.min(1), atol=1e-3)


@pytest.mark.parametrize("block", [1, 3, 7, 64, 999])
def test_assign_does_not_depend_on_blocks(tree, monkeypatch, block):
    x = sketches(131, 3)
    leaves, distances = tree.assign(x)
    monkeypatch.setattr(tree_module, "_BLOCK_ROWS", block)
    again, distances_again = tree.assign(x)
    assert again.tobytes() == leaves.tobytes()
    assert distances_again.tobytes() == distances.tobytes()


def test_assign_row_by_row_is_the_same(tree):
    x = sketches(100, 4, 12)
    leaves, distances = tree.assign(x)
    single = [tree.assign(x[i : i + 1]) for i in range(100)]
    assert np.concatenate([s[0] for s in single]).tobytes() == leaves.tobytes()
    assert np.concatenate([s[1] for s in single]).tobytes() == distances.tobytes()


def test_exact_for_long_sketches():
    x = sketches(300, 5, 256)
    built = build_tree(summary_of(x), (4, 32), 5, 0)
    leaves, distances = built.assign(x[:20])
    assert list(zip(leaves.tolist(), distances.tolist(), strict=True)) == [
        exact_nearest(built, row) for row in x[:20]
    ]


@pytest.mark.parametrize("order", list(itertools.permutations([[8192, 0], [-8192, 0], [0, 8192]])))
def test_ties_go_to_the_lower_leaf(order):
    far = [0, -16384]
    leaves, distances = flat_tree([far, *order, *order]).assign(
        np.array([[0, 0], [0.5, 0.5], [0, -0.25]], np.float16)
    )
    assert leaves[0] == 1
    pair = [1 + i for i, c in enumerate(order) if c != [-8192, 0]]
    assert leaves[1] == min(pair)
    pair = [1 + i for i, c in enumerate(order) if c != [0, 8192]]
    assert leaves[2] == min(pair)
    assert distances.tolist() == [0.25, 0.25, 0.3125]


def test_assign_of_no_rows(tree):
    leaves, distances = tree.assign(np.empty((0, 12), np.float16))
    assert leaves.shape == distances.shape == (0,)


@given(st.integers(1, 5_000_000))
def test_default_levels_stay_below_a_half(examples):
    levels = default_levels(examples)
    assert levels
    assert list(levels) == sorted(set(levels))
    assert levels[0] >= 1
    assert levels[-1] <= max(1, examples // 2)


@pytest.mark.parametrize(
    ("examples", "levels"),
    [
        (1, (1,)),
        (8, (4,)),
        (15, (7,)),
        (16, (8,)),
        (127, (8, 16, 32)),
        (128, (8, 16, 32, 64)),
        (2047, (8, 16, 32, 64, 128, 256, 512)),
        (1_048_575, (8, 16, 32, 64, 128, 256, 512, 1024)),
        (1_048_576, (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
    ],
)
def test_default_levels_by_size(examples, levels):
    assert default_levels(examples) == levels


def test_one_point():
    x = sketches(1)
    built = build_tree(summary_of(x), (16, 64), 5, 0)
    assert built.level_sizes == (1,)
    assert built.assign(x)[0].tolist() == [0]


def test_two_points():
    x = sketches(2)
    built = build_tree(summary_of(x), (1, 16), 5, 0)
    assert built.level_sizes == (1, 2)
    check_nested(built)
    assert sorted(built.assign(x)[0].tolist()) == [0, 1]


@pytest.mark.parametrize("n", [2, 3, 50])
def test_identical_points(n):
    x = np.repeat(sketches(1), n, axis=0)
    built = build_tree(summary_of(x), (4, 16), 5, 0)
    check_nested(built)
    leaves, distances = built.assign(x)
    assert len(set(leaves.tolist())) == 1
    assert distances.max() < 1e-3


def test_repeated_points_share_a_leaf_and_no_level_repeats():
    x = np.repeat(sketches(4), 4, axis=0)
    built = build_tree(summary_of(x), (2, 4, 16), 5, 0)
    assert built.level_sizes == (2, 4)
    check_nested(built)
    leaves, distances = built.assign(x)
    assert [len(set(group)) for group in leaves.reshape(4, 4).tolist()] == [1] * 4
    assert sorted(set(leaves.tolist())) == [0, 1, 2, 3]
    assert distances.max() < 1e-6


def test_a_tree_of_unit_sketches_sees_their_directions_alone(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 16)).astype(np.float16)
    x[7] = 0
    unit = unit_sketches(x)
    assert unit.dtype == np.float32
    lengths = np.linalg.norm(unit.astype(np.float64), axis=1)
    assert np.delete(lengths, 7) == pytest.approx(1, abs=1e-6)
    assert lengths[7] == 0
    tree = build_tree(summary_of(unit), [4, 16], 10, 0, unit=True)
    tree.save(tmp_path / "tree.npz")
    for t in (tree, ClusterTree.load(tmp_path / "tree.npz")):
        leaves, distances = t.assign(x)
        assert (leaves == t.assign((x * 0.25).astype(np.float32))[0]).mean() > 0.99
        near = ((unit[:, None] - t.centroids_CS[None] / 2**14) ** 2).sum(2)
        assert distances == pytest.approx(near.min(1), abs=1e-3)
    plain = build_tree(summary_of(x.astype(np.float32)), [4, 16], 10, 0)
    plain.save(tmp_path / "plain.npz")
    assert not ClusterTree.load(tmp_path / "plain.npz").unit
