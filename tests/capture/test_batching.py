from hypothesis import given
from hypothesis import strategies as st

from mads_ray.capture.batching import token_budget_batches


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 2000))
def test_every_row_is_in_exactly_one_batch_within_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 2000))
def test_no_batch_could_take_the_next_row(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_longest_first_and_stable():
    assert token_budget_batches([5, 9, 5, 9, 1], 18) == [[1, 3], [0, 2, 4]]
