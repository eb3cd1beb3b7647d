"""A selection that stops after any of its rounds goes on from there, and ends in the same bits."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from local_workers import local_workers, small_and_local
from reference import Spec
from setups import zipf

from mads_ray.config import SelectionConfig
from mads_ray.pipeline.select import rank
from mads_ray.pipeline.select import worker as actor
from mads_ray.pipeline.select.checkpoint import Checkpoint
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.submodular.problem import Bounds, Budget, Problem

N, SHARDS, SEED = 2000, 12, 1
SPEC = Spec("sqrt", 3, 150, 6, (4, 16), 0.3)
FLOORS = Bounds(np.full(5, 12), np.full(5, 120), np.zeros(5, np.int64))
CHOICES = {
    "rows": (Budget(rows=420), Bounds.none()),
    "tokens": (Budget(tokens=40_000), Bounds.none()),
    "bounds": (Budget(rows=420), FLOORS),
}


class Interruption(Exception):  # noqa: N818 - it is none
    """The process ended."""


@pytest.fixture(autouse=True)
def _small_and_local(monkeypatch):
    small_and_local(monkeypatch)


@pytest.fixture(params=CHOICES)
def ranked(request):
    """Choose and rank under a budget, with so many workers and these rounds."""
    rows, objective = zipf(SPEC, N, 3)
    rng = np.random.default_rng(0)
    budget, bounds = CHOICES[request.param]
    groups = rng.integers(0, 5, (N, 1 if len(bounds) else 0)).astype(np.int32)
    rows = replace(rows, bonus_N=rng.integers(0, 2**27, N), groups_NT=groups)
    config = SelectionConfig(max_rounds=20, buffer_rows=200)

    def choose(spread, checkpoint):
        workers = local_workers(rows, objective, SHARDS, spread, SEED)
        workers.ask("exclude", np.array([[0, 1], [7, 3]], np.int32))
        problem = Problem(objective, budget, bounds, seed=SEED)
        start = Exchange(workers, 0, problem, config, problem.start(), checkpoint)
        chosen = start.resumed().run()
        found = rank.rank(chosen, N)
        now = chosen.now
        return (
            *(found.places_K2.tolist(), found.gains_K.tolist(), found.counts_MD.tolist()),
            *(now.f, now.rows, now.tokens, now.bonus, now.used_G.tolist()),
            *(chosen.rounds, chosen.bound, chosen.started, chosen.problem.bounds.low_G.tolist()),
        )

    return choose


class Watched(Checkpoint):
    """Notes (set, round) of every round, and ends the process after some of them."""

    def __init__(self, folder, *about, stop_after=None):
        super().__init__(folder, *about)
        self.done, self.stop_after = [], stop_after

    def save(self, state, workers):
        super().save(state, workers)
        self.done.append((state.depth, state.rounds))
        if len(self.done) == self.stop_after:
            raise Interruption


def test_every_round_is_a_place_to_go_on_from(ranked, tmp_path):
    """Interrupted after each, in turns with other holders; from every fifth to the end as well."""
    undisturbed, folder = Watched(None), tmp_path / "kept"
    whole = ranked(3, undisturbed)
    every = undisturbed.done
    assert {depth for depth, _ in every} >= {0, 1, 2}
    for count, done in enumerate(every, start=1):
        one = Watched(folder, "a run", stop_after=1)
        with pytest.raises(Interruption):
            ranked(2 + count % 2, one)
        assert one.done == [done], "a round was done twice, or left out"
        stored = [p for p in folder.glob("*/*") if p.is_dir()]
        assert len(stored) == (1 if done[0] == 0 else 2), "old rounds were left"
        if count % 5 == 1 or count == len(every):
            shutil.copytree(folder, tmp_path / str(count))
            second = Watched(tmp_path / str(count), "a run")
            assert ranked(2, second) == whole
            assert second.done == every[count:], "a round was done twice, or left out"


def test_a_round_that_was_stored_in_part_does_not_count(ranked, tmp_path, monkeypatch):
    """The workers have written, the driver has not."""
    whole = ranked(3, Watched(None))
    with pytest.raises(Interruption):
        ranked(3, Watched(tmp_path, stop_after=3))

    def torn(path, value):
        raise Interruption

    monkeypatch.setattr("mads_ray.pipeline.select.checkpoint.write_json", torn)
    with pytest.raises(Interruption):
        ranked(2, Watched(tmp_path))
    monkeypatch.undo()
    assert len([p for p in tmp_path.glob("*/*") if p.is_dir()]) == 2
    small_and_local(monkeypatch)
    assert ranked(4, Watched(tmp_path)) == whole


ABOUT = ({"fraction": 0.1, "seed": 0}, np.arange(6), b"x")


@pytest.mark.parametrize(
    "other",
    [
        ({"fraction": 0.2, "seed": 0}, np.arange(6), b"x"),
        ({"fraction": 0.1, "seed": 0}, np.arange(1, 7), b"x"),
        ({"fraction": 0.1, "seed": 0}, np.arange(6), b""),
        ({"fraction": 0.1, "seed": 0}, np.arange(6)),
    ],
)
def test_another_selection_does_not_find_them(tmp_path, other):
    """Nor does it delete them: the same settings still go on there."""
    rows, objective = zipf(SPEC, 300, 3)
    workers = local_workers(replace(rows, groups_NT=rows.groups_NT[:, :0]), objective, 4, 2)
    problem = Problem(objective, Budget(rows=30))
    call = (workers, 0, problem, SelectionConfig(max_rounds=1), problem.start())
    Exchange(*call, Checkpoint(tmp_path, *ABOUT)).run()
    unknown = Exchange(*call, Checkpoint(tmp_path, *other))
    assert unknown.resumed() is unknown
    unknown.run()
    assert Exchange(*call, Checkpoint(tmp_path, *ABOUT)).resumed().rounds == 1


def test_a_round_that_cannot_be_stored_ends_nothing(ranked, tmp_path, monkeypatch, caplog):
    """The disk is full for the workers from some round on, then for the driver too."""
    whole = ranked(3, Watched(None))
    write = actor.write_npz
    written = []

    def full(path, **arrays):
        written.append(path)
        if len(written) > 7:
            raise OSError(28, "No space left on device")
        write(path, **arrays)

    monkeypatch.setattr(actor, "write_npz", full)
    first = Watched(tmp_path)
    assert ranked(3, first) == whole
    assert "is not kept: [Errno 28] No space left on device" in caplog.text
    stored = Watched(tmp_path)
    monkeypatch.setattr(actor, "write_npz", write)
    assert ranked(2, stored) == whole
    assert stored.done == first.done[2:]  # three files a round: two rounds were kept


def test_a_lost_file_costs_time_only(ranked, tmp_path, caplog):
    whole = ranked(3, Watched(None))
    with pytest.raises(Interruption):
        ranked(3, Watched(tmp_path, stop_after=4))
    next(tmp_path.glob("*/*/depths-*.npz")).unlink()
    again = Watched(tmp_path)
    assert ranked(3, again) == whole
    assert again.done[0] == (0, 1)
    assert "is not there. The selection starts again" in caplog.text
