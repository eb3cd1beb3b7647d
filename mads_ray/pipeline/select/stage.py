"""The selection stage: by mads, by another method, or by several to compare them.

Up to `selection.exact_rows` examples, mads runs lazy greedy over all of them in one task: the
result does not depend on shards. Above that, shards select in turn against the counts of all the
others until f stalls: the result depends on the canonical shards, which the corpus alone fixes, and
never on the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mads_ray import __version__
from mads_ray.arrays import F64, I32, I64
from mads_ray.baselines import BASELINES
from mads_ray.config import Method, RunConfig, SelectionConfig
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.features import configured_objective
from mads_ray.pipeline.runtime.tasks import LOST
from mads_ray.pipeline.select.checkpoint import Checkpoint, stored_rounds
from mads_ray.pipeline.select.dedup import Collapsed, collapse_near_duplicates
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.ground_set import GroundSet, Settings
from mads_ray.pipeline.select.limits import make_bounds, resolve_budget
from mads_ray.pipeline.select.load import LoadPlan
from mads_ray.pipeline.select.methods import baseline_places, raw_union
from mads_ray.pipeline.select.objective import reward_quality, weigh_by_pool
from mads_ray.pipeline.select.rank import Ranked, exact_order, given_order, rank
from mads_ray.pipeline.select.scores import Comparison, compare_with_random, figures
from mads_ray.pipeline.select.workers import SelectionWorkers, selection_workers
from mads_ray.submodular.objective import UNIT, Objective
from mads_ray.submodular.problem import Problem
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
class Ours:
    """What mads selects. `exact`: by lazy greedy over all candidates, so that `exchange`, which
    knows the problem, made no round."""

    ranked: Ranked
    exact: bool
    exchange: Exchange


def select(config: RunConfig, ground: GroundSet) -> CoreSet:
    """Select from captured states.

    Where a worker is lost, this goes on after the last round that is stored, or starts again: the
    result is the same. Raises IncompleteError when that brings no round.
    """
    settings = Settings.of(config)
    attempts, known = 0, stored_rounds(ground.rounds)
    while True:
        try:
            return _select(settings, ground)
        except IncompleteError as e:
            now = stored_rounds(ground.rounds)
            attempts, known = (attempts + 1 if now == known else 1), now
            if not isinstance(e.__cause__, LOST) or attempts == _ATTEMPTS:
                raise
            log.warning("select: a process that held states was lost; trying again")


def _select(settings: Settings, ground: GroundSet) -> CoreSet:
    options, methods = settings.options, methods_to_run(settings.options)
    collapsed = raw = ours = None
    if "raw-topk-union" in methods:
        # Near-duplicates go by neurons, in workers that end before those of the raw ones start.
        if options.near_duplicates is not None:
            with open_workers(settings, ground) as workers:
                collapsed = _collapse(workers, options.near_duplicates, ground)
        raw = _raw_union(settings, ground, collapsed)
    with open_workers(settings, ground) as workers:
        if collapsed is not None:
            workers.ask("exclude", collapsed.places_N2)
        elif options.near_duplicates is not None:
            collapsed = _collapse(workers, options.near_duplicates, ground)
        problem, examples = _problem(workers, settings, ground)
        if "mads" in methods:
            ours = _mads(workers, settings, ground, problem, examples)
        compared = {}
        for method in methods:
            if method == "mads":
                assert ours is not None
                places = ours.ranked.places_K2
            elif method == "raw-topk-union":
                assert raw is not None
                places = raw
            else:
                shards, tree, in_one_place = ground.states.shards, ground.tree, options.exact_rows
                how = (shards, tree, problem, in_one_place)
                our_tokens_K = None if ours is None else ours.ranked.tokens_K
                places = baseline_places(method, workers, *how, our_tokens_K)
            if method == options.method and not len(places):
                raise ConfigError(f"no example of --method {method} fits the budget")
            compared[method] = places
        if options.method == "mads":
            assert ours is not None
            core, mode = ours.ranked, "exact" if ours.exact else "exchange"
            plain = ours.exact and not (problem.budget.by_cost or len(problem.bounds))
        else:
            core = given_order(workers, problem, compared[options.method], examples)
            mode, plain = options.method, False
        found = compare_with_random(workers, problem, core, examples, options.random_draws)
        metrics = _metrics(found, plain and options.quality_column is None)
        metrics["rounds"] = 0 if ours is None else ours.exchange.rounds
        metrics["methods"] = figures(workers, problem, compared)
        return CoreSet(
            core.places_K2,
            core.gains_K / UNIT,
            mode,
            metrics,
            found.curve,
            compared if len(compared) > 1 else {},
            collapsed,
            workers.pool_counts_D,
            ground.target_counts_D,
        )


def methods_to_run(options: SelectionConfig) -> list[Method]:
    """The method asked for, those compared with it, and mads where one of them needs it."""
    methods = dict.fromkeys((options.method, *options.compare))
    needs = [BASELINES[m].needs for m in methods if m in BASELINES]
    if any("our_lengths" in n for n in needs):
        methods |= {"mads": None}
    return list(methods)


def _problem(
    workers: SelectionWorkers, settings: Settings, ground: GroundSet
) -> tuple[Problem, int]:
    """What is to be solved, and the number of candidates. Gives rows the bonuses of quality."""
    options = settings.options
    by_source = options.floor_per_source or options.cap_per_source
    files = len(ground.states.source_files) if by_source else 0
    bounds = make_bounds(options, len(ground.tree.paths_CP), files)
    examples = workers.sum(_number_of_candidates)
    if not examples:
        raise ConfigError("no example is left to select: all of them are in --base-core-set")
    budget = resolve_budget(options, ground.states.examples, examples)
    if options.quality_column is not None:
        reward_quality(workers, options, budget, settings.seed)
    base_D = workers.objective.empty_counts() if ground.base is None else ground.base.counts_D
    return Problem(workers.objective, budget, bounds, base_D, settings.seed), examples


def _mads(
    workers: SelectionWorkers,
    settings: Settings,
    ground: GroundSet,
    problem: Problem,
    examples: int,
) -> Ours:
    """By exact lazy greedy while the candidates are few, else by exchange."""
    options, checkpoint = settings.options, _checkpoint(settings, ground, workers)
    exchange = Exchange(workers, 0, problem, options, problem.start(), checkpoint)
    exact = examples <= options.exact_rows
    ranked = None
    if exact:
        ranked = exact_order(workers, np.concatenate(workers.ask("places")), problem)
    else:
        exchange = exchange.resumed().run()
        ranked = rank(exchange, examples) if exchange.now.rows else None
    if ranked is None or not len(ranked.places_K2):
        tokens = problem.budget.tokens
        raise ConfigError(f"no example fits the budget of {tokens} tokens; raise --token-budget")
    return Ours(ranked, exact, exchange)


def _checkpoint(settings: Settings, ground: GroundSet, workers: SelectionWorkers) -> Checkpoint:
    """Of this very selection: all that its rounds depend on is in the name of the folder."""
    if ground.rounds is None:
        return Checkpoint()
    elsewhere = {"scratch", "compare", "random_draws", "method"}
    stored = settings.options.model_dump(mode="json", exclude=elsewhere)
    base = ground.base
    return Checkpoint(
        ground.rounds,
        [__version__, ground.states.checksum, settings.seed, stored],
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


def _raw_union(settings: Settings, ground: GroundSet, collapsed: Collapsed | None) -> I32:
    """Places that mads selects from the raw states, in workers of their own."""
    if not ground.states.manifest.raw:
        raise ConfigError(
            "--method raw-topk-union needs states with raw neurons; capture with "
            "--set capture.store_raw=true"
        )
    settings = replace(settings, options=raw_union(settings.options))
    base = ground.base  # its rows are taken, but its counts are of other neurons
    if base is not None:
        base = replace(base, counts_D=np.zeros_like(base.counts_D))
    rounds = None if ground.rounds is None else ground.rounds / "raw"
    ground = replace(ground, target_counts_D=None, base=base, rounds=rounds)
    with open_workers(settings, ground, "raw_neurons") as workers:
        if collapsed is not None:
            workers.ask("exclude", collapsed.places_N2)
        problem, examples = _problem(workers, settings, ground)
        return _mads(workers, settings, ground, problem, examples).ranked.places_K2


def _metrics(found: Comparison, plain: bool) -> dict[str, Any]:
    """Metrics with `lift`, (f - random) / (lazy greedy - random).

    In the plain exact mode the core set and its prefixes are lazy greedy's own, and lift is 1.
    Elsewhere nobody knows lazy greedy's f. `lift_at_least` holds in any case.
    """
    lift = 1.0 if plain else None
    prefixes = [p | {"lift": lift if p["f"] > p["f_random_mean"] else None} for p in found.prefixes]
    better = found.metrics["f"] > found.metrics["f_random_mean"]
    return found.metrics | {"lift": lift if better else None, "prefixes": prefixes}


@contextmanager
def open_workers(
    settings: Settings, ground: GroundSet, neurons: str = "neurons"
) -> Iterator[SelectionWorkers]:
    """Workers with one column of the states, under the configured objective."""
    options, states = settings.options, ground.states
    about = (states.manifest, ground.tree, ground.target_counts_D)
    objective = configured_objective(options, *about)
    by_source = bool(options.floor_per_source or options.cap_per_source)
    plan = LoadPlan(
        objective,
        ground.tree,
        settings.seed,
        options.scratch,
        by_cluster=bool(options.floor_per_cluster or options.cap_per_cluster),
        by_source=by_source,
        files=states.source_files if by_source else (),
        quality_column=options.quality_column,
        neurons=neurons,
        taken_N2=None if ground.base is None else ground.base.uids_N2,
    )
    with selection_workers(states.shards, plan, settings.workers) as workers:
        if options.weights == "pool" and ground.target_counts_D is None:
            workers = weigh_by_pool(workers, options, ground)
        yield workers
