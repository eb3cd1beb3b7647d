"""Stage 5: shard coverage sets and exchange, or exact lazy greedy; then the ranked core set.

Up to `selection.exact_rows` examples one task runs lazy greedy over all of them, and the result
does not depend on shards at all. Above it, shards select against each other's counts until f
stalls; the result depends on the canonical shards, which the ground alone fixes, and never on the
cluster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray.arrays import F64, I32, I64, U64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import Method, RunConfig, SelectionConfig
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.features import configured_objective
from mads_ray.pipeline.runtime.tasks import LOST
from mads_ray.pipeline.select.checkpoint import Checkpoint, stored_rounds
from mads_ray.pipeline.select.dedup import Collapsed, collapse_near_duplicates
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.load import LoadPlan
from mads_ray.pipeline.select.methods import baseline_places, raw_union
from mads_ray.pipeline.select.objective import reward_quality, weigh_by_pool
from mads_ray.pipeline.select.rank import Ranked, exact_order, given_order, rank
from mads_ray.pipeline.select.scores import Comparison, compare_with_random, figures
from mads_ray.pipeline.select.workers import SelectionWorkers, selection_workers
from mads_ray.states import CapturedStates
from mads_ray.submodular.objective import UNIT, Objective
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.shards import LoadedShard

log = logging.getLogger(__name__)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class CoreSet:
    """The ranked picks by place (shard, row in its states), and what is known of them.

    `gains_K` in units of f. `mode`: exact, exchange, or the baseline's name.
    """

    places_K2: I32
    gains_K: F64
    mode: str
    metrics: dict[str, Any]
    curve: dict[str, Any] = field(default_factory=dict)
    compared: dict[Method, I32] = field(default_factory=dict)  # places by method
    near_duplicates: Collapsed | None = None
    pool_counts_D: I64 | None = None  # where they weigh the neurons
    target_counts_D: I32 | None = None  # where they weigh all features


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A core set to extend. `counts_D`: how many of its rows have each feature; `uids_N2`: halves
    of its uids, which may not be picked again (the driver holds these: as many as its budget)."""

    counts_D: I32
    uids_N2: U64
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class GroundSet:
    """What there is to select from: examples by their states and clusters.

    `target_counts_D`: how many target examples have each feature; `base`: a core set to extend;
    `rounds`: the folder where rounds of the selection are kept, None to keep none.
    """

    states: CapturedStates
    tree: ClusterTree
    target_counts_D: I32 | None = None
    base: Base | None = None
    rounds: Path | None = None


def select(config: RunConfig, ground: GroundSet) -> CoreSet:
    """Select from captured states.

    Where a worker is lost, this goes on after the last round that is stored, or starts again: the
    result is the same. Raises IncompleteError when that brings no round.
    """
    attempts, known = 0, stored_rounds(ground.rounds)
    while True:
        try:
            return _select(config, ground)
        except IncompleteError as e:
            now = stored_rounds(ground.rounds)
            attempts, known = (attempts + 1 if now == known else 1), now
            if not isinstance(e.__cause__, LOST) or attempts == _ATTEMPTS:
                raise
            log.warning("select: a process that held states was lost; trying again")


def _select(config: RunConfig, ground: GroundSet) -> CoreSet:
    options = config.selection
    methods = dict.fromkeys((options.method, *options.compare, "mads"))
    collapsed = raw = None
    if "raw-topk-union" in methods:
        # Near-duplicates go by neurons, in workers that end before those of the raw ones start.
        if options.near_duplicates is not None:
            with open_workers(config, ground) as workers:
                collapsed = _collapse(workers, options.near_duplicates, ground)
        raw = _raw_union(config, ground, collapsed)
    with open_workers(config, ground) as workers:
        if collapsed is not None:
            workers.ask("exclude", collapsed.places_N2)
        elif options.near_duplicates is not None:
            collapsed = _collapse(workers, options.near_duplicates, ground)
        ours, ranked, exact, free = _mads(workers, config, ground)
        core, compared = ranked, {}
        for method in methods:
            if method == "mads":
                places = ranked.places_K2
            elif method == "raw-topk-union":
                assert raw is not None
                places = raw
            else:
                shards, tree, in_one_place = ground.states.shards, ground.tree, options.exact_rows
                how = (shards, tree, ours.problem, in_one_place, ranked.tokens_K)
                places = baseline_places(method, workers, *how)
            if method == options.method != "mads":
                if not len(places):
                    raise ConfigError(f"no example of --method {method} fits the budget")
                core = given_order(workers, ours.problem, places, free)
            compared[method] = places
        problem = ours.problem
        found = compare_with_random(workers, problem, core, free, options.random_draws)
        bound = problem.budget.by_cost or len(problem.bounds)
        plain = exact and not (bound or options.quality_column)
        mode = "exact" if exact else "exchange"
        metrics = _metrics(found, plain and options.method == "mads")
        return CoreSet(
            core.places_K2,
            core.gains_K / UNIT,
            mode if options.method == "mads" else options.method,
            metrics | {"rounds": ours.rounds, "methods": figures(workers, problem, compared)},
            found.curve,
            {} if set(compared) == {"mads"} else compared,
            collapsed,
            workers.pool_counts_D,
            ground.target_counts_D,
        )


def _mads(
    workers: SelectionWorkers, config: RunConfig, ground: GroundSet
) -> tuple[Exchange, Ranked, bool, int]:
    """The choice, its order, whether it is exact lazy greedy, and the number of candidates."""
    options, bounds = config.selection, make_bounds(config.selection, ground)
    free = workers.sum(_number_of_candidates)
    if not free:
        raise ConfigError("no example is left to select: all of them are in --base-core-set")
    budget = resolve_budget(options, ground.states.examples, free)
    if options.quality_column is not None:
        reward_quality(workers, options, budget, config.seed)
    base_D = workers.objective.empty_counts() if ground.base is None else ground.base.counts_D
    problem = Problem(workers.objective, budget, bounds, base_D, config.seed)
    checkpoint = _checkpoint(config, ground, workers)
    exchange = Exchange(workers, 0, problem, options, problem.start(), checkpoint)
    exact = free <= options.exact_rows
    ranked = None
    if exact:
        places = np.concatenate(workers.ask("places"))
        ranked = exact_order(workers, places, problem)
    else:
        exchange = exchange.resumed().run()
        ranked = rank(exchange, free) if exchange.now.rows else None
    if ranked is None or not len(ranked.places_K2):
        raise ConfigError(f"no example fits the budget of {budget.tokens} tokens; raise --tokens")
    return exchange, ranked, exact, free


def _checkpoint(config: RunConfig, ground: GroundSet, workers: SelectionWorkers) -> Checkpoint:
    """What is stored of this very selection."""
    if ground.rounds is None:
        return Checkpoint()
    elsewhere = {"scratch", "compare", "random_draws", "method"}
    settings = config.selection.model_dump(mode="json", exclude=elsewhere)
    base = ground.base
    return Checkpoint(
        ground.rounds,
        [version("mads_ray"), ground.states.checksum, config.seed, settings],
        ground.tree.centroids_CS,
        ground.tree.paths_CP,
        workers.objective.weight_D,
        np.empty(0, np.int32) if base is None else base.counts_D,
        np.empty(0, np.uint64) if base is None else base.uids_N2,
    )


def _number_of_candidates(shards: Sequence[LoadedShard], objective: Objective) -> int:
    return sum(int(shard.candidates(0).sum()) for shard in shards)


def _collapse(workers: SelectionWorkers, threshold: float, ground: GroundSet) -> Collapsed:
    per_layer = ground.states.manifest.neurons_per_layer
    return collapse_near_duplicates(workers, threshold, ground.states.examples, per_layer)


def _raw_union(config: RunConfig, ground: GroundSet, collapsed: Collapsed | None) -> I32:
    """Selects from the raw states, in workers of their own."""
    if not ground.states.manifest.raw:
        raise ConfigError(
            "--method raw-topk-union needs states with raw neurons; capture with "
            "--set capture.store_raw=true"
        )
    config = raw_union(config)
    base = ground.base  # its rows are taken, but its counts are of other neurons
    if base is not None:
        base = replace(base, counts_D=np.zeros_like(base.counts_D))
    rounds = None if ground.rounds is None else ground.rounds / "raw"
    ground = replace(ground, target_counts_D=None, base=base, rounds=rounds)
    with open_workers(config, ground, "raw_neurons") as workers:
        if collapsed is not None:
            workers.ask("exclude", collapsed.places_N2)
        return _mads(workers, config, ground)[1].places_K2


def _metrics(found: Comparison, plain: bool) -> dict[str, Any]:
    """In the plain exact mode the core set and its prefixes are lazy greedy's own: lift is 1.

    Elsewhere nothing here knows lazy greedy's value; `lift_at_least` holds in any case.
    """
    lift = 1.0 if plain else None
    prefixes = [p | {"lift": lift if p["f"] > p["f_random_mean"] else None} for p in found.prefixes]
    better = found.metrics["f"] > found.metrics["f_random_mean"]
    return found.metrics | {"lift": lift if better else None, "prefixes": prefixes}


@contextmanager
def open_workers(
    config: RunConfig, ground: GroundSet, neurons: str = "neurons"
) -> Iterator[SelectionWorkers]:
    """Workers with one column of the states, under the configured objective."""
    options, states = config.selection, ground.states
    about = (states.manifest, ground.tree, ground.target_counts_D)
    objective = configured_objective(options, *about)
    by_source = bool(options.floor_per_source or options.cap_per_source)
    plan = LoadPlan(
        objective,
        ground.tree,
        config.seed,
        options.scratch,
        by_cluster=bool(options.floor_per_cluster or options.cap_per_cluster),
        by_source=by_source,
        files=states.source_files if by_source else (),
        quality_column=options.quality_column,
        neurons=neurons,
        taken_N2=None if ground.base is None else ground.base.uids_N2,
    )
    with selection_workers(states.shards, plan, config.ray.selection_workers) as workers:
        by_pool = options.weights == "pool" and ground.target_counts_D is None
        if by_pool:
            workers = weigh_by_pool(workers, config, states.manifest, ground.tree)
        yield workers


def make_bounds(options: SelectionConfig, ground: GroundSet) -> Bounds:
    """Floors and caps of clusters (leaves) and of sources (files), as configured."""
    used = []
    if options.floor_per_cluster or options.cap_per_cluster:
        leaves = len(ground.tree.paths_CP)
        used.append((options.floor_per_cluster or 0, options.cap_per_cluster or 2**62, leaves))
    if options.floor_per_source or options.cap_per_source:
        files = len(ground.states.source_files)
        used.append((options.floor_per_source or 0, options.cap_per_source or 2**62, files))
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
    if selection.tokens is not None:
        return Budget(tokens=selection.tokens)
    if selection.size is not None:
        if selection.size > free:
            raise ConfigError(f"--size {selection.size} is more than the {free} examples")
        return Budget(rows=selection.size)
    assert selection.effective_fraction is not None
    wanted = max(1, math.floor(selection.effective_fraction * examples + 1e-9))
    return Budget(rows=min(wanted, free))
