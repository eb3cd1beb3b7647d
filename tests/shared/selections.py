"""Small synthetic runs on disk, their rows in memory, and workers of them on a real Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mads_ray.clustering.summaries import summarise
from mads_ray.clustering.tree import ClusterTree, build_tree
from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.features import configured_objective, load_rows
from mads_ray.hashing import checksum
from mads_ray.ledger import CorpusLedger, ShardRecord, StateRecord
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.ground_set import GroundSet, Settings
from mads_ray.pipeline.select.load import LoadPlan, load_shards
from mads_ray.pipeline.select.rank import Ranked
from mads_ray.pipeline.select.stage import _mads, _problem
from mads_ray.pipeline.select.worker import SelectionWorker
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates, StatesManifest, fixed_list, read_matrix
from mads_ray.storage import write_json, write_parquet
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import synthetic

LAYERS, WIDTH, PER_LAYER, SKETCH = 4, 128, 8, 32
FILES = ("/data/a.jsonl", "/data/b.jsonl", "/data/c.jsonl")
Edit = Callable[[np.ndarray, np.ndarray], None]


# Not the defaults: here more of f is won by choosing well, so that less escapes the tests; and rows
# weigh alike, as in the tree of `setup_of`.
HARD = {"weights": "uniform", "tree_share": 0.3, "balance": 0}


def config_of(output: Path | str = "unused", *, seed: int = 0, workers: int = 1, **selection: Any):
    return RunConfig(
        output=str(output),
        seed=seed,
        selection=HARD | selection,
        ray={"selection_workers": workers},
        clustering={"levels": (4, 16, 64)},
    )


def settings_of(**selection: Any) -> Settings:
    """What the selection needs of `config_of`."""
    return Settings.of(config_of(**selection))


def file_of(i: int) -> str:
    """Source files of very unequal size."""
    return FILES[0 if i % 10 < 7 else 1 if i % 10 < 9 else 2]


def make_run(
    root: Path,
    rows: int,
    shards: int,
    *,
    kind: str = "zipf",
    seed: int = 0,
    calibration: str = "synthetic",
    edit: Edit | None = None,
    extra: Callable[[int], dict[str, Any]] = lambda i: {},
    raw: bool = False,
) -> RunFolder:
    """A folder as capture leaves it. `edit` changes neurons (N, A) and sketches (N, S) of all rows
    in place; `extra` gives the fields of a source row beside prompt, completion and task."""
    folder = RunFolder(root)
    data = synthetic.Corpus(kind, rows, seed, LAYERS, WIDTH, PER_LAYER, SKETCH)
    table = synthetic.states(data, synthetic.make_tables(data), 0, rows)
    neurons, sketches = read_matrix(table, "neurons").copy(), read_matrix(table, "sketch").copy()
    if edit is not None:
        edit(neurons, sketches)
    for name, matrix in (("neurons", neurons), ("sketch", sketches)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), fixed_list(matrix))
    if raw:  # unlike the standardised ones: those of the row before
        table = table.append_column("raw_neurons", fixed_list(np.roll(neurons, 1, axis=0)))
    examples = _examples(table, synthetic.labels(data, 0, rows), extra)
    records = []
    for s in range(shards):
        start, stop = (rows * x // shards for x in (s, s + 1))
        mine = table.slice(start, stop - start)
        sum_ = checksum(mine.column("uid").to_pylist())
        write_parquet(folder.state_file(s), mine)
        write_parquet(folder.shard_file(s), examples.slice(start, stop - start))
        state = StateRecord(s, stop - start, 0, sum_, sum_, calibration, 0, 0, 0, 0.0)
        write_json(folder.state_marker(s), asdict(state))
        records.append(ShardRecord(s, stop - start, 0, sum_))
    identity = {
        "files": [{"path": f} for f in FILES],
        "corpus": CorpusConfig().model_dump(mode="json"),
    }
    folder.save_ledger(CorpusLedger(rows, 0, 0, rows, tuple(records)), identity)
    _manifest(calibration, raw).save(folder.manifest)
    return folder


def _examples(table: pa.Table, labels: np.ndarray, extra: Callable[[int], Any]) -> pa.Table:
    rows = []
    for i, uid in enumerate(table.column("uid").to_pylist()):
        said = {"prompt": f"Question {i}?", "completion": f"Answer {i}.", "task": f"t{labels[i]}"}
        turns = [["user", said["prompt"]], ["assistant", said["completion"]]]
        rows.append(
            {
                "uid": uid,
                "source_file": file_of(i),
                "source_row": i,
                "label": said["task"],
                "messages": json.dumps(turns),
                "raw": json.dumps(said | extra(i)),
                "copies": 1,
            }
        )
    return pa.Table.from_pylist(rows)


def _manifest(calibration: str, raw: bool) -> StatesManifest:
    return StatesManifest(
        engine="synthetic",
        model="synthetic",
        revision="",
        dtype="float32",
        layers=LAYERS,
        width=WIDTH,
        neurons_per_layer=PER_LAYER,
        sketch_dim=SKETCH,
        hidden_dim=0,
        max_tokens=2048,
        calibration=calibration,
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested={"requested_revision": None},
        raw=raw,
    )


@dataclass(frozen=True, eq=False)
class Setup:
    """A run's corpus, and all of its rows in one place, in the order of `places_N2`."""

    folder: RunFolder
    ground: GroundSet
    rows: FeatureRows
    places_N2: np.ndarray
    objective: Objective

    @property
    def uids(self) -> np.ndarray:
        return np.array([f"{int(h):016x}{int(w):016x}" for h, w in self.rows.uids_N2])

    @property
    def leaves(self) -> np.ndarray:
        tree = self.ground.tree
        return self.rows.paths_NP[:, -1] - (tree.nodes - len(tree.paths_CP))

    def index(self, places_K2: np.ndarray) -> np.ndarray:
        """Row numbers of some places."""
        at = {(int(s), int(r)): i for i, (s, r) in enumerate(self.places_N2)}
        return np.array([at[int(s), int(r)] for s, r in places_K2], np.int64)

    def value(self, index: np.ndarray) -> int:
        return self.objective.value(self.objective.counts(self.rows, index))

    def with_ground(self, **changes: Any) -> Setup:
        return replace(self, ground=replace(self.ground, **changes))


def setup_of(folder: RunFolder, config: RunConfig, tree: ClusterTree | None = None) -> Setup:
    states = CapturedStates.open(folder)
    shards = states.shards
    if tree is None:
        sketches = [
            read_matrix(pq.read_table(s.states, columns=["sketch"]), "sketch") for s in shards
        ]
        summary = summarise(np.concatenate(sketches), None, True, 256, 20, config.seed)
        tree = build_tree(summary, config.clustering.levels, 20, config.seed)
    ground = GroundSet(states, tree)
    places = [
        np.stack([np.full(r.captured, r.shard), np.arange(r.captured)], 1) for r in states.records
    ]
    return Setup(
        folder,
        ground,
        load_rows(shards, tree),
        np.concatenate(places).astype(np.int32),
        objective_of(config, ground, load_rows(shards, tree)),
    )


def objective_of(config: RunConfig, ground: GroundSet, rows: FeatureRows) -> Objective:
    """What the selection maximises."""
    about = (config.selection, ground.states.manifest, ground.tree)
    plain = configured_objective(*about, ground.target_counts_D)
    if config.selection.weights == "uniform" or ground.target_counts_D is not None:
        return plain
    return configured_objective(*about, None, plain.counts(rows).astype(np.int64))


@contextmanager
def started_workers(
    setup: Setup, config: RunConfig, spread: Sequence[Sequence[int]]
) -> Iterator[SelectionWorkers]:
    """Workers with the given shards each, in any order. They take no CPU of Ray's, so that a
    module can keep them while others run."""
    ground = setup.ground
    objective = objective_of(config, ground, setup.rows)
    taken = None if ground.base is None else ground.base.uids_N2
    plan = LoadPlan(objective, ground.tree, config.seed, None, taken_N2=taken)
    actor_of = ray.remote(num_cpus=0)(SelectionWorker)
    shards = ground.states.shards
    parts = [[shards[i] for i in part] for part in spread]
    actors = [actor_of.remote(load_shards, (part, plan)) for part in parts]
    try:
        workers = SelectionWorkers(actors, [[s.shard for s in part] for part in parts], objective)
        workers.ask("ready")
        yield workers
    finally:
        for actor in actors:
            ray.kill(actor)


@dataclass(frozen=True, eq=False)
class Picked:
    """A ranked core set, row numbers in rank order, and how it came about."""

    index: np.ndarray
    uids: list[str]
    gains: np.ndarray  # int64, in units of 2^-28
    ranked: Ranked
    exchange: Exchange
    exact: bool

    def same(self, other: Picked) -> bool:
        return self.uids == other.uids and bool((self.gains == other.gains).all())


def pick(workers: SelectionWorkers, setup: Setup, config: RunConfig) -> Picked:
    """What the selection stage picks, without the comparison with random core sets."""
    settings = Settings.of(config)
    problem, examples = _problem(workers, settings, setup.ground)
    ours = _mads(workers, settings, setup.ground, problem, examples)
    index, gains = setup.index(ours.ranked.places_K2), ours.ranked.gains_K
    uids = setup.uids[index].tolist()
    return Picked(index, uids, gains, ours.ranked, ours.exchange, ours.exact)
