"""Gather what the report shows, from tallies and small files, as plain JSON (report.json)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mads_ray.clustering.survey import log_binomial
from mads_ray.clustering.tree import ClusterTree
from mads_ray.report.selection_tally import LENGTH_EDGES, TYPICAL_ROWS, SelectionTally
from mads_ray.run_folder import RunFolder

_MAX_NAMES = 60
_QUARANTINE_SHOWN = 12


def report_data(
    source: RunFolder,
    tree: ClusterTree,
    curve: dict[str, Any],
    methods: dict[str, dict[str, float]],
    tally: SelectionTally,
    reading: dict[str, Any],
    density: dict[str, Any],
) -> dict[str, Any]:
    """All that the report shows beside run.json. Its size grows with clusters and labels, not rows.

    `reading` is that field of run.json; `density` too, with the texts of rows.
    """
    return {
        "curve": curve,
        "clusters": _clusters(tree, tally),
        "tree_levels": list(tree.level_sizes),
        "labels": _reached(tally.labels, tally.labels_core, tally.rows, tally.selected),
        "files": _reached(tally.files, tally.files_core, tally.rows, tally.selected),
        "lengths": {
            "edges": LENGTH_EDGES,
            "pool": np.asarray(tally.lengths).tolist(),
            "core": np.asarray(tally.lengths_core).tolist(),
            "mean_pool": tally.tokens / max(1, tally.rows),
            "mean_core": tally.tokens_core / max(1, tally.selected),
        },
        "methods": _methods(methods, tally),
        "reading": reading,
        "density": density,
        "quarantine": {"shown": _quarantine(source)},
        "core_set_notes": tally.notes,
    }


def _clusters(tree: ClusterTree, tally: SelectionTally) -> list[dict[str, Any]]:
    """Clusters of the coarsest level, largest first, with typical rows of their largest leaves."""
    coarse_of_leaf = tree.paths_CP[:, 0]
    leaf_start = tree.nodes - len(tree.paths_CP)
    found = []
    for node in range(tree.level_sizes[0]):
        leaves = np.flatnonzero(coarse_of_leaf == node)
        by_size = sorted(leaves, key=lambda leaf: -int(tally.nodes[leaf_start + leaf]))
        ranked = [
            (place, order, row)
            for order, leaf in enumerate(by_size)
            for place, (_, _, row) in enumerate(tally.typical.get(int(leaf), []))
        ]
        ranked.sort(key=lambda r: r[:2])  # first the centre of each large leaf
        found.append(
            {
                "cluster": node,
                "leaves": len(leaves),
                "pool": int(tally.nodes[node]),
                "core": int(tally.nodes_core[node]),
                "typical": [row for _, _, row in ranked[:TYPICAL_ROWS]],
            }
        )
    return sorted(found, key=lambda c: -int(c["pool"]))


def _reached(
    pool: Counter[str], core: Counter[str], rows_total: int, selected: int
) -> dict[str, Any]:
    rows = [{"name": n, "pool": c, "core": core.get(n, 0)} for n, c in pool.most_common()]
    return {
        "total": len(pool),
        "reached": sum(1 for n in pool if core.get(n)),
        "expected_random": _expected_random(pool, rows_total, selected),
        "rows": rows[:_MAX_NAMES],
    }


def _expected_random(pool: Counter[str], rows: int, selected: int) -> float:
    """Mean number of names in a random subset. It misses one of n rows with C(N-n, K) / C(N, K)."""
    whole = log_binomial(rows, selected)
    missed = (
        math.exp(log_binomial(rows - n, selected) - whole) if rows - n >= selected else 0.0
        for n in pool.values()
    )
    return len(pool) - sum(missed)


def _methods(figures: dict[str, dict[str, float]], tally: SelectionTally) -> list[dict[str, Any]]:
    """Core sets of the same budget side by side, with the labels and clusters that each reaches."""
    if not tally.leaves_by:
        return []
    return [
        {
            "method": method,
            **of,
            "labels": len(tally.labels_by[method]),
            "clusters": len(tally.leaves_by[method]),
        }
        for method, of in figures.items()
    ]


def _quarantine(folder: RunFolder) -> list[dict[str, Any]]:
    """The first rows in quarantine."""
    shown: list[dict[str, Any]] = []
    for path in sorted(folder.quarantine.glob("part-*.parquet")):
        batch = next(pq.ParquetFile(path).iter_batches(_QUARANTINE_SHOWN - len(shown)), None)
        shown += [] if batch is None else batch.to_pylist()
        if len(shown) >= _QUARANTINE_SHOWN:
            break
    for row in shown:
        row["raw"] = row["raw"][:160]
    return shown
