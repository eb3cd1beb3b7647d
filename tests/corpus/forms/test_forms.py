"""docs/forms.md is true, and rows that differ in what a trainer would see are never one example."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.forms import fields
from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.forms.turns import looks_like_turn
from mads_ray.corpus.identity import uid_of
from mads_ray.errors import RowError

DOCUMENT = (Path(__file__).parents[3] / "docs" / "forms.md").read_text(encoding="utf-8")
FORMS = [
    tuple(example.splitlines())
    for block in re.findall(r"```\n(.*?)```", DOCUMENT, re.DOTALL)
    for example in block.strip().split("\n\n")
]
READ = {name: json.loads(row) for name, row, told in FORMS if not told.startswith("quarantine")}


def told_of(conversation):
    """One line a conversation, as in the document."""
    said = [f"tools: {conversation.tools}"] if conversation.tools else []
    for m in conversation.messages:
        if m.reasoning:
            said.append(f"{m.role} thinks: {m.reasoning}")
        if m.content or not (m.calls or m.reasoning):
            said.append(f"{m.role}: {m.content}")
        said += [f"{m.role} calls: {c.name}({c.arguments})" for c in m.calls]
    return " | ".join(said).replace("\n", "⏎")


def told_of_row(row, mapped=None):
    try:
        return told_of(read_row(row, mapped).conversation)
    except RowError as e:
        return f"quarantine: {e.reason} ({e.field})"


@pytest.mark.parametrize(("name", "row", "told"), FORMS, ids=[f[0] for f in FORMS])
def test_every_form_is_read_as_the_document_tells(name, row, told):
    assert told_of_row(json.loads(row)) == told


def test_the_document_names_every_known_field():
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (`.*`) \|$", DOCUMENT, re.MULTILINE))
    listed = {what: tuple(re.findall(r"`(\w+)`", names)) for what, names in rows.items()}
    assert listed == {
        "turns": fields.CONVERSATIONS,
        "prompt": fields.PROMPTS,
        "answer": fields.ANSWERS,
        "passage": fields.PASSAGES,
        "system text": fields.SYSTEMS,
        "earlier turns": fields.HISTORIES,
        "tool definitions": fields.TOOLS,
        "tool calls": fields.CALLS,
        "reasoning": fields.REASONINGS,
        "media": fields.MEDIA,
        "never read": fields.REJECTED,
    }


# --- no two rows that differ become one ---

_NO_CONTENT = {"type", "label", "category", "id", *fields.REJECTED}


def leaves(value, path=()):
    """Paths to what a trainer would see of a row."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NO_CONTENT or (key == "id" and path):
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    elif value is not None:
        yield path


def changed(row, path, how):
    """A copy whose leaf at `path` is another one."""
    row = copy.deepcopy(row)
    node = row
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = how(node[path[-1]])
    return row


def other_text(draw, text):
    text = str(text)
    if text[:2] in ("[{", '{"'):  # JSON as text: change a leaf of it
        inner = fields.from_json(text)
        path = draw(st.sampled_from(list(leaves(inner))))
        return json.dumps(changed(inner, path, lambda v: other_text(draw, v)))
    kind = draw(st.sampled_from(["append", "insert", "drop", "replace"]))
    at = draw(st.integers(0, len(text)))
    more = draw(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1))
    if kind == "append":
        return text + more
    if kind == "insert":
        return text[:at] + more + text[at:]
    return text[1:] if kind == "drop" and len(text) > 1 else more


@pytest.mark.parametrize("name", READ)
def test_a_change_anywhere_in_a_form_gives_another_example(name):
    row = READ[name]
    paths = list(leaves(row))
    original = uid_of(read_row(row).conversation)
    differing = 0

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def mutate(data):
        nonlocal differing
        path = data.draw(st.sampled_from(paths))
        before = row
        for step in path:
            before = before[step]
        new = other_text(data.draw, before)
        mutant = changed(row, path, lambda _: new)
        if json.dumps(mutant) == json.dumps(row) or new.strip() == str(before).strip():
            return
        if path[-1] in ("role", "from") and looks_like_turn({"role": new}):
            return  # many names of one role
        try:
            conversation = read_row(mutant).conversation
        except RowError:
            return
        assert uid_of(conversation) != original, mutant
        assert Conversation.from_json(conversation.to_json()) == conversation
        differing += 1

    mutate()
    assert differing > 20  # else the changes were all refused


ADDED = (
    "something else",
    [{"role": "user", "content": "more"}, {"role": "assistant", "content": "less"}],
    {"name": "f", "arguments": {"x": 1}},
)


def objects(value):
    """Every object of a row, the row first."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in fields.REJECTED:
                yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


@pytest.mark.parametrize("name", READ)
def test_a_known_field_more_anywhere_is_another_example_or_refused(name):
    original = uid_of(read_row(READ[name]).conversation)
    known = sorted(fields.KNOWN - set(fields.REJECTED))
    for i in range(sum(1 for _ in objects(READ[name]))):
        within = i > 0 or isinstance(READ[name], list)
        for added in [*known, *(("text", "value", "content", "thought") if within else ())]:
            for value in ADDED:
                row = copy.deepcopy(READ[name])
                inside = list(objects(row))[i]
                if added in inside:
                    continue
                inside[added] = value
                try:
                    reading = read_row(row)
                except RowError:
                    continue
                assert uid_of(reading.conversation) != original, row


@pytest.mark.parametrize("name", READ)
def test_a_form_survives_storage_and_being_written_as_a_row(name):
    conversation = read_row(READ[name]).conversation
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert read_row(conversation.to_row()).conversation == replace(conversation, others=())


# --- what once was read wrongly ---

EXPECTED = {
    "01": ["user: High tide? | assistant calls: tide({\"port\":\"Bergen\"})",
           "user: High tide? | assistant calls: tide({\"port\":\"Cork\"})"],
    "03": ["user: High tide in Cork? | assistant calls: tide({\"port\":\"Cork\"}) | tool: 17:20 | "
           "assistant: At 17:20."],
    "04": ["user: High tide? | assistant calls: tide({\"port\":\"Cork\"})"] * 2,
    "05": ["user: High tide in Cork? | assistant calls: tide({\"port\":\"Cork\"}) | tool: 17:20 | "
           "assistant: At 17:20."],
    "06": ["user: 19 times 3? | assistant thinks: Twenty threes are sixty, less three. | "
           "assistant: 57",
           "user: 19 times 3? | assistant thinks: 19+19+19 = 57. | assistant: 57"],
    "08": ["system: You are a butler. | user: Greet me. | assistant: Good day.",
           "system: You are a guide. | user: Greet me. | assistant: Good day."],
    "10": ["system: You are a butler. | user: Greet me. | assistant: Good day.",
           "system: You are a guide. | user: Greet me. | assistant: Good day."],
    "12": ["user: Name a noble gas. | assistant: Neon.",
           "user: Name a noble gas. | assistant: Xenon."],
    "14": ["user: First weekday? | assistant: Monday. | user: And the next one? | "
           "assistant: Tuesday.",
           "user: Day after Sunday plus one? | assistant: Let me count. | "
           "user: And the next one? | assistant: Tuesday."],
    "15": ["user: Summarise.⏎⏎Bread rose in price. | assistant: Dearer bread.",
           "user: Summarise.⏎⏎Milk fell in price. | assistant: Dearer bread."],
    "16": ["quarantine: undesirable (label)"],
    "17": ["user: Name a noble gas. | assistant: Neon."],
    "18": ["user: Name a noble gas. | assistant: Neon."],
    "20": ["user: Name a noble gas. | assistant: Neon."] * 2,
    "22": ["system: Be brief. | user: Name a noble gas. | assistant: Neon.",
           "user: Name a metal. | assistant: Tin.",
           "user: 1+1 | assistant: 2",
           "user: hund | assistant: dog",
           "user: 2+2 | assistant: 4",
           "user: Name a salt. | assistant: Halite.",
           "user: Name a tree. | assistant: Oak."],
    "23": ["user: Name a noble gas. | assistant: Neon."],
    "28": ["user: Name a noble gas. | assistant: Neon.", "user: Name a metal. | assistant: Tin."],
    "30": ["user: High tide? | assistant: Looking. | assistant calls: tide({\"port\":\"Cork\"}) | "
           "tool: 17:20 | assistant: At 17:20."],
    "32": ["tools: [{\"type\":\"function\",\"function\":{\"name\":\"tide\"}}] | user: High tide? | "
           "assistant: Which port?",
           "tools: [{\"type\":\"function\",\"function\":{\"name\":\"ferry\"}}] | "
           "user: High tide? | assistant: Which port?"],
}  # fmt: skip
MAPPED = {
    "11": ({"messages": "chat", "system": "sys"}, EXPECTED["08"]),
    "26": (
        {"prompt": "data.q", "response": "data.a"},
        ["user: Name a noble gas. | assistant: Neon."],
    ),
    "27": (
        {"prompt": "q", "response": "answers.text.0"},
        ["user: Name a noble gas. | assistant: Neon."],
    ),
}


def told_of_file(number, mapped=None):
    (path,) = (Path(__file__).parent / "rows").glob(f"{number}-*.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [told_of_row(json.loads(line), mapped) for line in lines]


@pytest.mark.parametrize("number", EXPECTED)
def test_files_that_once_were_read_wrongly(number):
    assert told_of_file(number) == EXPECTED[number]


@pytest.mark.parametrize("number", MAPPED)
def test_files_that_need_a_field_map(number):
    mapped, expected = MAPPED[number]
    assert told_of_file(number, mapped) == expected
