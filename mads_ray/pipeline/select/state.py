"""Where an exchange stands after a round: what a checkpoint stores of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mads_ray.arrays import I64
from mads_ray.submodular.problem import Budget
from mads_ray.submodular.totals import Totals


@dataclass(frozen=True, slots=True, eq=False)
class ExchangeState:
    """Numbers and arrays alone. For their meaning see `Exchange`.

    `low_G`: floors as high as the candidates allow. `totals` of the rows that are selected.
    """

    depth: int
    budget: Budget
    low_G: I64
    totals: Totals
    left: Sequence[str]
    waves: int
    rounds: int
    started: int
    bound: int | None
