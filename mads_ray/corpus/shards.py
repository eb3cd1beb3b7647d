"""Two passes that turn any corpus into canonical shards.

Pass one (`spool_file`) streams one input file. It sends bad rows to quarantine and writes the good
ones to spill files (runs), each sorted by uid. Pass two (`build_shard`) merges one range of uids
from all runs, collapses exact duplicates and writes one shard. Uids are hashes, so a range is a
uniform random part of the corpus, equal examples are in one shard, and the shards depend on the
corpus alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mads_ray.config import CorpusConfig
from mads_ray.corpus.examples import read_example, rules_of
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.reader import RawRow, read_rows
from mads_ray.corpus.tally import RowCounter, StoredTally, Tally
from mads_ray.errors import BrokenFileError, RowError
from mads_ray.hashing import checksum, row_ids
from mads_ray.ledger import LostFile, ShardRecord
from mads_ray.printable import as_utf8, shortened
from mads_ray.storage import write_json, write_parquet
from mads_ray.stored.records import read_marker
from mads_ray.stored.tables import parquet_rows

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
    tally: Tally
    runs: tuple[str, ...]
    lost: LostFile | None = None  # where it is set, nothing of the file is kept: all counts are 0

    @property
    def usable(self) -> int:
        """Rows that became examples, duplicates included."""
        return self.tally.usable

    @property
    def quarantined(self) -> int:
        """Rows that were put in quarantine."""
        return self.tally.quarantined


@dataclass(frozen=True, slots=True)
class _StoredSummary:
    """A `FileSummary` as its marker has it."""

    read: int
    tally: StoredTally
    runs: tuple[str, ...]
    lost: LostFile | None = None


def stored_summary(spool: Path, index: int) -> FileSummary | None:
    """The summary of a file that was read before, or None."""
    stored = read_marker(_marker(spool, index), _StoredSummary)
    if stored is None:
        return None
    tally = Tally.from_json(asdict(stored.tally))
    return FileSummary(stored.read, tally, stored.runs, stored.lost)


def _marker(spool: Path, index: int) -> Path:
    return spool / f"file-{index:05d}.done.json"


def spool_file(
    index: int, file: InputFile, corpus: CorpusConfig, spool: Path, quarantine: Path
) -> FileSummary:
    """Pass one for input file number `index`. Does nothing when its marker is there.

    Raises CorpusError when the file cannot be read. With `skip_broken_files` a broken file that was
    found in a folder is skipped instead.
    """
    may_lose = corpus.skip_broken_files and not file.named
    known = stored_summary(spool, index)
    if known is not None and (may_lose or known.lost is None):
        return known
    rules = rules_of(corpus)
    counter = RowCounter(file.path, rules)
    run: list[tuple[str, int, str | None, str, str]] = []  # uid, row, label, messages, raw
    bad: list[dict[str, Any]] = []
    runs: list[str] = []
    bad_parts = read = run_bytes = 0

    def close_run() -> None:
        nonlocal run, run_bytes
        if run:
            name = f"run-{index:05d}-{len(runs):05d}.parquet"
            run.sort(key=itemgetter(0, 1))
            uids, rows, *texts = zip(*run, strict=True)
            table = pa.table([uids, [file.path] * len(run), rows, *texts], schema=SPOOL_SCHEMA)
            # Small row groups: pass two reads a narrow range of uids of every run.
            write_parquet(spool / name, table, 1024)
            runs.append(name)
        run, run_bytes = [], 0
        counter.settle()

    def close_bad() -> None:
        nonlocal bad, bad_parts
        if bad:
            table = pa.Table.from_pylist(bad, QUARANTINE_SCHEMA)
            write_parquet(quarantine / f"part-ingest-{index:05d}-{bad_parts:05d}.parquet", table)
            bad_parts += 1
        bad = []

    broken: list[LostFile] = []
    for row in _unless_broken(file, broken) if may_lose else read_rows(file):
        read += 1
        try:
            reading, uid, label = read_example(row, rules)
        except RowError as e:
            counter.refuse(e, row.index)
            position = {"source_file": file.path, "source_row": row.index}
            bad.append(quarantine_row(position, e, row.raw))
            if len(bad) >= _RUN_ROWS:
                close_bad()
            continue
        counter.add(reading, row.value)
        text = reading.conversation.to_json()
        run.append((uid, row.index, label, text, row.raw))
        run_bytes += len(text) + len(row.raw)
        if len(run) >= _RUN_ROWS or run_bytes >= _RUN_BYTES:
            close_run()
    close_run()
    close_bad()
    summary = FileSummary(read, counter.settle(), tuple(runs))
    if broken:
        # Rows before the broken place are not kept: where a checksum fails, they may be wrong too.
        for part in (*map(spool.joinpath, runs), *quarantine.glob(f"part-ingest-{index:05d}-*")):
            part.unlink()
        summary = FileSummary(0, Tally(), (), broken[0])
    stored = {
        "read": summary.read,
        "tally": summary.tally.to_json(),
        "runs": summary.runs,
        "lost": None if summary.lost is None else asdict(summary.lost),
    }
    write_json(_marker(spool, index), stored)
    return summary


def _unless_broken(file: InputFile, broken: list[LostFile]) -> Iterator[RawRow]:
    """Yield the rows of a file. Where it is broken, add it to `broken`.

    A second read must break at the same row. If not, the file system failed and not the file, and
    the error is raised: which files are skipped must not depend on chance.
    """
    try:
        yield from read_rows(file)
    except BrokenFileError as e:
        try:
            for _ in read_rows(file):
                pass
        except BrokenFileError as again:
            if again.rows != e.rows:
                raise e from again
        else:
            raise
        broken.append(LostFile(file.path, e.rows, str(e)))


def build_shard(shard: int, n_shards: int, runs: Sequence[Path], target: Path) -> ShardRecord:
    """Pass two for one shard. Of equal examples it keeps the first by (file, row)."""
    marker = target.with_suffix(".done.json")
    stored = read_marker(marker, ShardRecord)
    if stored is not None and parquet_rows(target) == stored.rows:
        return stored
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
    """A row of the quarantine: its position, its reason and its text, all cut short."""
    shown = raw if len(raw) <= _RAW_SHOWN else raw[:_RAW_SHOWN] + f"... ({len(raw)} characters)"
    return {
        **position,
        "field": as_utf8(shortened(error.field, _NAME_SHOWN)),
        "reason": error.reason,
        "message": as_utf8(shortened(error.message, _MESSAGE_SHOWN)),
        "raw": as_utf8(shown),
    }


_SHARD_BITS = 32


def shard_bounds(shard: int, n_shards: int) -> tuple[str, str]:
    """The half-open range [low, high) of uid prefixes (8 hex digits) of a shard."""
    scale = 2**_SHARD_BITS
    low, high = -(-shard * scale // n_shards), -(-(shard + 1) * scale // n_shards)
    return f"{low:08x}", f"{high:08x}" if high < scale else "g"  # "g" sorts after every hex digit


def shard_count(examples: int, shard_rows: int) -> int:
    """The number of canonical shards. It depends on the corpus alone.

    A small corpus gets up to 16 shards of at least 64 rows, so that all cores of a laptop work.
    """
    small = min(16, examples // 64)
    return max(1, small, -(-examples // shard_rows))
