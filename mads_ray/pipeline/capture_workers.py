"""What the actors of the capture pool do. Torch is imported here, inside the actors only."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.capture.journal import Journal, discard, heartbeats, read_history, record_death
from mads_ray.config import CaptureConfig, RunConfig
from mads_ray.corpus.shards import QUARANTINE_SCHEMA, quarantine_row
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.hashing import add_checksums, checksum
from mads_ray.ledger import StateRecord
from mads_ray.pipeline.runtime.actor_pool import Pool, Watch
from mads_ray.pipeline.runtime.session import pool_shape
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import read_json, write_json, write_parquet

if TYPE_CHECKING:
    from mads_ray.capture.flops import Peak


@dataclass(frozen=True, slots=True)
class _Opened:
    """An engine with its model, ready to run examples."""

    engine: Any
    renderer: Any
    facts: Item  # for the manifest
    token_budget: int  # padded tokens in a batch to begin with; vLLM has a schedule of its own
    peak: Peak | None = None  # of the device, where it is known

    def pooled(self) -> Any:
        """A `Run` whose rows are pooled activations."""
        from mads_ray.capture.reducer import pack_pooled

        if self.facts["engine"] == "vllm":
            self.engine.pooled()
            return self.engine.run
        return self._in_batches(pack_pooled)

    def states(self, calibration: Path, reducer: Any) -> Any:
        """A `Run` whose rows are states as `reducer`, which holds this calibration, packs them."""
        if self.facts["engine"] == "vllm":
            self.engine.states(calibration, reducer.hidden_dim, reducer.store_raw)
            return self.engine.run
        return self._in_batches(reducer.pack)

    def _in_batches(self, reduce: Any) -> Any:
        from mads_ray.capture.engines.batching import TokenBudget
        from mads_ray.capture.engines.micro_batches import run_batches

        return partial(run_batches, self.engine, TokenBudget(self.token_budget), reduce)


def _open(capture: CaptureConfig, cpus: int, gpus: float) -> _Opened:
    # A fixed thread count: the number of workers must not change a matrix product's last bits.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(cpus)
    import torch

    from mads_ray.capture.flops import Peak
    from mads_ray.capture.model import load_tokenizer, load_weights, locate, most_positions
    from mads_ray.capture.prompts.clock import DATE
    from mads_ray.capture.prompts.examples import PromptRenderer

    torch.set_num_threads(cpus)
    located = locate(capture.model, capture.revision, capture.dtype)
    tokens = most_positions(located, capture.max_tokens)
    engine: Any
    if capture.engine == "vllm":
        from mads_ray.capture.engines.vllm_engine import VllmEngine

        engine = VllmEngine(
            located.source,
            located.revision,
            located.identity.dtype,
            capture.pooling,
            capture.hook_module,
            tokens,
            capture.tensor_parallel,
            token_budget=capture.token_budget,
        )
        budget, peak = 0, None
    else:
        from mads_ray.capture.engines.transformers_engine import TransformersEngine

        model = load_weights(located)
        peak = Peak.of(model, located.identity.dtype)
        engine = TransformersEngine(model, capture.pooling, capture.hook_module, capture.compile)
        share = gpus if 0 < gpus < 1 else 1.0
        budget = capture.token_budget or engine.first_budget(share)
    renderer = PromptRenderer(load_tokenizer(located), tokens, capture.tokens)
    facts = {
        "engine": capture.engine,
        "model": located.identity.name,
        "revision": located.identity.revision,
        "dtype": located.identity.dtype,
        "layers": engine.layers,
        "width": engine.width,
        "hidden_size": engine.hidden_size,
        "template": renderer.digest,
        "date": DATE,
    }
    return _Opened(engine, renderer, facts, budget, peak)


def calibrator(capture: CaptureConfig, folder: RunFolder, cpus: int, gpus: float) -> Work:
    """Work that pools one group of the calibration sample."""
    from mads_ray.capture.calibration_sample import write_group
    from mads_ray.capture.engines.engine import RunStats, refuse_total_failure
    from mads_ray.capture.reducer import unpack_pooled
    from mads_ray.capture.shard import tokenise

    opened = _open(capture, cpus, gpus)
    engine = opened.engine

    def work(item: Item) -> Item:
        key, marker = group_key(item["group"]), group_marker(folder, item["group"])
        committed = read_json(marker)
        if committed is not None:
            return dict(committed)
        order = [uid for uid, _ in item["rows"]]
        stats = RunStats()
        packed: dict[int, npt.NDArray[np.float32]] = {}

        def keep(rows: Sequence[int], packed_BW: npt.NDArray[np.float32]) -> None:
            packed.update(zip(rows, packed_BW, strict=True))

        with Journal(folder.open, key, _process_name()) as journal:
            _refuse_sick_node(journal, key, len(order))
            examples = tokenise(opened.renderer, _texts(folder, item["rows"]), stats, journal)
            opened.pooled()(examples, stats, keep, journal)
        if packed:
            kept = sorted(packed)
            pooled = unpack_pooled(np.stack([packed[i] for i in kept]), engine.layers, engine.width)
            write_group(folder.sample, item["group"], [order[i] for i in kept], *pooled)
        refuse_total_failure(stats, len(order))
        result = {
            "rows": len(order),
            "tokens": stats.tokens,
            "padded_tokens": stats.padded_tokens,
            "model": opened.facts,
        }
        write_json(marker, result)
        discard(folder.open, key)
        return result

    return work


def _texts(folder: RunFolder, rows: Sequence[tuple[str, int]]) -> dict[int, str]:
    """Messages of some (uid, shard), by their place in this order."""
    uids_of = defaultdict(list)
    for uid, shard in rows:
        uids_of[shard].append(uid)
    texts: dict[str, str] = {}
    for shard, uids in sorted(uids_of.items()):
        table = pq.read_table(
            folder.shard_file(shard),
            columns=["uid", "messages"],
            filters=pc.field("uid").isin(uids),
        )
        texts.update((row["uid"], row["messages"]) for row in table.to_pylist())
    return {i: texts[uid] for i, (uid, _) in enumerate(rows)}


def shard_key(shard: int, calibration: str) -> str:
    """The name of a shard's capture in the journals."""
    return f"part-{shard:05d}-{calibration[:8]}"


def group_key(group: int) -> str:
    """The name of a group of the calibration sample in the journals."""
    return f"group-{group:05d}"


def group_marker(folder: RunFolder, group: int) -> Path:
    """The commit marker of a group of the calibration sample: what its work returned."""
    return folder.sample / f"done-{group:05d}.json"


def _refuse_sick_node(journal: Journal, key: str, rows: int) -> None:
    """Raise IncompleteError when more rows end their process than can be the rows' own fault."""
    poison = journal.history.poison
    if len(poison) > max(8, rows // 50):
        raise IncompleteError(
            f"{key}: {len(poison)} of {rows} rows ended the process that had them, which is no "
            f"matter of single rows: {next(iter(poison.values()))}. Look at the nodes; to try "
            "these rows again, remove the shard's files in states/open"
        )


def _process_name() -> str:
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}"


def capturer(
    capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder, cpus: int, gpus: float
) -> Work:
    """Work that captures one shard: quarantine, states, and the marker that commits them."""
    from mads_ray.capture.calibration import Calibration
    from mads_ray.capture.calibration_sample import CalibrationSample
    from mads_ray.capture.reducer import StateReducer
    from mads_ray.capture.shard import capture_shard

    # The precision that calibration found, also on a node whose own "auto" would differ.
    pinned = capture.model_copy(update={"dtype": manifest.dtype})
    opened = _open(pinned, cpus, gpus)
    facts = {k: v for k, v in opened.facts.items() if k != "hidden_size"}
    manifest.require(facts, folder.states)
    calibration = Calibration.load(folder.calibration)
    manifest.require({"calibration": calibration.digest()}, folder.states)
    # The manifest decides on the columns: all shards have the same.
    reducer = StateReducer(calibration, opened.engine.device, manifest.hidden_dim, manifest.raw)
    sample = CalibrationSample(folder.sample)

    def work(item: Item) -> Item:
        shard = item["shard"]
        key, marker = shard_key(shard, manifest.calibration), folder.state_marker(shard)
        committed = read_json(marker)
        if committed is not None:  # by a worker whose answer the driver never heard
            discard(folder.open, key)
            return dict(committed)
        with Journal(folder.open, key, _process_name()) as journal:
            table = pq.read_table(folder.shard_file(shard))
            known = sample.lookup(table.column("uid").to_pylist())
            run = opened.states(folder.calibration, reducer)
            _refuse_sick_node(journal, key, table.num_rows)
            states, stats, seconds = capture_shard(
                run, opened.renderer, reducer, table, known, journal
            )
        committed = read_json(marker)
        if committed is not None:  # by a worker that took over while nobody could reach this one
            discard(folder.open, key)
            return dict(committed)
        _write_quarantine(folder, shard, table, stats.failures)
        write_parquet(folder.state_file(shard), states)
        history = read_history(folder.open, key)
        captured = checksum(states.column("uid").to_pylist())
        failed = table.column("uid").take(pa.array(sorted(stats.failures), pa.int64()))
        record = StateRecord(
            shard=shard,
            captured=states.num_rows,
            quarantined=len(stats.failures),
            checksum=add_checksums([captured, checksum(failed.to_pylist())]),
            captured_checksum=captured,
            calibration=manifest.calibration,
            tokens=stats.tokens,
            padded_tokens=stats.padded_tokens,
            cut_rows=stats.cut_rows,
            seconds=round(seconds, 3),
            processes=history.processes,
            repeated=history.repeated,
        )
        write_json(marker, asdict(record))  # the commit
        discard(folder.open, key)
        lengths = states.column("n_tokens").to_pylist()
        at_peak = opened.peak.seconds(stats.tokens, lengths) if opened.peak else 0.0
        return asdict(record) | {"at_peak_s": at_peak}

    return work


def _write_quarantine(
    folder: RunFolder, shard: int, table: pa.Table, failures: dict[int, Any]
) -> None:
    target = folder.quarantine / f"part-capture-{shard:05d}.parquet"
    if not failures:
        target.unlink(missing_ok=True)
    else:
        rows = table.select(["source_file", "source_row", "raw"]).take(
            pa.array(sorted(failures), pa.int64())
        )
        bad = [
            quarantine_row(
                {k: row[k] for k in ("source_file", "source_row")}, failures[i], row["raw"]
            )
            for i, row in zip(sorted(failures), rows.to_pylist(), strict=True)
        ]
        write_parquet(target, pa.Table.from_pylist(bad, QUARANTINE_SCHEMA))


def model_pool(
    config: RunConfig,
    folder: RunFolder,
    name: str,
    items: list[Item],
    key: Callable[[Item], str],
    marker: Callable[[Item], Path],
    set_up: Callable[..., Work],
    *about: Any,
) -> Pool:
    """As many models as the cluster has room for, to work through items."""
    asked = False

    def shape(tasks: int) -> tuple[int, int, float]:
        nonlocal asked
        try:
            found = pool_shape(config.ray, tasks, config.capture.tensor_parallel)
        except ConfigError:
            if not asked:
                raise
            # A node has gone since: with as many workers as there is room for.
            fewer = config.ray.model_copy(update={"workers": None})
            found = pool_shape(fewer, tasks, config.capture.tensor_parallel)
        asked = True
        return found

    _, cpus, gpus = shape(len(items)) if items else (0, 1, 0.0)
    watch = Watch(
        key,
        lambda: heartbeats(folder.open),
        lambda item: read_history(folder.open, key(item)).settled,
        lambda item: read_json(marker(item)),
        lambda item: record_death(folder.open, key(item)),
        config.ray.hang_s,
    )
    args = (config.capture, *about, folder, cpus, gpus)
    return Pool(name, items, set_up, args, shape, watch, gpus)
