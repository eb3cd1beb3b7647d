"""Processes that die over a shard, for real, and what the next one makes of it."""

import multiprocessing
import os
from functools import partial

import numpy as np
import pytest
from faulty import Faulty

from mads_ray.capture.engines.engine import PooledRows, RunStats
from mads_ray.capture.history import discard, heartbeats, read_history, record_deaths, take_orphans
from mads_ray.capture.journal import Journal
from mads_ray.errors import IncompleteError

STATES = np.arange(12, dtype=np.int16).reshape(3, 4)


def test_states_of_a_process_that_died_are_kept(tmp_path):
    first = Journal(tmp_path, "part-0", "a")
    first.begin([4, 1, 7])
    first.keep([4, 7], STATES[:2])
    first.end([4, 1, 7])
    first.begin([2, 3])  # and here it dies
    assert not read_history(tmp_path, "part-0").deaths, "nobody saw it"
    record_deaths(tmp_path, "part-0", lambda owner: True)
    history = read_history(tmp_path, "part-0")
    assert sorted(history.kept) == [4, 7]
    assert (np.stack([history.kept[4], history.kept[7]]) == STATES[:2]).all()
    assert history.kept[4].dtype == STATES.dtype
    assert history.deaths == {2: 1, 3: 1}
    assert not history.poison
    second = Journal(tmp_path, "part-0", "b")
    assert second.left([1, 2, 3, 4]) == [1, 2, 3]
    assert (history.processes, history.repeated) == (1, 0)
    second.begin([2, 3])
    assert read_history(tmp_path, "part-0").repeated == 2


@pytest.mark.parametrize("cut", [1, 7, 20, 25])
def test_a_torn_record_does_not_count(tmp_path, cut):
    journal = Journal(tmp_path, "part-0", "a")
    journal.begin([0, 1])
    journal.keep([0], STATES[:1])
    journal.keep([1], STATES[1:2])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_history(tmp_path, "part-0").kept) == [0]


def test_a_changed_byte_ends_the_file_there(tmp_path):
    journal = Journal(tmp_path, "part-0", "a")
    journal.keep([0], STATES[:1])
    journal.keep([1], STATES[1:2])
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert list(read_history(tmp_path, "part-0").kept) == [0]


def test_an_error_that_is_told_is_no_death(tmp_path):
    def fail():
        with Journal(tmp_path, "part-0", "a") as journal:
            journal.begin([1, 2])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not read_history(tmp_path, "part-0").deaths


def test_two_processes_at_once_do_not_disturb_each_other(tmp_path):
    """A node that nobody can reach goes on with a shard that another has taken over."""
    one, other = (Journal(tmp_path, "part-0", "a") for _ in range(2))
    for journal in (one, other):
        journal.begin([0, 1])
    one.keep([0], STATES[:1])
    other.keep([0, 1], STATES[:2])
    history = read_history(tmp_path, "part-0")
    assert sorted(history.kept) == [0, 1]
    assert history.repeated == 2


def test_a_row_that_is_kept_is_no_poison(tmp_path):
    """Its process died after it had stored the row, and before it said that it lives on."""
    for _ in range(4):
        journal = Journal(tmp_path, "part-0", "a")
        journal.begin([5])
        record_deaths(tmp_path, "part-0", lambda owner: True)
    assert list(read_history(tmp_path, "part-0").poison) == [5]
    journal.keep([5], STATES[:1])
    assert not read_history(tmp_path, "part-0").poison


def test_a_disk_that_takes_a_part_of_a_record_hides_none_that_follow(tmp_path):
    class Filling:
        """The file on a disk that is full for one record."""

        def __init__(self, file):
            self._file, self._room = file, 10

        def write(self, data):
            if self._room == 0:
                self._room = -1
                raise OSError(28, "No space left on device")
            if self._room > 0:
                data, self._room = bytes(data)[: self._room], 0
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

    journal = Journal(tmp_path, "part-0", "a")
    journal.keep([0], STATES[:1])
    journal._file = Filling(journal._file)
    with pytest.raises(OSError, match="No space"):
        journal.keep([1], STATES[1:2])
    journal.keep([2], STATES[2:3])
    assert list(read_history(tmp_path, "part-0").kept) == [0, 2]


def test_other_work_is_left_alone(tmp_path):
    for key in ("part-00001-ab", "part-00011-ab"):
        Journal(tmp_path, key, "a").begin([1])
    before = heartbeats(tmp_path)
    assert sorted(before) == ["part-00001-ab", "part-00011-ab"]
    discard(tmp_path, "part-00001-ab")
    assert list(heartbeats(tmp_path)) == ["part-00011-ab"]
    Journal(tmp_path, "part-00011-ab", "b").begin([1])
    assert heartbeats(tmp_path)["part-00011-ab"] > before["part-00011-ab"]


def one_process(engine, examples, folder, ends, budget):
    """(rows kept in all, batches of this process, failures) of one process over the shard."""
    batches, stats = [], RunStats()

    def deadly(batch):
        if ends(batch):
            os._exit(9)
        batches.append(len(batch))

    with Journal(folder, "part-0", "p") as journal:
        rows = dict(journal.history.kept)
        stats.failures.update(journal.history.poison)

        def keep(numbers, packed):
            rows.update(zip(numbers, packed, strict=True))
            journal.keep(numbers, packed)

        windows = [dict(enumerate(examples))]
        Faulty(engine, deadly, budget).run(windows, PooledRows(), stats, keep, journal)
    return rows, batches, stats


def deaths_until_done(engine, examples, folder, ends, budget=600):
    """What the first process that lives to the end has, and how many died before it."""
    context = multiprocessing.get_context("fork")
    for deaths in range(12):
        child = context.Process(
            target=one_process, args=(engine, examples, folder, ends, budget), daemon=True
        )
        child.start()
        child.join(120)
        assert child.exitcode in (0, 9), child.exitcode
        if child.exitcode == 9:
            record_deaths(folder, "part-0", lambda owner: True)
        if child.exitcode == 0:
            # Once more in this process, which finds everything done.
            rows, batches, stats = one_process(engine, examples, folder, ends, budget)
            assert batches == []
            return rows, stats, deaths
    raise AssertionError("no process lived to the end")


@pytest.fixture(scope="module")
def examples(renderer, sample_rows):
    return [e for e in map(renderer, sample_rows[:60]) if len(e.ids_T) < 120][:12]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """A fork of a process with running OpenMP threads would wait for them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def undisturbed(engine, examples):
    rows, batches, stats = one_process(engine, examples, None, lambda _: False, 600)
    return {r: v.tobytes() for r, v in rows.items()}, batches, stats


def has(example):
    return lambda batch: any(e.ids_T is example.ids_T for e in batch)


def test_a_row_that_ends_its_process_is_given_up_after_four(engine, examples, tmp_path):
    rows, stats, deaths = deaths_until_done(engine, examples, tmp_path, has(examples[5]))
    assert deaths == 4
    assert list(stats.failures) == [5]
    assert stats.failures[5].reason == "ends_the_process"
    assert sorted([*rows, 5]) == list(range(len(examples)))
    assert stats.tokens == sum(len(e.ids_T) for i, e in enumerate(examples) if i != 5)


def test_two_of_them_in_one_batch(engine, examples, tmp_path):
    def ends(batch):
        return has(examples[5])(batch) or has(examples[6])(batch)

    rows, stats, _ = deaths_until_done(engine, examples, tmp_path, ends, budget=10_000)
    assert sorted(stats.failures) == [5, 6]
    assert sorted([*rows, 5, 6]) == list(range(len(examples)))
    assert stats.tokens == sum(len(e.ids_T) for i, e in enumerate(examples) if i not in (5, 6))


def test_a_batch_that_only_fails_as_a_whole_is_run_row_by_row(engine, examples, tmp_path):
    rows, stats, deaths = deaths_until_done(engine, examples, tmp_path, lambda b: len(b) > 3)
    assert not stats.failures
    assert sorted(rows) == list(range(len(examples)))
    assert deaths >= 3


def _ends_at(batches, folder, batch):
    """The process is taken away in its n-th batch, whatever that is."""
    marks = len(list(folder.glob("mark-*")))
    (folder / f"mark-{marks}-{os.getpid()}").touch()
    mine = len(list(folder.glob(f"mark-*-{os.getpid()}")))
    processes = len({p.name.split("-")[2] for p in folder.glob("mark-*")})
    return processes <= len(batches) and mine == batches[processes - 1]


@pytest.mark.parametrize("batches", [[2], [1, 1], [2, 1, 2]])
def test_a_process_that_is_taken_away_changes_no_bit(engine, examples, tmp_path, batches):
    wanted, planned, _ = undisturbed(engine, examples)
    assert len(planned) >= 3
    marks = tmp_path / "marks"
    marks.mkdir()
    ends = partial(_ends_at, batches, marks)
    rows, stats, deaths = deaths_until_done(engine, examples, tmp_path, ends)
    assert deaths == len(batches)
    assert not stats.failures
    assert {r: v.tobytes() for r, v in rows.items()} == wanted
    repeated = read_history(tmp_path, "part-0").repeated
    # One batch a death; from the second in one batch on, its rows are tried alone as well.
    assert repeated <= (deaths + deaths - 1) * max(planned)


def test_only_deaths_of_its_own_job_without_progress_end_the_work(tmp_path):
    def dies(owner, row, settles=False):
        journal = Journal(tmp_path, "part-0", owner, lambda other: True)
        journal.begin([row])
        if settles:
            journal.end([row])
        return journal

    for row in range(5):
        dies("old-n", row)
    for row in range(4):
        dies("new-n", row)
    dies("new-n", 9, settles=True)
    for row in range(20, 25):
        dies("new-n", row)
    with pytest.raises(IncompleteError, match="5 workers in a row ended over part-0"):
        dies("new-n", 30)
    dies("newer-n", 30)


def test_a_process_that_was_taken_away_is_innocent(tmp_path):
    for _ in range(9):
        Journal(tmp_path, "part-0", "job-n").begin([3])
    assert not read_history(tmp_path, "part-0").deaths
    with Journal(tmp_path, "part-1", "job-n") as told:
        told.begin([3])
    Journal(tmp_path, "part-1", "job-n", lambda owner: True)
    assert not read_history(tmp_path, "part-1").deaths, "its end was told"


def test_work_of_a_lost_node_is_taken_by_one(tmp_path):
    for key, owner in (("part-1", "j-lost-1"), ("part-2", "j-here-2"), ("part-3", "j-lost-3")):
        Journal(tmp_path, key, owner).begin([0])
    with Journal(tmp_path, "part-4", "j-lost-4"):
        pass  # ended in order
    Journal(tmp_path, "part-3", "j-here-5")  # has gone on already

    def lost(owner):
        return "lost" in owner

    assert list(take_orphans(tmp_path, lost)) == ["part-1"]
    assert list(take_orphans(tmp_path, lost)) == []
    Journal(tmp_path, "part-1", "j-lost-6")  # who took it is lost as well
    assert list(take_orphans(tmp_path, lost)) == ["part-1"]
    discard(tmp_path, "part-1")
    assert not list(tmp_path.glob("part-1.*"))
