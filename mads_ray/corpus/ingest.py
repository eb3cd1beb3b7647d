"""Two passes that turn any corpus into canonical shards.

Pass one (`spool_file`) streams one input file, sends bad rows to quarantine and writes the good
ones in runs sorted by uid. Pass two (`build_shard`) merges one uid range of all runs, collapses
exact duplicates and writes one shard. Since uids are hashes, a range is a uniform random part of
the corpus, equal examples meet in one shard, and shards depend on the corpus alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mads_ray.config import CorpusConfig
from mads_ray.corpus.files import InputFile
from mads_ray.corpus.identity import checksum, row_ids, shard_bounds, uid_of
from mads_ray.corpus.reader import read_rows
from mads_ray.corpus.schemas import label_of, messages_to_json, parse_row
from mads_ray.errors import RowError
from mads_ray.ledger import ShardRecord
from mads_ray.printable import shortened
from mads_ray.storage import read_json, write_json, write_parquet

_RUN_ROWS = 20_000
_RUN_BYTES = 128 * 2**20
_RAW_SHOWN, _MESSAGE_SHOWN, _NAME_SHOWN = 2000, 1000, 200  # characters

SPOOL_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("label", pa.string()),
        ("messages", pa.large_string()),
        ("raw", pa.large_string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("field", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("raw", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What pass one found in one file."""

    read: int
    quarantined: int
    runs: tuple[str, ...]

    @property
    def usable(self) -> int:
        """Rows that became examples, duplicates included."""
        return self.read - self.quarantined


def spool_file(
    index: int, file: InputFile, corpus: CorpusConfig, spool: Path, quarantine: Path
) -> FileSummary:
    """Pass one for input file number `index`; does nothing when its marker is there.

    Raises CorpusError when the file cannot be read.
    """
    marker = spool / f"file-{index:05d}.done.json"
    stored = read_json(marker)
    if stored is not None:
        return FileSummary(stored["read"], stored["quarantined"], tuple(stored["runs"]))
    run: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    runs: list[str] = []
    bad_parts = read = quarantined = run_bytes = 0

    def close_run() -> None:
        nonlocal run, run_bytes
        if run:
            name = f"run-{index:05d}-{len(runs):05d}.parquet"
            run.sort(key=lambda r: (r["uid"], r["source_row"]))
            # Small row groups: pass two reads a narrow uid range of every run.
            write_parquet(spool / name, pa.Table.from_pylist(run, SPOOL_SCHEMA), 1024)
            runs.append(name)
        run, run_bytes = [], 0

    def close_bad() -> None:
        nonlocal bad, bad_parts
        if bad:
            table = pa.Table.from_pylist(bad, QUARANTINE_SCHEMA)
            write_parquet(quarantine / f"part-ingest-{index:05d}-{bad_parts:05d}.parquet", table)
            bad_parts += 1
        bad = []

    for row in read_rows(file):
        read += 1
        position = {"source_file": file.path, "source_row": row.index}
        try:
            if row.error is not None:
                raise row.error
            messages = parse_row(row.value, corpus.fields)
            uid = uid_of(messages)
            label = label_of(row.value, corpus.label_field)
        except RowError as e:
            quarantined += 1
            bad.append(quarantine_row(position, e, row.raw))
            if len(bad) >= _RUN_ROWS:
                close_bad()
            continue
        text = messages_to_json(messages)
        run.append({**position, "uid": uid, "label": label, "messages": text, "raw": row.raw})
        run_bytes += len(text) + len(row.raw)
        if len(run) >= _RUN_ROWS or run_bytes >= _RUN_BYTES:
            close_run()
    close_run()
    close_bad()
    summary = FileSummary(read, quarantined, tuple(runs))
    write_json(marker, asdict(summary))
    return summary


def build_shard(shard: int, n_shards: int, runs: Sequence[Path], target: Path) -> ShardRecord:
    """Pass two for one shard. Of equal examples the first in (file, row) order is kept."""
    marker = target.with_suffix(".done.json")
    stored = read_json(marker)
    if stored is not None and target.exists():
        return ShardRecord(**stored)
    low, high = shard_bounds(shard, n_shards)
    wanted = (pc.field("uid") >= low) & (pc.field("uid") < high)
    dataset = pads.dataset([str(r) for r in runs], schema=SPOOL_SCHEMA, format="parquet")
    table = dataset.to_table(filter=wanted, use_threads=False).sort_by(
        [(name, "ascending") for name in ("uid", "source_file", "source_row")]
    )
    uids = table.column("uid").to_pylist()
    first = [i for i, uid in enumerate(uids) if i == 0 or uids[i - 1] != uid]
    ends = [*first[1:], len(uids)][: len(first)]  # a shard may be empty
    kept = table.take(pa.array(first, pa.int64()))
    kept_uids = [uids[i] for i in first]
    copies = [end - start for start, end in zip(first, ends, strict=True)]
    kept = kept.append_column("copies", pa.array(copies, pa.int32()))
    kept = kept.append_column("row_id", pa.array(row_ids(kept_uids), pa.int64()))
    record = ShardRecord(shard, len(first), len(uids) - len(first), checksum(kept_uids))
    write_parquet(target, kept)
    write_json(marker, asdict(record))
    return record


def quarantine_row(position: dict[str, Any], error: RowError, raw: str) -> dict[str, Any]:
    """A row of the quarantine: where it came from and why, with all of it cut short."""
    shown = raw if len(raw) <= _RAW_SHOWN else raw[:_RAW_SHOWN] + f"... ({len(raw)} characters)"
    return {
        **position,
        "field": _utf8(shortened(error.field, _NAME_SHOWN)),
        "reason": error.reason,
        "message": _utf8(shortened(error.message, _MESSAGE_SHOWN)),
        "raw": _utf8(shown),
    }


def _utf8(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")
