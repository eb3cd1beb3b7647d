"""What `mads-ray inspect` finds, without a model and without Ray."""

import gzip
import json
import subprocess
import sys

import pytest

from mads_ray import RunConfig
from mads_ray.config import CorpusConfig
from mads_ray.corpus.conversation import Conversation, Message, ToolCall
from mads_ray.corpus.inspection import inspect_input, plain, roles_of, to_json, to_text
from mads_ray.errors import ConfigError

PAIR = [{"instruction": f"Q{i}", "output": "A", "id": i + 1} for i in range(6)]
CHAT = [
    {"messages": [{"role": r, "content": f"{r} {i}"} for r in ("user", "assistant") * n]}
    for i, n in enumerate((1, 2, 3))
]


def write(path, rows):
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as f:
        f.write(text)
    return str(path)


def inspected(*files, rows=1000, **corpus):
    return inspect_input(RunConfig(input=files, output=".", corpus=CorpusConfig(**corpus)), rows)


@pytest.fixture
def two(tmp_path):
    return (
        write(tmp_path / "a.jsonl.gz", [*PAIR, PAIR[0], "{", {"instruction": "Q"}]),
        write(tmp_path / "b.jsonl", [PAIR[1], *CHAT]),
    )


def test_files_schemas_turns_and_fields(two):
    found = to_json(inspected(*two))
    one, other = found["files"]
    assert (one["format"], one["rows"], one["usable"], one["quarantined"]) == (
        "jsonl, gzip",
        9,
        7,
        2,
    )
    assert (one["repeats"], other["repeats"]) == (1, 1)
    assert (one["mean_turns"], other["mean_turns"]) == (2.0, 3.5)
    assert other["turns"] == {"user assistant": 2, "(user assistant)*": 2}
    assert {r["reason"]: r["row"] for r in one["reasons"]} == {
        "invalid_json": 7,
        "missing_field": 8,
    }
    assert one["other"] == {"id": 7}
    assert found["all"]["rows"] == found["all"]["usable"] + found["all"]["quarantined"] == 13
    assert sum(found["all"]["schemas"].values()) == 11
    assert [(e["schema"], e["row"]) for e in found["examples"]] == [
        ("instruction + output", 0),
        ("messages", 1),
        ("instruction + output", 1),
    ]


def test_text_says_it_in_lines(two):
    text = to_text(inspected(*two))
    for line in (
        "  all 9 rows: 6 examples, 1 exact duplicates, 2 for quarantine",
        "  turns: user assistant 7; 2.0 a row",
        "all 2 files: 13 rows: 9 examples, 2 exact duplicates, 2 for quarantine",
        "  read as: instruction + output 8, messages 3",
        "  other fields, no part of an example: id 8",
        "  [user] Q0",
    ):
        assert line in text.splitlines()
    assert "would quarantine 1 missing_field (output)" in text


def test_only_the_head_is_read(tmp_path):
    file = write(tmp_path / "x.jsonl", [*PAIR, *CHAT])
    for rows, more in ((5, True), (9, False)):
        (sample,) = inspected(file, rows=rows).samples
        assert (sample.rows, sample.more) == (rows, more)
    assert "the first 5 rows" in to_text(inspected(file, rows=5))


def test_a_file_that_breaks_does_not_hide_the_others(tmp_path):
    good = write(tmp_path / "good.jsonl", PAIR)
    bad = tmp_path / "bad.json"
    bad.write_text('[{"instruction": "Q", "output": "A"}, ')
    found = inspected(good, str(bad))
    assert [bool(s.error) for s in found.samples] == [True, False]
    assert str(found.first_error).startswith(str(bad))
    assert "cannot be read" in to_text(found)


def test_options_are_those_of_a_run(tmp_path):
    seen = {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "Q"}]}
    row = {"messages": [seen, {"role": "assistant", "content": "A"}], "q": "?", "a": "!"}
    file = write(tmp_path / "x.jsonl", [row])
    assert "--text-only keeps them without" in to_text(inspected(file))
    assert inspected(file, text_only=True).total.without_media == 1
    mapped = inspected(file, fields={"prompt": "q", "response": "a", "system": "sys"})
    assert mapped.total.usable == 1
    assert "warning: --field system=sys: no row has this field" in to_text(mapped)
    with pytest.raises(ConfigError, match="no input"):
        inspected()


def test_files_left_out_are_named(tmp_path):
    write(tmp_path / "a.jsonl", PAIR)
    write(tmp_path / "test.jsonl", CHAT)
    (tmp_path / "notes.md").write_text("x")
    found = inspected(str(tmp_path))
    left_out = {x["why"]: x["files"] for x in to_json(found)["left_out"]}
    assert left_out == {"format": 1, "split": 1}
    assert "left out 1 file" in to_text(found)
    assert inspected(str(tmp_path), split=("all",)).total.usable == 9


def test_roles():
    def roles(letters):
        names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
        return roles_of([Message(names[x], "") for x in letters])

    assert roles("sua") == "system user assistant"
    assert roles("sua" + "ua" * 9) == "system (user assistant)*"
    assert roles("uata" * 3 + "u") == "(user assistant tool assistant)* user"
    assert roles("aaaa" * 9).endswith("assistant ...")


def test_an_example_shows_all_that_was_read():
    call = ToolCall("tide", '{"port": "Cork"}')
    turns = (
        Message("user", "x" * 9999, media=("a.png",)),
        Message("assistant", "", reasoning="hm\x1b[2J", calls=(call,)),
        Message("tool", "17:20", name="tide"),
        *[Message("assistant", "more")] * 9,
    )
    text = plain(Conversation(turns, tools='[{"name": "tide"}]', media=("image: b.png",)))
    for said in ("a.png", "b.png", "reasoning] hm", "calls] tide", "[tool tide] 17:20", "6 more"):
        assert said in text
    assert len(text) < 1000
    assert "\x1b" not in text


def test_neither_torch_nor_ray_is_loaded(two):
    code = """
import sys
from typer.testing import CliRunner
from mads_ray.cli import app
result = CliRunner().invoke(app, ["inspect", *[x for f in sys.argv[1:] for x in ("-i", f)]])
assert result.exit_code == 0, result.output
assert "read as: instruction + output" in result.output
loaded = {"torch", "ray", "transformers", "pandas"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code, *two], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
