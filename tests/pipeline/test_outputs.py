import json

import pyarrow.parquet as pq

from mads_ray.pipeline.outputs import _as_table, _with_mads


def test_rows_of_any_shape_become_a_parquet_table(tmp_path):
    rows = [
        {"a": "x", "n": 2**70, "meta": {}, "deep": [{"m": {}}], "mixed": 1},
        {"a": None, "n": 1, "meta": {}, "deep": [], "mixed": "one", "only": [1]},
    ]
    pq.write_table(_as_table(rows), tmp_path / "x.parquet")
    read = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [r["a"] for r in read] == ["x", None]
    assert [json.loads(r["n"]) for r in read] == [2**70, 1]
    assert [json.loads(r["meta"]) for r in read] == [{}, {}]
    assert [json.loads(r["mixed"]) for r in read] == [1, "one"]
    assert [r["only"] for r in read] == [None, [1]]


def test_a_row_keeps_its_text_to_the_letter():
    raw = '{"b": 1.50,  "a": "\\u00e9 ü"}'
    text = _with_mads(raw, {"rank": 3})
    assert text == '{"b": 1.50,  "a": "\\u00e9 ü", "_mads": {"rank": 3}}'


def test_a_row_of_an_older_core_set_gets_a_new_mark():
    text = _with_mads('{"_mads": {"rank": 1}, "prompt": "p"}', {"rank": 3})
    assert json.loads(text) == {"prompt": "p", "_mads": {"rank": 3}}
