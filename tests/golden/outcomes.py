"""Run scenarios, and tell the digests of what they leave behind."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digests import Pieces, digest, of_reading, of_selection, of_states
from doors import capture, load_config, run, select
from integer_states import write_states

Digests = dict[str, str]  # by part

# The pool's proportions are kept, unless a scenario says otherwise: digests from before there was a
# balance still hold.
AS_BEFORE = {"selection.balance": 0}

SAMPLE = Path(__file__).parents[2] / "mads_ray" / "sample_corpus"


@dataclass
class Outcomes:
    """Selections from the states in one folder, in the folder `work`, each made once.

    `corpus`: where the rows come from. `dump`: where to write what digests are of, for `diff -r`.
    """

    work: Path
    states: Path
    corpus: Path
    settings: dict[str, Any]
    dump: Path | None = None
    made: dict[str, Path] = field(default_factory=dict)

    def of(self, name: str, settings: dict[str, Any]) -> Digests:
        """Digests of a scenario: selection, core_set, report, summary."""
        parts = of_selection(self.output(name, settings), self.corpus)
        return {part: self._told(f"{name}/{part}", pieces) for part, pieces in parts.items()}

    def all(self, scenarios: dict[str, dict[str, Any]]) -> dict[str, Digests]:
        """Those of several, by name."""
        return {name: self.of(name, settings) for name, settings in scenarios.items()}

    def reading(self) -> Digests:
        """Of what was captured, as far as it is the same wherever the tokenizer is."""
        return {"reading": self._told("reading", of_reading(self.states, self.corpus))}

    def captured(self) -> Digests:
        """Of all that was captured."""
        return {"states": self._told("states", of_states(self.states, self.corpus))}

    def output(self, name: str, settings: dict[str, Any]) -> Path:
        """The run folder of a scenario."""
        if name not in self.made:
            folder = self.work / _plain(name)
            select(load_config(None, self._resolved(folder, settings)), self.states)
            self.made[name] = folder
        return self.made[name]

    def _resolved(self, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        found = {"output": str(folder), "ray.selection_workers": 1}
        found |= AS_BEFORE | self.settings | settings
        base, target = (f"selection.{x}" for x in ("base_core_set", "target"))
        if base in found:
            found[base] = str(self.output(found[base], {}))
        if target in found:
            found[target] = [str(self.work / f"{found[target]}.jsonl")]
        return found

    def _told(self, name: str, pieces: Pieces) -> str:
        """The digest; a copy of the pieces stays where that is wanted."""
        for piece, content in pieces.items() if self.dump is not None else ():
            path = self.dump / _plain(name) / _plain(piece)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return digest(pieces)


def of_integers(work: Path, dump: Path | None = None) -> Outcomes:
    """From states that are the same on any machine."""
    write_states(work / "states")
    settings = {"clustering.levels": [6, 12, 24]}
    return Outcomes(work, work / "states", Path("/data"), settings, dump)


def of_model(
    work: Path, corpus: Path, capturing: dict[str, Any], dump: Path | None = None
) -> Outcomes:
    """From a corpus that the model reads here. The first scenario, `defaults`, is made."""
    lines = (corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()
    work.mkdir(parents=True, exist_ok=True)
    (work / "target.jsonl").write_text("\n".join(lines[:6]) + "\n", encoding="utf-8")
    folder = work / "defaults"
    named = {"input": [str(corpus)], "output": str(folder), "ray.selection_workers": 1}
    config = load_config(None, named | AS_BEFORE | capturing)
    capture(config)
    run(config)  # takes up what is captured
    return Outcomes(work, folder, corpus, {}, dump, {"defaults": folder})


def write_corpus(folder: Path) -> None:
    """Every fourth row of the sample corpus, a few twice: all its forms, and broken rows."""
    folder.mkdir(parents=True)
    for name in ("alpaca.jsonl", "messages.jsonl"):
        lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines()
        text = "\n".join([*lines[::4], *lines[:20:4]])
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    chats = json.loads((SAMPLE / "sharegpt.json").read_text(encoding="utf-8"))
    (folder / "sharegpt.json").write_text(json.dumps(chats[::4]), encoding="utf-8")


def _plain(name: str) -> str:
    """A file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
