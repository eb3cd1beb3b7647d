"""Read rows, tokenise them with a mask of the response's tokens, and hold rows out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.examples import Rules, read_example
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.tally import RowCounter, Tally
from mads_ray.corpus.telling import lines, unfound
from mads_ray.errors import RowError
from mads_ray.finetune.forward import Query, query_of
from mads_ray.hashing import seeded_hash

log = logging.getLogger(__name__)

_HELD_OUT = 71  # a stream of hashes of its own
NO_LABEL = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation with its uid and its task ("-" where it names none)."""

    uid: str
    label: str
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids `ids_T` int32, and `target_T` bool: True for tokens of the response."""

    uid: str
    label: str
    ids_T: npt.NDArray[np.int32]
    target_T: npt.NDArray[np.bool_]

    def query(self) -> Query:
        """The query that scores the tokens of the response."""
        return query_of(self.ids_T, self.target_T)


def read(
    patterns: Sequence[str],
    label_field: str | None = None,
    fields: Mapping[str, str] | None = None,
    text_only: bool = False,
) -> tuple[list[Row], Counter[str]]:
    """Read each row once (equal conversations are one row); count those left out by reason.

    Rows are read and logged as in `mads-ray run`. Raises CorpusError when a file cannot be found or
    read.
    """
    rules = Rules(fields, label_field, text_only)
    rows: dict[str, Row] = {}
    total = Tally()
    discovered = discover(patterns)
    for line in discovered.lines():
        log.info("%s: %s", ", ".join(patterns), line)
    for file in discovered.files:
        counter = RowCounter(file.path, rules)
        for raw in read_rows(file):
            try:
                reading, uid, label = read_example(raw, rules)
            except RowError as e:
                counter.refuse(e, raw.index)
                continue
            counter.add(reading, raw.value)
            if uid not in rows:
                rows[uid] = Row(uid, label or NO_LABEL, reading.conversation)
        total.add(counter.settle())
    left_out = Counter[str]()
    for refused in total.reasons():
        left_out[refused.reason] += refused.count
    if repeated := total.usable - len(rows):
        left_out["repeated"] = repeated
    log.info(
        "%s: %s rows read from %d file(s): %s examples, %s exact duplicates, %s left out",
        ", ".join(patterns),
        f"{total.usable + total.quarantined:,}",
        len(discovered.files),
        *(f"{n:,}" for n in (len(rows), repeated, total.quarantined)),
    )
    for line in lines(total, rules, "left out"):
        log.info("  %s", line)
    for line in unfound(total, rules):
        log.warning("%s", line)
    return list(rows.values()), left_out


def tokenise(rows: Sequence[Row], renderer: PromptRenderer) -> tuple[list[Example], int]:
    """Tokenise rows, in their order; also return how many had no response to learn from.

    `renderer` must have tokens="response". The response's tokens do not include the end-of-turn
    marker of the template: the mask is the same as in capture.
    """
    examples = []
    for row in rows:
        try:
            rendered = renderer(row.conversation)
        except RowError:
            continue
        if rendered.own_T[1:].any():
            examples.append(Example(row.uid, row.label, rendered.ids_T, rendered.own_T))
    return examples, len(rows) - len(examples)


def is_held_out(uids: Sequence[str], share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """About `share` of all uids (N,), each by its own hash: never by order, files or neighbours."""
    return seeded_hash(uids, seed, _HELD_OUT) < np.uint64(min(share, 1.0) * (2.0**64 - 2048))


def split(rows: Sequence[Row], share: float, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Split rows into (rows to select from, rows held out), both in the given order."""
    if not rows:
        return [], []
    held_N = is_held_out([r.uid for r in rows], share, seed)
    pool = [r for r, held in zip(rows, held_N, strict=True) if not held]
    return pool, [r for r, held in zip(rows, held_N, strict=True) if held]
