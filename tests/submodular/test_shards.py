import gc
import mmap
import os

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import quick, random_instance
from setups import setup

from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.shards import LoadedShard, Scratch, places_by_shard, rows_of

STEP = mmap.ALLOCATIONGRANULARITY


def matrix(rows, slots, seed=0):
    return np.random.default_rng(seed).integers(0, 2**16, (rows, slots)).astype(np.uint16)


@quick
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=8))
def test_maps_what_was_appended(shapes):
    scratch = Scratch(None)
    stored = [(matrix(*shape, i), scratch) for i, shape in enumerate(shapes)]
    stored = [(m, scratch.append(m)) for m, _ in stored]
    end = 0
    for m, offset in stored:
        assert offset == end  # nothing overlaps and nothing is left out
        assert offset % STEP == 0
        end = offset + -(-m.nbytes // STEP) * STEP
    assert scratch.size == end
    for m, offset in reversed(stored):
        mapped = scratch.map(offset, m.shape)
        assert mapped.dtype == np.uint16
        assert mapped.shape == m.shape
        assert (mapped == m).all()


def test_appending_while_mapped_leaves_the_views_alone():
    scratch, first = Scratch(None), matrix(100, 7)
    view = scratch.map(scratch.append(first), first.shape)
    more = matrix(5000, 9, 1)
    offset = scratch.append(more)
    assert (view == first).all()
    assert (scratch.map(offset, more.shape) == more).all()


def test_stores_the_rows_of_a_matrix_that_is_not_contiguous():
    scratch, whole = Scratch(None), matrix(60, 8)
    offset = scratch.append(whole[::2, 1:5])
    assert (scratch.map(offset, (30, 4)) == whole[::2, 1:5]).all()


def test_views_are_read_only():
    scratch = Scratch(None)
    view = scratch.map(scratch.append(matrix(3, 3)), (3, 3))
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1


def test_the_file_is_gone_from_the_folder_at_once(tmp_path):
    scratch = Scratch(str(tmp_path))
    assert os.listdir(tmp_path) == []
    stored = matrix(1000, 50)
    offset = scratch.append(stored)
    assert os.listdir(tmp_path) == []
    assert (scratch.map(offset, stored.shape) == stored).all()
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in _open_files()]
    assert any(f.startswith(str(tmp_path)) for f in files)  # the folder that was asked for


def test_the_file_dies_with_its_last_reference(tmp_path):
    scratch = Scratch(str(tmp_path))
    view = scratch.map(scratch.append(matrix(9, 9)), (9, 9))
    del scratch
    assert (view == matrix(9, 9)).all()
    del view
    gc.collect()
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in _open_files()]
    assert not any(f.startswith(str(tmp_path)) for f in files)


def _open_files():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_mapped_pages_do_not_stay_resident(tmp_path):
    scratch, resident = Scratch(str(tmp_path)), psutil.Process().memory_info
    shape, n = (8192, 1024), 6  # 16 MiB each
    offsets = [scratch.append(np.full(shape, i, np.uint16)) for i in range(n)]
    gc.collect()
    before = resident().rss
    for i, offset in enumerate(offsets):
        view = scratch.map(offset, shape)
        assert int(view.sum(dtype=np.int64)) == i * 8192 * 1024
        assert resident().rss - before > 12 * 2**20  # it was there
        del view
    assert resident().rss - before < 8 * 2**20
    views = [scratch.map(offset, shape) for offset in offsets]
    assert all(v.max() == i for i, v in enumerate(views))
    assert resident().rss - before > 80 * 2**20
    del views
    assert resident().rss - before < 8 * 2**20


# --- held shards ---


def held_shard(rows, scratch, shard=7):
    return LoadedShard(
        shard,
        rows.uids_N2,
        rows.tokens_N,
        rows.paths_NP,
        rows.bonus_N,
        rows.groups_NT,
        rows.tie_rank(0),
        np.arange(len(rows), dtype=np.uint64),
        scratch,
        scratch.append(rows.neurons_NA),
        rows.neurons_NA.shape[1],
    )


@quick
@given(st.integers(0, 2**31 - 1), st.integers(0, 30))
def test_rows_and_places_of_a_shard(seed, n):
    _, spec, examples = random_instance(seed, n, bonus=True, sizes=(2, 3))
    rows, objective = setup(spec, examples)
    scratch = Scratch(None)
    scratch.append(matrix(3, 5))
    held = held_shard(rows, scratch, seed % 1000)
    got = held.rows()
    for column in ("uids_N2", "tokens_N", "neurons_NA", "paths_NP", "bonus_N", "groups_NT"):
        assert getattr(got, column).dtype == getattr(rows, column).dtype
        assert (getattr(got, column) == getattr(rows, column)).all()
    assert len(held) == len(got) == n
    assert held.places().tolist() == [[seed % 1000, i] for i in range(n)]
    assert held.places().dtype == np.int32
    assert held.depth_N.tolist() == [-1] * n
    # A mapped block goes through the compiled loops as one in memory does.
    problem = Problem(objective, Budget(rows=5), seed=1)
    mapped, plain = (lazy_greedy(x, problem) for x in (got, rows))
    assert mapped.picks.tolist() == plain.picks.tolist()
    taken = held.rows().take(np.arange(n // 2))
    assert taken.neurons_NA.flags.owndata or not n  # what leaves a shard is a copy


def test_bytes_in_memory_leave_the_neurons_out():
    _, spec, examples = random_instance(0, 30, sizes=(2, 3))
    rows, _ = setup(spec, examples)
    held = held_shard(rows, Scratch(None))
    levels = rows.paths_NP.shape[1]
    per_row = 16 + 4 + 4 * levels + 8 + 4 * 2 + 8 + 8 + 1
    assert held.nbytes == 30 * per_row


places = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), unique=True, max_size=30)


@quick
@given(places, st.lists(st.integers(0, 6), unique=True, max_size=7))
def test_places_are_sorted_by_their_shards(some, numbers):
    """Also none at all, and shards that hold none of them."""
    places_K2 = np.array(some, np.int32).reshape(-1, 2)
    found = {s: at.tolist() for s, at in places_by_shard(places_K2).items()}
    assert found == {
        s: [k for k, (shard, _) in enumerate(some) if shard == s] for s in {s for s, _ in some}
    }
    _, spec, examples = random_instance(1, 10)
    rows, scratch = setup(spec, examples)[0], Scratch(None)
    mine = rows_of([held_shard(rows, scratch, n) for n in numbers], places_K2)
    expected = {s: [row for shard, row in some if shard == s] for s in sorted(numbers)}
    assert [(held.shard, index.tolist()) for held, index in mine] == [
        (s, index) for s, index in expected.items() if index
    ]


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.data())
def test_a_narrowed_shard_is_its_rows_alone(seed, n, data):
    rng = np.random.default_rng(seed)
    held = LoadedShard(
        7,
        rng.integers(0, 2**63, (n, 2)).astype(np.uint64),
        *(rng.integers(0, 99, n).astype(np.int32), rng.integers(0, 9, (n, 2)).astype(np.int32)),
        *(rng.integers(0, 9, n), rng.integers(0, 3, (n, 1)).astype(np.int32)),
        *(rng.permutation(n), rng.integers(0, 2**63, n).astype(np.uint64)),
        scratch := Scratch(None),
        scratch.append(matrix(n, 6, seed)),
        6,
    )
    held.depth_N[:] = rng.integers(-2, 3, n)
    index = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    inner = held.narrowed(index, Scratch(None))
    mine, wanted = inner.rows(), held.rows().take(index)
    for name in ("uids_N2", "tokens_N", "neurons_NA", "paths_NP", "bonus_N", "groups_NT"):
        assert (getattr(mine, name) == getattr(wanted, name)).all()
    for name in ("rank_N", "ties_N", "depth_N"):
        assert (getattr(inner, name) == getattr(held, name)[index]).all()
    places = inner.places()
    assert places.tolist() == held.places()[index].tolist()
    some = rng.permutation(len(index))
    found = rows_of([inner], places[some])
    assert [f.tolist() for _, f in found] == ([some.tolist()] if len(some) else [])
    if len(index):
        inner.depth_N[0] = 5  # its own
        assert held.depth_N[index[0]] != 5
