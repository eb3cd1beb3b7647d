"""Show how the first rows of each input file are read, without a model and without Ray."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from mads_ray.config import RunConfig
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.examples import Rules, read_example, rules_of
from mads_ray.corpus.reading.discovery import Discovered, InputFile, discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.tally import OTHERS, RowCounter, Tally
from mads_ray.corpus.telling import lines, names, nearest, unfound
from mads_ray.errors import ConfigError, CorpusError, RowError
from mads_ray.printable import one_line

Render = Callable[[Conversation], str]
EXAMPLES = 3
_FATE = "would quarantine"
_PATTERNS = 64
_FILES = 20
_TURNS = 6
_TEXT = 300
_LETTERS = {"system": "s", "user": "u", "assistant": "a", "tool": "t"}
_WORDS = {letter: role for role, letter in _LETTERS.items()}
_REPEATED = re.compile(r"(ua|uata)(?:\1)+")


@dataclass(slots=True)
class Sample:
    """The first rows of one file: how they were read, and who speaks in them.

    `repeats`: rows equal to an earlier row of this file or another. `turns`: rows by their roles in
    order. `n_turns`: all their turns. `error`: why the file cannot be read.
    """

    file: InputFile
    rows: int
    more: bool
    tally: Tally
    repeats: int
    turns: dict[str, int]
    n_turns: int
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The sample as plain lists and dicts."""
        return {
            "file": self.file.path,
            "format": format_of(self.file),
            "rows": self.rows,
            "more_rows": self.more,
            "usable": self.tally.usable,
            "quarantined": self.tally.quarantined,
            "repeats": self.repeats,
            "turns": self.turns,
            "mean_turns": round(self.n_turns / max(1, self.tally.usable), 2),
            "error": self.error,
            **self.tally.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """A row to show: its file, its number, and the conversation that was read."""

    file: str
    row: int
    schema: str
    conversation: Conversation


@dataclass(slots=True)
class Inspection:
    """Samples of all files, their sum, and a few examples of different schemas."""

    rules: Rules
    beside: Discovered
    samples: list[Sample] = field(default_factory=list)
    total: Tally = field(default_factory=Tally)
    examples: list[Shown] = field(default_factory=list)
    first_error: CorpusError | None = None


@dataclass(slots=True)
class _Gallery:
    """Rows to show: the first one of each schema, then the first of all rows."""

    by_schema: dict[str, Shown] = field(default_factory=dict)
    first: list[Shown] = field(default_factory=list)

    def offer(self, row: Shown) -> None:
        if len(self.by_schema) < EXAMPLES:
            self.by_schema.setdefault(row.schema, row)
        if len(self.first) < EXAMPLES:
            self.first.append(row)

    def chosen(self) -> list[Shown]:
        rows = list(self.by_schema.values())
        return (rows + [r for r in self.first if r not in rows])[:EXAMPLES]


def inspect_input(config: RunConfig, rows: int) -> Inspection:
    """How the rows of the input are understood: nothing is run, nothing is written.

    Args:
        config: Its `input` and `corpus` count.
        rows: At most so many rows are read from the head of each file.

    Returns:
        Samples of all files. A file that cannot be read becomes a sample with its error.

    Raises:
        ConfigError, CorpusError: There is no input.

    Example:
        >>> from mads_ray import RunConfig, inspect_input
        >>> found = inspect_input(RunConfig(input=("data/*.jsonl",), output="unused"), rows=100)
        >>> found.total.usable
        40
    """
    if not config.input:
        raise ConfigError("no input: give --input FILE, FOLDER or PATTERN (or --sample)")
    discovered = discover(config.input, splits=config.corpus.split)
    found = Inspection(rules_of(config.corpus), discovered)
    gallery = _Gallery()
    seen: set[int] = set()
    for file in discovered.files:
        sample, error = _sample(file, found.rules, rows, seen, gallery)
        found.samples.append(sample)
        found.total.add(sample.tally)
        found.first_error = found.first_error or error
    found.examples = gallery.chosen()
    return found


def _sample(
    file: InputFile, rules: Rules, most: int, seen: set[int], gallery: _Gallery
) -> tuple[Sample, CorpusError | None]:
    counter, patterns = RowCounter(file.path, rules), Counter[str]()
    read = repeats = n_turns = 0
    more, error = False, None
    try:
        with closing(read_rows(file)) as stream:  # type: ignore[type-var]
            for row in islice(stream, most):
                read += 1
                try:
                    reading, uid, _ = read_example(row, rules)
                except RowError as e:
                    counter.refuse(e, row.index)
                    continue
                counter.add(reading, row.value)
                turns = reading.conversation.messages
                n_turns += len(turns)
                if (roles := roles_of(turns)) in patterns or len(patterns) < _PATTERNS:
                    patterns[roles] += 1
                else:
                    patterns[OTHERS] += 1
                key = int(uid[:16], 16)
                repeats += key in seen
                seen.add(key)
                gallery.offer(Shown(file.path, row.index, reading.schema, reading.conversation))
            more = next(stream, None) is not None
    except CorpusError as e:
        error = e
    said = dict(patterns.most_common())
    tally = counter.settle()
    return Sample(file, read, more, tally, repeats, said, n_turns, str(error or "")), error


def roles_of(turns: Sequence[Message]) -> str:
    """Who speaks, such as `system (user assistant)*`: repeated pairs are written once."""
    letters = "".join(_LETTERS[m.role] for m in turns)
    shown = []
    at = 0
    for repeat in _REPEATED.finditer(letters):
        shown += [_WORDS[x] for x in letters[at : repeat.start()]]
        shown.append(f"({' '.join(_WORDS[x] for x in repeat[1])})*")
        at = repeat.end()
    shown += [_WORDS[x] for x in letters[at:]]
    return " ".join(shown[:12]) + (" ..." if len(shown) > 12 else "")


def format_of(file: InputFile) -> str:
    """Format and compression of a file, such as `jsonl, gzip`."""
    return f"{file.format}, {file.compression}" if file.compression else file.format


def to_json(found: Inspection, render: Render | None = None) -> dict[str, Any]:
    """The inspection as JSON, with all files."""
    return {
        "files": [s.to_json() for s in found.samples],
        "all": {
            "rows": sum(s.rows for s in found.samples),
            "usable": found.total.usable,
            "quarantined": found.total.quarantined,
            "repeats": sum(s.repeats for s in found.samples),
            **found.total.to_json(),
        },
        "left_out": [asdict(x) for x in found.beside.left_out],
        "warnings": unfound(found.total, found.rules),
        "examples": [
            {
                "file": x.file,
                "row": x.row,
                "schema": x.schema,
                "text": (render or plain)(x.conversation),
            }
            for x in found.examples
        ],
    }


def to_text(found: Inspection, render: Render | None = None) -> str:
    """The inspection as text. `render` shows an example, by default without a model's template."""
    told: list[str] = []
    for sample in found.samples[:_FILES]:
        told += _file_lines(sample, found.rules)
    if len(found.samples) > _FILES:
        told.append(f"and {len(found.samples) - _FILES} more files")
    if len(found.samples) > 1:
        rows, repeats = (sum(getattr(s, n) for s in found.samples) for n in ("rows", "repeats"))
        told.append(f"all {len(found.samples)} files: {_counts(rows, found.total, repeats)}")
        told += [f"  {line}" for line in lines(found.total, found.rules, _FATE)]
    told += list(map(one_line, found.beside.lines()))
    told += [f"warning: {line}" for line in unfound(found.total, found.rules)]
    for shown in found.examples:
        told += ["", f"{one_line(nearest(shown.file))} row {shown.row}, read as {shown.schema}:"]
        told += [f"  {line}" for line in (render or plain)(shown.conversation).split("\n")]
    return "\n".join(told)


def _file_lines(sample: Sample, rules: Rules) -> list[str]:
    told = [f"{one_line(nearest(sample.file.path))} ({format_of(sample.file)})"]
    if sample.error:
        told.append(f"  cannot be read: {one_line(sample.error)}")
    if sample.rows:
        whole = "the first " if sample.more else "all "
        told.append(f"  {whole}{_counts(sample.rows, sample.tally, sample.repeats)}")
    elif not sample.error:
        told.append("  no row")
    if sample.tally.usable:
        mean = sample.n_turns / sample.tally.usable
        told.append(f"  turns: {names(sample.turns)}; {mean:.1f} a row")
        told.append(f"  fields read: {names(sample.tally.read)}")
    return told + [f"  {line}" for line in lines(sample.tally, rules, _FATE)]


def _counts(rows: int, tally: Tally, repeats: int) -> str:
    return (
        f"{rows:,} rows: {tally.usable - repeats:,} examples, {repeats:,} exact duplicates, "
        f"{tally.quarantined:,} for quarantine"
    )


def plain(conversation: Conversation) -> str:
    """A conversation as text, without a model's template. Long text is cut."""
    told = []
    if conversation.tools:
        told.append(f"[tools] {_cut(conversation.tools)}")
    turns = conversation.messages
    for message in turns[:_TURNS]:
        if message.reasoning:
            told.append(f"[{message.role}, reasoning] {_cut(message.reasoning)}")
        if message.content.strip() or not (message.reasoning or message.calls):
            name = f" {one_line(message.name)}" if message.name else ""
            told.append(f"[{message.role}{name}] {_cut(message.content)}".rstrip())
        told += [
            f"[{message.role}, calls] {one_line(c.name)} {_cut(c.arguments)}" for c in message.calls
        ]
        told += [f"[{message.role}, without] {_cut(m)}" for m in message.media]
    if len(turns) > _TURNS:
        told.append(f"... and {len(turns) - _TURNS} more turns")
    told += [f"[without] {_cut(m)}" for m in conversation.media]
    return "\n".join(told)


def _cut(text: str) -> str:
    text = text.strip()
    if len(text) > _TEXT:
        text = f"{text[: _TEXT // 2]} ... {text[-_TEXT // 3 :]}"
    return "\n".join(one_line(line) for line in text.splitlines())
