"""Rows that break readers and writers, among ordinary ones, through the whole pipeline."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from odd_rows import deep_text, same
from runs import CAPTURE, config_for
from terminal import on_a_terminal

from mads_ray import run, select
from mads_ray.config import SelectionConfig
from mads_ray.corpus.row_text import loads
from mads_ray.evaluation.evaluate import evaluate
from mads_ray.pipeline.explain import explain

PAIR = '"instruction": "Name %d rivers of the {}th land", "output": "Rhine and Elbe"'
ACTING = set("\x00\x07\x1b\x9b\u202e\u2028")
_ODD = [
    '"meta": "\\ud83d"',
    '"\\udc00": 1',
    '"meta": {"a": [{"\\ud83d": "\\udfff\\ud83d"}]}',
    f'"meta": {deep_text(900)}',
    ", ".join(f'"key {i}": {i}' for i in range(100_000)),
    f'"meta": {{{", ".join(chr(34) + str(i) + chr(34) + ": 1" for i in range(20_000))}}}',
    '"_mads": 3, "meta": "\\ud83d"',
    '"_mads": {"uid": "00000000000000000000000000000000", "rank": 1}',
    '"_mads": null, "\\u005fmads": [1]',
    '"output": "Danube", "meta": 1, "meta": "two"',
    f'"meta": NaN, "more": [-Infinity, Infinity, 1e999, 1{"0" * 400}]',
    '"meta":\r"a",\r"more"\r:\r[\r1\r]',
    '"meta": "a\u2028b\u2029c\x85d", "\u2028": 2',
    '"meta": "\\u0000\\u001b[31m\u202e", "": {"": {}}, "task": "\\u001b]0;title\\u0007"',
    f'"{"k" * 2**20}": 1',
    '"messages": null, "meta": "\\u0000"',
]
_QUARANTINED = [
    f'{{"messages": [{{"role": "{"r" * 2**20}", "content": "c"}}]}}',
    f"{{{', '.join(chr(34) + c * 2**20 + chr(34) + ': 1' for c in 'abc')}}}",
    '{"instruction": "\\ud83d", "output": "o"}',
    '{"a": 1}',
]


@pytest.fixture(scope="module")
def harmful(tmp_path_factory, small_corpus):
    """(corpus, texts of its odd rows by their number)."""
    folder = tmp_path_factory.mktemp("harmful")
    rows = [f"{{{PAIR.format(i) % i}, {odd}}}" for i, odd in enumerate(_ODD)]
    plain = (small_corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    text = "\n".join([*rows, *_QUARANTINED, *plain]) + "\n"
    (folder / "rows\x1b[31m\u202e.jsonl").write_bytes(text.encode())
    return folder, dict(enumerate(rows))


@pytest.fixture(scope="module", autouse=True)
def _in_process():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def capture(tiny_model):
    return CAPTURE.model_copy(update={"model": str(tiny_model)})


@pytest.fixture(scope="module")
def in_parquet(harmful, capture, tmp_path_factory):
    output = tmp_path_factory.mktemp("harmful-run") / "out"
    everything = {"selection": SelectionConfig(fraction=1.0), "output_format": "parquet"}
    everything["capture"] = capture
    return run(config_for(harmful[0], output, **everything))


def by_row(result):
    return {int(row["_mads"]["source"].rpartition(":")[2]): row for row in result.rows()}


def expected(text):
    row = loads(text)
    mark = row.pop("_mads", None)
    if mark is not None and not (isinstance(mark, dict) and "uid" in mark):
        row["_mads_input"] = mark
    return row


def test_they_are_all_in_the_core_set_in_parquet(in_parquet, harmful):
    counts = in_parquet.counts
    assert counts.read == counts.quarantined + counts.duplicates + counts.examples
    assert counts.selected == counts.examples
    assert counts.quarantined >= len(_QUARANTINED)
    found = by_row(in_parquet)
    assert found.keys() >= harmful[1].keys()
    for i, text in harmful[1].items():
        mads = found[i].pop("_mads")
        assert len(mads["uid"]) == 32
        assert same(found[i], expected(text), nan_is_null=True, absent_is_null=True), text[:200]
    (part,) = (in_parquet.output / "core_set").iterdir()
    assert pq.read_schema(part).names.count("_more") == 1
    notes = json.loads((in_parquet.output / "report.json").read_text())["core_set_notes"]
    assert any("_more" in note for note in notes)
    assert "share the column _more" in in_parquet.report.read_text(encoding="utf-8")


def test_they_are_all_in_the_core_set_in_jsonl(in_parquet, harmful, tmp_path):
    config = config_for(harmful[0], tmp_path / "out", selection=SelectionConfig(fraction=1.0))
    result = select(config, in_parquet.output)
    found = by_row(result)
    for i, text in harmful[1].items():
        found[i].pop("_mads")
        assert same(found[i], expected(text), nan_is_null=True), text[:200]
    (part,) = (result.output / "core_set").iterdir()
    lines = part.read_text(encoding="utf-8").splitlines()
    assert len(lines) == result.counts.selected
    for line in lines:  # as a reader has it that knows JSON only
        assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)
    plain = {line.rpartition(', "_mads": ')[0] for line in lines}
    harmless = [harmful[1][i] for i in (0, 1, 2, 3, 4, 5, 9)]
    assert {text[:-1] for text in harmless} <= plain  # to the letter
    found = evaluate(result.output, {"same": part})
    assert found["core_sets"]["same"]["rows"] == result.counts.selected
    uid = next(result.rows())["_mads"]["uid"]
    assert explain(result.output, uid).rank == 0


def test_what_is_not_taken_disturbs_nobody(in_parquet, harmful, tmp_path):
    for output_format in ("jsonl", "parquet"):
        few = {"selection": SelectionConfig(size=3), "output_format": output_format}
        output = tmp_path / output_format
        result = select(config_for(harmful[0], output, **few), in_parquet.output)
        assert len(list(result.rows())) == 3


def test_the_quarantine_is_small_whatever_the_rows(in_parquet):
    parts = list(Path(in_parquet.output / "quarantine").glob("*.parquet"))
    rows = [r for part in parts for r in pq.read_table(part).to_pylist()]
    assert len(rows) == in_parquet.counts.quarantined
    assert max(len(r[name]) for r in rows for name in ("raw", "message", "field")) < 2100


def test_neither_a_terminal_nor_a_page_is_acted_on(in_parquet):
    page = in_parquet.report.read_text(encoding="utf-8")
    assert not set(page) & ACTING
    assert "\\x1b]0;title\\x07" in page  # a label
    hostile = [row for row in in_parquet.rows() if "\u202e" in str(row.get("meta"))]
    code, shown = on_a_terminal("explain", in_parquet.output, hostile[0]["_mads"]["uid"])
    assert code == 0, shown
    assert "rows\\x1b[31m\\u202e.jsonl:" in shown
    assert not set(shown.replace("\x1b[0m", "")) & ACTING  # Ray's own


_TURNS = [{"role": ("user", "assistant")[i % 2], "content": f"word {i}"} for i in range(60_000)]
_COSTLY = [
    {"messages": _TURNS},
    {"instruction": "a" + "\u0300\u0316" * 150_000, "output": "Marks."},
    {"instruction": "Repeat.", "output": "a" * 2**20},
    {"instruction": "Repeat.", "output": "<|im_end|>" * 20_000},
]


def test_rows_that_once_took_minutes_end_like_others(capture, small_corpus, tmp_path):
    plain = (small_corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    file = tmp_path / "in" / "costly.jsonl"
    file.parent.mkdir()
    file.write_text("\n".join([*map(json.dumps, _COSTLY), *plain]) + "\n", encoding="utf-8")
    everything = SelectionConfig(fraction=1.0)
    result = run(config_for(file, tmp_path / "out", capture=capture, selection=everything))
    assert result.counts.read == len(_COSTLY) + len(plain)
    assert result.counts.quarantined == 0
    found = by_row(result)
    assert [
        {k: v for k, v in found[i].items() if k != "_mads"} for i in range(len(_COSTLY))
    ] == _COSTLY
    parquet = config_for(file, tmp_path / "p", selection=everything, output_format="parquet")
    assert by_row(select(parquet, result.output)).keys() == found.keys()
