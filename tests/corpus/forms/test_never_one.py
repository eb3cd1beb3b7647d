"""Pairs of rows that differ in one place which is easily passed over: two examples, or refused."""

import json

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


def told(row):
    return [(m.role, m.content) for m in read_row(row).conversation.messages]


def test_parts_in_another_order_are_another_example():
    say = {"type": "text", "text": "a"}
    more = {"type": "text", "text": "b"}
    call = {"type": "tool_use", "name": "f", "input": {}}
    turns = ([say, call, more], [say, more, call], [call, say, more])
    rows = [{"messages": [u, {"role": "assistant", "content": parts}]} for parts in turns]
    assert len({outcome(row) for row in rows}) == 3


def test_half_a_surrogate_pair_in_any_name_is_refused():
    for row in (
        {"messages": [{**u, "\ud800": "x"}, a]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q", "\ud800": 1}]},
                a,
            ]
        },
        {"messages": [u, {**a, "tool_calls": [{"name": "f", "\ud800": 1}]}]},
    ):
        assert outcome(row) == "refused: invalid_unicode"


def test_a_table_by_columns_is_refused():
    row = {"prompt": ["q1", "q2"], "completion": ["a1", "a2"]}
    assert outcome(row) == "refused: wrong_type"


def test_turns_as_text_are_turns_in_prompts_and_answers_too():
    chosen = json.dumps([u, a])
    assert told({"prompt": "q", "chosen": chosen, "rejected": chosen}) == [
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_passages_and_histories_are_said_once():
    asked = {"role": "user", "content": "Context: Bread rose.\n\nDear?"}
    row = {"messages": [asked, a], "context": "Bread rose.", "history": [["q", "a"]]}
    assert told({k: v for k, v in row.items() if k != "history"}) == [
        ("user", asked["content"]),
        ("assistant", "a"),
    ]
    assert told({"messages": [u, a], "history": [u, a]}) == [("user", "q"), ("assistant", "a")]


def test_text_that_python_wrote_does_not_depend_on_the_process():
    assert outcome({**{"prompt": "q", "completion": "a"}, "tools": "[{'name': {'a', 'b'}}]"})
    assert outcome({"messages": "[{'role': 'tool', 'content': {(1, 2): 3}}]"}) == (
        "refused: wrong_type"
    )


def test_many_calls_under_two_names_take_linear_time():
    calls = [{"name": f"f{i}", "arguments": {}} for i in range(30_000)]
    turn = {"role": "assistant", "tool_calls": calls, "function_calls": calls}
    read = read_row({"messages": [u, turn]}).conversation
    assert len(read.messages[1].calls) == len(calls)


def test_switches_and_counts_are_no_content():
    for name, value in (
        ("chat", True),
        ("dialog", 7),
        ("images", 0),
        ("images", [0]),
        ("turns", 2),
    ):
        assert told({"prompt": "q", "completion": "a", name: value}) == [
            ("user", "q"),
            ("assistant", "a"),
        ]
