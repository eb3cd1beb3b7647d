"""Report how rows were read: on the terminal, in log.jsonl, in run.json and in the report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray import runlog
from mads_ray.config import CorpusConfig
from mads_ray.corpus.examples import rules_of
from mads_ray.corpus.tally import Tally, refused
from mads_ray.corpus.telling import lines, reason_text, warnings
from mads_ray.ledger import CorpusLedger, StateRecord
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates

log = logging.getLogger(__name__)

_COLUMNS = ["reason", "field", "source_file", "source_row", "message"]
_LOGGED = 10


def tell_ingest(ledger: CorpusLedger, corpus: CorpusConfig, folder: RunFolder) -> None:
    """Log lines and warnings about ingest, and write the event `ingested`.

    Does nothing for a corpus that an older version read.
    """
    if ledger.reading is None:
        return
    tally, rules = Tally.from_json(ledger.reading), rules_of(corpus)
    for line in lines(tally, rules):
        log.info("  %s", line)
    for line in warnings(tally, rules, ledger.reading["worst_file"], str(folder.quarantine)):
        log.warning("%s", line)
    runlog.write(
        "ingested",
        rows=ledger.read,
        examples=ledger.examples,
        duplicates=ledger.duplicates,
        quarantined=ledger.quarantined,
        **{k: v for k, v in ledger.reading.items() if k != "reasons"},
        reasons=ledger.reading["reasons"][:_LOGGED],
    )


def tell_capture(folder: RunFolder, records: Sequence[StateRecord]) -> None:
    """Log the rows that capture put in quarantine, by reason."""
    tally = _captured(folder, records)
    if tally.quarantined:
        log.info("capture: %s rows quarantined", f"{tally.quarantined:,}")
        for found in tally.reasons()[:_LOGGED]:
            log.info("  quarantined %s", reason_text(found))


def reading_of(states: CapturedStates) -> dict[str, Any]:
    """How the rows of a run were read: the field `reading` of run.json and of the report.

    Its `reasons` count every row in quarantine, also those that capture put there.
    """
    folder, ledger = states.folder, states.ledger
    if ledger.reading is None:
        stored: dict[str, Any] = {"worst_file": None}
        tally = _parts(sorted(folder.quarantine.glob("part-ingest-*.parquet")))
        _fill(tally, ledger.quarantined)
    else:
        stored, tally = dict(ledger.reading), Tally.from_json(ledger.reading)
    tally.add(_captured(folder, states.records))
    return stored | tally.to_json()


def _captured(folder: RunFolder, records: Sequence[StateRecord]) -> Tally:
    shards = [r.shard for r in records if r.quarantined]
    tally = _parts(folder.quarantine / f"part-capture-{s:05d}.parquet" for s in shards)
    return _fill(tally, sum(r.quarantined for r in records))


def _parts(paths: Iterable[Path]) -> Tally:
    tally = Tally()
    for path in paths:
        try:
            rows = pq.read_table(path, columns=_COLUMNS).to_pylist()
        except (OSError, pa.ArrowInvalid):  # a user cleaned up: the counts are still known
            continue
        for row in rows:
            tally.refuse(refused(*(row[c] for c in _COLUMNS)))
    return tally


def _fill(tally: Tally, rows: int) -> Tally:
    """Add the rows whose reasons are no longer in quarantine/, with the reason "unknown"."""
    gone = rows - tally.quarantined
    if gone > 0:
        one = refused("unknown", "", "", -1, "quarantine/ no longer holds these rows")
        tally.refuse(replace(one, count=gone))
    return tally
