"""Streams through Ray Data's actors, when real processes die, hang, or never get ready."""

import os
import signal
import time
from pathlib import Path

import pytest

from mads_ray.capture.history import discard
from mads_ray.capture.journal import Journal
from mads_ray.errors import CorpusError, IncompleteError
from mads_ray.pipeline.runtime import watch
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.pipeline.runtime.watch import Traces
from mads_ray.storage import read_json, write_json

ITEMS = [{"n": n} for n in range(8)]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(watch, "_LOOK_S", 0.5)
    monkeypatch.setattr(watch, "_REPLY_S", 3.0)


def results(items, set_up, args=(), workers=2, most=None, **traces):
    shape = PoolShape(workers, most or workers)
    found = stream("test", items, set_up, args, shape, Traces(**traces))
    return sorted(r["n"] for r in found)


def _journal(folder, item):
    return Journal(Path(folder), f"item-{item['n']}", this_process(), ended_by_itself)


def _plain():
    return lambda item: {"n": item["n"] * 10}


def test_every_item_is_worked_on_once(ray_local):
    assert results(ITEMS, _plain) == [n * 10 for n in range(8)]
    assert results([], _plain) == []


def _dies(folder, at, times):
    """Its process dies at an item, as often as told."""

    def work(item):
        with _journal(folder, item):
            marks = list(Path(folder).glob("death-*"))
            if item["n"] == at and len(marks) < times:
                (Path(folder) / f"death-{len(marks)}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        discard(Path(folder), f"item-{item['n']}")
        return {"n": item["n"]}

    return work


def test_an_actor_that_dies_costs_no_item(ray_local, tmp_path):
    assert results(ITEMS, _dies, (str(tmp_path), 3, 3), folder=tmp_path) == list(range(8))
    assert len(list(tmp_path.glob("death-*"))) == 3


def test_an_item_that_gets_nowhere_ends_the_run(ray_local, tmp_path):
    with pytest.raises(IncompleteError, match="5 workers in a row ended over item-3 without get"):
        results(ITEMS, _dies, (str(tmp_path), 3, 99), folder=tmp_path)
    assert len(list(tmp_path.glob("death-*"))) == 5


def _never_ready():
    os.kill(os.getpid(), signal.SIGKILL)


def test_actors_that_never_get_ready_end_the_run(ray_local, tmp_path):
    with pytest.raises(IncompleteError, match=r"5 workers on .* before they were ready"):
        results(ITEMS, _never_ready, workers=1, folder=tmp_path)


def _useless():
    raise CorpusError("nothing to set up with")


def _refuses():
    def work(item):
        raise CorpusError(f"item {item['n']} is refused")

    return work


def test_errors_for_the_user_arrive_as_themselves(ray_local):
    with pytest.raises(CorpusError, match=r"^nothing to set up with$"):
        results(ITEMS, _useless)
    with pytest.raises(CorpusError, match=r"^item \d is refused$"):
        results(ITEMS, _refuses)


def _broken():
    return lambda item: {"n": item["absent"]}


def _broken_set_up():
    return {}["absent"]


@pytest.mark.parametrize("set_up", [_broken, _broken_set_up])
def test_a_fault_of_the_code_is_not_tried_again(ray_local, set_up):
    with pytest.raises(IncompleteError, match=r"KeyError(.|\n)*test_data_stream.py"):
        results(ITEMS, set_up)


def _hangs_once(folder, how):
    def work(item):
        with _journal(folder, item):
            flag = Path(folder) / "hung"
            if item["n"] == 2 and not flag.exists():
                flag.touch()
                if how == "stopped":
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(600)
        discard(Path(folder), f"item-{item['n']}")
        return {"n": item["n"]}

    return work


@pytest.mark.parametrize("how", ["sleeps", "stopped"])
def test_an_actor_that_hangs_ends_itself(ray_local, tmp_path, caplog, how):
    args = (str(tmp_path), how)
    assert results(ITEMS[:4], _hangs_once, args, folder=tmp_path, hang_s=3.0) == [0, 1, 2, 3]
    assert "no batch in 3 s of item-2" in caplog.text


def _hangs_in_set_up(folder):
    flag = Path(folder) / "hung"
    if not flag.exists():
        flag.touch()
        time.sleep(600)
    return lambda item: {"n": item["n"]}


def test_a_set_up_that_hangs_is_begun_again(ray_local, tmp_path, monkeypatch):
    found = stream(
        "test", ITEMS[:2], _hurried, (str(tmp_path),), PoolShape(1, 1), Traces(folder=tmp_path)
    )
    assert sorted(r["n"] for r in found) == [0, 1]


def _hurried(folder):
    from mads_ray.capture.alarm import alarmed

    with alarmed(2.0):
        return _hangs_in_set_up(folder)


def test_an_actor_that_gets_on_slowly_is_not_given_up(ray_local, tmp_path):
    args = (str(tmp_path),)
    assert results(ITEMS[2:3], _slow, args, folder=tmp_path, hang_s=2.0) == [1]
    assert len(list(tmp_path.glob("try-*"))) == 1


def _slow(folder):
    def work(item):
        with _journal(folder, item) as journal:
            (Path(folder) / f"try-{os.getpid()}").touch()
            for row in range(8):
                journal.begin([row])
                time.sleep(0.7)
        return {"n": 1}

    return work


def test_work_that_is_committed_needs_no_answer(ray_local, tmp_path):
    """Its actor is out of reach, as behind a cut link."""
    marker = tmp_path / "marker.json"

    def committed(item):
        return read_json(marker)

    args = (str(marker),)
    found = results(ITEMS[2:3], _slow_to_answer, args, folder=tmp_path, committed=committed)
    assert found == [7]


def _slow_to_answer(marker):
    def work(item):
        write_json(Path(marker), {"n": 7})
        time.sleep(30)

    return work


def test_a_pool_grows_where_there_is_room(ray_local):
    found = list(stream("test", ITEMS[:6], _tells_its_process, (), PoolShape(1, 2), Traces()))
    assert len({r["pid"] for r in found}) == 2


def _tells_its_process():
    def work(item):
        time.sleep(4)
        return {"pid": os.getpid()}

    return work


def _full():
    def work(item):
        raise OSError(28, "No space left on device", "/data/part")

    return work


def _fails_for_a_moment(folder):
    def work(item):
        flag = Path(folder) / f"failed-{item['n']}"
        if item["n"] == 1 and not flag.exists():
            flag.touch()
            raise OSError(116, "Stale file handle")
        return {"n": item["n"]}

    return work


def test_a_full_disk_is_told_and_a_moment_of_trouble_is_not(ray_local, tmp_path):
    with pytest.raises(IncompleteError, match=r"No space left on device.*'/data/part'\nWhat is"):
        results(ITEMS, _full)
    assert results(ITEMS[:3], _fails_for_a_moment, (str(tmp_path),)) == [0, 1, 2]


def _gone(folder, times):
    """Its node or driver takes the process away: nobody says that it ended by itself."""

    def work(item):
        with Journal(Path(folder), f"item-{item['n']}", this_process()):
            marks = list(Path(folder).glob("gone-*"))
            if len(marks) < times:
                (Path(folder) / f"gone-{len(marks)}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return {"n": item["n"]}

    return work


def test_processes_that_were_taken_away_do_not_count(ray_local, tmp_path):
    assert results(ITEMS[:1], _gone, (str(tmp_path), 7), workers=1, folder=tmp_path) == [0]
