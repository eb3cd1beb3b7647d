"""What a shard's capture does when single rows or the device fail."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

import mads_ray.capture.shard as shard_module
from mads_ray.capture.calibration import fit_calibration
from mads_ray.capture.calibration_sample import CalibrationSample, write_group
from mads_ray.capture.engines.batching import TokenBudget
from mads_ray.capture.engines.engine import RunStats, refuse_total_failure
from mads_ray.capture.engines.micro_batches import run_batches
from mads_ray.capture.reducer import Pooled, StateReducer, pack_pooled, unpack_pooled
from mads_ray.capture.shard import capture_shard, tokenise, tokenised_windows
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.identity import uid_of
from mads_ray.errors import ModelError
from mads_ray.hashing import row_ids
from mads_ray.states import read_matrix


class Faulty:
    """The real engine, except that chosen rows or sizes fail as a device would make them."""

    def __init__(self, engine, fail):
        self._engine, self._fail = engine, fail
        self.device, self.layers, self.width = engine.device, engine.layers, engine.width
        self.hidden_size, self.vocabulary = engine.hidden_size, engine.vocabulary

    def pool(self, examples):
        self._fail(examples)
        return self._engine.pool(examples)


@pytest.fixture(scope="module")
def examples(renderer, sample_rows):
    return [e for e in map(renderer, sample_rows[:60]) if len(e.ids_T) < 120][:12]


def _arrays(pooled):
    return pooled.acts_BLF.numpy(), pooled.hidden_BH.numpy()


def collect(engine, examples, budget=600, reduce=pack_pooled):
    stats, seen = RunStats(), {}

    def sink(rows, packed):
        acts, _hidden = unpack_pooled(packed, engine.layers, engine.width)
        seen.update(zip(rows, acts, strict=True))

    run_batches(engine, TokenBudget(budget), reduce, dict(enumerate(examples)), stats, sink)
    return stats, seen


def runner(engine, reducer, budget=1000):
    return partial(run_batches, engine, TokenBudget(budget), reducer.pack)


def test_out_of_memory_halves_the_budget_and_loses_nothing(engine, examples):
    sizes = []

    def fail(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    stats, seen = collect(Faulty(engine, fail), examples, 100_000)
    assert sorted(seen) == list(range(len(examples)))
    assert not stats.failures
    assert sizes[0] == 12
    assert sum(size > 2 for size in sizes) <= 5  # the next batches know of it
    assert stats.tokens == sum(len(e.ids_T) for e in examples)


def test_out_of_memory_in_the_reduction_too(engine, examples):

    def reduce(pooled):
        if len(pooled.acts_BLF) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return pack_pooled(pooled)

    stats, seen = collect(engine, examples, 100_000, reduce)
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
    stats, seen = collect(engine, [*examples[:2], replace(examples[2], ids_T=ids), *examples[3:]])
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
    args = (TokenBudget(600), pack_pooled, dict(enumerate(examples)), stats)
    faulty = Faulty(engine, fail)
    faulty.device = torch.device("meta")  # any but the CPU computes while the host hands over
    run_batches(faulty, *args, lambda rows, _packed: arrived.extend(rows))
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


def test_a_row_that_breaks_the_renderer_is_quarantined(renderer):
    def fragile(conversation):
        if conversation.messages[0].content == "boom":
            raise KeyError("tool_call_id")
        return renderer(conversation)

    stats = RunStats()
    texts = [Conversation((Message("user", t),)).to_json() for t in ("hello", "boom", "bye")]
    tokenised = tokenise(fragile, dict(enumerate(texts)), stats)
    assert sorted(tokenised) == [0, 2]
    assert stats.failures[1].reason == "cannot_render"


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
    _, undisturbed = collect(engine, examples)
    assert all((acts == undisturbed[i]).all() for i, acts in seen.items())


def shard_of(turns):
    """A canonical shard of these conversations, and the conversations in its order."""
    by_uid = {uid_of(t): t for t in turns}
    uids = sorted(by_uid)
    columns = {
        "uid": uids,
        "row_id": row_ids(uids),
        "messages": [by_uid[u].to_json() for u in uids],
    }
    return pa.table(columns), [by_uid[u] for u in uids]


def test_capture_shard_writes_one_state_for_every_good_row(engine, renderer, sample_rows, tmp_path):
    shard, turns = shard_of([*sample_rows[:10], Conversation((Message("user", "\u200b"),))])
    uids = shard.column("uid").to_pylist()
    tokenised = [renderer(t) for t in turns]
    pooled = [engine.pool([e]) for e in tokenised]
    peaks, hiddens = (np.concatenate(a) for a in zip(*map(_arrays, pooled), strict=True))
    calibration = fit_calibration([peaks], 64, 8)
    reducer = StateReducer(calibration, engine.device, hidden_dim=576)
    run = runner(engine, reducer)
    table, stats, _ = capture_shard(run, renderer, reducer, shard)
    assert table.column("uid").to_pylist() == uids
    assert read_matrix(table, "neurons").shape == (len(uids), 30 * 64)
    assert read_matrix(table, "sketch").shape == (len(uids), 8)
    assert read_matrix(table, "hidden").shape == (len(uids), 576)
    assert table.column("n_tokens").to_pylist() == [len(e.ids_T) for e in tokenised]
    assert stats.tokens == sum(len(e.ids_T) for e in tokenised)
    again, _, _ = capture_shard(run, renderer, reducer, shard)
    assert again.equals(table)

    # Rows of the calibration sample are taken from there, not computed again.
    write_group(tmp_path, 0, uids[:4], peaks[:4], hiddens[:4])
    known = CalibrationSample(tmp_path).lookup(uids)
    assert sorted(known) == [0, 1, 2, 3]
    reused, stats, _ = capture_shard(run, renderer, reducer, shard, known)
    assert stats.tokens == sum(len(e.ids_T) for e in tokenised[4:])
    assert reused.column("uid").equals(table.column("uid"))
    same = read_matrix(reused, "neurons") == read_matrix(table, "neurons")
    assert same.mean() > 0.99


def test_windows_cover_every_row_once(renderer, sample_rows, monkeypatch):
    monkeypatch.setattr(shard_module, "WINDOW", 64)
    texts = [t.to_json() for t in sample_rows[:150]]
    for n, sizes in ((0, []), (5, [5]), (64, [2, 62]), (150, [2, 62, 2, 62, 22])):
        stats = RunStats()
        windows = list(tokenised_windows(renderer, texts[:n], stats))
        assert [len(w) for w in windows] == sizes
        for window, rest in zip(windows[0:-1:2], windows[1::2], strict=False):
            assert min(len(texts[i]) for i in window) >= max(len(texts[i]) for i in rest)
        merged = {i: e for w in windows for i, e in w.items()}
        assert sorted(merged) == list(range(n))
        for i, example in merged.items():
            assert example.ids_T.tolist() == renderer(sample_rows[i]).ids_T.tolist()


def test_the_next_window_is_tokenised_while_one_runs(renderer, sample_rows):
    """The second one is under way before anybody asks for it."""
    texts = [t.to_json() for t in sample_rows[:64]]
    seen = []

    def noting(conversation):
        seen.append(conversation)
        return renderer(conversation)

    windows = tokenised_windows(noting, texts, RunStats())
    assert len(next(windows)) == 2
    deadline = time.monotonic() + 30
    while len(seen) < 64 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(seen) == 64
    assert len(next(windows)) == 62


def test_raw_neurons_are_the_largest_pooled_peaks(engine, renderer, sample_rows, tmp_path):
    shard, turns = shard_of(sample_rows[20:28])
    uids = shard.column("uid").to_pylist()
    pooled = [engine.pool([renderer(t)]) for t in turns]
    peaks, hiddens = (np.concatenate(a) for a in zip(*map(_arrays, pooled), strict=True))
    calibration = fit_calibration([peaks], 64, 4)

    def captured(known=None, **stored):
        reducer = StateReducer(calibration, engine.device, **stored)
        # The smallest budget makes every row a batch of its own, as in the peaks above.
        return capture_shard(runner(engine, reducer, 16), renderer, reducer, shard, known)

    plain, _, _ = captured()
    table, _, _ = captured(store_raw=True)
    assert table.drop_columns("raw_neurons").equals(plain)
    assert table.schema.field("raw_neurons").type == table.schema.field("neurons").type
    expected = [
        sorted(sorted(range(engine.width), key=lambda j: (-layer[j], j))[:64])
        for layer in peaks.reshape(-1, engine.width)
    ]
    raw = read_matrix(table, "raw_neurons")
    assert raw.dtype == np.uint16
    assert raw.reshape(-1, 64).tolist() == expected
    # Standardised states name other neurons: that is why they are standardised.
    assert (raw == read_matrix(table, "neurons")).mean() < 0.5

    write_group(tmp_path, 0, uids[::2], peaks[::2], hiddens[::2])
    known = CalibrationSample(tmp_path).lookup(uids)
    reused, stats, _ = captured(known, hidden_dim=576, store_raw=True)
    assert stats.tokens < sum(table.column("n_tokens").to_pylist())
    assert read_matrix(reused, "hidden").shape == (len(uids), 576)
    assert read_matrix(reused, "raw_neurons").tolist() == raw.tolist()


def test_a_shard_without_a_good_row_has_every_column(engine, renderer, sample_rows):
    shard, turns = shard_of(sample_rows[:1])
    reducer = StateReducer(
        fit_calibration([np.random.default_rng(0).random((3, 30, 1536), np.float32)], 64, 2),
        engine.device,
        hidden_dim=576,
        store_raw=True,
    )

    def fail(_batch):
        raise RuntimeError("bad row")

    run = runner(Faulty(engine, fail), reducer)
    table, stats, _ = capture_shard(run, renderer, reducer, shard)
    assert len(stats.failures) == len(turns) == 1
    assert table.num_rows == 0
    assert table.column_names[-2:] == ["hidden", "raw_neurons"]
