"""A synthetic pool that repeats itself, of any size: a folder as capture leaves it.

2,000 kinds of rows of Zipf sizes, and three templates of 15% each. A kind is a direction of
sketches and a set of neurons; rows of it differ in both. For benchmarks/density.py and
benchmarks/density_cost.py: scale, never quality. N rows, K kinds, L layers, A neurons of a layer, S
sketch length.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mads_ray.config import CorpusConfig
from mads_ray.hashing import checksum
from mads_ray.ledger import CorpusLedger, ShardRecord, StateRecord
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, fixed_list, states_schema
from mads_ray.storage import write_json, write_parquet

KINDS, TEMPLATES, TEMPLATE_SHARE = 2000, 3, 0.15
SKETCH = 256
NOISE = 1.2  # of a sketch, by the length of its kind's direction: within a kind cosines are 0.4
OWN = 0.5  # the chance that a row shows a neuron of its kind
SHARD_ROWS = 4096

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """Of a model."""

    layers: int
    width: int
    per_layer: int


SMALL, SMOLLM2 = Shape(8, 1024, 16), Shape(30, 1536, 64)


def pool(cache: Path, rows: int, shape: Shape) -> RunFolder:
    """A folder as capture leaves it, made once."""
    folder = RunFolder(cache / f"pool-{rows}-{shape.layers}")
    if folder.manifest.exists():
        return folder
    shards, counts = -(-rows // SHARD_ROWS), []
    rng = np.random.default_rng(2)
    direction_KS = rng.normal(size=(KINDS + TEMPLATES, SKETCH)).astype(np.float32)
    direction_KS /= np.linalg.norm(direction_KS, axis=1, keepdims=True)
    own_KLA = np.stack(
        [
            rng.random((shape.layers, shape.width)).argpartition(shape.per_layer)[
                :, : shape.per_layer
            ]
            for _ in range(KINDS + TEMPLATES)
        ]
    ).astype(np.uint16)
    kind_N = kinds_of(np.arange(rows))
    for shard in range(shards):
        mine = np.arange(rows * shard // shards, rows * (shard + 1) // shards)
        table, examples = _shard(
            mine, kind_N[mine], 2**64 // rows, shape.width, direction_KS, own_KLA
        )
        write_parquet(folder.state_file(shard), table)
        write_parquet(folder.shard_file(shard), examples)
        total = checksum(table.column("uid").to_pylist())
        record = StateRecord(shard, len(mine), 0, total, total, "density", 0, 0, 0, 0.0)
        write_json(folder.state_marker(shard), asdict(record))
        counts.append(ShardRecord(shard, len(mine), 0, total))
    identity = {
        "files": [{"path": "/data/rows.jsonl"}],
        "corpus": CorpusConfig().model_dump(mode="json"),
    }
    folder.save_ledger(CorpusLedger(rows, 0, 0, rows, tuple(counts)), identity)
    (folder.root / ".mads_ray.lock").touch()
    _manifest(shape).save(folder.manifest)
    return folder


def _shard(
    row_N: I64,
    kind_N: I64,
    step: int,  # from one uid to the next
    width: int,
    direction_KS: npt.NDArray[np.float32],
    own_KLA: npt.NDArray[np.uint16],
) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng((3, int(row_N[0])))
    n, (_, layers, per_layer) = len(row_N), own_KLA.shape
    noise_NS = rng.normal(size=(n, SKETCH)).astype(np.float32) * (NOISE / np.sqrt(SKETCH))
    sketch_NS = direction_KS[kind_N] + noise_NS
    sketch_NS /= np.linalg.norm(sketch_NS, axis=1, keepdims=True)
    # Neurons of the kind with a chance, then popular ones: the first that differ.
    popular_NLA = (width * rng.random((n, layers, 3 * per_layer), np.float32) ** 2).astype(
        np.uint16
    )
    own_NLA = np.where(
        rng.random((n, layers, per_layer), np.float32) < OWN,
        own_KLA[kind_N],
        popular_NLA[..., :per_layer],
    )
    neurons_NLA = np.sort(
        _distinct(np.concatenate([own_NLA, popular_NLA], axis=2), per_layer), axis=2
    )
    uids = [f"{int(i) * step:016x}{int(i):016x}" for i in row_N]
    tokens_N = np.exp(rng.normal(5, 0.6, n)).astype(np.int32) + 8
    schema = states_schema(layers * per_layer, SKETCH, 0, False)
    states = pa.Table.from_arrays(
        [
            pa.array(uids),
            pa.array(row_N),
            pa.array(tokens_N),
            pa.array(np.zeros(n, np.int32)),
            fixed_list(neurons_NLA.reshape(n, -1)),
            fixed_list(sketch_NS.astype(np.float16)),
        ],
        schema=schema,
    )
    turns = [json.dumps([["user", f"Row {i}?"], ["assistant", "Yes."]]) for i in row_N]
    examples = pa.table(
        {
            "uid": uids,
            "source_file": ["/data/rows.jsonl"] * n,
            "source_row": row_N,
            "label": pa.nulls(n, pa.string()),
            "messages": turns,
            "raw": [json.dumps({"prompt": f"Row {i}?", "completion": "Yes."}) for i in row_N],
            "copies": np.ones(n, np.int64),
        }
    )
    return states, examples


def _distinct(drawn_NLB: npt.NDArray[np.uint16], most: int) -> npt.NDArray[np.uint16]:
    """The first `most` values of each layer that differ; numbers from 0 up where they lack."""
    n, layers, _ = drawn_NLB.shape
    every = np.broadcast_to(np.arange(most, dtype=np.uint16), (n, layers, most))
    values = np.concatenate([drawn_NLB, every], axis=2)
    order = np.argsort(values, axis=2, kind="stable")
    sorted_ = np.take_along_axis(values, order, 2)
    again = np.concatenate(
        [np.zeros((n, layers, 1), bool), sorted_[..., 1:] == sorted_[..., :-1]], axis=2
    )
    place = np.where(again, values.shape[2], order)  # a value counts where it came first
    first = np.argpartition(place, most, axis=2)[..., :most]
    return np.take_along_axis(sorted_, first, 2)


def _manifest(shape: Shape) -> StatesManifest:
    return StatesManifest(
        engine="synthetic",
        model="synthetic",
        revision="",
        dtype="",
        layers=shape.layers,
        width=shape.width,
        neurons_per_layer=shape.per_layer,
        sketch_dim=SKETCH,
        hidden_dim=0,
        max_tokens=2048,
        calibration="density",
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested={"requested_revision": None},
    )


def kinds_of(row_N: I64) -> I64:
    """The kind of each row by its number; -1, -2 and -3 for the templates."""
    chance_N = np.random.default_rng(1).random(int(row_N.max()) + 1)[row_N]
    share_K = (np.arange(KINDS) + 10.0) ** -1
    edges = TEMPLATES * TEMPLATE_SHARE + (1 - TEMPLATES * TEMPLATE_SHARE) * np.cumsum(
        share_K / share_K.sum()
    )
    kind_N = np.searchsorted(edges, chance_N, "right").clip(max=KINDS - 1)
    template_N = -1 - (chance_N / TEMPLATE_SHARE).astype(np.int64)
    return np.where(chance_N < TEMPLATES * TEMPLATE_SHARE, template_N, kind_N)
