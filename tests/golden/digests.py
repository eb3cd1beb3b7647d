"""Digests of what a run folder holds: of values, not of how files pack them.

Paths are told from the corpus on, so that folders may lie anywhere; timings, versions and the
folders of other runs have no part in it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Pieces = dict[str, bytes]  # what a digest is of, by name

# The model's arithmetic decides the other columns of the states.
_TEXT_COLUMNS = ("uid", "row_id", "n_tokens", "cut_tokens")


def digest(pieces: Pieces) -> str:
    """The first 24 digits of a SHA-256."""
    assert pieces
    whole = hashlib.sha256()
    for name in sorted(pieces):
        whole.update(f"{name}\n{len(pieces[name])}\n".encode())
        whole.update(pieces[name])
    return whole.hexdigest()[:24]


def of_reading(run: Path, corpus: Path) -> Pieces:
    """Examples, quarantine and lengths: what needs the tokenizer, but no arithmetic of a model."""
    pieces = _tables(run, "corpus/shard-*.parquet", corpus)
    pieces |= _tables(run, "quarantine/part-*.parquet", corpus)
    states = _tables(run, "states/part-*.parquet", corpus)
    return pieces | {k: v for k, v in states.items() if k.rpartition(":")[2] in _TEXT_COLUMNS}


def of_states(run: Path, corpus: Path) -> Pieces:
    """Every column of the states, and the calibration."""
    return _tables(run, "states/part-*.parquet", corpus) | _arrays(run, "states/*.npz")


def of_selection(run: Path, corpus: Path) -> dict[str, Pieces]:
    """Five parts: selection, core_set, report, summary (of run.json) and density."""
    selection = _tables(run, "selection/*.parquet", corpus)
    density = {name: selection.pop(name) for name in list(selection) if name.endswith(":like")}
    selection |= _arrays(run, "selection/*.np[yz]")
    core_set = _tables(run, "core_set/*.parquet", corpus)
    for path in sorted(run.glob("core_set/*.jsonl")):
        core_set[path.name] = path.read_bytes().replace(str(corpus).encode(), b"<corpus>")
    known = {p.suffix for p in (*run.glob("selection/*"), *run.glob("core_set/*"))}
    assert known <= {".parquet", ".npz", ".npy", ".jsonl"}, known
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    for of in ("labels", "files"):  # by lgamma, whose last digit is the C library's affair
        report[of]["expected_random"] = f"{report[of]['expected_random']:.9g}"
    told = report.pop("density")
    told["kinds_random"] = f"{told['kinds_random']:.9g}"
    density["report.json"] = _text(told, corpus)
    summary = json.loads((run / "run.json").read_text(encoding="utf-8"))
    told = {k: summary[k] for k in ("mode", "counts", "metrics", "certificate")}
    return {
        "selection": selection,
        "core_set": core_set,
        "report": {"report.json": _text(report, corpus)},
        "summary": {"run.json": _text(told, corpus)},
        "density": density,
    }


def _tables(run: Path, pattern: str, corpus: Path) -> Pieces:
    """The columns of some Parquet files."""
    found = {}
    for path in sorted(run.glob(pattern)):
        table = pq.read_table(path, partitioning=None)
        for name in table.column_names:
            key = f"{path.relative_to(run)}:{name}"
            found[key] = _column(table.column(name).combine_chunks(), corpus)
    return found


def _column(values: pa.Array, corpus: Path) -> bytes:
    if pa.types.is_fixed_size_list(values.type):
        assert not values.null_count
        size = values.type.list_size
        return _array(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, size))
    kind = "" if pa.types.is_nested(values.type) else str(values.type)
    return f"{kind}\n".encode() + _text(values.to_pylist(), corpus)


def _arrays(run: Path, pattern: str) -> Pieces:
    """The arrays of some .npy and .npz files."""
    found = {}
    for path in sorted(run.glob(pattern)):
        loaded = np.load(path, allow_pickle=False)
        arrays = loaded if path.suffix == ".npz" else {"": loaded}
        for name in arrays:
            found[f"{path.relative_to(run)}:{name}"] = _array(arrays[name])
    return found


def _array(values: np.ndarray) -> bytes:
    plain = np.ascontiguousarray(values)
    return f"{plain.dtype} {plain.shape}\n".encode() + plain.tobytes()


def _text(value: Any, corpus: Path) -> bytes:
    """As JSON; floats with all their digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
    return text.replace(json.dumps(str(corpus), ensure_ascii=False)[1:-1], "<corpus>").encode()
