"""Sets of uids against Python's sets and sorting."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.evaluation.core_sets import Smallest, contains, sorted_words

WORD = st.sampled_from([0, 1, 2, 5, 2**63, 2**64 - 1])
UIDS = st.lists(st.tuples(WORD, WORD))


def words(uids):
    return np.array(uids, np.uint64).reshape(-1, 2)


@settings(deadline=None)
@given(UIDS, UIDS)
def test_membership(held, asked):
    found = sorted_words(words(held))
    assert [tuple(map(int, w)) for w in found] == sorted(set(held))
    assert contains(found, words(asked)).tolist() == [u in set(held) for u in asked]


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5), WORD), max_size=8)), st.integers(0, 6))
def test_the_smallest_of_a_stream(parts, k):
    """The key of a uid comes first; equal keys go by uid."""
    stream, rows = Smallest(k), []
    for p, part in enumerate(parts):
        new = [(key, word, p * 100 + i) for i, (key, word) in enumerate(part)]
        rows += new
        keys = np.array([key for key, _, _ in new], np.uint64)
        stream.add(keys, words([(high, low) for _, high, low in new]))
    wanted = sorted((high, low) for _, high, low in sorted(rows)[:k])
    assert [tuple(map(int, w)) for w in stream.words()] == wanted
