"""Find by their names which files of a folder are test or validation sets.

The words are those of Hugging Face `datasets`. A name means a split where it begins or ends with
the word (`test-00000-of-00001.parquet`, `test_sft`, `gsm8k_test.jsonl`, `validation/`). It does not
where the word stands in the middle (`my_eval_prompts.jsonl`) or within another word
(`latest.jsonl`). The name that is nearest to the rows decides: `test/train.jsonl` is a training
set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

ALL = "all"
TRAIN = "train"
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devset", "valset"),
    "test": ("test", "testing", "testset", "eval", "evaluation", "evalset", "heldout", "holdout"),
}
_SPLIT = {word: split for split, words in _WORDS.items() for word in words}
_AFTER = {"part", "shard", "v", "of", "set", "split"}  # what may follow the word, beside numbers
_NUMBERING = re.compile(r"[-_.]\d+[-_.]of[-_.]\d+.*$")
_LETTERS = re.compile(r"[^\W\d_]+")


def bare(stem: str) -> str:
    """A name without suffix and shard number: `test_sft` for `test_sft-00000-of-00002`."""
    return _NUMBERING.sub("", stem.lower())


def split_in(stem: str) -> str | None:
    """The split of one name: train, validation, test or None."""
    words = _LETTERS.findall(bare(stem))
    while len(words) > 1 and words[-1] in _AFTER:
        words.pop()
    said = [_SPLIT[w] for w in (words[:1] + words[-1:]) if w in _SPLIT]
    return TRAIN if TRAIN in said else next(iter(said), None)


def split_of(stems: Sequence[str]) -> str:
    """The split of a file by the names of its folders and its own, which comes last."""
    return next((s for s in map(split_in, reversed(stems)) if s), TRAIN)


def answers(wanted: str, stems: Sequence[str]) -> bool:
    """Whether these names mean the wanted split, or one of them is exactly that word."""
    group = _SPLIT.get(wanted)
    return group == split_of(stems) or wanted in {bare(s) for s in stems}


def is_wanted(stems: Sequence[str], wanted: Sequence[str], also: Iterable[str] = ()) -> bool:
    """Whether to read a file: of a wanted split, or by default not of test or validation."""
    if ALL in wanted or split_of(stems) in also:
        return True
    return any(answers(w, stems) for w in wanted or (TRAIN,))
