"""Read one row of a file as an example. Ingest, inspection and fine-tuning all read rows here."""

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
    """How to read rows: a field map, the field of the label, and whether to leave media out.

    This is not a CorpusConfig, because fine-tuning reads rows on machines without pydantic.
    """

    fields: Mapping[Any, str] | None = None
    label_field: str | None = None
    text_only: bool = False


def rules_of(corpus: CorpusConfig) -> Rules:
    """The rules in a run's settings."""
    return Rules(corpus.fields, corpus.label_field, corpus.text_only)


def read_example(row: RawRow, rules: Rules) -> tuple[Reading, str, str | None]:
    """Return how a row was understood, its uid and its label. Raises RowError for unusable rows."""
    if row.error is not None:
        raise row.error
    try:
        reading = read_row(row.value, rules.fields, rules.text_only)
        return reading, uid_of(reading.conversation), label_of(row.value, rules.label_field)
    except RowError:
        raise
    except Exception as e:  # no row may stop a run
        raise RowError("unreadable", "", f"{type(e).__name__}: {e}") from e


MAX_LABELS = 1000
