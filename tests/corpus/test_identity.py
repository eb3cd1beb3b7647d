"""The uid depends on the conversation alone; shards and hashes depend on the uid alone."""

import hashlib
import json
import random
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.identity import uid_of
from mads_ray.corpus.shards import shard_bounds, shard_count
from mads_ray.hashing import add_checksums, checksum, row_ids, seeded_hash, uid_words

UID = st.integers(0, 2**128 - 1).map(lambda i: f"{i:032x}")


def talk(*turns):
    return Conversation(tuple(turns))


def uid(row):
    return uid_of(read_row(row).conversation)


def many(n):
    return [uid_of(talk(Message("user", str(i)))) for i in range(n)]


def test_uid_is_the_documented_hash():
    data = '[["system","s"],["user","é\\n\\"q\\""]]'.encode()
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert uid_of(talk(Message("system", " s\n"), Message("user", 'e\u0301\n"q"'))) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q", "output": "A", "id": 7},
        {"instruction": "Q", "context": "", "response": "A"},
        {"prompt": "Q", "completion": "A"},
        {"prompt": "Q", "completion": "A", "system": " "},
        {"prompt": " Q\n", "completion": "\r\nA\t"},
        {"prompt": "\ufeffQ", "completion": "A"},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": "A"},
            ]
        },
    ],
)
def test_equal_content_is_one_example_in_any_schema(row):
    assert uid(row) == uid_of(talk(Message("user", "Q"), Message("assistant", "A")))


def test_line_ends_and_normal_forms_do_not_matter():
    wanted = uid({"prompt": "a\nb\u00e9", "completion": "A"})
    assert uid({"prompt": "a\r\nb\u00e9", "completion": "A"}) == wanted
    assert uid({"prompt": "a\rb\u00e9", "completion": "A"}) == wanted
    assert uid({"prompt": "a\nbe\u0301", "completion": "A"}) == wanted


def test_different_conversations_differ():
    user, gpt = "user", "assistant"
    conversations = [
        [(user, "Q"), (gpt, "A")],
        [(gpt, "Q"), (user, "A")],
        [(user, "A"), (gpt, "Q")],
        [(user, "Q"), (gpt, "a")],
        [(user, "Q"), (gpt, "")],
        [(user, "Q")],
        [(user, "Q"), (user, "A")],
        [("system", "Q"), (gpt, "A")],
        [("tool", "Q"), (gpt, "A")],
        [(user, "QA"), (gpt, "")],
        [(user, "Q Q"), (gpt, "A")],
        [(user, "Q  Q"), (gpt, "A")],
        [(user, "Q\nQ"), (gpt, "A")],
        [(user, 'Q"],["assistant","A')],
        [(user, "Q"), (gpt, "A"), (user, "")],
    ]
    assert len({uid_of(talk(*(Message(*m) for m in c))) for c in conversations}) == len(
        conversations
    )


def test_words_and_row_ids():
    high, low = uid_words(["f" * 16 + "0" * 15 + "2", "0" * 15 + "1" + "8" + "0" * 15])
    assert high.tolist() == [2**64 - 1, 1]
    assert low.tolist() == [2, 2**63]
    assert row_ids(["f" * 16 + "0" * 16, "0" * 15 + "1" + "8" + "0" * 15]).tolist() == [-1, 1]
    assert row_ids([]).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(st.lists(UID, max_size=30, unique=True), st.integers(0, 30), st.randoms())
def test_checksum_of_a_set(uids, cut, rng):
    shuffled = rng.sample(uids, len(uids))
    assert checksum(shuffled) == checksum(iter(uids))
    assert add_checksums([checksum(shuffled[:cut]), checksum(shuffled[cut:])]) == checksum(uids)
    total = sum(int(u[:16], 16) + int(u[16:], 16) for u in uids) % 2**64
    assert checksum(uids) == f"{total:016x}"


def test_checksum_sees_a_lost_and_an_exchanged_row():
    uids = many(10)
    assert checksum([]) == add_checksums([]) == "0" * 16
    assert len({checksum(uids), checksum(uids[1:]), checksum([*uids[1:], many(11)[10]])}) == 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.lists(UID, min_size=1, max_size=5))
def test_shards_partition_the_uids(n_shards, uids):
    bounds = [shard_bounds(s, n_shards) for s in range(n_shards)]
    edges = [b[0] for b in bounds]
    # Also the hardest cases: the uids on both sides of an edge, and both ends of the space.
    edge = int(edges[len(edges) // 2], 16)
    around = [f"{max(edge - 1, 0):08x}" + "f" * 24, f"{edge:08x}" + "0" * 24]
    for u in [*uids, *around, "0" * 32, "f" * 32]:
        assert sum(low <= u < high for low, high in bounds) == 1
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    sizes = np.diff([int(e, 16) for e in edges] + [2**32])
    assert sizes.max() - sizes.min() <= 1


def test_shard_count_is_fixed_by_the_corpus():
    cases = [
        *((0, 4096, 1), (1, 4096, 1), (127, 4096, 1), (128, 4096, 2), (1024, 4096, 16)),
        *((65536, 4096, 16), (65537, 4096, 17), (10**9, 4096, 244141), (100, 16, 7)),
    ]
    assert [shard_count(n, rows) for n, rows, _ in cases] == [c for _, _, c in cases]


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(16, 10**5))
def test_shard_count_is_monotone(examples, more, shard_rows):
    assert shard_count(examples, shard_rows) <= shard_count(examples + more, shard_rows)
    assert shard_count(examples, shard_rows) * shard_rows >= examples


def splitmix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@settings(deadline=None)
@given(UID, st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_seeded_hash_is_the_documented_function(u, seed, stream):
    key = splitmix((seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) % 2**64)
    wanted = splitmix(splitmix(int(u[:16], 16) ^ key) ^ int(u[16:], 16))
    assert seeded_hash([u], seed, stream).tolist() == [wanted]


def test_seeded_hash_does_not_see_batch_or_order():
    uids = many(200)
    whole = dict(zip(uids, seeded_hash(uids, 5, 2).tolist(), strict=True))
    shuffled = random.Random(1).sample(uids, 200)
    parts = [seeded_hash(shuffled[i : i + 7], 5, 2).tolist() for i in range(0, 200, 7)]
    assert [h for p in parts for h in p] == [whole[u] for u in shuffled]
    assert seeded_hash([], 5).shape == (0,)


def test_seeded_hash_looks_uniform_and_streams_independent():
    n, uids = 20_000, many(20_000)
    base = seeded_hash(uids, 0)
    for shift in (60, 30, 0):
        seen = np.bincount(((base >> np.uint64(shift)) & np.uint64(15)).astype(int), minlength=16)
        assert ((seen - n / 16) ** 2 / (n / 16)).sum() < 45  # chi-square, 15 degrees of freedom
    ranks = [base, seeded_hash(uids, 1), seeded_hash(uids, 0, 1), row_ids(uids).view(np.uint64)]
    correlation = np.corrcoef([r.astype(float) for r in ranks])
    assert abs(correlation - np.eye(4)).max() < 5 / np.sqrt(n)


def test_runs_of_combining_marks_take_linear_time():
    marks = "a" + "\u0300\u0316" * 200_000  # NFC alone would take minutes
    ids = {uid_of(talk(Message("user", text))) for text in (marks, marks + "\u0300", "b" + marks)}
    assert len(ids) == 3


@given(st.text(st.characters(codec="utf-8"), max_size=9), st.integers(0, 15))
def test_long_texts_are_composed_like_short_ones(text, marks):
    text = "e\u0301 " + text + "\u0301" * marks + "x"
    long = text + " and so on" * 200
    composed = unicodedata.normalize("NFC", long)
    assert uid_of(talk(Message("user", long))) == uid_of(talk(Message("user", composed)))


@given(
    st.lists(st.tuples(st.sampled_from(["user", "tool"]), st.text(st.characters(codec="utf-8"))))
)
def test_plain_turns_are_stored_and_hashed_as_lists(turns):
    plain = talk(*(Message(*turn) for turn in turns))
    assert plain.to_json() == json.dumps(plain.plain(), ensure_ascii=False)
    normal = [[role, unicodedata.normalize("NFC", text).strip()] for role, text in turns]
    data = json.dumps(normal, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    assert uid_of(plain) == hashlib.blake2b(data, digest_size=16).hexdigest()
