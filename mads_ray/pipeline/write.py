"""Stage 6: write the selection and the core set, and gather what the report shows.

Each task reads some shards, one after another. It returns counts and three typical rows of each
cluster, never all rows. What it picks of them it leaves in files whose buckets are the parts of the
core set, so that the task of a part reads its own rows only.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mads_ray.arrays import F64, I32, I64
from mads_ray.clustering.density import Density
from mads_ray.clustering.landmarks import directions_of
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.buckets import read_buckets, write_buckets
from mads_ray.corpus.row_table import rows_to_table
from mads_ray.corpus.row_text import marked_line
from mads_ray.errors import IncompleteError
from mads_ray.ledger import total_checksum
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.pipeline.select.ground_set import GroundSet
from mads_ray.pipeline.select.stage import CoreSet
from mads_ray.report.selection_tally import SelectionTally, tally_shard
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, read_matrix
from mads_ray.storage import write_npy, write_parquet, write_text
from mads_ray.stored.examples import read_examples
from mads_ray.stored.files import known_files
from mads_ray.submodular.shards import places_by_shard

log = logging.getLogger(__name__)
PART_ROWS = 50_000
_MOST_SHARDS = 512  # of a task
_GROUPS_A_CPU = 4
_PICKED_BYTES = 128 * 2**20  # in memory at a time
_NONE = np.empty(0, np.int64)

SELECTION_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("row_id", pa.int64()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("rank", pa.int64()),
        ("gain", pa.float64()),
        ("cluster", pa.int32()),
        ("like", pa.int64()),  # about how many rows of the pool are like it, itself included
        ("n_tokens", pa.int32()),
        ("copies", pa.int32()),
        ("near_duplicate_of", pa.string()),  # null unless it was collapsed
    ]
)
_PICK_SCHEMA = pa.schema(
    [
        *(("uid", pa.string()), ("rank", pa.int64()), ("gain", pa.float64())),
        *(("cluster", pa.int32()), ("source_file", pa.string()), ("source_row", pa.int64())),
        ("raw", pa.large_string()),
    ]
)


def write(run: Run, ground: GroundSet, core: CoreSet) -> SelectionTally:
    """Write `selection/` and `core_set/`.

    Raises IncompleteError unless the selection has each state once and the core set each pick.
    """
    folder, output_format = run.output, run.config.output_format
    states, tree, density = ground.states, ground.tree, ground.density
    assert density is not None
    shards = states.shards
    folder.run_json.unlink(missing_ok=True)  # the mark of a finished run
    for directory in (folder.selection, folder.core_set):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    tree.save(folder.selection_tree)
    if core.target_counts_D is not None:
        write_npy(folder.target_counts, core.target_counts_D)
    if core.pool_counts_D is not None:
        write_npy(folder.pool_counts, core.pool_counts_D)
    pool, ranks_of = ray.put(_Pool(tree, density)), places_by_shard(core.places_K2)
    total = SelectionTally()
    compared = {m: places_by_shard(p) for m, p in core.compared.items()}
    near = places_by_shard(core.near_duplicates.places_N2) if core.near_duplicates else {}
    finishes = (
        (
            s,
            folder.selection_file(s.shard),
            _picks(core, ranks_of.get(s.shard, _NONE)),
            _collapsed(core, near.get(s.shard, _NONE)),
            {m: core.compared[m][at.get(s.shard, _NONE), 1] for m, at in compared.items()},
        )
        for s in shards
    )
    n_parts = -(-len(core.places_K2) // PART_ROWS)
    picked: list[Path] = []
    groups = (
        (g, pool, n_parts, folder.picks / f"{g[0][0].shard:05d}")
        for g in _grouped(finishes, len(shards))
    )
    for tallies, of_group in map_tasks(_finish_group, groups):
        picked += of_group
        for tally in tallies:
            total.add(tally)
    wanted = total_checksum(states.records)
    if total.checksum != wanted or total.selected != len(core.places_K2):
        raise IncompleteError(
            f"the selection holds {total.rows} rows (checksum {total.checksum}), {total.selected} "
            f"selected; the states have checksum {wanted} and "
            f"{len(core.places_K2)} were picked"
        )
    paths = ray.put(picked)
    calls = ((folder, part, output_format, paths) for part in range(n_parts))
    written, notes = 0, Counter[str]()
    for rows, of_part, made in map_tasks(_write_part, calls):
        written += rows
        notes.update(of_part)
        total.made |= made
    total.notes = _told(notes, output_format)
    for note in total.notes:
        log.info("core set: %s", note)
    if written != len(core.places_K2):
        raise IncompleteError(f"{written} of {len(core.places_K2)} core set rows were written")
    shutil.rmtree(folder.picks, ignore_errors=True)
    return total


def _grouped(finishes: Iterator[_Finish], n_shards: int) -> Iterator[list[_Finish]]:
    """What is to be done for some shards at a time: enough for all CPUs, few for many shards."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    n = min(n_shards, max(_GROUPS_A_CPU * cpus, -(-n_shards // _MOST_SHARDS)))
    for i in range(n):
        yield list(islice(finishes, (i + 1) * n_shards // n - i * n_shards // n))


def _told(notes: Counter[str], output_format: str) -> list[str]:
    """Notes for the terminal and the report on rows that were not written as they came."""
    if output_format == "jsonl":
        return [f"{note} ({n:,} rows)" for note, n in sorted(notes.items())]
    return sorted(notes)


def _picks(core: CoreSet, ranks: I64) -> tuple[I32, I64, F64]:
    """Row numbers, ranks and gains of a shard's picks."""
    return core.places_K2[ranks, 1], ranks, core.gains_K[ranks]


def _collapsed(core: CoreSet, at: I64) -> tuple[I32, list[str]]:
    """Row numbers of a shard's near-duplicates, and the uids of the rows that stay for them."""
    near = core.near_duplicates
    if near is None:
        return np.empty(0, np.int32), []
    return near.places_N2[at, 1], [near.kept_uids[i] for i in at]


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """What the rows of every shard are told by."""

    tree: ClusterTree
    density: Density


# A shard, its selection file, its picks, its near-duplicates, and the picks of other methods.
_Finish = tuple[CapturedShard, Path, tuple[I32, I64, F64], tuple[I32, list[str]], dict[str, I32]]


def _finish_group(
    finishes: list[_Finish], pool: _Pool, n_parts: int, path: Path
) -> tuple[list[SelectionTally], list[Path]]:
    """Write the selection of some shards. Returns their tallies and the files of their picks."""
    tallies: list[SelectionTally] = []
    files: list[Path] = []
    held: list[pa.Table] = []
    for number, finish in enumerate(finishes, 1):
        tally, picked = _finish_shard(pool, *finish)
        tallies.append(tally)
        held.append(picked)
        full = sum(t.nbytes for t in held) >= _PICKED_BYTES or number == len(finishes)
        if full and any(t.num_rows for t in held):
            files.append(path.with_name(f"{path.name}-{len(files):05d}.rows"))
            _write_picks(files[-1], pa.concat_tables(held), n_parts)
            held = []
    return tallies, files


def _write_picks(path: Path, picked: pa.Table, n_parts: int) -> None:
    rows = picked.combine_chunks().to_batches()[0]
    rank_N = np.asarray(rows.column("rank"))
    ends = np.cumsum(np.bincount(rank_N // PART_ROWS, minlength=n_parts))
    write_buckets(path, rows, np.argsort(rank_N), ends)


def _finish_shard(
    pool: _Pool,
    shard: CapturedShard,
    target: Path,
    picks: tuple[I32, I64, F64],
    collapsed: tuple[I32, list[str]],
    compared: dict[str, I32],
) -> tuple[SelectionTally, pa.Table]:
    states = shard.read(["uid", "row_id", "n_tokens", "sketch"])
    uids = states.column("uid").to_pylist()
    columns = ["uid", "source_file", "source_row", "label", "messages", "copies", "raw"]
    rows = read_examples(shard.examples, columns)
    # Both files are sorted by uid; the states lack the rows that capture put in quarantine.
    rows = rows.filter(pc.is_in(rows.column("uid"), states.column("uid").combine_chunks()))
    if rows.column("uid").to_pylist() != uids:
        raise IncompleteError(
            f"{shard.examples} lacks examples whose states are in {shard.states}: one of them is "
            "of another run"
        )
    sketches_NS = read_matrix(states, "sketch")
    leaves, distances = pool.tree.assign(sketches_NS)
    picked, ranks, gains = picks
    kept: list[str | None] = [None] * len(uids)
    for row, kept_uid in zip(*collapsed, strict=True):
        kept[row] = kept_uid
    taken = np.zeros(len(uids), bool)
    taken[picked] = True
    rank_N, gain_N = np.zeros(len(uids), np.int64), np.zeros(len(uids))
    rank_N[picked], gain_N[picked] = ranks, gains
    selection = pa.table(
        {
            "uid": states.column("uid"),
            "row_id": states.column("row_id"),
            "source_file": rows.column("source_file"),
            "source_row": rows.column("source_row"),
            "rank": pa.array(rank_N, pa.int64(), mask=~taken),
            "gain": pa.array(gain_N, pa.float64(), mask=~taken),
            "cluster": pa.array(leaves, pa.int32()),
            "like": pool.density.pool.like(shard.shard),
            "n_tokens": states.column("n_tokens"),
            "copies": rows.column("copies"),
            "near_duplicate_of": pa.array(kept, pa.string()),
        },
        schema=SELECTION_SCHEMA,
    )
    write_parquet(target, selection)
    tally = tally_shard(selection, rows.drop(["raw"]), distances, compared, pool.tree)
    tally.reached = pool.density.survey.reached(directions_of(sketches_NS[picked]))
    wanted = selection.append_column("raw", rows.column("raw")).select(_PICK_SCHEMA.names)
    return tally, wanted.take(pa.array(picked)).cast(_PICK_SCHEMA)


def _write_part(
    folder: RunFolder, part: int, output_format: str, picked: list[Path]
) -> tuple[int, Counter[str], dict[str, Any]]:
    """Write one part of the core set: PART_ROWS rows from rank part * PART_ROWS on.

    `picked`: the files of the picks; bucket `part` of each is read. Each row is the input's own
    text with `_mads`. Returns how many rows there are, notes on what had to change, and the file
    that was made. A note counts rows in JSONL, and parts in Parquet.
    """
    lines: list[tuple[int, str, dict[str, Any]]] = []
    for path in picked:
        for _, rows in read_buckets(path, part, part + 1, _PICK_SCHEMA):
            for mads in rows.to_pylist():
                raw = mads.pop("raw")
                mads["source"] = f"{mads.pop('source_file')}:{mads.pop('source_row')}"
                lines.append((mads["rank"], raw, mads))
    lines.sort(key=lambda line: line[0])
    notes: Counter[str] = Counter()
    if output_format == "jsonl":
        marked = [marked_line(raw, mads) for _, raw, mads in lines]
        path = folder.core_set / f"part-{part:05d}.jsonl"
        write_text(path, "".join(f"{line}\n" for line, _ in marked))
        notes.update(note for _, of_row in marked for note in of_row)
    else:
        table, of_part = rows_to_table([raw for _, raw, _ in lines], [mads for *_, mads in lines])
        path = folder.core_set / f"part-{part:05d}.parquet"
        write_parquet(path, table)
        notes.update(of_part)
    return len(lines), notes, known_files(folder.root, [path])
