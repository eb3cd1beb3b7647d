"""Planted copies and near-copies in all shards collapse to one of each, and are accounted for."""

import numpy as np
import pytest
from selections import LAYERS, PER_LAYER, WIDTH, config_of, make_run, setup_of, started_workers

from mads_ray import select
from mads_ray.pipeline.select.dedup import collapse_near_duplicates

pytestmark = pytest.mark.usefixtures("in_process_module")

N, GROUPS, THRESHOLD = 900, 40, 0.9
# Copies lie a third of the corpus apart: every group has a row in each of three shards.
GROUP = {g: (g, g + 300, g + 600) for g in range(GROUPS)}
NEAR = range(20, GROUPS)  # where one row differs in 2 of its 32 neurons


def plant(neurons, sketches):
    for g, (first, *others) in GROUP.items():
        neurons[others], sketches[others] = neurons[first], sketches[first]
        if g in NEAR:
            for layer in (0, 2):
                slots = slice(layer * PER_LAYER, (layer + 1) * PER_LAYER)
                mine = neurons[others[1], slots]
                free = next(j for j in range(WIDTH) if j not in mine)
                neurons[others[1], slots] = np.sort(np.append(mine[1:], free))


@pytest.fixture(scope="module")
def planted(in_process_module, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("planted") / "r", N, 3, edit=plant, raw=True)
    return setup_of(folder, config_of())


@pytest.fixture(scope="module")
def result(planted, tmp_path_factory):
    config = config_of(
        tmp_path_factory.mktemp("collapsed"), size=200, workers=2, near_duplicates=THRESHOLD
    )
    return select(config, planted.folder.root)


@pytest.fixture(scope="module")
def leaders(result, planted):
    """Row number of every collapsed row's leader."""
    at = {u: i for i, u in enumerate(planted.uids)}
    collapsed = [r for r in result.selection().to_pylist() if r["near_duplicate_of"] is not None]
    return {at[r["uid"]]: at[r["near_duplicate_of"]] for r in collapsed}


def shared(planted, i, j):
    base = np.repeat(np.arange(LAYERS) * WIDTH, PER_LAYER)
    a, b = (planted.rows.neurons_NA[k].astype(np.int64) + base for k in (i, j))
    return np.isin(a, b).mean()


def test_every_group_collapses_to_one(leaders):
    for group in GROUP.values():
        kept = [i for i in group if i not in leaders]
        assert len(kept) == 1
        assert {leaders[i] for i in group if i in leaders} == set(kept)


def test_nothing_else_collapses_below_the_threshold(planted, leaders):
    leaves = planted.leaves
    assert len(leaders) >= 2 * GROUPS
    for row, leader in leaders.items():
        assert leader not in leaders
        assert shared(planted, row, leader) >= THRESHOLD
        assert leaves[row] == leaves[leader]


def test_none_is_selected_and_the_counts_add_up(result, leaders):
    rows = result.selection().to_pylist()
    selected = [r for r in rows if r["rank"] is not None]
    collapsed = [r for r in rows if r["near_duplicate_of"] is not None]
    neither = [r for r in rows if r["rank"] is None and r["near_duplicate_of"] is None]
    assert all(r["rank"] is None and r["gain"] is None for r in collapsed)
    assert len(selected) + len(collapsed) + len(neither) == N == result.counts.examples
    assert len(selected) == 200 == result.counts.selected
    assert len(collapsed) == len(leaders)
    assert {r["near_duplicate_of"] for r in collapsed} <= {r["uid"] for r in rows}


def test_the_workers_do_not_matter(planted, result, leaders):
    uids = planted.uids
    wanted = {uids[row]: uids[leader] for row, leader in leaders.items()}
    for spread in ([[0, 1, 2]], [[2], [0], [1]]):
        with started_workers(planted, config_of(), spread) as workers:
            found = collapse_near_duplicates(workers, THRESHOLD, N, PER_LAYER)
            gone = uids[planted.index(found.places_N2)].tolist()
            assert dict(zip(gone, found.kept_uids, strict=True)) == wanted
            left = np.concatenate(workers.ask("places"))
            assert set(uids[planted.index(left)]) == set(uids) - set(wanted)


def test_where_there_are_none_nothing_changes(tmp_path):
    folder = make_run(tmp_path / "r", 90, 2)
    result = select(config_of(tmp_path / "o", size=20, near_duplicates=1), folder.root)
    assert result.counts.selected == 20
    assert set(result.selection().column("near_duplicate_of").to_pylist()) == {None}


def test_other_methods_leave_them_out_too(planted, tmp_path):
    how = {"size": 400, "method": "raw-topk-union", "near_duplicates": THRESHOLD}
    result = select(config_of(tmp_path, **how), planted.folder.root)
    assert not [
        r["uid"]
        for r in result.selection().to_pylist()
        if r["rank"] is not None and r["near_duplicate_of"] is not None
    ]
