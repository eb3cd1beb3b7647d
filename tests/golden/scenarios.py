"""What is run: settings of a selection, by dotted names, as the command line has them."""

from __future__ import annotations

from typing import Any

METHODS = ("random", "length-matched-random", "kmeans", "k-center", "raw-topk-union")
EXCHANGE = {"selection.exact_rows": 0, "selection.buffer_rows": 64}
BOUNDS = {
    "selection.floor_per_cluster": 1,
    "selection.cap_per_cluster": 16,
    "selection.floor_per_source": 12,
    "selection.cap_per_source": 70,
}
QUALITY = {"selection.quality_column": "about.quality", "selection.quality_weight": 1.5}

BALANCE = {"selection.balance": 1}

# A base core set is named by the scenario that makes it.
BASE = {"selection.base_core_set": "defaults"}

# For states of whole numbers, in the suite: each constraint with others, in either mode.
TOGETHER: dict[str, dict[str, Any]] = {
    "defaults": {},
    "compare, bounds, quality, near-duplicates": {
        **BOUNDS,
        **QUALITY,
        "selection.near_duplicates": 0.95,
        "selection.size": 120,
        "selection.compare": METHODS,
    },
    "tokens, caps, quality, method": {
        **QUALITY,
        "selection.token_budget": 9000,
        "selection.cap_per_cluster": 7,
        "selection.cap_per_source": 60,
        "selection.method": "kmeans",
        "selection.compare": ("random", "mads"),
    },
    "exchange, tokens, uniform, parquet": {
        **EXCHANGE,
        "selection.token_budget": 9000,
        "selection.weights": "uniform",
        "selection.tree_share": 0.3,
        "selection.objective": "cap:3",
        "output_format": "parquet",
    },
    "balance": BALANCE,
    "exchange, balance, base": {**EXCHANGE, **BALANCE, **BASE, "selection.size": 100},
    "exchange, all constraints": {
        **EXCHANGE,
        **BOUNDS,
        **QUALITY,
        **BASE,
        "selection.near_duplicates": 0.95,
        "selection.size": 100,
    },
}

# By other workers: the same digests.
EXCHANGED = ("exchange, all constraints", "exchange", "exchange, balance, base")
WORKERS = {"ray.selection_workers": 3}

# Each by itself: only by the script.
ALONE: dict[str, dict[str, Any]] = {
    "compare": {"selection.compare": METHODS},
    **{f"method {m}": {"selection.method": m} for m in METHODS},
    "floor per cluster": {"selection.floor_per_cluster": 5},
    "cap per cluster": {"selection.cap_per_cluster": 6},
    "floor per source": {"selection.floor_per_source": 40},
    "cap per source": {"selection.cap_per_source": 45},
    "quality": QUALITY,
    "base": BASE,
    "near-duplicates": {"selection.near_duplicates": 0.9},
    "tokens": {"selection.token_budget": 9000},
    "size": {"selection.size": 7},
    "log1p": {"selection.objective": "log1p"},
    "union": {"selection.objective": "union"},
    "cap:3": {"selection.objective": "cap:3"},
    "uniform": {"selection.weights": "uniform"},
    "parquet": {"output_format": "parquet"},
    "seed": {"seed": 7},
    "exchange": {**EXCHANGE, "selection.size": 120},
    "exchange, floors": {**EXCHANGE, "selection.floor_per_cluster": 3},
    "exchange, base, near-duplicates": {**EXCHANGE, **BASE, "selection.near_duplicates": 0.9},
    "exchange, quality, compare": {**EXCHANGE, **QUALITY, "selection.compare": METHODS},
}

# K-means must round here: shards have more rows than their summaries, and clouds are parted.
SUMMARIES: dict[str, dict[str, Any]] = {
    "summaries": {
        "clustering.exact_rows": 0,
        "clustering.fan_in": 2,
        "clustering.levels": [6, 12, 100],
    }
}
SUMMARIES |= {"summaries, balance": SUMMARIES["summaries"] | BALANCE}

# For a part of the sample corpus, in the suite.
CAPTURE = {
    "corpus.shard_rows": 24,
    "capture.calibration_rows": 32,
    "capture.max_tokens": 192,
    "capture.store_raw": True,
    "capture.store_hidden": True,
}
OF_THE_MODEL: dict[str, dict[str, Any]] = {
    "defaults": {},
    "compare": {"selection.compare": METHODS, "selection.fraction": 0.2},
    "balance": BALANCE,
    "exchange, target": {**EXCHANGE, "selection.size": 30, "selection.target": "target"},
}

# For the whole sample corpus, by the script. No row of it has a quality.
CAPTURE_WHOLE = {"capture.store_raw": True}
OF_THE_WHOLE = OF_THE_MODEL | {
    "target": {"selection.target": "target"},
    "bounds": BOUNDS | {"clustering.levels": [4, 8]},
    **{k: v for k, v in ALONE.items() if "quality" not in k and "floor" not in k},
}
