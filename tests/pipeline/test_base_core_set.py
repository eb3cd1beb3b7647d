"""Extending a core set: nothing twice, and the picks that greedy would have made at once."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from selections import config_of

from mads_ray import select
from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.hashing import checksum
from mads_ray.run_folder import RunFolder
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

pytestmark = pytest.mark.usefixtures("in_process_module")

SIZES = 40, 60, 30
EXCHANGE = {"exact_rows": 0, "buffer_rows": 300}


def index_of(result, setup):
    """Row numbers in rank order."""
    at = {u: i for i, u in enumerate(setup.uids)}
    return np.array([at[r["_mads"]["uid"]] for r in result.rows()])


def test_the_chain_is_greedy_in_one_go(chain, small):
    setup = small(4)
    picked = np.concatenate([index_of(r, setup) for r in chain])
    gains = np.concatenate([[r["_mads"]["gain"] for r in result.rows()] for result in chain])
    greedy = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=sum(SIZES))))
    assert picked.tolist() == greedy.picks.tolist()
    assert gains.tolist() == (greedy.gains / UNIT).tolist()


def test_no_row_of_a_base_is_picked_again(chain, small):
    picked = [i for r in chain for i in index_of(r, small(4)).tolist()]
    assert len(set(picked)) == len(picked) == sum(SIZES)


def test_f_is_what_is_added_to_the_base(chain, small):
    setup, before = small(4), np.empty(0, np.int64)
    for result in chain:
        after = np.concatenate([before, index_of(result, setup)])
        added = (setup.value(after) - setup.value(before)) / UNIT
        metrics = result.metrics
        assert metrics["f"] == pytest.approx(added)
        assert metrics["f_random_mean"] < metrics["f"] <= metrics["opt_upper_bound"]
        counts = setup.objective.counts(setup.rows, after)[: setup.objective.neurons]
        assert metrics["neuron_coverage"] == (counts > 0).mean()
        assert metrics["lift"] == 1.0
        before = after


def test_in_exchange_mode_nothing_is_picked_twice_either(chain, small, tmp_path):
    setup, base = small(4), chain[1].output
    result = select(
        config_of(tmp_path, size=200, base_core_set=str(base), **EXCHANGE), setup.folder.root
    )
    before = np.concatenate([index_of(r, setup) for r in chain[:2]])
    picked = index_of(result, setup)
    assert len(set(picked.tolist())) == 200
    assert not set(picked.tolist()) & set(before.tolist())
    union = np.concatenate([before, picked])
    assert result.metrics["f"] == pytest.approx((setup.value(union) - setup.value(before)) / UNIT)
    greedy = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=300)))
    # The base is a greedy prefix, so greedy of 300 is what can be had by extending it.
    best = (greedy.gains.sum() - setup.value(before)) / UNIT
    assert result.metrics["f"] > 0.98 * best


def test_states_of_another_calibration_are_refused(chain, small, tmp_path):
    other = RunFolder(tmp_path / "other")
    shutil.copytree(small(4).folder.root, other.root)
    for path in [other.manifest, *other.states.glob("part-*.done.json")]:
        stored = json.loads(path.read_text())
        path.write_text(json.dumps(stored | {"calibration": "another"}))
    config = config_of(tmp_path / "out", size=9, base_core_set=str(chain[0].output))
    with pytest.raises(MismatchError, match="calibration: stored 'synthetic', wanted 'another'"):
        select(config, other.root)


def test_a_folder_without_a_finished_run_is_refused(small, tmp_path):
    config = config_of(tmp_path / "out", size=9, base_core_set=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="nothing holds no finished run"):
        select(config, small(4).folder.root)


def test_the_base_may_not_be_overwritten_by_its_extension(chain, small, tmp_path):
    """It would be lost, and the chain from the new run.json would never end."""
    base = tmp_path / "base"
    shutil.copytree(chain[0].output, base)
    with pytest.raises(ConfigError, match="base"):
        select(config_of(base, size=9, base_core_set=str(base)), small(4).folder.root)
    assert json.loads((base / "run.json").read_text())["counts"]["selected"] == SIZES[0]


def test_no_core_set_of_the_chain_may_be_overwritten(chain, small, tmp_path):
    """The base of the base counts too."""
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    shutil.copytree(chain[0].output, first.root)
    shutil.copytree(chain[1].output, second.root)
    stored = json.loads(second.run_json.read_text())
    stored["config"]["selection"]["base_core_set"] = str(first.root)
    second.run_json.write_text(json.dumps(stored))
    before = first.run_json.read_bytes()
    config = config_of(first.root, size=9, base_core_set=str(second.root))
    with pytest.raises(ConfigError, match="first is a base of this core set"):
        select(config, small(4).folder.root)
    assert first.run_json.read_bytes() == before


def test_a_chain_that_builds_on_itself_is_refused(chain, small, tmp_path):
    """An older version could make one."""
    base = RunFolder(tmp_path / "base")
    shutil.copytree(chain[0].output, base.root)
    stored = json.loads(base.run_json.read_text())
    stored["config"]["selection"]["base_core_set"] = str(base.root)
    base.run_json.write_text(json.dumps(stored))
    config = config_of(tmp_path / "out", size=9, base_core_set=str(base.root))
    with pytest.raises(ConfigError, match="builds on itself"):
        select(config, small(4).folder.root)


@pytest.mark.parametrize("method", ["kmeans", "raw-topk-union"])
def test_other_methods_do_not_pick_rows_of_the_base_either(chain, small, tmp_path, method):
    how = {"size": 150, "method": method, "base_core_set": str(chain[1].output)}
    picked = index_of(select(config_of(tmp_path, **how), small(4).folder.root), small(4))
    before = np.concatenate([index_of(r, small(4)) for r in chain[:2]])
    assert len(set(picked.tolist())) == 150
    assert not set(picked.tolist()) & set(before.tolist())


def test_a_relative_folder_is_made_absolute(tmp_path, monkeypatch):
    """run.json must name the same folder wherever it is repeated, extended or explained."""
    monkeypatch.chdir(tmp_path)
    assert SelectionConfig(base_core_set="runs/a").base_core_set == str(tmp_path / "runs/a")
    assert SelectionConfig(target=("t.jsonl",)).target == (str(tmp_path / "t.jsonl"),)


@pytest.fixture
def all_but_four(chain, small, tmp_path):
    """The first core set again, but as if it held all rows except four: (folder, their uids)."""
    base, left, gone = RunFolder(tmp_path / "base"), [], 0
    shutil.copytree(chain[0].output, base.root)
    for path in sorted(base.selection.glob("part-*.parquet")):
        table, rank = pq.read_table(path), []
        for row in table.to_pylist():
            if row["rank"] is None and len(left) < 4:
                left.append(row["uid"])
                rank.append(None)
            else:
                rank.append(gone)
                gone += 1
        at = table.schema.get_field_index("rank")
        table = table.set_column(at, table.schema.field("rank"), [rank])
        pq.write_table(table, path)
    _note_picks(base)
    return base, left


def _note_picks(base):
    """What run.json must say of the ranks in selection/."""
    table = pq.read_table(sorted(base.selection.glob("part-*.parquet")))
    picked = table.filter(table["rank"].is_valid())["uid"].to_pylist()
    stored = json.loads(base.run_json.read_text())
    stored["counts"]["selected"] = len(picked)
    base.run_json.write_text(json.dumps(stored | {"selected_checksum": checksum(picked)}))


def test_extending_by_all_that_is_left_where_that_adds_nothing(all_but_four, small, tmp_path):
    """Four rows are left of the six hundred wanted, and every neuron is covered already."""
    base, left = all_but_four
    how = {"objective": "union", "tree_share": 0, "base_core_set": str(base.root)}
    result = select(config_of(tmp_path / "out", fraction=0.5, **how), small(4).folder.root)
    assert sorted(r["_mads"]["uid"] for r in result.rows()) == sorted(left)
    assert result.metrics["f"] == 0


def test_extending_a_core_set_of_everything_is_refused(all_but_four, small, tmp_path):
    base, _ = all_but_four
    for path in sorted(base.selection.glob("part-*.parquet")):
        table = pq.read_table(path)
        at = table.schema.get_field_index("rank")
        rank = [list(range(table.num_rows))]
        pq.write_table(table.set_column(at, table.schema.field("rank"), rank), path)
    _note_picks(base)
    config = config_of(tmp_path / "out", fraction=0.5, base_core_set=str(base.root))
    with pytest.raises(ConfigError, match="base"):
        select(config, small(4).folder.root)
