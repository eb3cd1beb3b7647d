"""The pool of actors, when real processes die, hang, or never get ready."""

import os
import signal
import time
from pathlib import Path

import pytest

from mads_ray.errors import CorpusError, IncompleteError
from mads_ray.pipeline.runtime import actor_pool
from mads_ray.pipeline.runtime.actor_pool import ActorPool, WorkStatus
from mads_ray.pipeline.runtime.data_stream import stream

blamed = []  # items whose process ended over them


def pool(items, set_up, args, workers=2, hang_s=60.0, heartbeats=dict, result=lambda _: None):
    watch = WorkStatus(
        lambda item: str(item["n"]), heartbeats, lambda _: 0, result, blamed.append, hang_s
    )
    return ActorPool("test", items, set_up, args, lambda _: (workers, 1, 0.0), watch)


def results(*args, **kwargs):
    return sorted(r["n"] for r in pool(*args, **kwargs).run())


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(actor_pool, "_LOOK_S", 0.5)
    monkeypatch.setattr(actor_pool, "_GROW_S", 0.5)
    monkeypatch.setattr(actor_pool, "_REPLY_S", 3.0)


ITEMS = [{"n": n} for n in range(8)]


def _plain():
    return lambda item: {"n": item["n"] * 10}


def test_every_item_is_worked_on_once(ray_local):
    assert results(ITEMS, _plain, ()) == [n * 10 for n in range(8)]
    assert results([], _plain, ()) == []


def _dies(folder, at, times):
    """Its process dies at an item, as often as told."""

    def work(item):
        marks = list(Path(folder).glob("death-*"))
        if item["n"] == at and len(marks) < times:
            (Path(folder) / f"death-{len(marks)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": item["n"]}

    return work


@pytest.mark.parametrize("times", [1, 3])
def test_an_actor_that_dies_costs_no_item(ray_local, tmp_path, times):
    blamed.clear()
    assert results(ITEMS, _dies, (str(tmp_path), 3, times)) == list(range(8))
    assert blamed == [{"n": 3}] * times
    assert len(list(tmp_path.iterdir())) == times


def test_an_item_that_gets_nowhere_ends_the_run(ray_local, tmp_path):
    with pytest.raises(IncompleteError, match="5 workers in a row ended over 3 without getting on"):
        results(ITEMS, _dies, (str(tmp_path), 3, 99))
    assert len(list(tmp_path.iterdir())) == 6


def _never_ready():
    os.kill(os.getpid(), signal.SIGKILL)


def test_actors_that_never_get_ready_end_the_run(ray_local):
    with pytest.raises(IncompleteError, match="before they were ready"):
        results(ITEMS, _never_ready, ())


def _useless():
    raise CorpusError("nothing to set up with")


def _refuses():
    def work(item):
        raise CorpusError(f"item {item['n']} is refused")

    return work


def test_errors_for_the_user_arrive_as_themselves(ray_local):
    with pytest.raises(CorpusError, match=r"^nothing to set up with$"):
        results(ITEMS, _useless, ())
    with pytest.raises(CorpusError, match=r"^item \d is refused$"):
        results(ITEMS, _refuses, ())


def _broken():
    return lambda item: {"n": item["absent"]}


def test_a_fault_of_the_code_is_not_tried_again(ray_local):
    with pytest.raises(IncompleteError, match="KeyError"):
        results(ITEMS, _broken, ())


def _hangs_once(folder):
    def work(item):
        flag = Path(folder) / "hung"
        if item["n"] == 2 and not flag.exists():
            flag.touch()
            time.sleep(600)
        return {"n": item["n"]}

    return work


def test_an_actor_that_hangs_is_given_up(ray_local, tmp_path):
    started = time.monotonic()
    assert results(ITEMS[:4], _hangs_once, (str(tmp_path),), hang_s=3.0) == [0, 1, 2, 3]
    assert time.monotonic() - started < 60


def test_an_actor_with_a_pulse_is_not_given_up(ray_local, tmp_path):
    def heartbeats():
        return {"2": int(time.monotonic() * 10)}

    args = (str(tmp_path),)
    assert results(ITEMS[2:3], _slow, args, hang_s=2.0, heartbeats=heartbeats) == [1]
    assert len(list(tmp_path.iterdir())) == 1


def _slow(folder):
    def work(item):
        (Path(folder) / f"try-{os.getpid()}").touch()
        time.sleep(5)
        return {"n": 1}

    return work


def test_work_that_is_committed_needs_no_answer(ray_local, tmp_path):
    """Its actor is out of reach, as behind a cut link."""
    started = time.monotonic()
    found = results(ITEMS[2:3], _slow_forever, (), result=lambda item: {"n": 7})
    assert found == [7]
    assert time.monotonic() - started < 60


def _slow_forever():
    def work(item):
        time.sleep(600)

    return work


def test_a_pool_grows_with_its_cluster(ray_local, tmp_path):
    asked = []

    def shape(tasks):
        asked.append(tasks)
        return (1 if len(asked) == 1 else 2, 1, 0.0)

    nothing = (dict, lambda _: 0, lambda _: None, lambda _: None, 60.0)
    watch = WorkStatus(lambda item: str(item["n"]), *nothing)
    made = ActorPool("test", ITEMS[:5], _tells_its_process, (), shape, watch)
    assert len({r["pid"] for r in made.run()}) == 2


def _tells_its_process():
    def work(item):
        time.sleep(3)
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
        results(ITEMS, _full, ())
    assert results(ITEMS[:3], _fails_for_a_moment, (str(tmp_path),)) == [0, 1, 2]
    with pytest.raises(IncompleteError, match="No space left"):
        list(stream("test", ITEMS[:2], _full, (), workers=1))
