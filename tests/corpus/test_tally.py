"""Counts of what was read and what was not: they add up, in any order, in bounded memory."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.examples import Rules
from mads_ray.corpus.forms.schemas import Reading
from mads_ray.corpus.tally import OTHERS, RowCounter, Tally, refused
from mads_ray.errors import RowError

TALK = Conversation((Message("user", "Q"), Message("assistant", "A")))
SEEN = Conversation((Message("user", "Q", media=("a.png",)), Message("assistant", "A")))


def reading(schema="messages", read=("messages",), unread=(), conversation=TALK):
    return Reading(conversation, schema, read, unread)


def counted(rows, rules=None, file="/a.jsonl"):
    """Of pairs (row, how it was read or what is wrong with it)."""
    counter = RowCounter(file, rules or Rules())
    for index, (row, found) in enumerate(rows):
        if isinstance(found, RowError):
            counter.refuse(found, index)
        else:
            counter.add(found, row)
    return counter.settle()


def test_fields_are_told_apart():
    row = {"messages": [1], "rejected": "x", "id": 0, "ok": False, "empty": "", "task": "t"}
    row |= {"null": None, "list": []}
    tally = counted([(row, reading(unread=("rejected",)))] * 3)
    assert tally.schemas == {"messages": 3}
    assert tally.read == {"messages": 3}
    assert tally.unread == {"rejected": 3}
    assert tally.other == {"id": 3, "ok": 3}
    assert counted([(row, reading())], Rules(label_field="id")).other == {
        "rejected": 1,
        "ok": 1,
        "task": 1,
    }


def test_a_dotted_name_is_its_column_or_a_column_of_this_name():
    row = {"data": {"q": "Q"}, "a.b": "A", "turns": [1], "more.x": 1}
    read = ("data.q", "a.b", "turns[0]")
    tally = counted([(row, reading(read=read))])
    assert tally.other == {"more.x": 1}


def test_the_turns_of_one_field_are_one_reason():
    errors = [RowError("missing_field", f"messages[{i}].content", f"no {i}") for i in (3, 5, 0)]
    (found,) = counted([({}, reading()), *(({}, e) for e in errors)]).reasons()
    assert (found.reason, found.field, found.count) == ("missing_field", "messages[].content", 3)
    assert (found.row, found.where, found.message) == (1, "messages[3].content", "no 3")


def test_a_list_of_turns_is_a_row():
    assert counted([([{"role": "user"}], reading())]).schemas == {"messages": 1}


def test_media_are_counted_where_they_may_go():
    rows = [({}, reading(conversation=SEEN)), ({}, reading())]
    assert counted(rows, Rules(text_only=True)).without_media == 1
    column = Conversation(TALK.messages, media=("b.wav",))
    assert counted([({}, reading(conversation=column))], Rules(text_only=True)).without_media == 1


ROWS = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=3), st.sampled_from(["", "x", None, 0, []]), max_size=4),
        st.one_of(
            st.builds(
                reading,
                schema=st.sampled_from(["messages", "instruction"]),
                read=st.sampled_from([("messages",), ("a", "b")]),
                unread=st.sampled_from([(), ("rejected",)]),
            ),
            st.builds(
                RowError,
                st.sampled_from(["wrong_type", "empty"]),
                st.text("ab[0].", max_size=6),
                st.text(max_size=5),
            ),
        ),
    ),
    max_size=40,
)


@given(ROWS, st.integers(1, 5), st.randoms(use_true_random=False))
def test_tallies_of_files_add_up_in_any_order(rows, n_files, shuffle):
    files = [counted(rows[i::n_files], file=f"/{i}") for i in range(n_files)]
    total = Tally()
    for tally in files:
        total.add(Tally.from_json(json.loads(json.dumps(tally.to_json()))))
    bad = [e for _, e in rows if isinstance(e, RowError)]
    assert (total.usable, total.quarantined) == (len(rows) - len(bad), len(bad))
    other = Tally()
    for tally in shuffle.sample(files, n_files):
        other.add(tally)
    assert other.to_json() == total.to_json()
    for name, n in total.other.items():
        assert n == sum(
            row.get(name) in ("x", 0)
            for row, e in rows
            if not isinstance(e, RowError) and name not in (*e.read, *e.unread)
        )


def test_memory_is_bounded_and_the_counts_still_add_up():
    names = [f"k{i}" for i in range(5000)]
    rows = [({n: 1}, reading(schema=n, read=(n + "r",), unread=(n + "u",))) for n in names]
    rows += [({}, RowError("unread_field", n, "m" * 9999)) for n in names]
    rows += [({"k" * 10**6: 1}, reading()), (dict.fromkeys(names, 1), reading())]
    random.Random(0).shuffle(rows)
    tally = counted(rows)
    assert (tally.usable, tally.quarantined) == (5002, 5000)
    assert len(json.dumps(tally.to_json())) < 100_000
    for counts in (tally.schemas, tally.read, tally.unread, tally.other):
        assert len(counts) <= 65
        assert counts[OTHERS]
    assert sum(tally.other.values()) == 5000 + 1 + 5000
    rest = next(r for r in tally.reasons() if r.field == OTHERS)
    assert rest.count > 4000
    assert rest.where != OTHERS


@pytest.mark.parametrize("name", ["\ud800", "x" * 500])
def test_names_can_always_be_stored(name):
    tally = counted([({name: 1}, reading()), ({}, RowError("empty", name, name))])
    json.dumps(tally.to_json(), ensure_ascii=False).encode("utf-8")
    assert max(len(n) for n in tally.other) <= 80


def test_the_example_is_the_first_by_file_and_row():
    tally = Tally()
    for file, row in (("/b", 0), ("/a", 9), ("/a", 10), ("/c", 1)):
        tally.refuse(refused("empty", "", file, row, f"{file} {row}"))
    (found,) = tally.reasons()
    assert (found.count, found.file, found.row, found.message) == (4, "/a", 9, "/a 9")
