"""Rows of every kind that JSON can hold, and when two are the same."""

import math

from hypothesis import strategies as st

# Also half surrogate pairs, line ends of all kinds, and what JSON must escape.
_ODD = st.sampled_from(
    ["\ud83d", "\udc00", "\r", "\n", "\x00", "\x1b", "\u2028", "\x85", '"', "\\"]
)
_TEXT = st.text(max_size=6) | st.lists(_ODD, max_size=3).map("".join)
_NUMBERS = st.integers() | st.integers(-(2**80), 2**80) | st.floats() | st.just(10**400)
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXT


def values():
    """A value of a field."""
    return st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
        max_leaves=8,
    )


def names():
    """The name of a field, often the same."""
    return st.sampled_from(["a", "b", "_mads", "_more", ""]) | _TEXT


def deep(levels):
    value = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def deep_text(levels):
    return (
        "".join('{"k": ' if n % 2 == 0 else "[" for n in reversed(range(levels)))
        + "1"
        + ("".join("}" if n % 2 == 0 else "]" for n in range(levels)))
    )


def same(found, wanted, nan_is_null=False, absent_is_null=False):
    """Equality without recursion, with what JSON or Parquet cannot tell apart."""
    todo = [(found, wanted)]
    while todo:
        one, other = todo.pop()
        if isinstance(other, float) and not math.isfinite(other):
            if nan_is_null and one is None:
                continue
            if not isinstance(one, float) or not (one == other or (one != one and other != other)):
                return False
        elif isinstance(other, dict):
            if not isinstance(one, dict) or not one.keys() >= other.keys():
                return False
            more = [one[k] for k in one.keys() - other.keys()]
            if more and not (absent_is_null and all(v is None for v in more)):
                return False
            todo += [(one[k], other[k]) for k in other]
        elif isinstance(other, list):
            if not isinstance(one, list) or len(one) != len(other):
                return False
            todo += list(zip(one, other, strict=True))
        elif isinstance(one, bool) != isinstance(other, bool) or one != other:
            return False
    return True
