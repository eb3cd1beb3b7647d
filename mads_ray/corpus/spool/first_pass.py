"""Pass one of ingest: the rows of one piece of the input become runs, or go to quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mads_ray.config import CorpusConfig
from mads_ray.corpus.examples import read_example, rules_of
from mads_ray.corpus.quarantine import QuarantineParts
from mads_ray.corpus.reading.reader import RawRow
from mads_ray.corpus.spool.pieces import Piece, chunk_name, read_piece
from mads_ray.corpus.spool.runs import RunWriter
from mads_ray.corpus.tally import RowCounter, StoredTally, Tally
from mads_ray.errors import BrokenFileError, RowError
from mads_ray.ledger import LostFile
from mads_ray.storage import write_json
from mads_ray.stored.records import read_marker

_SETTLE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class PieceSummary:
    """What pass one found in one piece. `nbytes`: what its runs hold in memory."""

    read: int
    tally: Tally
    runs: tuple[str, ...]
    nbytes: int = 0
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
    """A `PieceSummary` as its marker has it."""

    read: int
    tally: StoredTally
    runs: tuple[str, ...]
    nbytes: int
    lost: LostFile | None


def stored_summary(spool: Path, piece: Piece) -> PieceSummary | None:
    """The summary of a piece that was read before, or None."""
    stored = read_marker(_marker(spool, piece), _StoredSummary)
    if stored is None:
        return None
    tally = Tally.from_json(asdict(stored.tally))
    return PieceSummary(stored.read, tally, stored.runs, stored.nbytes, stored.lost)


def _marker(spool: Path, piece: Piece) -> Path:
    return spool / f"piece-{piece.name}.done.json"


def spool_piece(piece: Piece, corpus: CorpusConfig, spool: Path, quarantine: Path) -> PieceSummary:
    """Pass one for one piece. Does nothing when its marker is there.

    Raises CorpusError when the file cannot be read. With `skip_broken_files` a broken file that was
    found in a folder is skipped instead.
    """
    may_lose = corpus.skip_broken_files and not piece.file.named
    known = stored_summary(spool, piece)
    if known is not None and (may_lose or known.lost is None):
        return known
    rules = rules_of(corpus)
    counter = RowCounter(piece.file.path, rules)
    runs = RunWriter(spool, piece.name, piece.index)
    bad = QuarantineParts(quarantine, piece.name, piece.file.path)
    broken: list[LostFile] = []
    read = 0
    for row in _unless_broken(piece, spool, broken) if may_lose else read_piece(piece, spool):
        read += 1
        try:
            reading, uid, label = read_example(row, rules)
        except RowError as e:
            counter.refuse(e, row.index)
            bad.add(row.index, e, row.raw)
            continue
        counter.add(reading, row.value)
        runs.add(uid, row.index, label, reading.conversation.to_json(), row.raw)
        if read % _SETTLE_ROWS == 0:
            counter.settle()
    runs.close()
    bad.close()
    summary = PieceSummary(read, counter.settle(), tuple(runs.names), runs.nbytes)
    if broken:
        # Rows before the broken place are not kept: where a checksum fails, they may be wrong too.
        drop_rows(piece, summary.runs, spool, quarantine)
        summary = PieceSummary(0, Tally(), (), 0, broken[0])
    stored = {
        "read": summary.read,
        "tally": summary.tally.to_json(),
        "runs": summary.runs,
        "nbytes": summary.nbytes,
        "lost": None if summary.lost is None else asdict(summary.lost),
    }
    write_json(_marker(spool, piece), stored)
    if piece.kind == "chunk":
        (spool / chunk_name(piece)).unlink(missing_ok=True)
    return summary


def drop_rows(piece: Piece, runs: tuple[str, ...], spool: Path, quarantine: Path) -> None:
    """Remove what was kept of a piece of a broken file."""
    parts = quarantine.glob(f"part-ingest-{piece.name}-*")
    for path in (*map(spool.joinpath, runs), *parts):
        path.unlink(missing_ok=True)


def _unless_broken(piece: Piece, spool: Path, broken: list[LostFile]) -> Iterator[RawRow]:
    """Yield the rows of a piece. Where its file is broken, add it to `broken`.

    A second read must break at the same row. If not, the file system failed and not the file, and
    the error is raised: which files are skipped must not depend on chance.
    """
    try:
        yield from read_piece(piece, spool)
    except BrokenFileError as e:
        try:
            for _ in read_piece(piece, spool):
                pass
        except BrokenFileError as again:
            if again.rows != e.rows:
                raise e from again
        else:
            raise
        broken.append(LostFile(piece.file.path, e.rows, str(e)))
