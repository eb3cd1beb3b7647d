"""Rows of every known shape become the same conversation, bad ones name their field."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.corpus.conversation import Message, ToolCall
from mads_ray.corpus.forms.fields import clean
from mads_ray.corpus.forms.schemas import label_of, read_row
from mads_ray.errors import RowError


def parsed(row, fields=None):
    return read_row(row, fields).conversation.messages


ROLES = {"system", "user", "assistant", "tool"}


def pairs(row, fields=None):
    return [(m.role, m.content) for m in parsed(row, fields)]


def failure(row, fields=None):
    with pytest.raises(RowError) as e:
        parsed(row, fields)
    return e.value.reason, e.value.field


def turns(*extra):
    return {"messages": [{"role": "user", "content": "Q"}, *extra]}


QA = [("user", "Q"), ("assistant", "A")]
SQA = [("system", "S"), *QA]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Q", "output": "A"}, QA),
        ({"instruction": "Q", "input": "", "output": "A"}, QA),
        ({"instruction": "Q", "input": None, "output": "A"}, QA),
        (
            {"instruction": "Q", "input": "more", "output": "A"},
            [("user", "Q\n\nmore"), ("assistant", "A")],
        ),
        ({"instruction": "", "input": "Q", "output": "A"}, QA),
        ({"instruction": "Q", "output": "A", "system": "S"}, SQA),
        ({"instruction": "Q", "output": "A", "system": None}, QA),
        ({"instruction": "Q", "output": "A", "response": "B", "completion": "C"}, QA),
        (
            {"instruction": "Q", "context": "text", "response": "A", "category": "open_qa"},
            [("user", "Q\n\ntext"), ("assistant", "A")],
        ),
        (
            {"instruction": "Q", "context": "text", "input": "", "output": "A"},
            [("user", "Q\n\ntext"), ("assistant", "A")],
        ),
        ({"instruction": "Q", "completion": "A"}, QA),
        ({"prompt": "Q", "completion": "A"}, QA),
        ({"prompt": "Q", "response": "A"}, QA),
        ({"prompt": "Q", "output": "A"}, QA),
        ({"prompt": "Q", "answer": "A", "system": "S"}, SQA),
        ({"prompt": "Q", "completion": "A", "response": "B"}, QA),
        (
            {"prompt": "Q", "input": "about", "completion": "A"},
            [("user", "Q\n\nabout"), ("assistant", "A")],
        ),
    ],
)
def test_pairs_of_prompt_and_response(row, expected):
    assert pairs(row) == expected


@pytest.mark.parametrize("name", ["conversations", "conversation"])
def test_sharegpt_with_system_key(name):
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert pairs({name: turns, "system": "S"}) == SQA
    assert pairs({name: turns, "system": ""}) == QA
    assert pairs({name: turns}) == QA


def test_sharegpt_with_system_turn():
    turns = [
        {"from": "system", "value": "S"},
        {"from": "human", "value": "Q"},
        {"from": "gpt", "value": "A"},
        {"from": "human", "value": "Q2"},
        {"from": "gpt", "value": "A2"},
    ]
    expected = [*SQA, ("user", "Q2"), ("assistant", "A2")]
    assert pairs({"id": "x", "conversations": turns}) == expected


def test_messages_keep_order_roles_and_mid_system_messages():
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "developer", "content": "S2"},
        {"role": "user", "content": " Q2 "},
        {"role": "assistant", "content": "A2"},
    ]
    assert pairs({"messages": turns}) == [
        ("system", "S"),
        ("user", "Q"),
        ("assistant", "A"),
        ("system", "S2"),
        ("user", " Q2 "),
        ("assistant", "A2"),
    ]


def test_messages_win_over_other_schemas_in_one_row():
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    row = {"messages": chat, "prompt": "Q", "completion": "A", "conversations": []}
    assert pairs(row) == QA
    assert failure(row | {"prompt": "other"}) == ("unread_field", "prompt")
    assert failure(row | {"instruction": "other"}) == ("unread_field", "instruction")
    assert failure(row | {"conversations": ["other"]}) == ("unread_field", "conversations")
    assert failure(row | {"tools": [{"name": "a"}], "functions": [{"name": "b"}]}) == (
        "unread_field",
        "functions",
    )


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("user", "user"),
        ("human", "user"),
        ("prompter", "user"),
        (" User ", "user"),
        ("assistant", "assistant"),
        ("gpt", "assistant"),
        ("GPT", "assistant"),
        ("bot", "assistant"),
        ("chatgpt", "assistant"),
        ("model", "assistant"),
        ("developer", "system"),
        ("tool", "tool"),
        ("function", "tool"),
        ("function_response", "tool"),
        ("observation", "tool"),
    ],
)
def test_role_names(name, role):
    assert parsed(turns({"role": name, "content": "x"}))[1] == Message(role, "x")


def test_content_parts_are_joined():
    content = [{"type": "text", "text": "one"}, "two", {"type": "input_text", "text": "three"}]
    assert pairs({"messages": [{"role": "user", "content": content}]}) == [
        ("user", "one\ntwo\nthree")
    ]


def test_tool_calls_replace_null_content():
    calls = [{"id": "1", "function": {"name": "f", "arguments": '{"é": 1}'}}]
    row = {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "42"},
        ]
    }
    asked, called, answered = parsed(row)
    assert (asked.content, answered) == ("Q", Message("tool", "42"))
    assert called.role == "assistant"
    assert called == Message("assistant", "", calls=(ToolCall("f", '{"é":1}', "1"),))


def test_text_and_tool_calls_stay_together():
    turn = {"role": "assistant", "content": "A", "tool_calls": [{"name": "f", "arguments": "go"}]}
    read = parsed({"messages": [{"role": "user", "content": "Q"}, turn]})
    assert read[1] == Message("assistant", "A", calls=(ToolCall("f", "go"),))
    assert failure({"messages": [turn | {"tool_calls": [{"id": "1"}]}]}) == (
        "missing_field",
        "messages[0].tool_calls[0].name",
    )


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"q": "Q", "a": "A"}, {"prompt": "q", "response": "a"}, QA),
        (
            {"data": {"q": {"text": "Q"}}, "a": "A"},
            {"prompt": "data.q.text", "response": "a"},
            QA,
        ),
        (
            {"q": "Q", "a": "A", "ctx": "more", "sys": "S"},
            {"prompt": "q", "response": "a", "input": "ctx", "system": "sys"},
            [("system", "S"), ("user", "Q\n\nmore"), ("assistant", "A")],
        ),
        (
            {"q": "Q", "a": "A"},
            {"prompt": "q", "response": "a", "input": "ctx.text", "system": "sys"},
            QA,
        ),
        (
            {"x": {"turns": [{"role": "user", "content": "Q"}, {"from": "gpt", "value": "A"}]}},
            {"messages": "x.turns"},
            QA,
        ),
        (
            {"prompt": "not this", "completion": "nor this", "q": "Q", "a": "A"},
            {"prompt": "q", "response": "a"},
            QA,
        ),
    ],
)
def test_field_map(row, fields, expected):
    assert pairs(row, fields) == expected


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ([], "not_an_object", ""),
        (None, "not_an_object", ""),
        ("text", "not_an_object", ""),
        (3, "not_an_object", ""),
        ({}, "unknown_schema", ""),
        ({"ask": "Q", "reply": "A"}, "unknown_schema", ""),
        ({"instruction": "Q"}, "missing_field", "output"),
        ({"prompt": "Q"}, "missing_field", "completion"),
        (turns({"content": "A"}), "missing_field", "messages[1].role"),
        (turns({"role": "assistant"}), "missing_field", "messages[1].content"),
        ({"instruction": 3, "output": "A"}, "wrong_type", "instruction"),
        ({"instruction": "Q", "output": None}, "wrong_type", "output"),
        ({"prompt": "Q", "completion": [{}]}, "wrong_type", "completion"),
        ({"prompt": "Q", "completion": "A", "system": 3}, "wrong_type", "system"),
        ({"messages": "Q"}, "wrong_type", "messages"),
        ({"messages": None}, "wrong_type", "messages"),
        ({"messages": [3]}, "wrong_type", "messages[0]"),
        (turns({"role": "assistant", "content": None}), "wrong_type", "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": None, "tool_calls": [1]}]},
            "wrong_type",
            "messages[0].tool_calls[0]",
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}], "system": 3},
            "wrong_type",
            "system",
        ),
        (turns({"role": "critic", "content": "x"}), "unknown_role", "messages[1].role"),
        (
            {"conversations": [{"from": "alien", "value": "x"}]},
            "unknown_role",
            "conversations[0].from",
        ),
        (turns({"role": None, "content": "x"}), "missing_field", "messages[1].role"),
        ({"messages": []}, "empty", "messages"),
        ({"conversations": []}, "empty", "conversations"),
        ({"prompt": " \n", "completion": ""}, "empty", "prompt"),
        ({"messages": [{"role": "system", "content": "only this"}]}, "empty", ""),
        (
            turns({"role": "user", "content": ["t", {"type": "image_url", "image_url": "u"}]}),
            "not_text",
            "messages[1].content[1]",
        ),
        (turns({"role": "user", "content": [3]}), "not_text", "messages[1].content[0]"),
        ({"prompt": "a\ud800", "completion": "A"}, "invalid_unicode", "prompt"),
        (turns({"role": "user", "content": "\udfff"}), "invalid_unicode", "messages[1].content"),
    ],
)
def test_refused_rows_name_reason_and_field(row, reason, field):
    assert failure(row) == (reason, field)


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"q": "Q"}, {"prompt": "q", "response": "a.b"}, ("missing_field", "a.b")),
        ({"q": "Q", "a": "A"}, {"prompt": "q", "response": "a.b"}, ("missing_field", "a.b")),
        ({"q": {"t": 1}, "a": "A"}, {"prompt": "q.t", "response": "a"}, ("wrong_type", "q.t")),
        ({"x": {"t": "Q"}}, {"messages": "x.t"}, ("wrong_type", "x.t")),
        ({"x": {"t": [{}]}}, {"messages": "x.t"}, ("missing_field", "x.t[0].role")),
        ({"q": "Q"}, {"prompt": "q"}, ("bad_field_map", "")),
    ],
)
def test_refused_rows_of_a_field_map(row, fields, expected):
    assert failure(row, fields) == expected


def test_messages_tell_the_user_what_is_there():
    with pytest.raises(RowError, match=r"fields: ask, reply.*--field prompt="):
        parsed({"ask": "Q", "reply": "A"})
    with pytest.raises(RowError, match=r"unknown role 'critic'.*known: ai, assistant"):
        parsed(turns({"role": "critic", "content": "x"}))


def test_empty_response_is_an_example():
    assert pairs({"prompt": "Q", "completion": ""}) == [("user", "Q"), ("assistant", "")]
    assert pairs(turns({"role": "assistant", "content": ""})) == [("user", "Q"), ("assistant", "")]


def test_blank_system_message_is_dropped():
    assert pairs({"prompt": "Q", "completion": "A", "system": " \n"}) == QA


def test_line_ends_and_byte_order_mark_are_unified():
    assert pairs({"prompt": "\ufeffa\r\nb\rc\n", "completion": "x\r\n\r\ny"}) == [
        ("user", "a\nb\nc\n"),
        ("assistant", "x\n\ny"),
    ]
    assert clean("a\ufeff", "f") == "a\ufeff"


@pytest.mark.parametrize(
    ("row", "field", "label"),
    [
        ({"task": "t", "category": "c", "dataset": "d"}, None, "t"),
        ({"category": "c", "dataset": "d"}, None, "c"),
        ({"task": "", "dataset": "d"}, None, "d"),
        ({"task": 7}, None, "7"),
        ({"task": True}, None, None),
        ({"task": ["t"]}, None, None),
        ({"task": "t", "kind": "k"}, "kind", "k"),
        ({"task": "t"}, "kind", None),
        ({"task": "x" * 300}, None, "x" * 200),
        (["task"], None, None),
    ],
)
def test_label(row, field, label):
    assert label_of(row, field) == label


def test_row_error_survives_pickling():
    error = pickle.loads(pickle.dumps(RowError("empty", "f", "why")))
    assert (error.reason, error.field, error.message, str(error)) == ("empty", "f", "why", "why")


NAMES = [
    *("messages", "conversations", "instruction", "prompt", "input", "context", "system"),
    *("output", "response", "completion", "role", "from", "content", "value", "text"),
    *("tool_calls", "type"),
]
TEXT = st.text(st.characters(exclude_categories=[]), max_size=5)  # lone surrogates included
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXT,
    st.sampled_from(["user", "assistant", "system", "gpt", "hello"]),
)
KEY = st.one_of(st.sampled_from(NAMES), TEXT)
JSON = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEY, inner, max_size=5),
        st.fixed_dictionaries({"role": st.sampled_from(["user", "gpt", "?"]), "content": inner}),
    ),
    max_leaves=12,
)
ROW = st.one_of(
    JSON,
    st.dictionaries(KEY, JSON, max_size=6),
    st.fixed_dictionaries({"messages": st.lists(JSON, max_size=4)}),
    st.fixed_dictionaries({"prompt": JSON, "completion": JSON, "system": JSON}),
)
FIELDS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["messages", "system", "prompt", "input", "response"]),
        st.sampled_from([*NAMES, "prompt.text", "content.value"]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(ROW, FIELDS)
def test_any_json_value_is_a_conversation_or_a_row_error(row, fields):
    try:
        messages = parsed(row, fields)
        label_of(row, None)
    except RowError:
        return
    assert isinstance(messages, tuple)
    assert all(type(m) is Message and m.role in ROLES for m in messages)
    assert any(not m.is_empty for m in messages if m.role != "system")
    for m in messages:
        assert "\r" not in m.content.encode("utf-8").decode("utf-8")
