"""Speed of lazy greedy against apricot-select and submodlib, side by side on one thread.

The objective is the same for all: sqrt of how many selected rows have each neuron, on the scale
generator's zipf states without a cluster tree, 15% of the rows. Each side gets its own data
structure for free: only greedy itself is timed, in CPU seconds, so that other programs on the
machine do not count, and without compilation (apricot compiles in every fit). apricot runs on a
dense array, as in its documentation, and again on a sparse matrix, on which it is faster here.
submodlib's compiled class is called without its Python wrapper, which would expand the features to
dense lists (15 GB at 10,000 rows). Our side runs before and after each peer.

Ties between equal gains (all rows have the same gain at first) are broken differently, so picks
differ; `same_f` compares the f that the peer reports with ours for the peer's picks.

  pip install --no-deps --target DIR apricot-select submodlib-py
  PYTHONPATH=DIR python benchmarks/selection_peers.py [--store]

Both work on Python 3.11 with NumPy 2. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apricot import FeatureBasedSelection
from scipy.sparse import csr_matrix
from submodlib_cpp import FeatureBased

from mads_ray.hashing import uid_words
from mads_ray.states import read_matrix
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import FeatureSpace, Objective, make_objective
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows

sys.path.insert(0, str(Path(__file__).parent))
from results import store
from synthetic import Corpus, make_tables, states

I64 = npt.NDArray[np.int64]

BUDGET = 0.15
REPEATS = 3  # of our side, before and after a peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--apricot-rows", type=int, default=5_000, help="0 leaves it out")
    parser.add_argument("--submodlib-rows", type=int, default=10_000, help="0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="keep under benchmarks/results")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "selection_peers", "data": "zipf", "budget": BUDGET}
    if args.submodlib_rows:
        result |= compare("submodlib", submodlib_greedy, args.submodlib_rows, args.seed)
    if args.apricot_rows:
        result |= compare("apricot_sparse", apricot_sparse_greedy, args.apricot_rows, args.seed)
        result |= compare("apricot", apricot_greedy, args.apricot_rows, args.seed)
    for package in ("apricot-select", "submodlib-py", "numpy", "numba"):
        result[f"{package}_version"] = importlib.metadata.version(package)
    for key, value in result.items():
        print(f"  {key:24} {value}")
    if args.store:
        store("selection_peers", result)
    print(json.dumps(result))


def compare(
    name: str, greedy: Callable[[I64, int, int], tuple[I64, float, float]], rows: int, seed: int
) -> dict[str, Any]:
    """`greedy` takes (features_NA, n_features, size) and returns (picks, its own f, seconds)."""
    corpus, size = Corpus("zipf", rows, seed), int(BUDGET * rows)
    table, objective = states(corpus, make_tables(corpus), 0, rows), our_objective(corpus)
    features_NA = read_matrix(table, "neurons") + objective.layer_start_A.astype(np.int64)

    def f(picks: I64) -> float:
        return float(np.sqrt(np.bincount(features_NA[picks].ravel())).sum())

    lazy_greedy(our_rows(table.slice(0, 10)), Problem(objective, Budget(rows=1)))  # compiles
    before = [our_greedy(table, objective, size, seed) for _ in range(REPEATS)]
    picks, reported, seconds = greedy(features_NA, objective.neurons, size)
    after = [our_greedy(table, objective, size, seed) for _ in range(REPEATS)]
    assert len(np.unique(picks)) == size
    ours = statistics.median(s for _, s in before + after)
    return {
        f"{name}_rows": rows,
        f"{name}_seconds": round(seconds, 3),
        f"{name}_our_seconds": round(ours, 4),
        f"{name}_our_range": [round(x(s for _, s in before + after), 4) for x in (min, max)],
        f"{name}_ratio": round(seconds / ours, 1),
        f"{name}_f_ratio": round(f(before[0][0]) / f(picks), 6),
        f"{name}_same_f": round(reported / f(picks), 9),
    }


def our_rows(table: pa.Table) -> FeatureRows:
    return FeatureRows(
        np.stack(uid_words(table.column("uid").to_pylist()), axis=1),
        table.column("n_tokens").to_numpy().astype(np.int32),
        read_matrix(table, "neurons"),
        np.zeros((len(table), 0), np.int32),
    )


def our_objective(corpus: Corpus) -> Objective:
    return make_objective("sqrt", FeatureSpace(corpus.layers, corpus.width, corpus.per_layer))


def our_greedy(table: pa.Table, objective: Objective, size: int, seed: int) -> tuple[I64, float]:
    rows = our_rows(table)
    started = time.process_time()
    picks = lazy_greedy(rows, Problem(objective, Budget(rows=size), seed=seed)).picks
    return picks, time.process_time() - started


class TimedSelection(FeatureBasedSelection):  # type: ignore[misc]
    """Notes when it is compiled and about to start."""

    def _initialize(self, X: Any) -> None:
        super()._initialize(X)
        self.started = time.process_time()


def apricot_greedy(features_NA: I64, n_features: int, size: int) -> tuple[I64, float, float]:
    features_ND = np.zeros((len(features_NA), n_features))
    np.put_along_axis(features_ND, features_NA, 1.0, axis=1)
    return _apricot(features_ND, size)


def apricot_sparse_greedy(features_NA: I64, n_features: int, size: int) -> tuple[I64, float, float]:
    ends = np.arange(len(features_NA) + 1, dtype=np.int32) * features_NA.shape[1]
    entries = np.ones(features_NA.size), features_NA.ravel().astype(np.int32), ends
    return _apricot(csr_matrix(entries, shape=(len(features_NA), n_features)), size)


def _apricot(features: Any, size: int) -> tuple[I64, float, float]:
    selector = TimedSelection(size, "sqrt", optimizer="lazy")
    selector.fit(features)
    seconds = time.process_time() - selector.started
    return selector.ranking, float(selector.gains.sum()), seconds


def submodlib_greedy(features_NA: I64, n_features: int, size: int) -> tuple[I64, float, float]:
    pairs = [(j, 1.0) for j in range(n_features)]
    rows = [[pairs[j] for j in features_A] for features_A in features_NA]
    weights = [1.0] * n_features
    f = FeatureBased(len(rows), FeatureBased.squareRoot, rows, n_features, weights)
    started = time.process_time()
    # size, stop at zero or negative gain, epsilon, verbose, progress bar, costs, by cost
    found = f.maximize("LazyGreedy", size, False, False, 0.1, False, False, [], False)
    seconds = time.process_time() - started
    return np.array([i for i, _ in found]), sum(gain for _, gain in found), seconds


if __name__ == "__main__":
    main()
