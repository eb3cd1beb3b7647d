"""A run folder as capture leaves it, with states that no processor can round in its own way.

All numbers come from hashes by whole-number arithmetic. Sketches lie in 24 tight, distant clouds
around points with few binary places, so that k-means has one answer, and every sum of it is exact.
The files are written by hand: what older versions stored must stay readable.

N rows, A neurons a row, S sketch length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, SHARDS = 900, 3  # shards of more rows than the 256 centroids of a summary
LAYERS, WIDTH, PER_LAYER, SKETCH = 4, 64, 8, 16
CLOUDS, SUPERS = 24, 6
FILES = ("/data/a.jsonl", "/data/b.jsonl", "/data/c.jsonl")


def write_states(root: Path) -> None:
    """Corpus, states and their markers. Every fourth row nearly equals the one before it."""
    cloud_N, uids = _clouds(), _uids()
    states = pa.table(
        {
            "uid": uids,
            "row_id": [int(uid[:16], 16) - 2**64 * (uid[0] >= "8") for uid in uids],
            "n_tokens": pa.array(_tokens(cloud_N), pa.int32()),
            "cut_tokens": pa.array([0] * ROWS, pa.int32()),
            "neurons": _column(_neurons(cloud_N, 10)),
            "sketch": _column(_sketches(cloud_N)),
            "raw_neurons": _column(_neurons(cloud_N, 20)),
        }
    )
    examples = pa.Table.from_pylist([_example(i, uids[i], int(cloud_N[i])) for i in range(ROWS)])
    (root / "corpus").mkdir(parents=True)
    (root / "states").mkdir()
    shards = []
    for shard in range(SHARDS):
        start, stop = (ROWS * x // SHARDS for x in (shard, shard + 1))
        checksum = _checksum(uids[start:stop])
        shards.append({"shard": shard, "rows": stop - start, "duplicates": 0, "checksum": checksum})
        for table, name in ((states, "states/part"), (examples, "corpus/shard")):
            pq.write_table(table.slice(start, stop - start), root / f"{name}-{shard:05d}.parquet")
        _write_json(root / f"states/part-{shard:05d}.done.json", _marker(shards[-1]))
    counts = {"read": ROWS, "quarantined": 0, "duplicates": 0, "examples": ROWS, "shards": shards}
    identity = {"files": [{"path": f} for f in FILES], "corpus": {}}
    _write_json(root / "corpus/ledger.json", {"identity": identity, **counts})
    _write_json(root / "states/manifest.json", _MANIFEST)


_MANIFEST = {
    "engine": "transformers",
    "model": "none",
    "revision": "",
    "dtype": "float32",
    "layers": LAYERS,
    "width": WIDTH,
    "neurons_per_layer": PER_LAYER,
    "sketch_dim": SKETCH,
    "hidden_dim": 0,
    "max_tokens": 2048,
    "calibration": "integers",
    "calibration_tokens": 0,
    "calibration_padded_tokens": 0,
    "requested": {"requested_revision": None},
    "raw": True,
}


def _marker(shard: dict[str, Any]) -> dict[str, Any]:
    return {
        "shard": shard["shard"],
        "captured": shard["rows"],
        "quarantined": 0,
        "checksum": shard["checksum"],
        "captured_checksum": shard["checksum"],
        "calibration": _MANIFEST["calibration"],
        "tokens": 0,
        "padded_tokens": 0,
        "cut_rows": 0,
        "seconds": 0.0,
    }


def _example(i: int, uid: str, cloud: int) -> dict[str, Any]:
    chance = int(_hash(1, i)) % 10
    said = {"prompt": f"Question {i}?", "completion": f"Answer {i}.", "task": f"t{cloud // 2}"}
    turns = [["user", said["prompt"]], ["assistant", said["completion"]]]
    return {
        "uid": uid,
        "source_file": FILES[0 if chance < 7 else 1 if chance < 9 else 2],
        "source_row": i,
        "label": said["task"],
        "messages": json.dumps(turns),
        "raw": json.dumps(said | {"about": {"quality": int(_hash(2, i)) % 101}}),
        "copies": 1 + (i % 7 == 0),
    }


def _clouds() -> np.ndarray:
    """Cloud of every row, (N,): of sizes about 1 : 1/2 : 1/3 and so on."""
    share_C = 10_000 // np.arange(1, CLOUDS + 1)
    share_C = share_C[np.argsort(_hash(3, np.arange(CLOUDS)))]  # not in the order of the sketches
    chance_N = _hash(4, np.arange(ROWS)) % np.uint64(share_C.sum())
    cloud_N = np.searchsorted(np.cumsum(share_C), chance_N.astype(np.int64), "right")
    cloud_N[3::4] = cloud_N[2::4]
    return cloud_N


def _uids() -> list[str]:
    """Ascending, as ingest leaves them: a shard is a range of uids."""
    step = 2**64 // ROWS
    return [
        f"{i * step + int(_hash(5, i)) % step:016x}{int(_hash(6, i)):016x}" for i in range(ROWS)
    ]


def _tokens(cloud_N: np.ndarray) -> np.ndarray:
    longest_N = 40 + 30 * cloud_N
    return 8 + (_hash(7, np.arange(ROWS)) % longest_N.astype(np.uint64)).astype(np.int64)


def _sketches(cloud_N: np.ndarray) -> np.ndarray:
    """float16 (N, S): distant centres in quarters, noise in steps of 1/256."""
    c, s = np.arange(CLOUDS)[:, None], np.arange(SKETCH)
    super_CS = (_hash(8, c % SUPERS, s) % np.uint64(9)).astype(np.int64) - 4
    centre_CS = super_CS + (_hash(9, c, s) % np.uint64(3)).astype(np.int64) - 1
    noise_NS = (_hash(30, np.arange(ROWS)[:, None], s) % np.uint64(3)).astype(np.int64) - 1
    return ((64 * centre_CS[cloud_N] + noise_NS) / 256).astype(np.float16)


def _neurons(cloud_N: np.ndarray, stream: int) -> np.ndarray:
    """uint16 (N, A): in each layer those with the largest product of popularity, in general and in
    the cloud, and chance."""
    layer, j = np.arange(LAYERS)[:, None], np.arange(WIDTH)
    place = layer * WIDTH + j
    everywhere_LW = _hash(stream, place) % np.uint64(24)
    in_cloud_CLW = _hash(stream + 1, np.arange(CLOUDS)[:, None, None], place) % np.uint64(24)
    popular_CLW = np.uint64(4096) // (np.uint64(1) + everywhere_LW + in_cloud_CLW)
    chance_NLW = _hash(stream + 2, np.arange(ROWS)[:, None, None], place) % np.uint64(1024)
    score_NLW = (popular_CLW[cloud_N] * chance_NLW).astype(np.int64)
    best_NLK = np.argsort(-score_NLW, axis=2, kind="stable")[:, :, :PER_LAYER]
    best_NLK[3::4] = best_NLK[2::4]
    for i in range(3, ROWS, 4):  # none, one or two of 32 neurons are others
        for n in range(int(_hash(stream + 3, i)) % 3):
            at, to = (int(_hash(stream + 4 + x, i, n)) for x in (0, 1))
            one_K = best_NLK[i, at % LAYERS]
            one_K[at % PER_LAYER] = next(
                v for v in ((to + x) % WIDTH for x in range(WIDTH)) if v not in one_K
            )
    return np.sort(best_NLK, axis=2).reshape(ROWS, -1).astype(np.uint16)


def _hash(stream: int, a: Any, b: Any = 0) -> Any:
    """A pseudo-random uint64 for each of (a, b): SplitMix64's finaliser."""
    with np.errstate(over="ignore"):
        x = np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15)
        for part in (a, b):
            x = x + np.asarray(part, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


def _column(values_NX: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NX.ravel()), values_NX.shape[1])


def _checksum(uids: list[str]) -> str:
    return f"{sum(int(u[:16], 16) + int(u[16:], 16) for u in uids) % 2**64:016x}"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
