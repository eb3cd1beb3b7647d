"""Why an example is in the core set, or is not: against a recomputation from the states."""

import numpy as np
import pytest
from selections import LAYERS, PER_LAYER, WIDTH
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.errors import ConfigError
from mads_ray.pipeline.explain import explain
from mads_ray.submodular.objective import UNIT

K = 120


@pytest.fixture(scope="module")
def rows(compared):
    """The selection's row of every example, in the order of the setup's rows."""
    return compared.selection().to_pylist()


@pytest.fixture(scope="module")
def order(rows):
    """Row numbers of the picks in rank order."""
    picked = [i for i, r in enumerate(rows) if r["rank"] is not None]
    return sorted(picked, key=lambda i: rows[i]["rank"])


def features(setup, i):
    return np.repeat(np.arange(LAYERS) * WIDTH, PER_LAYER) + setup.rows.neurons_NA[i].astype(int)


def counts_before(setup, order, rank):
    return setup.objective.counts(setup.rows, np.array(order[:rank], np.int64))


@pytest.mark.parametrize("rank", [0, 1, 57, K - 1])
def test_a_pick_is_worth_its_gain(compared, rows, order, small, rank):
    setup, i = small(4), order[rank]
    told = explain(compared.output, rows[i]["uid"])
    assert told.rank == rank
    assert told.worth == rows[i]["gain"]
    assert told.worth_neurons + told.worth_clusters == pytest.approx(told.worth, rel=1e-12)
    counts = counts_before(setup, order, rank)
    prices = setup.objective.prices(counts)[features(setup, i)]
    assert told.worth_neurons == prices.sum() / UNIT
    assert told.new_neurons == (counts[features(setup, i)] == 0).sum()
    assert told.cluster == setup.leaves[i]
    assert told.cluster_before == (setup.leaves[order[:rank]] == setup.leaves[i]).sum()
    assert told.source == f"{rows[i]['source_file']}:{rows[i]['source_row']}"


def test_the_neurons_that_earned_most(compared, rows, order, small):
    setup, i = small(4), order[57]
    told = explain(compared.output, rows[i]["uid"])
    counts = counts_before(setup, order, 57)
    prices = setup.objective.prices(counts) / UNIT
    mine = features(setup, i)
    assert [n.worth for n in told.neurons] == sorted(prices[mine], reverse=True)[:8]
    for n in told.neurons:
        feature = n.layer * WIDTH + n.index
        assert feature in mine
        assert (n.worth, n.before) == (prices[feature], counts[feature])


@pytest.mark.parametrize("picked", [True, False])
def test_the_nearest_selected_rows(compared, rows, order, small, picked):
    setup = small(4)
    i = order[31] if picked else next(i for i, r in enumerate(rows) if r["rank"] is None)
    told = explain(compared.output, rows[i]["uid"])
    share = {j: np.isin(features(setup, i), features(setup, j)).mean() for j in order if j != i}
    wanted = sorted(share, key=lambda j: (-share[j], rows[j]["rank"]))[:3]
    assert [n.uid for n in told.nearest] == [rows[j]["uid"] for j in wanted]
    assert [n.shared for n in told.nearest] == [share[j] for j in wanted]
    assert [n.rank for n in told.nearest] == [rows[j]["rank"] for j in wanted]
    assert [n.prompt for n in told.nearest] == [f"Question {j}?" for j in wanted]


def test_a_row_that_was_left_out(compared, rows, order, small):
    setup = small(4)
    counts = counts_before(setup, order, K)
    for i in [i for i, r in enumerate(rows) if r["rank"] is None][::400]:
        told = explain(compared.output, rows[i]["uid"])
        assert told.rank is None
        added = counts + setup.objective.counts(setup.rows, np.array([i]))
        worth = (setup.objective.value(added) - setup.objective.value(counts)) / UNIT
        assert told.worth == pytest.approx(worth, rel=1e-12)
        assert told.worth_neurons + told.worth_clusters == pytest.approx(worth, rel=1e-12)
        assert told.last_gain == rows[order[-1]]["gain"]
        assert told.worth <= told.last_gain  # or greedy would have taken it


def test_the_last_pick_is_the_last_in_rank(by_random):
    """Also where gains do not fall along the order."""
    rows = by_random.selection().to_pylist()
    last = next(r for r in rows if r["rank"] == K - 1)
    left_out = next(r for r in rows if r["rank"] is None)
    assert explain(by_random.output, left_out["uid"]).last_gain == last["gain"]


def test_after_a_base_its_picks_come_before(chain, small):
    """The core set of the middle run starts where its base ends."""
    setup, at = small(4), {u: i for i, u in enumerate(small(4).uids)}
    base, picked = ([r["_mads"] for r in result.rows()] for result in chain[:2])
    told = explain(chain[1].output, picked[7]["uid"])
    assert told.worth == picked[7]["gain"]
    before = np.array([at[r["uid"]] for r in [*base, *picked[:7]]])
    counts = setup.objective.counts(setup.rows, before)
    assert told.new_neurons == (counts[features(setup, at[picked[7]["uid"]])] == 0).sum()
    assert told.worth_neurons + told.worth_clusters == pytest.approx(told.worth, rel=1e-12)


def test_a_row_of_the_base_is_told_to_be_in_it(chain):
    """It is no row that "would add" something."""
    uid = next(chain[0].rows())["_mads"]["uid"]
    told = explain(chain[1].output, uid)
    assert told.in_base
    assert told.rank is None
    assert "not selected again: it is in the base core set" in told.text()
    assert not explain(chain[0].output, uid).in_base


def test_an_unknown_example(compared, tmp_path):
    for uid in ("0" * 32, "nonsense"):
        with pytest.raises(ConfigError, match=f"has no example '{uid}'"):
            explain(compared.output, uid)
    with pytest.raises(ConfigError, match="holds no finished run"):
        explain(tmp_path, "0" * 32)


def test_the_command_tells_it_in_a_few_lines(compared, rows, order):
    def told(i):
        return CliRunner().invoke(app, ["explain", str(compared.output), rows[i]["uid"]])

    first = told(order[3])
    assert first.exit_code == 0
    lines = first.output.splitlines()
    assert lines[0].startswith(rows[order[3]]["uid"])
    assert lines[1] == f"rank 3: it added {rows[order[3]]['gain']:,.2f} to f"
    assert len(lines) == 4 + 1 + 8 + 1 + 3
    left_out = told(next(i for i, r in enumerate(rows) if r["rank"] is None))
    assert "not selected: it would add" in left_out.output
    assert "the last pick added" in left_out.output
    unknown = CliRunner().invoke(app, ["explain", str(compared.output), "0" * 32])
    assert unknown.exit_code == 2
    assert "see uid in its selection/ files" in unknown.output
