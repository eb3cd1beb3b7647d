"""Fill micro-batches to a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices so that rows x longest row <= budget, longest rows first.

    Sorting by length inside the window (here: the shard) keeps padding small; the longest batch
    comes first, so a budget that does not fit in memory shows at once. A single row longer than
    the budget forms a batch of its own. Ties keep their order: the result depends on input alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
