"""What a person reads at the end of ingest."""

import os

import pytest

from mads_ray.corpus.examples import Rules
from mads_ray.corpus.tally import Tally, refused
from mads_ray.corpus.telling import lines, nearest, warnings


def tally_of(bad=(), **names):
    tally = Tally(**names)
    for reason, field, file, row, message in bad:
        tally.refuse(refused(reason, field, file, row, message))
    return tally


def test_reasons_schemas_and_what_was_not_read():
    bad = [("missing_field", f"messages[{i}].content", "/d/a.jsonl", i, "no text") for i in (7, 2)]
    bad += [(f"r{i}", "", "/d/b.jsonl", i, "m") for i in range(6)]
    schemas = {"messages": 1650, "instruction + output": 70}
    tally = tally_of(bad, schemas=schemas, unread={"rejected": 300}, other={"id": 9})
    assert lines(tally, Rules()) == [
        "quarantined 2 missing_field (messages[].content): /d/a.jsonl row 2: no text",
        *(f"quarantined 1 r{i}: /d/b.jsonl row {i}: m" for i in range(4)),
        "quarantined 2 for 2 other reasons",
        "read as: messages 1,650, instruction + output 70",
        "not read: rejected 300",
        "other fields, no part of an example: id 9",
    ]


def test_many_names_are_cut():
    (told,) = lines(tally_of(schemas={f"s{i}": 1 for i in range(20)}), Rules())
    assert told.endswith("s15 1, and 12 more")


def test_media_say_how_to_keep_the_rows():
    bad = [("not_text", f, "/a", 1, "m") for f in ("images", "messages[0].content[1]")]
    told = lines(tally_of(bad), Rules())
    assert told[-1].startswith("2 rows have images, audio or video (images 1, messages[].content[]")
    assert "--text-only" in told[-1]
    assert not any("--text-only" in t for t in lines(tally_of(bad), Rules(text_only=True)))
    told = lines(tally_of(schemas={"m": 4}, without_media=3), Rules(text_only=True))
    assert "3 rows were read without images, audio or video" in told


@pytest.mark.parametrize(("bad", "warned"), [(2, 0), (3, 1)])
def test_much_in_quarantine_is_a_warning_that_says_what_to_do(bad, warned):
    tally = tally_of([("empty", "", "/a", i, "") for i in range(bad)], schemas={"m": 10 - bad})
    worst = {"file": "/a", "read": 8, "quarantined": bad}
    told = warnings(tally, Rules(), worst, "/out/quarantine")
    assert len(told) == warned
    for said in ("30%", "/a (3 of its 8 rows)", "/out/quarantine", "inspect --input", "--field"):
        assert all(said in t for t in told)


def test_a_mapped_field_that_no_row_has_is_a_warning():
    rules = Rules({"prompt": "q", "response": "a", "system": "sys", "input": "ctx"})
    tally = tally_of(schemas={"field map": 2}, read={"q": 2, "a": 2, "ctx": 1})
    assert warnings(tally, rules, None, "") == ["--field system=sys: no row has this field"]
    assert warnings(tally_of(), rules, None, "") == []  # nothing was read at all


def test_nothing_acts_on_a_terminal(tmp_path, monkeypatch):
    bad = [("r\x1b[2J", "f\n", "/a\x07", 0, "m\r\x9b")]
    told = "".join(lines(tally_of(bad, schemas={"\x1b": 1}, other={"é\u202e": 1}), Rules()))
    assert told.isprintable()
    monkeypatch.chdir(tmp_path)
    assert nearest(str(tmp_path / "d" / "x")) == os.path.join("d", "x")
    assert nearest("/etc/x") == "/etc/x"
    assert nearest("s3://b/x") == "s3://b/x"
