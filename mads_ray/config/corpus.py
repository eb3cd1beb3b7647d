"""Settings of ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from mads_ray.config.frozen import Frozen
from mads_ray.errors import MismatchError

FieldName = Literal["messages", "system", "prompt", "input", "response", "history", "tools"]


class CorpusConfig(Frozen):
    """How rows become examples, and examples canonical shards."""

    fields: dict[FieldName, str] | None = Field(
        None,
        description="Field map for rows of no recognised schema, e.g. prompt=ask and "
        "response=reply.text. It counts for all rows, and replaces the recognised schemas.",
    )
    label_field: str | None = Field(
        None,
        description="Field that names a row's task, for the report; by default task, category or "
        "dataset.",
    )
    split: tuple[str, ...] = Field(
        (),
        description="Splits to read of folders, e.g. train,test, or all; by default all but "
        "validation and test. Folders, globs and saved DatasetDicts have them: train, validation "
        "(also valid, val, dev), test (also testing, testset, eval, evaluation, heldout), or a "
        "split's own name (test_sft). A file whose name says no split counts as train. A file "
        "that is named itself is always read.",
    )
    skip_broken_files: bool = Field(
        False,
        description="Leave out files in folders that cannot be read to their end, instead of "
        "stopping. The report and run.json count them. A broken file that is named itself stops "
        "the run.",
    )
    text_only: bool = Field(
        False,
        description="Read rows with images, audio or video without these; by default they go to "
        "quarantine.",
    )
    shard_rows: int = Field(
        4096, ge=16, lt=2**31, description="Most examples in one canonical shard."
    )

    @classmethod
    def of_stored(cls, stored: dict[str, Any], file: Path) -> CorpusConfig:
        """The settings in a stored file. Raises MismatchError for those of another version."""
        try:
            return cls.model_validate(stored)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise MismatchError(
                f"{file} holds settings of another version of mads_ray (corpus.{where}: "
                f"{first['msg']}); go on with that version, or use another --output"
            ) from e

    @field_validator("fields")
    @classmethod
    def _all_of_it_is_read(cls, value: dict[FieldName, str] | None) -> dict[FieldName, str] | None:
        """A map must not name a field that would then be passed over."""
        if value is not None:
            pair = value.keys() & {"prompt", "response", "input"}
            if "messages" in value and pair:
                named = " and ".join(sorted(pair))
                raise ValueError(
                    f"a field map with messages reads no {named}; give messages (and system, "
                    "history, tools), or prompt and response (and those and input)"
                )
            if "messages" not in value and not {"prompt", "response"} <= value.keys():
                raise ValueError("a field map names messages, or prompt and response")
        return value

    @field_validator("split", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            return value
        return tuple(s.strip().lower() for t in texts for s in t.split(",") if s.strip())
