"""Pairs of rows that differ in one place which is easily passed over: two examples, or refused."""

import pytest

from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.identity import uid_of
from mads_ray.errors import RowError

u = {"role": "user", "content": "q"}
a = {"role": "assistant", "content": "a"}

PAIRS = {
    "reasoning in a pair": lambda x: {
        "conversation": [{"input": "q", "output": "a", "reasoning_content": x}]
    },
    "a picture in a pair": lambda x: {"conversation": [{"input": "q", "output": "a", "image": x}]},
    "two answers in a pair": lambda x: {
        "conversation": [{"human": "q", "assistant": "a", "gpt": x}]
    },
    "a list of turns in the list": lambda x: {"messages": [[u, {**a, "reasoning_content": x}]]},
    "reasoning in a second list": lambda x: {
        "messages": [u, a],
        "conversations": [u, {**a, "reasoning_content": x}],
    },
    "a call in a second prompt": lambda x: {
        "messages": [u, a],
        "prompt": [
            {"role": "assistant", "content": None, "tool_calls": [{"name": x, "arguments": {}}]}
        ],
    },
    "a picture in a second prompt": lambda x: {
        "messages": [u, a],
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "q"}, {"type": "image", "image": x}],
            }
        ],
    },
    "a passage like a turn": lambda x: {"messages": [u, a], "context": x},
    "reasoning like a turn": lambda x: {"question": "q", "answer": "a", "thinking": x},
    "reasoning before the answer": lambda x: {
        "prompt": [u, {**a, "reasoning_content": x}, u],
        "completion": [u, a, u, {"role": "assistant", "content": "z"}],
    },
    "a picture beside a text": lambda x: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "q", "image": x}]}, a]
    },
    "two texts of a part": lambda x: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "q", "value": x}]}, a]
    },
    "a text beside a call": lambda x: {
        "messages": [
            u,
            {"role": "assistant", "content": [{"text": x, "toolUse": {"name": "f", "input": {}}}]},
        ]
    },
    "a text beside a thought": lambda x: {
        "messages": [
            u,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "text": x}]},
        ]
    },
    "a text in a call": lambda x: {
        "messages": [
            u,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "name": "f", "input": {}, "text": x}],
            },
        ]
    },
    "a text in a result": lambda x: {
        "messages": [
            u,
            {"role": "user", "content": [{"type": "tool_result", "content": "x", "text": x}]},
        ]
    },
    "two arguments of a call": lambda x: {
        "messages": [
            u,
            {
                "role": "assistant",
                "tool_calls": [{"name": "f", "arguments": {}, "input": {"a": x}}],
            },
        ]
    },
    "a key twice": lambda x: {
        "messages": [
            u,
            {
                "role": "assistant",
                "tool_calls": [{"name": "f", "arguments": f'{{"a":"{x}","a":2}}'}],
            },
        ]
    },
    "a plan": lambda x: {"messages": [u, {**a, "tool_plan": x}]},
    "a weight": lambda x: {"messages": [u, {**a, "weight": x}]},
    "tools in the history": lambda x: {
        "instruction": "q",
        "output": "a",
        "history": [{**u, "tools": [{"name": x}]}, a],
    },
    "pairs beside a question": lambda x: {
        "turns": [{"human": x, "assistant": "z"}],
        "question": "q",
        "answer": "a",
    },
    "texts beside a question": lambda x: {"turns": [x], "question": "q", "answer": "a"},
    "a definition": lambda x: {"definition": x, "inputs": "q", "targets": "a"},
    "choices": lambda x: {"question": "q", "choices": [x, "z"], "answer": 1},
    "tools told twice": lambda x: {
        "messages": [{"role": "system", "content": '[{"name":"f"}]'}, u, a],
        **({"tools": '[{"name":"f"}]'} if x == "A" else {}),
    },
}


def outcome(row):
    try:
        return uid_of(read_row(row).conversation)
    except RowError as e:
        return f"refused: {e.reason}"


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_anywhere_is_never_one_example(name):
    one, other = (outcome(PAIRS[name](x)) for x in ("A", "B"))
    assert one != other or one.startswith(("refused: unread_field", "refused: not_text"))


@pytest.mark.parametrize("value", [False, "False", " false "])
def test_an_answer_to_avoid_is_one_in_a_table_too(value):
    assert outcome({"prompt": "q", "completion": "bad", "label": value}) == "refused: undesirable"


def test_deep_rows_are_refused_or_read():
    part = {"type": "text", "text": "x"}
    for _ in range(600):
        part = {"type": "text", "text": [part]}
    result = []
    for _ in range(900):
        result = [result]
    assert outcome({"messages": [{"role": "user", "content": [part]}, a]}) == "refused: wrong_type"
    assert len(outcome({"messages": [u, {"role": "tool", "content": result}]})) == 32
