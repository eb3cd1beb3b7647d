"""Stage 5: shard coverage sets and exchange, or exact lazy greedy; then the ranked core set.

Up to `selection.exact_rows` examples one task runs lazy greedy over all of them, and the result
does not depend on shards at all. Above it, shards select against each other's counts until f
stalls; the result depends on the canonical shards, which the corpus alone fixes, and never on the
cluster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray import __version__
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import Method, RunConfig, SelectionConfig
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.features import configured_objective
from mads_ray.pipeline.base_core_set import Base
from mads_ray.pipeline.runtime.tasks import LOST
from mads_ray.pipeline.select.checkpoint import Rounds, kept_rounds
from mads_ray.pipeline.select.dedup import Collapsed, collapse_near_duplicates
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.load import LoadPlan, load_shards
from mads_ray.pipeline.select.methods import baseline_places, raw_union
from mads_ray.pipeline.select.objective import reward_quality, weigh_by_pool
from mads_ray.pipeline.select.rank import Ranked, exact_order, given_order, rank
from mads_ray.pipeline.select.scores import Comparison, compare_with_random, figures
from mads_ray.pipeline.select.state import Chosen
from mads_ray.pipeline.select.workers import HolderPool, holder_pool
from mads_ray.states import CapturedShard, StatesManifest
from mads_ray.submodular.greedy import Bounds, Budget
from mads_ray.submodular.objective import I32, I64, UNIT, Objective
from mads_ray.submodular.shards import HeldShard

log = logging.getLogger("mads_ray")
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class CoreSet:
    """The ranked picks by place (shard, row in its states), and what is known of them.

    `gains_K` in units of f. `mode`: exact, exchange, or the baseline's name.
    """

    places_K2: I32
    gains_K: npt.NDArray[np.float64]
    mode: str
    metrics: dict[str, Any]
    curve: dict[str, Any] = field(default_factory=dict)
    compared: dict[Method, I32] = field(default_factory=dict)  # places by method
    near_duplicates: Collapsed | None = None
    pool_counts_D: I64 | None = None  # where they weigh the neurons


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """What there is to select from. `files`: source files in order; `base`: a core set to extend;
    `rounds`: where rounds of the selection are kept, `checksum` of the states they are of."""

    shards: list[CapturedShard]
    manifest: StatesManifest
    tree: ClusterTree
    examples: int
    files: tuple[str, ...]
    target_counts_D: I32 | None
    base: Base | None
    rounds: Path | None = None
    checksum: str = ""


def select(config: RunConfig, corpus: Corpus) -> CoreSet:
    """Select from captured states. Where a holder was lost it goes on after the last round kept, or
    starts again: the result is the same. Raises IncompleteError when that brings no round."""
    attempts, known = 0, kept_rounds(corpus.rounds)
    while True:
        try:
            return _select(config, corpus)
        except IncompleteError as e:
            now = kept_rounds(corpus.rounds)
            attempts, known = (attempts + 1 if now == known else 1), now
            if not isinstance(e.__cause__, LOST) or attempts == _ATTEMPTS:
                raise
            log.warning("select: a process that held states was lost; trying again")


def _select(config: RunConfig, corpus: Corpus) -> CoreSet:
    options = config.selection
    methods = dict.fromkeys((options.method, *options.compare, "mads"))
    collapsed = raw = None
    if "raw-topk-union" in methods:
        if options.near_duplicates is not None:  # by neurons, in holders that go before the raw
            with open_pool(config, corpus) as pool:
                collapsed = _collapse(pool, options.near_duplicates, corpus)
        raw = _raw_union(config, corpus, collapsed)
    with open_pool(config, corpus) as pool:
        if collapsed is not None:
            pool.all("exclude", collapsed.places_N2)
        elif options.near_duplicates is not None:
            collapsed = _collapse(pool, options.near_duplicates, corpus)
        ours, ranked, exact, free = _mads(pool, config, corpus)
        core, compared = ranked, {}
        for method in methods:
            if method == "mads":
                places = ranked.places_K2
            elif method == "raw-topk-union":
                assert raw is not None
                places = raw
            else:
                places = baseline_places(
                    method, pool, corpus.shards, corpus.tree, config, ours.budget, ranked
                )
            if method == options.method != "mads":
                if not len(places):
                    raise ConfigError(f"no example of --method {method} fits the budget")
                core = given_order(ours, places, free)
            compared[method] = places
        found = compare_with_random(pool, config, core, ours.budget, ours.base_D, free)
        plain = exact and not (ours.budget.by_cost or len(ours.bounds) or options.quality_column)
        mode = "exact" if exact else "exchange"
        metrics = _metrics(found, plain and options.method == "mads")
        return CoreSet(
            core.places_K2,
            core.gains_K / UNIT,
            mode if options.method == "mads" else options.method,
            metrics | {"rounds": ours.rounds, "methods": figures(pool, ours.base_D, compared)},
            found.curve,
            {} if set(compared) == {"mads"} else compared,
            collapsed,
            pool.shown_D,
        )


def _mads(
    pool: HolderPool, config: RunConfig, corpus: Corpus
) -> tuple[Exchange, Ranked, bool, int]:
    """The choice, its order, whether it is exact lazy greedy, and the number of candidates."""
    options, bounds = config.selection, make_bounds(config.selection, corpus)
    free = pool.sum(_number_of_candidates)
    if not free:
        raise ConfigError("no example is left to select: all of them are in --base-core-set")
    budget = resolve_budget(options, corpus.examples, free)
    if options.quality_column is not None:
        reward_quality(pool, options, budget, config.seed)
    base_D = pool.objective.empty_counts() if corpus.base is None else corpus.base.counts_D
    nothing = Chosen.nothing(base_D, len(bounds), pool.objective)
    kept = _rounds(config, corpus, pool)
    exchange = Exchange(pool, 0, budget, base_D, bounds, options, config.seed, nothing, kept)
    exact = free <= options.exact_rows
    ranked = None
    if exact:
        places = np.concatenate(pool.all("places"))
        ranked = exact_order(pool, places, budget, base_D, bounds, config.seed)
    else:
        exchange = kept.resume(exchange).run()
        ranked = rank(exchange, free) if exchange.now.rows else None
    if ranked is None or not len(ranked.places_K2):
        raise ConfigError(
            f"no example fits the budget of {budget.tokens} tokens; raise --token-budget"
        )
    return exchange, ranked, exact, free


def _rounds(config: RunConfig, corpus: Corpus, pool: HolderPool) -> Rounds:
    """The rounds kept of this very selection."""
    if corpus.rounds is None:
        return Rounds()
    elsewhere = {"scratch", "compare", "random_draws", "method"}
    settings = config.selection.model_dump(mode="json", exclude=elsewhere)
    base = corpus.base
    return Rounds(
        corpus.rounds,
        [__version__, corpus.checksum, config.seed, settings],
        corpus.tree.centroids_CS,
        corpus.tree.paths_CP,
        pool.objective.weight_D,
        np.empty(0, np.int32) if base is None else base.counts_D,
        np.empty(0, np.uint64) if base is None else base.uids_N2,
    )


def _number_of_candidates(shards: Sequence[HeldShard], objective: Objective) -> int:
    return sum(int((held.depth_N >= -1).sum()) for held in shards)


def _collapse(pool: HolderPool, threshold: float, corpus: Corpus) -> Collapsed:
    per_layer = corpus.manifest.neurons_per_layer
    return collapse_near_duplicates(pool, threshold, corpus.examples, per_layer)


def _raw_union(config: RunConfig, corpus: Corpus, collapsed: Collapsed | None) -> I32:
    """Selects from the raw states, in holders of their own."""
    if not corpus.manifest.raw:
        raise ConfigError(
            "--method raw-topk-union needs states with raw neurons; capture with "
            "--set capture.store_raw=true"
        )
    config = raw_union(config)
    base = corpus.base  # its rows are taken, but its counts are of other neurons
    if base is not None:
        base = replace(base, counts_D=np.zeros_like(base.counts_D))
    rounds = None if corpus.rounds is None else corpus.rounds / "raw"
    corpus = replace(corpus, target_counts_D=None, base=base, rounds=rounds)
    with open_pool(config, corpus, "raw_neurons") as pool:
        if collapsed is not None:
            pool.all("exclude", collapsed.places_N2)
        return _mads(pool, config, corpus)[1].places_K2


def _metrics(found: Comparison, plain: bool) -> dict[str, Any]:
    """In the plain exact mode the core set and its prefixes are lazy greedy's own: lift is 1.

    Elsewhere nothing here knows lazy greedy's value; `lift_at_least` holds in any case.
    """
    lift = 1.0 if plain else None
    prefixes = [p | {"lift": lift if p["f"] > p["f_random_mean"] else None} for p in found.prefixes]
    better = found.metrics["f"] > found.metrics["f_random_mean"]
    return found.metrics | {"lift": lift if better else None, "prefixes": prefixes}


@contextmanager
def open_pool(config: RunConfig, corpus: Corpus, neurons: str = "neurons") -> Iterator[HolderPool]:
    """Holders of the corpus, of one column of its states, under the configured objective."""
    options, objective = (
        config.selection,
        configured_objective(config, corpus.manifest, corpus.tree, corpus.target_counts_D),
    )
    plan = LoadPlan(
        objective,
        corpus.tree,
        config.seed,
        options.scratch,
        by_cluster=bool(options.floor_per_cluster or options.cap_per_cluster),
        by_source=bool(options.floor_per_source or options.cap_per_source),
        files=corpus.files,
        quality_column=options.quality_column,
        neurons=neurons,
        taken_N2=None if corpus.base is None else corpus.base.uids_N2,
    )
    workers, groups = config.ray.selection_workers, sum(plan.group_sizes)
    with holder_pool(
        corpus.shards, lambda s: s.shard, workers, load_shards, (plan,), objective, groups
    ) as pool:
        by_pool = options.weights == "pool" and corpus.target_counts_D is None
        yield weigh_by_pool(pool, config, corpus.manifest, corpus.tree) if by_pool else pool


def make_bounds(options: SelectionConfig, corpus: Corpus) -> Bounds:
    """Floors and caps of clusters (leaves) and of sources (files), as configured."""
    kinds = [
        (options.floor_per_cluster, options.cap_per_cluster, len(corpus.tree.paths_CP)),
        (options.floor_per_source, options.cap_per_source, len(corpus.files)),
    ]
    used = [(low or 0, high or 2**62, n) for low, high, n in kinds if low or high]
    for low, high, _ in used:
        if low > high:
            raise ConfigError(f"a floor of {low} is above the cap of {high}")
    sizes = [n for _, _, n in used]
    return Bounds(
        np.repeat(np.array([low for low, _, _ in used], np.int64), sizes),
        np.repeat(np.array([high for _, high, _ in used], np.int64), sizes),
        np.repeat(np.arange(len(used), dtype=np.int64), sizes),
    )


def resolve_budget(selection: SelectionConfig, examples: int, free: int) -> Budget:
    """`free`: examples that may be picked. Raises ConfigError for a size larger than that."""
    if selection.token_budget is not None:
        return Budget(tokens=selection.token_budget)
    if selection.size is not None:
        if selection.size > free:
            raise ConfigError(f"--size {selection.size} is more than the {free} examples")
        return Budget(rows=selection.size)
    assert selection.effective_fraction is not None
    wanted = max(1, math.floor(selection.effective_fraction * examples + 1e-9))
    return Budget(rows=min(wanted, free))
