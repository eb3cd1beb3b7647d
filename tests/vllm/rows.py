"""Run examples through either engine; compare what they give."""

import numpy as np
import torch

from mads_ray.capture.engines.engine import EngineOptions, PooledRows, RunStats
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.reducer import pack_pooled, unpack_pooled

K = 64


def run(engine, examples, rows_as=PooledRows()):
    """Packed rows in the order of the examples."""
    stats, rows = RunStats(), {}

    def sink(numbers, packed):
        rows.update(zip(numbers, packed, strict=True))

    # Numbers as capture gives them: some rows of a shard are known already.
    numbered = {3 * i + 1: e for i, e in enumerate(examples)}
    engine.run([numbered], rows_as, stats, sink)
    assert not stats.failures
    assert stats.tokens == stats.padded_tokens == sum(len(e.ids_T) for e in examples)
    return np.stack([rows[i] for i in numbered])


def pooled(engine, examples):
    return unpack_pooled(run(engine, examples), engine.layers, engine.width)


def one_by_one(model, examples, pooling="max"):
    """Without padding, batch mates or chunks."""
    engine = TransformersEngine(model, EngineOptions(pooling))
    rows = torch.cat([pack_pooled(engine.pool([e])) for e in examples])
    return unpack_pooled(rows.numpy(), engine.layers, engine.width)


def overlap(a, b, k=K):
    """Mean share of the k largest of every layer and row that two arrays have in common."""
    top = [np.argpartition(-x, k, axis=2)[..., :k].reshape(-1, k) for x in (a, b)]
    return np.mean([len(np.intersect1d(x, y)) for x, y in zip(*top, strict=True)]) / k
