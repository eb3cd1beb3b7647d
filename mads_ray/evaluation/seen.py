"""Count a set of examples, shard by shard, and keep the vectors of a bounded sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, U64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.examples import MAX_LABELS
from mads_ray.errors import ConfigError
from mads_ray.evaluation.core_sets import contains
from mads_ray.evaluation.entropy import spread
from mads_ray.evaluation.facility_location import facility_location
from mads_ray.evaluation.novelsum import densities, novelsum
from mads_ray.evaluation.spectrum import kernel_eigenvalues, log_determinant, vendi_score
from mads_ray.evaluation.vectors import unit_rows


@dataclass(frozen=True, slots=True, eq=False)
class ShardRows:
    """The N rows of one shard.

    uids (N, 2); tokens (N,); leaves of the cluster tree (N,); N labels and N files; numbers of the
    active neurons, layer * width + index (N, A); vectors (N, S), float16.
    """

    words_N2: U64
    tokens_N: npt.NDArray[np.int64]
    leaves_N: npt.NDArray[np.int32]
    labels: list[str | None]
    files: list[str]
    features_NA: npt.NDArray[np.int64]
    vectors_NS: npt.NDArray[Any]


@dataclass(slots=True, eq=False)
class Seen:
    """What a set holds in the shards that were added so far.

    `uids_K2`: the set (None: the whole pool). `sample_M2`: its rows whose vectors are kept. Both
    are `sorted_words`. `covered_D`: neurons in at least one row's state. `leaves_C`: rows in each
    leaf of the cluster tree. `labels`: None where the field has too many values to be a label.
    """

    uids_K2: U64 | None
    sample_M2: U64
    covered_D: npt.NDArray[np.bool_]
    leaves_C: npt.NDArray[np.int64]
    rows: int = 0
    tokens: int = 0
    labels: Counter[str] | None = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    vectors: list[npt.NDArray[Any]] = field(default_factory=list)

    def add(self, shard: ShardRows) -> None:
        """Count the rows of the set that are in this shard."""
        if self.uids_K2 is None:
            index = np.arange(len(shard.words_N2))
        else:
            index = np.flatnonzero(contains(self.uids_K2, shard.words_N2))
        self.rows += len(index)
        self.tokens += int(shard.tokens_N[index].sum())
        self.covered_D[shard.features_NA[index]] = True
        self.leaves_C += np.bincount(shard.leaves_N[index], minlength=len(self.leaves_C))
        if self.labels is not None:
            self.labels.update(x for i in index if (x := shard.labels[i]) is not None)
            if len(self.labels) > MAX_LABELS:  # a field of ids is no label and must not fill memory
                self.labels = None
        self.files.update(shard.files[i] for i in index)
        self.vectors.append(shard.vectors_NS[contains(self.sample_M2, shard.words_N2)])


def sampled_units(seen: Seen, vectors: str) -> F64:
    """The sample's vectors at length 1, (N, S) float64. Raises ConfigError where a row has none."""
    try:
        return unit_rows(np.concatenate(seen.vectors))
    except ValueError as e:
        raise ConfigError(f"the stored {vectors} vectors cannot be compared: {e}") from e


def counted(
    seen: Seen, pool: Seen, tree: ClusterTree, target_D: npt.NDArray[np.integer[Any]] | None
) -> dict[str, Any]:
    """The metrics that need no vectors: see `evaluate.evaluate` for their names.

    `target_D`: how many of the target examples have each neuron.
    """
    found: dict[str, Any] = {
        "rows": seen.rows,
        "mean_tokens": seen.tokens / seen.rows,
        "neuron_coverage": float(seen.covered_D.mean()),
    }
    if target_D is not None:
        shown = int(target_D.sum(dtype=np.int64))
        covered = int(target_D[seen.covered_D].sum(dtype=np.int64))
        found["target_neuron_coverage"] = covered / max(shown, 1)
    levels = zip(_levels(seen.leaves_C, tree), _levels(pool.leaves_C, tree), strict=True)
    found["partition_entropy"] = [asdict(spread(mine, all_)) for mine, all_ in levels]
    if seen.labels is not None and pool.labels:
        found["label_entropy"] = _named_spread(seen.labels, pool.labels)
    found["source_entropy"] = _named_spread(seen.files, pool.files)
    return found


def _levels(leaves_C: npt.NDArray[np.int64], tree: ClusterTree) -> Iterator[npt.NDArray[np.int64]]:
    """For each level of the tree, coarse to fine: rows in each of its clusters."""
    starts = np.cumsum([0, *tree.level_sizes[:-1]])
    for level, (start, size) in enumerate(zip(starts, tree.level_sizes, strict=True)):
        counts = np.zeros(size, np.int64)
        np.add.at(counts, tree.paths_CP[:, level] - start, leaves_C)
        yield counts


def _named_spread(mine: Counter[str], pool: Counter[str]) -> dict[str, Any]:
    counts = np.array([[mine[name], n] for name, n in pool.items()], np.int64)
    return asdict(spread(counts[:, 0], counts[:, 1]))


def measured(seen: Seen, pool_units_PS: F64, vectors: str) -> dict[str, Any]:
    """The metrics of vectors: the set's sample, compared with itself and with the pool's (P, S)."""
    units_NS = sampled_units(seen, vectors)
    sigma_N = densities(units_NS, pool_units_PS)
    plain, dense = novelsum(units_NS, sigma_N, (0.0, 0.5))
    eigenvalues = kernel_eigenvalues(units_NS)
    return {
        "sampled": seen.rows > len(units_NS),
        "sample_rows": len(units_NS),
        "novelsum_0": plain.value,
        "novelsum_05": dense.value,
        "novelsum_05_released": dense.released,
        "facility_location": facility_location(units_NS, pool_units_PS),
        "logdet": log_determinant(eigenvalues),
        "vendi": vendi_score(eigenvalues),
    }
