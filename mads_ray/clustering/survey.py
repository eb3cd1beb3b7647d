"""What the landmarks of a pool tell of it: kinds of rows, and the places that repeat.

M landmarks, P places, K selected rows, S sketch length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import F64, I64, Mask
from mads_ray.clustering.landmarks import I8, Landmarks

_LEAST_PLACE = 3  # landmarks


@dataclass(frozen=True, slots=True)
class Place:
    """A dense place of the pool.

    `rows`: numbers of landmarks, first the centre, then some that are like it. `share`: of the
    pool's landmarks, those that are like the centre and like none of denser places.
    """

    rows: tuple[int, ...]
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """Landmarks of a pool, and what they tell of it.

    `kinds_M`: what each counts for in a count of kinds, 1 / (how many landmarks are like it, itself
    included), float64; 0 for a row of a base core set. `places`: the densest, densest first.
    """

    landmarks: Landmarks
    kinds_M: F64
    places: tuple[Place, ...]

    @property
    def kinds(self) -> float:
        """About how many kinds of rows the pool has, as far as its landmarks show them."""
        return float(self.kinds_M.sum())

    @classmethod
    def of(cls, landmarks: Landmarks, places: int = 5, rows: int = 3) -> Survey:
        """Look at M landmarks, in M^2 bytes. A place has at least three landmarks."""
        of_pool_M = landmarks.places_M2[:, 0] >= 0
        blocks = landmarks.alike(landmarks.directions_MS)
        near_MM = np.concatenate([*blocks, np.empty((0, len(landmarks)), bool)])
        kinds_M = of_pool_M / np.maximum(near_MM.sum(1), 1)
        found: list[Place] = []
        open_M = of_pool_M.copy()
        while len(found) < places and open_M.any():
            centre = int(((near_MM & open_M).sum(1) * open_M).argmax())
            here = near_MM[centre] & open_M
            if here.sum() < _LEAST_PLACE:
                break
            others = [int(i) for i in np.flatnonzero(here) if i != centre]
            share = float(here.sum() / of_pool_M.sum())
            found.append(Place((centre, *others[: rows - 1]), share))
            open_M &= ~here
        return cls(landmarks, kinds_M, tuple(found))

    def reached(self, directions_KS: I8) -> Reached:
        """What some selected rows reach of the pool."""
        landmarks_M, places_P = np.zeros(len(self.kinds_M), bool), [0] * len(self.places)
        for near_KM in self.landmarks.alike(directions_KS):
            landmarks_M |= near_KM.any(0)
            open_K = np.ones(len(near_KM), bool)
            for p, place in enumerate(self.places):
                here = near_KM[:, place.rows[0]] & open_K
                places_P[p] += int(here.sum())
                open_K &= ~here
        return Reached(landmarks_M, np.array(places_P, np.int64))

    def kinds_at_random(self, rows: int, selected: int) -> float:
        """Kinds that so many random rows reach on average, of a pool of so many rows.

        They miss a landmark which n rows are like with a chance of C(rows - n, selected) /
        C(rows, selected).
        """
        here_M = self.kinds_M[self.kinds_M > 0]
        like_M = np.rint(rows / len(self.landmarks) / here_M).astype(int)
        missed = (
            math.exp(log_binomial(rows - n, selected) - log_binomial(rows, selected))
            if rows - n >= selected
            else 0.0
            for n in like_M.tolist()
        )
        return math.fsum(kind * (1 - m) for kind, m in zip(here_M.tolist(), missed, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """What selected rows reach: the landmarks that one of them is like, bool (M,), and how many
    are in each dense place, int64 (P,). It adds up over shards."""

    landmarks_M: Mask
    places_P: I64

    def __add__(self, other: Reached) -> Reached:
        return Reached(self.landmarks_M | other.landmarks_M, self.places_P + other.places_P)


def log_binomial(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
