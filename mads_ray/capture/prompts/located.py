"""Find where each piece of a conversation lies in the text that a template rendered.

The template renders twice: the real text, and a copy in which each letter of a piece is replaced by
the code of that piece (a private-use character). Both texts must be equal everywhere else. A code
at some place then shows which piece is there. Text that a template may look for stays in the copy
(white space, quotes, what JSON escapes, the template's own constants), so that the template treats
both in the same way. Codes are searched in the copy only: a row may hold private-use characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mads_ray.capture.prompts.folding import Piece

_BASE, _PERIOD = 0xF0000, 0x20000  # planes 15 and 16
_CODES = re.compile("[\U000f0000-\U0010ffff]+")
_UNESCAPED = re.compile("[^\"\\\\<>&'\\x00-\\x1f]+")
_NEAR = 200  # characters that a template may put between the parts of a call
I64 = npt.NDArray[np.int64]


class Span(NamedTuple):
    """`text[start:end]` belongs to the piece `unit`.

    `exact`: it holds only text of the piece. `main`: it is the piece's own place, not a place where
    the template repeats the name of a call.
    """

    start: int
    end: int
    unit: int
    exact: bool = True
    main: bool = True


class Marker:
    """Makes the copies of pieces. `constants`: texts that the template may look for."""

    def __init__(self, constants: Iterable[str], avoid: Sequence[str]) -> None:
        shown = [c for c in constants if not any(a in c for a in avoid)]
        words = [c for c in shown if len(c) > 1 or not c.isalnum()]
        longest = sorted({*words}, key=lambda c: (-len(c), c))
        kept = "|".join([*map(re.escape, longest), "[\\s\"\\\\<>&'\\x00-\\x1f]"])
        self._kept = re.compile(f"((?:{kept})+)")
        self._foreign = re.compile(f"{_CODES.pattern}|{_any_of(avoid)}")

    def copy(self, text: str, unit: int) -> str:
        """`text` in the code of this unit, with the same length."""
        code = chr(_BASE + unit % _PERIOD)
        parts = self._kept.split(text)
        parts[0::2] = [code * len(p) for p in parts[0::2]]
        return "".join(parts)

    def letters(self, text: str, unit: int) -> str:
        """`text` in the code of this unit, without the characters that JSON and HTML escape."""
        return _UNESCAPED.sub(lambda m: chr(_BASE + unit % _PERIOD) * len(m.group()), text)

    def control(self, text: str, unit: int) -> str:
        """`text` with control tokens, and what looks like a code, in this unit's code."""
        return self._foreign.sub(lambda m: chr(_BASE + unit % _PERIOD) * len(m.group()), text)

    def wrap(self, text: str, unit: int) -> str:
        """`text` between two codes, for text without a letter that can be replaced."""
        code = chr(_BASE + unit % _PERIOD)
        return f"{code}{text}{code}"


def _any_of(words: Iterable[str]) -> str:
    """A pattern for the longest of these words. Of thousands of words it tries a few only."""
    tails: dict[str, list[str]] = {}
    for word in words:
        tails.setdefault(word[:1], []).append(word[1:])
    whole = tails.pop("", None) is not None
    if not tails:
        return "" if whole else "(?!)"
    parts = (re.escape(first) + _any_of(rest) for first, rest in sorted(tails.items()))
    return f"(?:{'|'.join(parts)}){'?' if whole else ''}"


@dataclass(slots=True)
class Unit:
    """A piece, its text as given to the template, and the copy of that.

    `whole`: everything from its first to its last letter is its text (as in a call).
    """

    piece: Piece
    text: str
    copy: str = ""
    codes: int = 0  # how many are in the copy
    wrapped: bool = False
    whole: bool = False
    tail: str = ""  # the end of a whole unit, where the template shows it in this form
    last: Sequence[str] = ()  # else: texts at its end, in order, that have no code


def letters(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text: uint32 (N,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def locate(text: str, copy: str, units: Sequence[Unit]) -> tuple[list[Span], I64] | None:
    """(spans in order, how many codes of each unit are there); None where text and copy differ."""
    a, b = letters(text), letters(copy)
    at = np.flatnonzero(b >= _BASE)
    unit_M = b[at].astype(np.int64) - _BASE
    if len(units) > _PERIOD:
        unit_M = np.unwrap(unit_M, period=_PERIOD).astype(np.int64)
    if len(at) and (unit_M.min() < 0 or unit_M.max() >= len(units)):
        return None
    shown = np.bincount(unit_M, minlength=len(units))
    wrapped_U = np.array([u.wrapped for u in units], np.bool_)
    put_M = wrapped_U[unit_M] if len(units) else np.zeros(len(at), np.bool_)
    if put_M.any():
        b = np.delete(b, at[put_M])
        at = at - (np.cumsum(put_M) - put_M)
    if len(a) != len(b) or not np.array_equal(a[b < _BASE], b[b < _BASE]):
        return None
    owner = np.full(len(a), -1, np.int64)
    owner[at[~put_M]] = unit_M[~put_M]
    _fill_wrapped(owner, at[put_M], unit_M[put_M])
    whole_U = np.array([u.whole for u in units], np.bool_)
    letter_M = ~put_M & ~whole_U[unit_M] if len(units) else put_M
    _fill(text, a, owner, at[letter_M], unit_M[letter_M], units)
    spans = [s._replace(main=not units[s.unit].whole) for s in _runs(owner)]
    hulls = _hulls(text, at[~put_M], unit_M[~put_M], units)
    return sorted(spans + hulls, key=lambda s: (s.start, s.end)), shown


def _runs(owner: I64) -> list[Span]:
    edges = np.flatnonzero(np.diff(owner)) + 1
    starts = np.concatenate([[0], edges]) if len(owner) else np.empty(0, np.int64)
    ends = np.concatenate([edges, [len(owner)]]) if len(owner) else np.empty(0, np.int64)
    return [
        Span(s, e, u)
        for s, e, u in zip(
            starts.tolist(),
            ends.tolist(),
            owner[starts].tolist() if len(owner) else [],
            strict=True,
        )
        if u >= 0
    ]


def _fill_wrapped(owner: I64, at: I64, unit_M: I64) -> None:
    order = np.argsort(unit_M, kind="stable")
    at, unit_M = at[order].tolist(), unit_M[order].tolist()
    for j in range(len(at) - 1):
        if unit_M[j] == unit_M[j + 1]:
            owner[at[j] : at[j + 1]] = unit_M[j]


def _fill(
    text: str, a: npt.NDArray[np.uint32], owner: I64, at: I64, unit_M: I64, units: Sequence[Unit]
) -> None:
    """Give text that stayed in the copy (spaces, quotes) to the piece around it."""
    if not len(at):
        return
    order = np.argsort(unit_M, kind="stable")
    at, unit_M = at[order], unit_M[order]
    seen = np.unique(unit_M)
    first_U = np.searchsorted(unit_M, seen)
    count_U = np.diff(np.append(first_U, len(unit_M)))
    want_U = np.array([units[u].codes for u in seen.tolist()], np.int64)
    # The letters of all pieces, one after the other, and the places of the replaced ones.
    c = letters("".join(units[u].text for u in seen.tolist()))
    begin_U = np.cumsum([0, *(len(units[u].text) for u in seen.tolist())])
    p = np.flatnonzero(letters("".join(units[u].copy for u in seen.tolist())) >= _BASE)
    begin_p_U = np.cumsum([0, *want_U[:-1]])
    whole_U = (want_U > 0) & (count_U % np.maximum(want_U, 1) == 0)
    row = np.repeat(np.arange(len(seen)), count_U)
    nth = (np.arange(len(at)) - first_U[row]) % np.maximum(want_U[row], 1)
    place = np.where(whole_U[row], p[np.minimum(begin_p_U[row] + nth, len(p) - 1)], -1)
    # Gaps between two letters of a piece.
    j = np.flatnonzero((row[1:] == row[:-1]) & (nth[1:] > 0) & (place[1:] >= 0))
    gap_a, gap_c = at[j + 1] - at[j] - 1, place[j + 1] - place[j] - 1
    j, gap_a, gap_c = (x[(gap_a > 0) | (gap_c > 0)] for x in (j, gap_a, gap_c))
    even = gap_a == gap_c
    jj, length = j[even], gap_a[even]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    ia, ic = (np.repeat(x[jj] + 1, length) + within for x in (at, place))
    same = a[ia] == c[ic]
    if len(jj):
        good = np.repeat(np.logical_and.reduceat(same, np.cumsum(length) - length), length)
        owner[ia[good]] = np.repeat(unit_M[jj], length)[good]
    for k in j[~even].tolist():
        unit = int(unit_M[k])
        start = int(place[k] - begin_U[row[k]]) + 1
        between = units[unit].text[start : start + int(place[k + 1] - place[k]) - 1]
        lo, hi = int(at[k]) + 1, int(at[k + 1])
        if text[lo:hi] == _escaped(between):
            owner[lo:hi] = unit
        else:
            n = _common(text[lo:hi], between)
            owner[lo : lo + n] = unit
            n = _common(text[lo + n : hi][::-1], between[n:][::-1])
            owner[hi - n : hi] = unit
    # Text before the first letter of a piece and after the last one.
    head = np.flatnonzero((nth == 0) & (place > begin_U[row]))
    for k in head.tolist():
        before = units[int(unit_M[k])].text[: int(place[k] - begin_U[row[k]])]
        end = int(at[k])
        n = _matching(text[max(0, end - 6 * len(before)) : end][::-1], before[::-1], True)
        owner[end - n : end] = unit_M[k]
    tail = np.flatnonzero((nth == want_U[row] - 1) & (place >= 0) & (place < begin_U[row + 1] - 1))
    for k in tail.tolist():
        after = units[int(unit_M[k])].text[int(place[k] - begin_U[row[k]]) + 1 :]
        start = int(at[k]) + 1
        n = _matching(text[start : start + 6 * len(after)], after, False)
        owner[start : start + n] = unit_M[k]


def _matching(text: str, kept: str, backwards: bool) -> int:
    """How many characters of `text` are `kept`, plain or escaped."""
    escaped = _escaped(kept[::-1])[::-1] if backwards else _escaped(kept)
    if text.startswith(escaped):
        return len(escaped)
    return _common(text, kept)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _common(x: str, y: str) -> int:
    n = 0
    for p, q in zip(x, y, strict=False):
        if p != q:
            break
        n += 1
    return n


def _hulls(text: str, at: I64, unit_M: I64, units: Sequence[Unit]) -> list[Span]:
    """Spans of whole units: from the first letter to the end of the tail."""
    found: list[Span] = []
    marks = np.append(at, len(text))
    order = np.argsort(unit_M, kind="stable")
    at, unit_M = at[order], unit_M[order]
    seen, first, count = np.unique(unit_M, return_index=True, return_counts=True)
    for u, i, n in zip(seen.tolist(), first.tolist(), count.tolist(), strict=True):
        if not units[u].whole or not units[u].codes:
            continue
        start, end = int(at[i]), int(at[i + min(n, units[u].codes) - 1]) + 1
        limit = int(marks[np.searchsorted(marks, end)])  # the next piece begins there
        for tail in {units[u].tail, _compact(units[u].tail)} - {"", "{}"}:
            near = start + len(units[u].text)
            begin = text.find(tail, near, min(near + len(tail) + _NEAR, limit))
            end = max(end, begin + len(tail)) if begin >= 0 else end
        for scalar in units[u].last:
            begin = text.find(scalar, end, min(end + len(scalar) + _NEAR, limit))
            end = begin + len(scalar) if begin >= 0 else end
        found.append(Span(start, end, u, exact=False))
    return found


def _compact(tail: str) -> str:
    try:
        return json.dumps(json.loads(tail), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return tail
