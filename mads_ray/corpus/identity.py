"""The uid of an example: a 128-bit hash of its canonical conversation."""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.corpus.conversation import Conversation

_SHORT, _MOST_MARKS, _LAST_MARK = 1024, 30, 0x1EFFF
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def uid_of(conversation: Conversation) -> str:
    """The uid as 32 hex digits: BLAKE2b-128 of all that the conversation holds.

    Text is hashed in NFC, without white space at both ends.
    """
    if conversation.is_plain:  # nearly all; the encoder takes three times as long for lists
        turns = (f'["{m.role}",{_ENCODE(_canonical(m.content))}]' for m in conversation.messages)
        text = f"[{','.join(turns)}]"
    else:
        text = _ENCODE(_canonical(conversation.plain()))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _canonical(value: Any) -> Any:
    if type(value) is str:
        return value.strip() if value.isascii() else _composed(value).strip()
    if type(value) is dict:
        return {k: _canonical(v) for k, v in value.items()}
    return [_canonical(v) for v in value]


def _composed(text: str) -> str:
    """The text in NFC.

    Python sorts a sequence of combining marks in quadratic time. So in a long text a sequence of
    over 30 marks stays as it is: no language has one, and 30 is the limit of Unicode's Stream-Safe
    Text Format (UAX 15).
    """
    if len(text) <= _SHORT:
        return unicodedata.normalize("NFC", text)
    code_T = np.frombuffer(text.encode("utf-32-le"), "<u4")
    is_mark_T = np.append(_marks()[np.minimum(code_T, _LAST_MARK + 1)], False)
    edges = np.flatnonzero(np.diff(is_mark_T, prepend=False))
    starts, ends = edges[0::2], edges[1::2]
    long = ends - starts > _MOST_MARKS
    pieces, at = [], 0
    for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        pieces += [unicodedata.normalize("NFC", text[at:start]), text[start:end]]
        at = end
    return "".join([*pieces, unicodedata.normalize("NFC", text[at:])])


@functools.cache
def _marks() -> npt.NDArray[np.bool_]:
    """For each code point, whether it or its decomposition begins with a combining mark."""
    is_mark = np.zeros(_LAST_MARK + 2, np.bool_)
    for code in range(0x300, _LAST_MARK + 1):
        is_mark[code] = unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0]) != 0
    return is_mark
