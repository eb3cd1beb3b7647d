import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.capture.engines.batching import TokenBudget, batch_end, budget_for, by_length


def batches(lengths, budget):
    order, start, found = by_length(lengths), 0, []
    descending = [lengths[i] for i in order]
    while start < len(order):
        end = batch_end(descending, start, budget)
        found.append(order[start:end])
        start = end
    return found


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 2000))
def test_every_row_is_in_exactly_one_batch_within_the_budget(lengths, budget):
    found = batches(lengths, budget)
    assert sorted(i for b in found for i in b) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 2000))
def test_no_batch_could_take_the_next_row(lengths, budget):
    for batch in batches(lengths, budget)[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_longest_first_and_stable():
    assert batches([5, 9, 5, 9, 1], 18) == [[1, 3], [0, 2, 4]]


def test_a_budget_halves_and_recovers():
    budget = TokenBudget(1000, patience=3)
    budget.ran_out(900)
    assert budget.tokens == 450
    budget.ran_out(300)  # a batch below the budget that did not fit either
    assert budget.tokens == 150
    seen = []
    for _ in range(12):
        budget.fitted()
        seen.append(budget.tokens)
    assert seen == [150, 150, 300, 300, 300, 600, 600, 600, 1000, 1000, 1000, 1000]


@given(st.integers(0, 2**38), st.integers(1, 128), st.integers(64, 2**15), st.integers(64, 2**13))
def test_the_first_budget_follows_memory_and_shape(free, layers, width, hidden):
    budget = budget_for(free, layers, width, hidden, 2)
    assert budget in [2**i for i in range(10, 15)]
    assert budget_for(2 * free, layers, width, hidden, 2) >= budget
    assert budget_for(free, 2 * layers, 2 * width, hidden, 2) <= budget


def test_first_budgets_of_real_shapes():
    """Llama-3.2-3B in bfloat16: on 70 GiB, and on what 8 GiB leave beside its weights."""
    assert budget_for(70 * 2**30, 28, 8192, 3072, 2) == 16_384
    assert budget_for(3 * 2**29, 28, 8192, 3072, 2) == 2048


@pytest.mark.parametrize(("most", "least"), [(3, 1), (6400, 100)])
def test_a_budget_has_a_floor(most, least):
    """One short batch on a full device says little about the next ones."""
    budget = TokenBudget(most)
    for _ in range(15):
        budget.ran_out(2)
    assert budget.tokens == least
