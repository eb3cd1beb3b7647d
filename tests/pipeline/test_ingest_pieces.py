"""A corpus read in pieces, by this version or begun by an older one, is the same corpus."""

import gzip
import json
import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from ingested import ingested, run_of

from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.corpus.spool import cuts
from mads_ray.errors import BrokenFileError, ChangedFileError
from mads_ray.pipeline import ingest as stage
from mads_ray.pipeline import ingest_workers

pytestmark = pytest.mark.usefixtures("in_process")


def rows(name, n):
    for i in range(n):
        good = {"prompt": f"{name} {i % (n - 20)}", "completion": "A", f"x{i % 5}": 1}
        yield {"prompt": f"{name} {i}"} if i % 17 == 5 else good


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    text = {n: "\n".join(json.dumps(r) for r in rows(n, 300)) for n in "abc"}
    (folder / "a.jsonl").write_text(text["a"])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(text["b"].encode()))
    prompts = [None if i % 50 == 7 else f"c {i} " * 20 for i in range(300)]
    table = pa.table({"prompt": prompts, "completion": ["A"] * 300})
    pq.write_table(table, folder / "c.parquet", row_group_size=40)
    return folder


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cuts, "_PIECE_BYTES", 3000)
    monkeypatch.setattr(cuts, "_PACKED_BYTES", 0)


def read(corpus, output, **settings):
    config = RunConfig(input=(str(corpus),), output=str(output), corpus=CorpusConfig(**settings))
    run = run_of(config)
    run.output.root.mkdir(exist_ok=True)
    return ingested(run), run.output


def kept(folder):
    """All that ingest leaves: canonical shards, and the rows in quarantine."""
    shards = {p.name: p.read_bytes() for p in folder.corpus.glob("shard-*")}
    parts = sorted(folder.quarantine.glob("*.parquet"))
    return shards, [r for p in parts for r in pq.read_table(p).to_pylist()]


def whole(corpus, output, **settings):
    """The same with pieces of their usual size: no file here is large."""
    with in_this_process(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "_PIECE_BYTES", 1 << 40)
        patch.setattr(cuts, "_PACKED_BYTES", 1 << 40)
        return read(corpus, output, **settings)


def test_pieces_make_the_same_corpus(corpus, small_pieces, tmp_path):
    cut = [
        cuts.cuts_of(f)
        for f in stage.find_input(
            [str(corpus)],
            CorpusConfig(),
            run_of(RunConfig(input=(str(corpus),), output=str(tmp_path / "x"))).output,
        ).files
    ]
    assert cut[0] > 4
    assert cut[1:] == [1, 1]
    ledger, folder = read(corpus, tmp_path / "pieces")
    wanted, reference = whole(corpus, tmp_path / "whole")
    assert ledger == wanted
    assert kept(folder) == kept(reference)
    assert ledger.quarantined == 36 + 6
    assert len(list(folder.quarantine.glob("part-ingest-00000-0*"))) > 3


def test_all_pieces_of_a_broken_file_are_dropped(corpus, small_pieces, tmp_path):
    data = bytearray((corpus / "c.parquet").read_bytes())
    at = pq.read_metadata(corpus / "c.parquet").row_group(4).column(0).data_page_offset
    data[at : at + 60] = b"\xff" * 60
    (corpus / "c.parquet").write_bytes(data)
    broken = gzip.compress(os.urandom(40_000).hex().encode())
    (corpus / "b.jsonl.gz").write_bytes(broken[:-30])
    wanted, reference = whole(corpus, tmp_path / "whole", skip_broken_files=True)
    assert len(wanted.lost) == 2
    ledger, folder = read(corpus, tmp_path / "pieces", skip_broken_files=True)
    assert ledger == wanted
    assert [asdict(x) for x in ledger.lost] == [asdict(x) for x in wanted.lost]
    assert kept(folder) == kept(reference)
    with pytest.raises(BrokenFileError) as by_pieces:
        read(corpus, tmp_path / "refused")
    with pytest.raises(BrokenFileError) as by_all:
        whole(corpus, tmp_path / "refused 2")
    assert str(by_pieces.value) == str(by_all.value)


def test_a_compressed_file_that_changes_after_it_was_unpacked_is_noticed(
    corpus, small_pieces, tmp_path, monkeypatch
):
    """Its chunks are in the spool, and are not used."""
    measured = ingest_workers.measure

    def then_it_changes(index, file, cut, spool):
        found = measured(index, file, cut, spool)
        if file.path.endswith(".gz"):
            Path(file.path).write_bytes(gzip.compress(b'{"prompt": "other", "completion": "x"}'))
        return found

    monkeypatch.setattr(ingest_workers, "measure", then_it_changes)
    with pytest.raises(ChangedFileError, match=r"b\.jsonl\.gz: this file changed"):
        read(corpus, tmp_path / "out")


def test_a_spool_of_an_older_version_is_read_again(corpus, tmp_path, monkeypatch):
    """Its shards are kept. What it says of its runs is not believed."""
    wanted, reference = whole(corpus, tmp_path / "whole")

    def stop(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_spool", stop)
        with pytest.raises(KeyboardInterrupt):
            read(corpus, tmp_path / "out")  # writes the plan
    folder = run_of(RunConfig(input=(str(corpus),), output=str(tmp_path / "out"))).output
    folder.spool.mkdir()
    folder.quarantine.mkdir()
    for i in range(3):
        stored = {"read": 9, "tally": {}, "runs": [f"run-{i:05d}-00000.parquet"], "lost": None}
        (folder.spool / f"file-{i:05d}.done.json").write_text(json.dumps(stored))
    (folder.quarantine / "part-ingest-00000-00009.parquet").write_bytes(b"PAR1")
    for path in reference.corpus.glob("shard-00000.*"):
        (folder.corpus / path.name).write_bytes(path.read_bytes())
    before = folder.shard_file(0).stat().st_mtime_ns
    ledger, _ = read(corpus, tmp_path / "out")
    assert ledger == wanted
    assert kept(folder) == kept(reference)
    assert folder.shard_file(0).stat().st_mtime_ns == before
