"""Measure how diverse a core set is, beside random rows, the longest rows and other core sets.

This runs in one process and without Ray. It makes two passes over the shards, one shard at a time.
Memory holds the uids of the core sets and bounded samples of vectors, nothing that grows with the
corpus. Metrics of vectors take quadratic time, so they are taken on samples: the rows with the
smallest hashes of (uid, seed).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray.arrays import U64
from mads_ray.errors import ConfigError
from mads_ray.evaluation.core_sets import Smallest, read_core_set, sorted_words
from mads_ray.evaluation.overlap import overlap
from mads_ray.evaluation.seen import Seen, ShardRows, counted, measured, sampled_units
from mads_ray.finished_run import FinishedRun, read_selection
from mads_ray.hashing import (
    EVALUATED_POOL,
    EVALUATED_RANDOM,
    EVALUATED_SET,
    hash_words,
)
from mads_ray.report.render import rerender
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, StatesManifest, of_captured, read_matrix
from mads_ray.storage import write_json
from mads_ray.stored.tables import words_of

log = logging.getLogger(__name__)

_VECTORS = ("sketch", "hidden")
_OWN = ("pool", "core_set", "random", "longest")


def evaluate(
    output: str | Path,
    core_sets: Mapping[str, str | Path] | None = None,
    vectors: str = "sketch",
    sample: int = 4096,
    seed: int = 0,
) -> dict[str, Any]:
    """How diverse a run's core set is, beside random and longest rows and other core sets.

    Args:
        output: Folder of a finished run.
        core_sets: Further core sets by name: see `read_core_set` for what may be named.
        vectors: What the cosines are of: "sketch", or "hidden" where it was stored.
        sample: At most so many rows of each set, and of the pool, have their vectors compared.
        seed: Of the random set and of the samples.

    Returns:
        Metrics of `core_sets`: core_set, random and longest (of the same size, ties by hash), and
        those named. Of each: rows, mean_tokens; neuron_coverage, the share of the model's neurons
        in at least one row's state; target_neuron_coverage, the share of a target's activations
        that fall on those (where the run has a target); novelsum_0, novelsum_05,
        novelsum_05_released, facility_location, logdet, vendi, all of cosines (`sampled`,
        `sample_rows`); partition_entropy by level of the cluster tree, label_entropy (where rows
        carry at most 1,000 different labels), source_entropy; overlap_random and overlap_longest.
        Of the `pool` those that need no vectors.

    Raises:
        ConfigError: There is no finished run, there are no such vectors, or a core set holds other
            rows than the run's.
        MismatchError: The states changed since the selection.

    Example:
        >>> from mads_ray import evaluate
        >>> found = evaluate("runs/mine")
        >>> found["core_sets"]["core_set"]["rows"]
        6
    """
    named = dict(core_sets or {})
    if sample < 2 or vectors not in _VECTORS or set(named) & set(_OWN):
        raise ConfigError(
            f"evaluate takes a sample of 2 or more (not {sample}), vectors sketch or hidden (not "
            f"{vectors!r}), and no core set under the name of {', '.join(_OWN)}"
        )
    run = FinishedRun.open(output)
    folder, summary, states = run.folder, run.summary, run.states
    manifest = states.manifest
    if vectors == "hidden" and not manifest.hidden_dim:
        raise ConfigError(
            f"{states.folder.states} holds no hidden states; capture with "
            "--set capture.store_hidden=true"
        )
    sets = {name: read_core_set(path) for name, path in named.items()}
    shards, tree = states.shards, run.tree
    own, pool_sample_P2 = _draw(run, shards, sample, seed)
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
                f"{states.folder.root}; core sets of the same states can be compared"
            )
    target_D = run.target_counts_D
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
    """Write evaluation.json, and the report with its table; return the report's path."""
    write_json(RunFolder(output).evaluation, found)
    return rerender(output)


def _draw(
    run: FinishedRun, shards: list[CapturedShard], sample: int, seed: int
) -> tuple[dict[str, U64], U64]:
    """First pass: uids of the core set, of random and of longest rows, and of the pool's sample."""
    size = run.summary["counts"]["selected"]
    random, longest, pool = Smallest(size), Smallest(size), Smallest(sample)
    own = [np.empty((0, 2), np.uint64)]
    for shard in shards:
        path = run.folder.selection_file(shard.shard)
        table = read_selection(path, shard, ["rank", "n_tokens"])
        words_N2 = words_of(table)
        own.append(words_N2[table.column("rank").is_valid().to_numpy()])
        hash_N = _hashes(words_N2, seed, EVALUATED_RANDOM)
        random.add(hash_N, words_N2)
        pool.add(_hashes(words_N2, seed, EVALUATED_POOL), words_N2)
        short_N = np.uint64(2**31) - table.column("n_tokens").to_numpy().astype(np.uint64)
        longest.add((short_N << np.uint64(32)) | (hash_N >> np.uint64(32)), words_N2)
    core = sorted_words(np.concatenate(own))
    run.require_picks(core)
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
    """Second pass: count what the pool and each core set hold."""
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
    states = shard.read(["uid", "n_tokens", "neurons", vectors])
    columns = ["source_file", "cluster"]
    selection = read_selection(folder.selection_file(shard.shard), shard, columns)
    start_A = np.repeat(np.arange(manifest.layers) * manifest.width, manifest.neurons_per_layer)
    return ShardRows(
        words_of(states),
        states.column("n_tokens").to_numpy().astype(np.int64),
        selection.column("cluster").to_numpy(),
        of_captured(shard, states, "label").to_pylist(),
        selection.column("source_file").to_pylist(),
        start_A + read_matrix(states, "neurons"),
        read_matrix(states, vectors),
    )
