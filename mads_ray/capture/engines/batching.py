"""Fill micro-batches to a token budget that follows the device's memory."""

from __future__ import annotations

from collections.abc import Sequence


def by_length(lengths: Sequence[int]) -> list[int]:
    """Row indices, longest first. Ties keep their order, so the result depends on the input alone.

    Sorting inside a window keeps padding small. The longest batch comes first, so a budget that
    does not fit in memory shows at once.
    """
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def batch_end(lengths: Sequence[int], start: int, budget: int) -> int:
    """End of the batch that begins at `start`: rows x longest <= budget. `lengths` descend.

    A single row that is longer than the budget is a batch of its own.
    """
    fitting = max(1, budget // max(1, lengths[start]))
    return min(len(lengths), start + fitting)


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens, the longest rows first."""
    order = by_length(lengths)
    ordered = [lengths[i] for i in order]
    batches, start = [], 0
    while start < len(order):
        end = batch_end(ordered, start, budget)
        batches.append(order[start:end])
        start = end
    return batches


def budget_for(
    free_bytes: int, layers: int, width: int, hidden_size: int, element_size: int
) -> int:
    """Padded tokens that should fit in half of this memory: a power of two, 1,024 to 16,384.

    At its peak a layer holds about six tensors of its neurons and 16 of the hidden size for each
    token, and a row of at least 32 tokens has three of all pooled neurons in float32. Larger
    batches than 16,384 tokens hardly make a matrix product faster, and have more padding.
    """
    token = element_size * (6 * width + 16 * hidden_size) + 3 * 4 * layers * width // 32
    fitting = max(1, free_bytes // 2 // token)
    return int(min(16_384, max(1024, 2 ** (fitting.bit_length() - 1))))


class TokenBudget:
    """Padded tokens that a micro-batch may have.

    It halves when the device runs out of memory, down to a 64th of its first value. After
    `patience` batches that fit it doubles again, up to its first value: on a shared device other
    programs come and go.
    """

    def __init__(self, tokens: int, patience: int = 64) -> None:
        self.tokens = tokens
        self._most = tokens
        self._patience = patience
        self._fitted = 0

    def ran_out(self, padded_tokens: int) -> None:
        """A batch of so many padded tokens did not fit."""
        self.tokens = max(1, self._most // 64, min(self.tokens, padded_tokens) // 2)
        self._fitted = 0

    def fitted(self) -> None:
        """A batch did fit."""
        self._fitted += 1
        if self._fitted >= self._patience and self.tokens < self._most:
            self.tokens = min(self._most, 2 * self.tokens)
            self._fitted = 0
