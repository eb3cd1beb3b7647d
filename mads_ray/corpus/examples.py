"""One row of a file as an example: the one way in which ingest, inspection and fine-tuning read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mads_ray.corpus.forms.schemas import Reading, label_of, read_row
from mads_ray.corpus.identity import uid_of
from mads_ray.corpus.reading.reader import RawRow
from mads_ray.errors import RowError

if TYPE_CHECKING:
    from mads_ray.config import CorpusConfig


@dataclass(frozen=True, slots=True)
class Rules:
    """What a user says of the rows: a field map, where their label is, whether media may go.

    Not a CorpusConfig: fine-tuning reads rows on machines without pydantic.
    """

    fields: Mapping[Any, str] | None = None
    label_field: str | None = None
    text_only: bool = False


def rules_of(corpus: CorpusConfig) -> Rules:
    """Those of a run's settings."""
    return Rules(corpus.fields, corpus.label_field, corpus.text_only)


def read_example(row: RawRow, rules: Rules) -> tuple[Reading, str, str | None]:
    """How the row was understood, its uid and its label. Raises RowError where it is no example."""
    if row.error is not None:
        raise row.error
    try:
        reading = read_row(row.value, rules.fields, rules.text_only)
        return reading, uid_of(reading.conversation), label_of(row.value, rules.label_field)
    except RowError:
        raise
    except Exception as e:  # rows are of others, and none may stop a run
        raise RowError("unreadable", "", f"{type(e).__name__}: {e}") from e


MAX_LABELS = 1000
