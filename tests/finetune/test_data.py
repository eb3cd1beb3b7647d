"""Tokens of the response, against the text; and a hold-out that hangs on content alone."""

import numpy as np
import pytest

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.finetune.data import is_held_out, read, split, tokenise

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who wrote Emma?"},
        {"role": "assistant", "content": "Jane Austen."},
        {"role": "user", "content": "And Dune?"},
        {"role": "assistant", "content": "Frank Herbert."},
    ]
}


def test_the_mask_is_the_response(write_rows, tokenizer):
    alpaca = {"instruction": "Say hello.", "input": "In French.", "output": "Bonjour, ça va ?"}
    rows, left_out = read([write_rows("rows.jsonl", [alpaca, CHAT])])
    examples, without = tokenise(rows, PromptRenderer(tokenizer, 256, "response"))
    assert (len(examples), without, dict(left_out)) == (2, 0, {})
    one, two = (tokenizer.decode(e.ids_T[e.target_T]) for e in examples)
    assert (one, two) == ("Bonjour, ça va ?", "Jane Austen.Frank Herbert.")
    for example in examples:
        query = example.query()
        assert np.array_equal(query.next_N, example.ids_T[example.target_T])
        assert np.array_equal(example.ids_T[query.at_N + 1], query.next_N)
        assert len(query.ids_T) == query.at_N[-1] + 1  # nothing is read that predicts nothing


def test_rows_that_cannot_be_learned_from_are_counted(write_rows, tokenizer):
    good = {"instruction": "Say one.", "output": "One.", "task": "a"}
    rows = [good, good, {"instruction": "Say two.", "output": ""}, {"text": "?"}]
    read_rows, left_out = read([write_rows("rows.jsonl", rows)])
    assert dict(left_out) == {"repeated": 1, "unknown_schema": 1}
    assert [r.label for r in read_rows] == ["a", "-"]
    examples, without = tokenise(read_rows, PromptRenderer(tokenizer, 64, "response"))
    assert ([e.uid for e in examples], without) == ([read_rows[0].uid], 1)


def test_the_log_tells_what_a_run_tells(write_rows, caplog):
    caplog.set_level("INFO", "mads_ray")
    good = {"instruction": "Say one.", "output": "One.", "extra": 1}
    file = write_rows("rows.jsonl", [good, good, {"instruction": "Say two."}, {"text": "?"}])
    _, left_out = read([file])
    assert dict(left_out) == {"missing_field": 1, "unknown_schema": 1, "repeated": 1}
    told = caplog.messages
    assert told[0].endswith(
        "4 rows read from 1 file(s): 1 examples, 1 exact duplicates, 2 left out"
    )
    assert "  read as: instruction + output 2" in told
    assert "  other fields, no part of an example: extra 2" in told
    assert any(t.startswith("  left out 1 missing_field (output): ") for t in told)


def test_media_are_left_away_on_demand(write_rows):
    parts = [{"type": "image_url"}, {"type": "text", "text": "What is it?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cat."}]
    file = write_rows("rows.jsonl", [{"messages": turns}])
    assert read([file]) == ([], {"not_text": 1})
    rows, left_out = read([file], text_only=True)
    assert ([m.content for m in rows[0].conversation.messages], left_out) == (
        ["What is it?", "A cat."],
        {},
    )


def test_a_field_map_and_a_label_field(write_rows):
    file = write_rows("rows.jsonl", [{"q": "Why?", "a": "So.", "kind": "short"}])
    rows, _ = read([file], "kind", {"prompt": "q", "response": "a"})
    assert [m.content for m in rows[0].conversation.messages] == ["Why?", "So."]
    assert rows[0].label == "short"


def test_what_is_held_out_does_not_hang_on_order(write_rows):
    lines = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(400)]
    rows, _ = read([write_rows("rows.jsonl", lines)])
    pool, held = split(rows, 0.2)
    assert 50 < len(held) < 110
    assert {r.uid for r in pool}.isdisjoint({r.uid for r in held})
    assert len(pool) + len(held) == 400
    _, half = split(rows[::-1][:200], 0.2)
    last = {r.uid for r in rows[200:]}
    assert {r.uid for r in half} == {r.uid for r in held} & last
    assert {r.uid for r in split(rows, 0.2, seed=1)[1]} != {r.uid for r in held}
    assert {r.uid for r in held} < {r.uid for r in split(rows, 0.5)[1]}


@pytest.mark.parametrize(("share", "held"), [(0.0, 0), (1.0, 3)])
def test_all_or_nothing(share, held):
    assert is_held_out(["0" * 32, "f" * 32, "8" * 32], share).sum() == held
