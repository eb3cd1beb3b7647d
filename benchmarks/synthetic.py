"""The scale generator: activation states of 10^4 to 10^7 rows without a model.

For speed, memory and counters at scale; never used where a real corpus can serve. A row belongs to
a cluster (zipfian sizes) and draws its neurons from it without replacement: in every layer a
zipfian popularity, times log-normal factors of the super-cluster and of the cluster, with 2% of the
neurons boosted. A near-duplicate keeps most neurons of a virtual parent, which is drawn again from
its number alone, so near-duplicates of one parent lie in all shards. `zipf` is mild; `skewed` has
few large clusters that differ much, and half of its rows are near-duplicates.

Everything about row i is a function of (corpus, i): rows are the same for any number of shards, and
a shard takes the memory of its own rows only. Uids ascend with i, so a shard is a uid range, as
after ingest, and a row's shard says nothing about its cluster.

  python benchmarks/synthetic.py --data zipf|skewed --rows N --shards M --output DIR [--seed 0]

The last line of the output is JSON. L layers, W width, C clusters, S sketch length, N rows,
A neurons a row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import ndtri

from mads_ray.states import fixed_list, states_schema
from mads_ray.storage import write_parquet

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_kernels import Plan, alias_tables, draw_neurons, draw_sketches, hashes

U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

CLUSTERS, SUPERS = 200, 20
BOOSTED = 0.02
MEAN_TOKENS, TOKENS_SPREAD, CLUSTER_TOKENS_SPREAD = 200, 0.7, 0.3
# As on real states, 200 clusters explain about 0.6 of the sketches' variance.
SUPER_WEIGHT, CLUSTER_WEIGHT, NOISE_WEIGHT = 0.45, 0.65, 0.6
# Streams of random numbers; those of synthetic_kernels.py start at 16.
LABEL, DUPLICATE, PARENT, UID, UID_LOW, TOKENS, PARENT_TOKENS = range(7)


@dataclass(frozen=True, slots=True)
class Kind:
    """What sets two kinds of data apart; spreads are those of the logarithm."""

    neuron_offset: float
    neuron_exponent: float  # popularity of the r-th neuron: (r + offset) ** -exponent
    super_spread: float
    cluster_spread: float
    boost: float  # the largest, as a logarithm
    label_offset: float
    label_exponent: float
    duplicates: float  # share of rows that are near-duplicates
    keep: float  # share of its parent's neurons that a near-duplicate keeps
    parents: float  # virtual parents a row


KINDS = {
    "zipf": Kind(5, 0.9, 1.0, 0.8, 3.2, 3, 0.8, 0.25, 0.85, 0.2),
    "skewed": Kind(3, 1.1, 1.2, 1.3, 5.0, 1, 1.2, 0.5, 0.92, 0.1),
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """All that decides the rows."""

    kind: str
    rows: int
    seed: int = 0
    layers: int = 30
    width: int = 1536
    per_layer: int = 64
    sketch_dim: int = 128

    def __post_init__(self) -> None:
        # Drawing without replacement by rejection is slow where most neurons are drawn.
        if 4 * self.per_layer > self.width or self.width > 2**16:
            raise ValueError("per_layer: at most width / 4; width: at most 65,536")

    @property
    def label_shares(self) -> F64:
        """Share of the rows in each cluster, (C,)."""
        kind = KINDS[self.kind]
        share_C = (np.arange(CLUSTERS) + kind.label_offset) ** -kind.label_exponent
        return np.asarray(share_C / share_C.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What rows are drawn from: `alias_CLW` uint32 (chance in 2^-16, shifted by 16, and alias),
    `centre_CS` float32, `log_tokens_C` float64. 37 MB for the default shape."""

    alias_CLW: npt.NDArray[np.uint32]
    centre_CS: npt.NDArray[np.float32]
    log_tokens_C: F64


def make_tables(corpus: Corpus) -> Tables:
    """The same in every process."""
    kind, layers, width = KINDS[corpus.kind], corpus.layers, corpus.width
    rng = np.random.default_rng((corpus.seed, 0))
    popularity_W = (np.arange(width) + kind.neuron_offset) ** -kind.neuron_exponent
    popularity_LW = np.stack([rng.permutation(popularity_W) for _ in range(layers)])
    super_KLW = np.exp(kind.super_spread * rng.standard_normal((SUPERS, layers, width)))
    super_KS, centre_CS = (rng.standard_normal((n, corpus.sketch_dim)) for n in (SUPERS, CLUSTERS))
    super_KS *= SUPER_WEIGHT / np.linalg.norm(super_KS, axis=1, keepdims=True)
    centre_CS *= CLUSTER_WEIGHT / np.linalg.norm(centre_CS, axis=1, keepdims=True)
    centre_CS += super_KS[np.arange(CLUSTERS) % SUPERS]
    log_tokens_C = CLUSTER_TOKENS_SPREAD * rng.standard_normal(CLUSTERS)
    mean = np.exp(log_tokens_C + TOKENS_SPREAD**2 / 2) @ corpus.label_shares
    alias_CLW = np.empty((CLUSTERS, layers, width), np.uint32)
    for c in range(CLUSTERS):
        rng = np.random.default_rng((corpus.seed, 1, c))
        spread_LW = np.exp(kind.cluster_spread * rng.standard_normal((layers, width)))
        weight_LW = popularity_LW * super_KLW[c % SUPERS] * spread_LW
        boosted = rng.random((layers, width)) < BOOSTED
        weight_LW[boosted] *= np.exp(kind.boost * rng.random(boosted.sum()))
        alias_tables(weight_LW, alias_CLW[c])
    log_tokens_C += np.log(MEAN_TOKENS / mean)
    return Tables(alias_CLW, centre_CS.astype(np.float32), log_tokens_C)


def labels(corpus: Corpus, start: int, stop: int) -> I32:
    """Cluster of rows start to stop, int32 (N,)."""
    chance_N = _uniform(corpus.seed, LABEL, np.arange(start, stop))
    edges_C = np.cumsum(corpus.label_shares)[:-1]
    return np.searchsorted(edges_C, chance_N, "right").astype(np.int32)


def parents(corpus: Corpus, start: int, stop: int) -> I64:
    """Virtual parent of rows start to stop, numbered within its cluster; -1: no near-duplicate."""
    kind, row_N = KINDS[corpus.kind], np.arange(start, stop)
    parents_C = np.maximum(corpus.label_shares * corpus.rows * kind.parents, 1)
    chance_N = _uniform(corpus.seed, PARENT, row_N)
    parent_N = (chance_N * parents_C[labels(corpus, start, stop)]).astype(np.int64)
    return np.where(_uniform(corpus.seed, DUPLICATE, row_N) < kind.duplicates, parent_N, -1)


def states(corpus: Corpus, tables: Tables, start: int, stop: int) -> pa.Table:
    """States of rows start to stop, sorted by uid."""
    label_N, parent_N = labels(corpus, start, stop), parents(corpus, start, stop)
    order_N = np.argsort(label_N, kind="stable")  # a cluster's tables stay in the cache
    plan = Plan(start, corpus.seed, KINDS[corpus.kind].keep, label_N, parent_N, order_N)
    neurons_NA = np.empty((stop - start, corpus.layers * corpus.per_layer), np.uint16)
    sketch_NS = np.empty((stop - start, corpus.sketch_dim), np.float32)
    draw_neurons(plan, tables.alias_CLW, neurons_NA)
    draw_sketches(plan, tables.centre_CS, NOISE_WEIGHT, sketch_NS)
    # Upper halves of uids: one at random within each of `rows` equal steps.
    step, row_N = np.uint64((2**64 - 1) // corpus.rows), np.arange(start, stop)
    high_N = row_N.astype(np.uint64) * step + _hash(corpus.seed, UID, row_N) % step
    words = np.stack([high_N, _hash(corpus.seed, UID_LOW, row_N)], axis=1).astype(">u8")
    offsets = pa.py_buffer(np.arange(len(row_N) + 1, dtype=np.int32) * 32)
    text = pa.py_buffer(words.tobytes().hex().encode())
    columns = [
        pa.StringArray.from_buffers(len(row_N), offsets, text),
        pa.array(high_N.view(np.int64)),  # as in corpus.identity.row_ids
        pa.array(_tokens(plan, tables.log_tokens_C)),
        pa.array(np.zeros(len(row_N), np.int32)),
        fixed_list(neurons_NA),
        fixed_list(sketch_NS.astype(np.float16)),
    ]
    schema = states_schema(neurons_NA.shape[1], corpus.sketch_dim, 0, False)
    return pa.Table.from_arrays(columns, schema=schema)


def write_states(
    folder: Path,
    kind: str,
    rows: int,
    shards: int,
    seed: int = 0,
    layers: int = 30,
    width: int = 1536,
    per_layer: int = 64,
    sketch_dim: int = 128,
    processes: int = 2,
) -> list[Path]:
    """Write folder/part-00000.parquet and so on; each process holds one shard at a time."""
    corpus = Corpus(kind, rows, seed, layers, width, per_layer, sketch_dim)
    processes = min(processes, shards)
    jobs = [(folder, corpus, shards, range(p, shards, processes)) for p in range(processes)]
    if processes == 1:
        return _write_shards(*jobs[0])
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_write_shards, *job) for job in jobs]
        return sorted(path for future in futures for path in future.result())


def _write_shards(folder: Path, corpus: Corpus, shards: int, mine: range) -> list[Path]:
    tables, paths = make_tables(corpus), []
    for shard in mine:
        start, stop = (corpus.rows * s // shards for s in (shard, shard + 1))
        paths.append(folder / f"part-{shard:05d}.parquet")
        write_parquet(paths[-1], states(corpus, tables, start, stop))
    return paths


def _tokens(plan: Plan, log_tokens_C: F64) -> I32:
    """Log-normal, with a mean of about 200; a near-duplicate is about as long as its parent."""
    row_N = plan.start + np.arange(len(plan.label_N))
    normal_N = ndtri(_uniform(plan.seed, TOKENS, row_N))
    parent_N = ndtri(_uniform(plan.seed, PARENT_TOKENS, plan.label_N, plan.parent_N))
    mixed_N = plan.keep * parent_N + np.sqrt(1 - plan.keep**2) * normal_N
    normal_N = np.where(plan.parent_N < 0, normal_N, mixed_N)
    tokens_N = np.exp(log_tokens_C[plan.label_N] + TOKENS_SPREAD * normal_N)
    return np.clip(np.rint(tokens_N), 8, 2048).astype(np.int32)


def _hash(seed: int, stream: int, a_N: I32 | I64, b: Any = 0) -> U64:
    """A pseudo-random uint64 for every (a, b) that depends on the arguments alone."""
    return np.asarray(hashes(seed, stream, a_N, b + 0 * a_N))


def _uniform(seed: int, stream: int, a_N: I32 | I64, b: Any = 0) -> F64:
    """In (0, 1)."""
    return np.asarray(((_hash(seed, stream, a_N, b) >> np.uint64(11)) + 0.5) * 2.0**-53)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=sorted(KINDS), required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    started = time.perf_counter()
    paths = write_states(
        args.output, args.data, args.rows, args.shards, args.seed, processes=args.processes
    )
    result = {name: getattr(args, name) for name in ("data", "rows", "shards", "seed")}
    result["seconds"] = round(time.perf_counter() - started, 2)
    result["bytes_a_row"] = round(sum(p.stat().st_size for p in paths) / args.rows, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
