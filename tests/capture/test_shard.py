"""What the capture of a shard makes of its conversations."""

import time
from functools import partial

import numpy as np
import pyarrow as pa
from faulty import Faulty, batched

import mads_ray.capture.shard as shard_module
from mads_ray.capture.calibration import fit_calibration
from mads_ray.capture.calibration_sample import CalibrationSample, write_group
from mads_ray.capture.engines.engine import RunStats, StateRows
from mads_ray.capture.model import load_tokenizer, locate
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.capture.reducer import StateReducer
from mads_ray.capture.shard import capture_shard, tokenise, tokenised_windows
from mads_ray.capture.tokenised import TokenisedShard, tokenised_bytes
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.identity import uid_of
from mads_ray.hashing import row_ids
from mads_ray.states import read_matrix


def _arrays(pooled):
    return pooled.acts_BLF.numpy(), pooled.hidden_BH.numpy()


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


def test_what_another_process_tokenised_is_the_same(renderer, sample_rows):
    """With rows that cannot be rendered, and rows that are cut."""
    short = PromptRenderer(load_tokenizer(locate("smollm2-135m", None, "float32")), 48)
    turns = [Conversation((Message("system", "\u200b"),)), *sample_rows[:90]]
    texts = [t.to_json() for t in turns]
    here, there = RunStats(), RunStats()
    wanted = list(tokenised_windows(short, texts, here))
    found = list(TokenisedShard(tokenised_bytes(short, texts))(texts, there))
    assert here.cut_rows
    assert here.failures
    assert (there.cut_rows, there.failures.keys()) == (here.cut_rows, here.failures.keys())
    assert [str(e) for e in there.failures.values()] == [str(e) for e in here.failures.values()]
    assert [list(w) for w in found] == [list(w) for w in wanted]
    for mine, theirs in zip(wanted, found, strict=True):
        for row, example in mine.items():
            other = theirs[row]
            assert example.ids_T.dtype == other.ids_T.dtype
            assert example.own_T.dtype == other.own_T.dtype
            assert example.ids_T.tolist() == other.ids_T.tolist()
            assert example.own_T.tolist() == other.own_T.tolist()
            assert example.cut == other.cut
    assert list(TokenisedShard(tokenised_bytes(short, []))([], RunStats())) == []


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
    states = StateRows(reducer)
    table, stats, _ = capture_shard(engine, partial(tokenised_windows, renderer), states, shard)
    assert table.column("uid").to_pylist() == uids
    assert read_matrix(table, "neurons").shape == (len(uids), 30 * 64)
    assert read_matrix(table, "sketch").shape == (len(uids), 8)
    assert read_matrix(table, "hidden").shape == (len(uids), 576)
    assert table.column("n_tokens").to_pylist() == [len(e.ids_T) for e in tokenised]
    assert stats.tokens == sum(len(e.ids_T) for e in tokenised)
    again, _, _ = capture_shard(engine, partial(tokenised_windows, renderer), states, shard)
    assert again.equals(table)

    # Tokens that came from another process make no difference.
    came = TokenisedShard(tokenised_bytes(renderer, shard.column("messages").to_pylist()))
    elsewhere, of_them, _ = capture_shard(engine, came, states, shard)
    assert elsewhere.equals(table)
    assert of_them == stats

    # Rows of the calibration sample are taken from there, not computed again.
    write_group(tmp_path, 0, uids[:4], peaks[:4], hiddens[:4])
    known = CalibrationSample(tmp_path).lookup(uids)
    assert sorted(known) == [0, 1, 2, 3]
    reused, stats, _ = capture_shard(
        engine, partial(tokenised_windows, renderer), states, shard, known
    )
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
        states = StateRows(StateReducer(calibration, engine.device, **stored))
        # The smallest budget makes every row a batch of its own, as in the peaks above.
        return capture_shard(
            batched(engine, 16), partial(tokenised_windows, renderer), states, shard, known
        )

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

    states = StateRows(reducer)
    table, stats, _ = capture_shard(
        Faulty(engine, fail), partial(tokenised_windows, renderer), states, shard
    )
    assert len(stats.failures) == len(turns) == 1
    assert table.num_rows == 0
    assert table.column_names[-2:] == ["hidden", "raw_neurons"]
