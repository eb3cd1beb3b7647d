"""What ingest leaves out, loses and refuses is told in the log, the ledger and run.json."""

import json
import logging
import os
from dataclasses import asdict

import pytest
from ingested import ingested, run_of

from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.errors import BrokenFileError, ChangedFileError, CorpusError, MismatchError
from mads_ray.pipeline import ingest as stage
from mads_ray.pipeline.record import _files
from mads_ray.states import CapturedStates


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jsonl", "test.jsonl"):
        lines = [json.dumps({"prompt": f"{name} {i}", "completion": "A"}) for i in range(5)]
        (folder / name).write_text("\n".join(lines))
    (folder / "broken.parquet").write_bytes(b"garbage")
    (folder / "empty.jsonl").write_bytes(b"\n")
    (folder / "notes.txt").write_bytes(b"x")
    return folder


def read(corpus, output, **settings):
    config = RunConfig(input=(str(corpus),), output=str(output), corpus=CorpusConfig(**settings))
    run = run_of(config)
    run.output.root.mkdir(exist_ok=True)
    return ingested(run), run.output


def test_what_is_left_out_and_lost_is_told(ray_local, corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mads_ray")
    with pytest.raises(BrokenFileError, match=r"broken\.parquet: unreadable after row 0"):
        read(corpus, tmp_path / "out")
    ledger, folder = read(corpus, tmp_path / "out", skip_broken_files=True)
    assert (ledger.read, ledger.examples) == (5, 5)
    assert [(x.why, x.what, x.files) for x in ledger.left_out] == [
        ("format", ".txt", 1),
        ("split", "test", 1),
    ]
    assert [x.path for x in ledger.lost] == [str(corpus / "broken.parquet")]
    assert folder.load_ledger() == ledger
    assert _files(CapturedStates(folder, ledger, None, ())) == {
        "read": 2,
        "left_out": [asdict(x) for x in ledger.left_out],
        "lost": [asdict(x) for x in ledger.lost],
    }
    for words in (
        "left out 1 file: 1 .txt",
        "left out 1 file of other splits: 1 test",
        "skipped a broken file, all of it",
        f"1 file(s) hold no row, first {corpus / 'empty.jsonl'}",
    ):
        assert words in caplog.text
    assert read(corpus, tmp_path / "out", skip_broken_files=True)[0] == ledger
    with pytest.raises(MismatchError, match=r"lacks 1 file\(s\), first .*broken\.parquet"):
        read(corpus, tmp_path / "out")


def test_leave_to_skip_needs_no_second_reading(in_process, corpus, tmp_path):
    """A finished corpus without a loss is the same with and without leave to lose files."""
    (corpus / "broken.parquet").unlink()
    ledger, _ = read(corpus, tmp_path / "out")
    assert read(corpus, tmp_path / "out", skip_broken_files=True)[0] == ledger
    with pytest.raises(MismatchError, match=r"new input file: .*test\.jsonl"):
        read(corpus, tmp_path / "out", split=("all",))


def test_a_corpus_from_before_these_settings_is_found_again(in_process, corpus, tmp_path):
    (corpus / "broken.parquet").unlink()
    ledger, folder = read(corpus, tmp_path / "out")
    path = folder.corpus / "ledger.json"
    stored = json.loads(path.read_text())
    del stored["identity"]["corpus"]["split"], stored["identity"]["corpus"]["skip_broken_files"]
    del stored["left_out"], stored["lost"]
    path.write_text(json.dumps(stored))
    assert read(corpus, tmp_path / "out")[0].shards == ledger.shards


def test_input_that_changed_since_it_was_found_is_named(in_process, corpus, tmp_path, monkeypatch):
    (corpus / "broken.parquet").unlink()

    def changed(*args):
        with (corpus / "a.jsonl").open("a") as f:
            f.write("\n{}")
        return spool(*args)

    spool = stage._spool
    monkeypatch.setattr(stage, "_spool", changed)
    with pytest.raises(ChangedFileError, match=r"a\.jsonl: this file changed since it was found"):
        read(corpus, tmp_path / "out", skip_broken_files=True)


def test_files_without_a_row_are_no_corpus(in_process, corpus, tmp_path):
    for name in ("a.jsonl", "broken.parquet"):
        os.remove(corpus / name)
    with pytest.raises(CorpusError, match=r"1 file\(s\) hold no row, first .*empty\.jsonl"):
        read(corpus, tmp_path / "out")
