"""A stage before the work, in processes of its own."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from mads_ray.errors import CorpusError
from mads_ray.pipeline.runtime.data_stream import Preparation, stream
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.pipeline.runtime.watch import Traces

ITEMS = [{"n": n} for n in range(6)]


def _prepared(items, prepare, args=(), at_once=1):
    shape = PoolShape(1, 1, at_once=at_once)
    before = Preparation("ready", prepare, args, 1)
    return stream("test", items, _reads, (), shape, Traces(), before)


def _spells(folder):
    def prepare(item):
        flag = Path(folder) / "died"
        if item["n"] == 2 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.py_buffer(b"x" * item["n"])

    return prepare


def _reads():
    return lambda item, ready: {"n": item["n"], "bytes": ready.size, "pid": os.getpid()}


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_item_comes_with_its_own_bytes(ray_local, tmp_path, at_once):
    """Also where a process of the stage dies."""
    found = sorted(_prepared(ITEMS, _spells, (str(tmp_path),), at_once), key=lambda r: r["n"])
    assert [(r["n"], r["bytes"]) for r in found] == [(n, n) for n in range(6)]
    assert (tmp_path / "died").exists()


def _refuses():
    def prepare(item):
        raise CorpusError(f"item {item['n']} is refused")

    return prepare


def _cannot_begin():
    raise CorpusError("nothing to set up with")


def test_errors_of_the_stage_arrive_as_themselves(ray_local):
    with pytest.raises(CorpusError, match=r"^item \d is refused$"):
        list(_prepared(ITEMS, _refuses))
    with pytest.raises(CorpusError, match=r"^nothing to set up with$"):
        list(_prepared(ITEMS, _cannot_begin))
