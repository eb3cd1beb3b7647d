"""Micro-batches when single rows or the device fail."""

from dataclasses import replace

import pytest
import torch
from faulty import Faulty, batched

from mads_ray.capture.engines.engine import PooledRows, RunStats, refuse_total_failure
from mads_ray.capture.reducer import Pooled, pack_pooled, unpack_pooled
from mads_ray.errors import ModelError


@pytest.fixture(scope="module")
def examples(renderer, sample_rows):
    return [e for e in map(renderer, sample_rows[:60]) if len(e.ids_T) < 120][:12]


def collect(engine, examples, rows_as=PooledRows()):
    stats, seen = RunStats(), {}

    def sink(rows, packed):
        acts, _hidden = unpack_pooled(packed, engine.layers, engine.width)
        seen.update(zip(rows, acts, strict=True))

    engine.run([dict(enumerate(examples))], rows_as, stats, sink)
    return stats, seen


def test_out_of_memory_halves_the_budget_and_loses_nothing(engine, examples):
    sizes = []

    def fail(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    stats, seen = collect(Faulty(engine, fail, 100_000), examples)
    assert sorted(seen) == list(range(len(examples)))
    assert not stats.failures
    assert sizes[0] == 12
    assert sum(size > 2 for size in sizes) <= 5  # the next batches know of it
    assert stats.tokens == sum(len(e.ids_T) for e in examples)


def test_out_of_memory_in_the_reduction_too(engine, examples):
    class Large:
        def pack(self, pooled):
            if len(pooled.acts_BLF) > 4:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return pack_pooled(pooled)

    stats, seen = collect(batched(engine, 100_000), examples, Large())
    assert sorted(seen) == list(range(len(examples)))
    assert not stats.failures


def test_a_row_that_does_not_fit_alone_is_quarantined(engine, examples):
    longest = max(range(len(examples)), key=lambda i: len(examples[i].ids_T))

    def fail(batch):
        if any(e is examples[longest] for e in batch):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    stats, seen = collect(Faulty(engine, fail), examples)
    assert list(stats.failures) == [longest]
    assert stats.failures[longest].reason == "out_of_memory"
    assert sorted([*seen, longest]) == list(range(len(examples)))


def test_a_poisonous_row_does_not_take_its_batch_mates_with_it(engine, examples):
    def fail(batch):
        if any(e is examples[3] for e in batch):
            raise RuntimeError("bad row")

    stats, seen = collect(Faulty(engine, fail), examples)
    assert list(stats.failures) == [3]
    assert stats.failures[3].reason == "model_error"
    assert sorted([*seen, 3]) == list(range(len(examples)))


def test_a_token_that_the_model_does_not_have_costs_its_row_only(engine, examples):
    ids = examples[2].ids_T.copy()
    ids[-1] = engine.vocabulary
    changed = [*examples[:2], replace(examples[2], ids_T=ids), *examples[3:]]
    stats, seen = collect(batched(engine, 600), changed)
    assert stats.failures[2].reason == "model_error"
    assert f"token {engine.vocabulary} is outside" in str(stats.failures[2])
    assert sorted([*seen, 2]) == list(range(len(examples)))


def test_a_batch_under_way_is_handed_over_once_whatever_the_next_one_does(engine, examples):
    """Rows arrive one batch late, also when the batch after them fails or does not fit."""
    arrived, calls = [], []

    def fail(batch):
        if len(batch) > 1:
            calls.append(len(arrived))
            if len(calls) == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            if len(calls) == 4:
                raise RuntimeError("bad batch")

    stats = RunStats()
    faulty = Faulty(engine, fail)
    faulty.device = torch.device("meta")  # any but the CPU computes while the host hands over
    windows = [dict(enumerate(examples))]
    faulty.run(windows, PooledRows(), stats, lambda rows, _packed: arrived.extend(rows))
    assert sorted(arrived) == list(range(len(examples)))
    assert not stats.failures
    lengths = [len(examples[i].ids_T) for i in arrived]
    assert lengths == sorted(lengths, reverse=True)
    assert len(calls) >= 4  # also those that failed
    assert calls[1] == 0  # the first batch is still under way when the second starts


def test_a_model_that_fails_on_every_row_is_no_matter_of_rows(engine, examples):
    def fail(_batch):
        raise RuntimeError("wrong build")

    stats, _ = collect(Faulty(engine, fail), examples)
    with pytest.raises(ModelError, match="every one of 12 rows: RuntimeError: wrong build"):
        refuse_total_failure(stats, len(examples))
    del stats.failures[0]
    refuse_total_failure(stats, len(examples))


def test_rows_without_finite_activations_are_quarantined(engine, examples):
    class Overflowing(Faulty):
        def pool(self, batch):
            pooled = self._engine.pool(batch)
            bad = [i for i, e in enumerate(batch) if e is examples[5]]
            pooled.acts_BLF[bad, 0, 0] = float("nan")
            return Pooled(pooled.acts_BLF, pooled.hidden_BH)

    stats, seen = collect(Overflowing(engine, lambda _b: None), examples)
    assert stats.failures[5].reason == "not_finite"
    assert sorted([*seen, 5]) == list(range(len(examples)))
    _, undisturbed = collect(batched(engine, 600), examples)
    assert all((acts == undisturbed[i]).all() for i, acts in seen.items())


def test_every_run_begins_with_the_whole_budget(engine, examples):
    """Of one shard's bad luck with memory the next one's batches must know nothing."""
    sizes = []

    def fail(batch):
        sizes.append(len(batch))
        if len(sizes) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    faulty = Faulty(engine, fail, 100_000)
    collect(faulty, examples)
    assert faulty.budget.tokens < 100_000
    sizes[:] = [0]
    collect(faulty, examples)
    assert sizes == [0, len(examples)]
