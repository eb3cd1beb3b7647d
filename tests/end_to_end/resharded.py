"""Deal a finished run's states to other canonical shards, and read them back independently."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.shards import shard_bounds
from mads_ray.hashing import checksum
from mads_ray.ledger import ShardRecord
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, read_matrix
from mads_ray.storage import write_json, write_parquet


def reshard(source, target, n_shards):
    old, new = RunFolder(source), RunFolder(target)
    ledger = old.load_ledger()
    calibration = StatesManifest.load(old.manifest).calibration
    records = old.state_records(ledger.shards, calibration)
    examples = pa.concat_tables([pq.read_table(old.shard_file(s.shard)) for s in ledger.shards])
    states = pa.concat_tables([pq.read_table(old.state_file(s.shard)) for s in ledger.shards])
    shards = []
    new.states.mkdir(parents=True)
    for shard in range(n_shards):
        low, high = shard_bounds(shard, n_shards)
        mine, captured = (
            t.filter(pa.array([low <= u < high for u in t.column("uid").to_pylist()]))
            for t in (examples, states)
        )
        uids = mine.column("uid").to_pylist()
        shards.append(ShardRecord(shard, len(uids), 0, checksum(uids)))
        write_parquet(new.shard_file(shard), mine)
        write_parquet(new.state_file(shard), captured)
        marker = dataclasses.replace(
            records[0],
            shard=shard,
            captured=captured.num_rows,
            quarantined=mine.num_rows - captured.num_rows,
            checksum=checksum(uids),
            captured_checksum=checksum(captured.column("uid").to_pylist()),
        )
        write_json(new.state_marker(shard), dataclasses.asdict(marker))
    new.save_ledger(dataclasses.replace(ledger, shards=tuple(shards)), old.corpus_identity())
    shutil.copy(old.manifest, new.manifest)


def stored_states(output):
    """(uids, features (N, A) as layer * width + neuron, tree nodes (N, P))."""
    folder = RunFolder(output)
    table = pq.read_table(sorted(folder.states.glob("part-*.parquet")))
    neurons = read_matrix(table, "neurons").astype(np.int64)
    k = neurons.shape[1] // 30
    tree = ClusterTree.load(folder.selection / "cluster_tree.npz")
    nodes = tree.paths_CP[tree.assign(read_matrix(table, "sketch"))[0]]
    return table.column("uid").to_pylist(), neurons + np.repeat(np.arange(30), k) * 1536, nodes


def stored_levels(output):
    return len(ClusterTree.load(RunFolder(output).selection / "cluster_tree.npz").level_sizes)
