"""How diverse the core set of a finished run is, beside random, longest and other core sets.

In one process and without a Ray session: two passes over the shards, one at a time. What stays in
memory is ids of the core sets and bounded samples of vectors; nothing grows with the corpus. The
vectors' metrics are quadratic, so they are taken on samples: the rows with the smallest hashes of
(uid, seed).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray.arrays import U64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.evaluation.core_sets import Smallest, read_core_set, sorted_words
from mads_ray.evaluation.overlap import overlap
from mads_ray.evaluation.seen import Seen, ShardRows, counted, measured, sampled_units
from mads_ray.hashing import (
    EVALUATED_POOL,
    EVALUATED_RANDOM,
    EVALUATED_SET,
    hash_words,
    uid_words,
)
from mads_ray.report.render import rerender
from mads_ray.run_folder import RunFolder
from mads_ray.states import (
    CapturedShard,
    StatesManifest,
    captured_shards,
    of_captured,
    read_matrix,
    read_states,
    states_checksum,
)
from mads_ray.storage import read_json, write_json

log = logging.getLogger("mads_ray")

_VECTORS = ("sketch", "hidden")
_OWN = ("pool", "core_set", "random", "longest")


def evaluate(
    output: str | Path,
    core_sets: Mapping[str, str | Path] | None = None,
    vectors: str = "sketch",
    sample: int = 4096,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of a run's core set, of a random one and the longest rows of the same size (of all
    rows of the pool; ties by hash), and of further ones by name (see `read_core_set`).

    Of each: rows, mean_tokens; neuron_coverage, the share of the model's neurons in at least one
    row's state; target_neuron_coverage, the share of a target's activations that fall on those
    (where the run has a target); novelsum_0, novelsum_05, novelsum_05_released, facility_location,
    logdet, vendi, all of the cosines of `vectors` ("sketch" or "hidden") on at most `sample` rows
    (`sampled`, `sample_rows`), against at most `sample` rows of the pool; partition_entropy by
    level of the cluster tree, label_entropy (where rows carry at most 1,000 different labels),
    source_entropy; overlap_random and overlap_longest. Of the `pool` those that need no vectors.

    Raises ConfigError where there is no finished run, no such vectors, or a core set holds other
    rows than the run's; MismatchError where the states changed since the selection.
    """
    named = dict(core_sets or {})
    if sample < 2 or vectors not in _VECTORS or set(named) & set(_OWN):
        raise ConfigError(
            f"evaluate takes a sample of 2 or more (not {sample}), vectors sketch or hidden (not "
            f"{vectors!r}), and no core set under the name of {', '.join(_OWN)}"
        )
    folder = RunFolder(output)
    summary = read_json(folder.run_json)
    if summary is None:
        raise ConfigError(f"{folder.root} holds no finished run (no run.json)")
    source = RunFolder(summary["states_from"])
    manifest = StatesManifest.load(source.manifest)
    if vectors == "hidden" and not manifest.hidden_dim:
        raise ConfigError(
            f"{source.states} holds no hidden states; capture with --set capture.store_hidden=true"
        )
    sets = {name: read_core_set(path) for name, path in named.items()}
    records = source.check_states(source.load_ledger(), manifest.calibration)
    if states_checksum(records) != summary["states_checksum"]:
        raise MismatchError(
            f"{source.states} holds other states than {folder.root} selected from: select again"
        )
    shards = captured_shards(source, records)
    tree = ClusterTree.load(folder.selection / "cluster_tree.npz")
    own, pool_sample_P2 = _draw(folder, shards, summary["counts"]["selected"], sample, seed)
    sets = own | sets
    log.info("evaluate: %s core sets, %s shards", len(sets), len(shards))
    samples = {name: _smallest(uids_K2, sample, seed) for name, uids_K2 in sets.items()}
    samples["pool"] = pool_sample_P2
    seen = _see(folder, shards, manifest, vectors, len(tree.paths_CP), sets, samples)
    for name, uids_K2 in sets.items():
        if seen[name].rows != len(uids_K2):
            missing = len(uids_K2) - seen[name].rows
            raise ConfigError(
                f"core set {name}: {missing:,} of its {len(uids_K2):,} rows have no state in "
                f"{source.root}; core sets of the same states can be compared"
            )
    stored = folder.target_counts
    target_D = np.load(stored, allow_pickle=False) if stored.exists() else None
    if target_D is not None:
        target_D = target_D[: manifest.layers * manifest.width]  # the rest are clusters
    pool = seen["pool"]
    pool_units_PS = sampled_units(pool, vectors)
    of = {}
    for name in sets:
        each = seen[name]
        figures = counted(each, pool, tree, target_D) | measured(each, pool_units_PS, vectors)
        for other in ("random", "longest"):
            figures[f"overlap_{other}"] = asdict(overlap(sets[name], sets[other], pool.rows))
        of[name] = figures
    return {
        "run_finished": summary["finished"],
        "vectors": vectors,
        "sample": sample,
        "seed": seed,
        "pool_sample_rows": len(pool_units_PS),
        "pool": counted(pool, pool, tree, target_D),
        "core_sets": of,
    }


def store_evaluation(output: str | Path, found: dict[str, Any]) -> Path:
    """Write evaluation.json, and the report with it; return the report's path."""
    write_json(RunFolder(output).evaluation, found)
    return rerender(output)


def _draw(
    folder: RunFolder, shards: list[CapturedShard], size: int, sample: int, seed: int
) -> tuple[dict[str, U64], U64]:
    """The first pass: uids of the run's core set, a random one, the longest; the pool's sample."""
    random, longest, pool = Smallest(size), Smallest(size), Smallest(sample)
    own = [np.empty((0, 2), np.uint64)]
    for shard in shards:
        columns = ["uid", "rank", "n_tokens"]
        table = pq.read_table(folder.selection_file(shard.shard), columns=columns)
        words_N2 = np.stack(uid_words(table.column("uid").to_pylist()), axis=1)
        own.append(words_N2[table.column("rank").is_valid().to_numpy()])
        hash_N = _hashes(words_N2, seed, EVALUATED_RANDOM)
        random.add(hash_N, words_N2)
        pool.add(_hashes(words_N2, seed, EVALUATED_POOL), words_N2)
        short_N = np.uint64(2**31) - table.column("n_tokens").to_numpy().astype(np.uint64)
        longest.add((short_N << np.uint64(32)) | (hash_N >> np.uint64(32)), words_N2)
    core = sorted_words(np.concatenate(own))
    assert len(core) == size, f"{len(core)} rows have a rank, run.json has {size}"
    return {"core_set": core, "random": random.words(), "longest": longest.words()}, pool.words()


def _see(
    folder: RunFolder,
    shards: list[CapturedShard],
    manifest: StatesManifest,
    vectors: str,
    leaves: int,
    sets: dict[str, U64],
    samples: dict[str, U64],
) -> dict[str, Seen]:
    """The second pass: what the pool and each core set hold."""
    seen = {
        name: Seen(
            sets.get(name),
            sample_M2,
            np.zeros(manifest.layers * manifest.width, bool),
            np.zeros(leaves, np.int64),
        )
        for name, sample_M2 in samples.items()
    }
    for shard in shards:
        rows = _read(folder, shard, manifest, vectors)
        for each in seen.values():
            each.add(rows)
    return seen


def _hashes(words_N2: U64, seed: int, stream: int) -> U64:
    return hash_words(words_N2[:, 0], words_N2[:, 1], seed, stream)


def _smallest(uids_K2: U64, sample: int, seed: int) -> U64:
    first = Smallest(sample)
    first.add(_hashes(uids_K2, seed, EVALUATED_SET), uids_K2)
    return first.words()


def _read(
    folder: RunFolder, shard: CapturedShard, manifest: StatesManifest, vectors: str
) -> ShardRows:
    states = read_states(shard.states, ["uid", "n_tokens", "neurons", vectors])
    uids: pa.Array = states.column("uid").combine_chunks()
    columns = ["uid", "source_file", "cluster"]
    selection = pq.read_table(folder.selection_file(shard.shard), columns=columns)
    if not selection.column("uid").combine_chunks().equals(uids):
        raise MismatchError(
            f"{shard.states} holds other rows than {folder.selection}; was it captured again since "
            "then? Select again to evaluate"
        )
    start_A = np.repeat(np.arange(manifest.layers) * manifest.width, manifest.neurons_per_layer)
    return ShardRows(
        np.stack(uid_words(uids.to_pylist()), axis=1),
        states.column("n_tokens").to_numpy().astype(np.int64),
        selection.column("cluster").to_numpy(),
        of_captured(shard, states, "label").to_pylist(),
        selection.column("source_file").to_pylist(),
        start_A + read_matrix(states, "neurons"),
        read_matrix(states, vectors),
    )
