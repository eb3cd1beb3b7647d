"""Files are whole or absent, and a disk that is full is told of."""

import errno
import multiprocessing
import resource
import signal

import numpy as np
import pyarrow as pa
import pytest

from mads_ray.storage import read_json, write_json, write_npy, write_npz, write_parquet


def _limited(write, queue):
    """A file size limit: numpy then says what it says on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3568, 3568))
    try:
        write()
    except OSError as e:
        queue.put((e.errno, str(e)))
    else:
        queue.put((None, "written"))


@pytest.mark.parametrize(
    ("suffix", "wanted"),
    [
        ("npy", (errno.ENOSPC, True)),
        ("npz", (errno.EFBIG, False)),
        ("parquet", (errno.EFBIG, False)),
    ],
)
def test_a_full_disk_is_named_and_the_file(tmp_path, suffix, wanted):
    path, array = (
        tmp_path / f"a.{suffix}",
        np.random.default_rng(0).integers(0, 256, 46_328).astype(np.uint8),
    )
    writes = {"npy": lambda: write_npy(path, array), "npz": lambda: write_npz(path, a=array)}
    writes["parquet"] = lambda: write_parquet(path, pa.table({"a": array}))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_limited, args=(writes[suffix], queue))
    child.start()
    number, told = queue.get(timeout=60)
    child.join(60)
    assert str(path) in told
    assert (number, "the disk may be full" in told) == wanted
    assert not list(tmp_path.iterdir())


def test_json_holds_names_that_utf8_has_not(tmp_path):
    for value in ({"a": "\udcff", "é": 1}, {"é": "\u2028"}):
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
