"""Workers as plain objects in this process: the whole choice without Ray."""

from __future__ import annotations

import pickle
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from mads_ray.pipeline.select import exchange, rank
from mads_ray.pipeline.select import workers as driver
from mads_ray.pipeline.select.worker import SelectionWorker
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard, Scratch


def small_and_local(monkeypatch) -> None:
    """Without Ray, and sets of more than 100 rows are ranked by smaller ones."""
    without_ray(monkeypatch)
    monkeypatch.setattr(exchange, "LEAST_BUFFER", 64)
    monkeypatch.setattr(rank, "AT_ONCE", 100)
    monkeypatch.setattr(rank, "PIECE", 60)


class LocalActor:
    """`actor.method.remote(...)` is a plain call."""

    def __init__(self, worker: SelectionWorker) -> None:
        self.worker = worker

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self.worker, method))


def without_ray(monkeypatch) -> None:
    """Every call at once, its arguments read-only as they come out of Ray's object store."""

    def put(value: Any) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        stored = pickle.dumps(value, 5, buffer_callback=buffers.append)
        return pickle.loads(stored, buffers=[bytes(b) for b in buffers])

    monkeypatch.setattr(driver, "ray", SimpleNamespace(put=put))
    for module in (driver, exchange, rank):
        monkeypatch.setattr(module, "fetch", lambda result: result)
    for module in (exchange, rank):
        monkeypatch.setattr(module, "remote", lambda task, cpus: SimpleNamespace(remote=task))


def local_workers(
    rows: FeatureRows, objective: Objective, shards: int, workers: int, seed: int = 0
) -> SelectionWorkers:
    """Rows in so many canonical shards, spread over so many workers."""
    parts = np.array_split(np.arange(len(rows)), shards)
    edges = np.linspace(0, shards, workers + 1).astype(int)
    mine = [list(range(a, b)) for a, b in pairwise(edges)]

    def load(numbers: list[int]) -> tuple[list[LoadedShard], Objective]:
        scratch = Scratch(None)
        return [hold(rows.take(parts[n]), n, scratch, seed) for n in numbers], objective

    actors = [LocalActor(SelectionWorker(load, (numbers,))) for numbers in mine]
    return SelectionWorkers(actors, mine, objective)


def hold(rows: FeatureRows, shard: int, scratch: Scratch, seed: int = 0) -> LoadedShard:
    return LoadedShard(
        shard,
        rows.uids_N2,
        rows.tokens_N,
        rows.paths_NP,
        rows.bonus_N,
        rows.groups_NT,
        rows.tie_rank(seed),
        np.arange(len(rows), dtype=np.uint64)[rows.tie_rank(seed)],
        scratch,
        scratch.append(rows.neurons_NA),
        rows.neurons_NA.shape[1],
    )


def index_of(places_K2: np.ndarray, n: int, shards: int) -> np.ndarray:
    """Row numbers of places (shard, row in it)."""
    starts = np.cumsum([0, *(len(p) for p in np.array_split(np.arange(n), shards))])
    return starts[places_K2[:, 0]] + places_K2[:, 1]
