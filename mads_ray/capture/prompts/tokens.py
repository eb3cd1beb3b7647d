"""Turn text into token ids. The text of a row never becomes a control token.

A tokenizer finds control tokens wherever their text stands. Those of the template stay. Those that
a row spells are encoded again as plain text, apart from the text around them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Encoded = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]  # ids_T, offsets_T2
Places = Sequence[tuple[int, int]]  # starts and ends in a text, ordered by start


def covered(offsets_T2: npt.NDArray[np.int64], places: Places) -> npt.NDArray[np.bool_]:
    """Which tokens share a character with one of these places: bool (T,)."""
    covered_T = np.zeros(len(offsets_T2), np.bool_)
    starts_T, ends_T = offsets_T2[:, 0], offsets_T2[:, 1]
    if (starts_T[1:] < starts_T[:-1]).any():  # tokens without text at the end
        starts_T, ends_T = np.maximum.accumulate(starts_T), np.maximum.accumulate(ends_T)
    first = ends_T.searchsorted([start for start, _ in places], "right")
    last = starts_T.searchsorted([end for _, end in places], "left")
    for i, k in zip(first.tolist(), last.tolist(), strict=True):
        covered_T[i:k] = True
    covered_T &= offsets_T2[:, 1] > offsets_T2[:, 0]
    return covered_T


class Tokeniser:
    """Tokenises rendered text. `control`: texts and ids of control tokens; `bare`: no template."""

    def __init__(self, tokenizer: Any, control: dict[str, int], bare: bool) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._control = control
        self._bare = bare
        self._is_control = np.zeros(max(control.values(), default=0) + 2, np.bool_)
        self._is_control[list(control.values())] = True
        self._newline = len(self._encode("\n")[0])

    def __call__(
        self, text: str, own: Places, exact: Places
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(ids_T, offsets_T2 in `text`, own_T).

        `own`: the places whose tokens are own. `exact`: the places that hold text of the row only.
        """
        ids_T, offsets_T2 = self._encode(text, self._bare)
        own_T = covered(offsets_T2, own)
        control = self._controls(ids_T)
        row_T = own_T if own == exact else covered(offsets_T2, exact)
        forged = control[row_T[control]]
        if len(forged):
            whole = (ids_T, offsets_T2)
            ids_T, offsets_T2 = self._around(text, offsets_T2[forged].tolist(), exact, whole)
            own_T = covered(offsets_T2, own)
            control = self._controls(ids_T)
        own_T[control] = False  # a template may write some within a call
        return ids_T, offsets_T2, own_T

    def _controls(self, ids_T: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        return self._is_control.take(ids_T, mode="clip").nonzero()[0]

    def _encode(self, text: str, add: bool = False, as_text: bool = False) -> Encoded:
        # The backend itself: the code of transformers around it takes a third of the time.
        backend = self._backend
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens != as_text:
            backend.encode_special_tokens = as_text
        try:
            encoded = backend.encode(text, add_special_tokens=add)
        except (UnicodeEncodeError, TypeError):  # half a surrogate pair in a call or tool
            repaired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            if repaired == text:
                raise
            return self._encode(repaired, add, as_text)
        offsets = np.fromiter(chain.from_iterable(encoded.offsets), np.int64)
        return np.array(encoded.ids, np.int32), offsets.reshape(-1, 2)

    def _around(
        self, text: str, forged: Iterable[tuple[int, int]], exact: Places, whole: Encoded
    ) -> Encoded:
        """Encode the texts of the row with these places as plain text, and the rest as usual."""
        starts, ends = ([place[k] for place in exact] for k in (0, 1))
        pairs: list[tuple[int, int]] = []
        for s, e in forged:
            i, k = bisect_right(ends, s), bisect_left(starts, e) - 1
            if i <= k:
                s, e = min(s, starts[i]), max(e, ends[k])
            if pairs and s <= pairs[-1][1]:
                first, last = pairs.pop()
                s, e = first, max(last, e)
            pairs.append((s, e))
        parts: list[Encoded] = []
        at = 0
        for s, e in pairs:
            parts += [self._piece(text, at, s), self._plain(text, s, e)]
            at = e
        parts.append(self._piece(text, at, len(text)))
        return _joined(_with_ends(parts, whole) if self._bare else parts)

    def _plain(self, text: str, start: int, end: int) -> Encoded:
        """Encode as plain text. Control tokens that are not special are cut after one letter."""
        ids_T, offsets_T2 = self._piece(text, start, end, as_text=True)
        control = self._controls(ids_T)
        if not len(control):
            return ids_T, offsets_T2
        parts: list[Encoded] = []
        at = start
        found = ((s, text[s:e]) for s, e in offsets_T2[control].tolist())
        cuts = [s + len(token) - len(token.lstrip()) + 1 for s, token in found]
        for cut in [*cuts, end]:
            parts.append(self._piece(text, at, cut, as_text=True))
            at = cut
        return _joined(parts)

    def _piece(self, text: str, start: int, end: int, as_text: bool = False) -> Encoded:
        """Encode part of a text, after a line break: some tokenizers add a space at the start."""
        if start == end:
            return np.empty(0, np.int32), np.empty((0, 2), np.int64)
        if start == 0:
            return self._encode(text[:end], as_text=as_text)
        ids_T, offsets_T2 = self._encode("\n" + text[start:end], as_text=as_text)
        n = self._newline
        if n < len(ids_T) and (offsets_T2[:n, 1] <= 1).all() and offsets_T2[n, 0] >= 1:
            return ids_T[n:], offsets_T2[n:] + start - 1
        ids_T, offsets_T2 = self._encode(text[start:end], as_text=as_text)
        return ids_T, offsets_T2 + start


def _joined(parts: Sequence[Encoded]) -> Encoded:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _with_ends(parts: list[Encoded], whole: Encoded) -> list[Encoded]:
    """Add the tokens without text that the tokenizer puts first and last."""
    ids_T, offsets_T2 = whole
    empty_T = offsets_T2[:, 0] == offsets_T2[:, 1]
    full = np.flatnonzero(~empty_T)
    head, tail = int(full[0]), int(full[-1]) + 1
    return [(ids_T[:head], offsets_T2[:head]), *parts, (ids_T[tail:], offsets_T2[tail:])]
