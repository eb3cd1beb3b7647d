"""Multiple choice against a slow reference, and the text of every format."""

import gzip
import json

import numpy as np
import pytest
import torch

from mads_ray.errors import ConfigError
from mads_ray.finetune.choices import average, encode, log_likelihoods, scores
from mads_ray.finetune.tasks import FORMATS, Question, load

SKY = {"prompt": "What colour is the sky?", "choices": ["a deep green", "blue"], "answer": 1}
SENTENCE = {"prompt": "The cup did not fit the box as the _ was big.", "choices": ["cup", "box"]}
ROWS = {
    "arc_easy": SKY,
    "bbh": {"prompt": "not ( True ) is", "choices": ["True", "False"], "answer": 1},
    "boolq": {
        "passage": "Sky -- It is blue.",
        "prompt": "is the sky blue",
        "choices": ["False", "True"],
        "answer": 1,
    },
    "commonsense_qa": SKY,
    "hellaswag_1k": {
        "activity": "Singing",
        "prompt": "A man sings. [step] he",
        "choices": ["bows.", "is  a [x] chair, and it is loud."],
        "answer": 0,
    },
    "mmlu": SKY | {"subject": "high_school_physics"},
    "truthfulqa": {
        "kind": "mc_multi",
        "prompt": "Who is it?",
        "best": "Me",
        "correct": ["I am", "Me"],
        "incorrect": ["Nobody at all", "You"],
    },
    "winogrande": SENTENCE | {"answer": 0},
}


@pytest.fixture
def folder(tmp_path):
    for i, (task, row) in enumerate(ROWS.items()):
        text = json.dumps({"id": f"{task}-0", "kind": "mc", "split": "test"} | row) + "\n"
        if i % 2:
            (tmp_path / f"{task}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / f"{task}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "gsm8k.jsonl").write_text('{"id": "g", "kind": "gen"}\n', encoding="utf-8")
    return tmp_path


def slow(model, tokenizer, context, continuation):
    """One sequence, a softmax for each token."""
    whole = tokenizer(context + continuation)["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    with torch.no_grad():
        logits_TV = model(torch.tensor([whole])).logits[0]
    total = 0.0
    for t in range(start, len(whole)):
        p_V = torch.exp(logits_TV[t - 1].double() - logits_TV[t - 1].double().max())
        total += float(torch.log(p_V[whole[t]] / p_V.sum()))
    return total


def test_likelihoods_are_those_of_one_sequence_at_a_time(model, tokenizer, folder):
    questions = load(folder)
    encoded = encode(tokenizer, questions, 512)
    found = log_likelihoods(model, encoded, budget=200)
    for question, ll_C in zip(questions, found, strict=True):
        pairs = zip(question.contexts, question.continuations, strict=True)
        expected = [slow(model, tokenizer, *pair) for pair in pairs]
        np.testing.assert_allclose(ll_C, expected, rtol=1e-4, atol=1e-4)
    assert len(encoded.queries) < len(encoded.spans)  # letters share a forward pass
    told = scores(questions, found)
    assert set(told) == set(ROWS)
    assert average(told) == pytest.approx(
        np.mean([getattr(s, FORMATS[t].metric) for t, s in told.items()])
    )


def test_a_long_context_loses_its_start(model, tokenizer):
    context = "one two three four five six seven eight nine ten"
    question = Question("bbh", "x", (context,) * 2, (" eleven", " twelve and thirteen"), (0,), 0)
    (ll_C,) = log_likelihoods(model, encode(tokenizer, [question], 6))
    for text, ll in zip(question.continuations, ll_C, strict=True):
        whole = tokenizer(context + text)["input_ids"][-7:]
        n = len(tokenizer(text)["input_ids"])
        with torch.no_grad():
            logp_TV = model(torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
        expected = sum(float(logp_TV[t - 1, whole[t]]) for t in range(7 - n, 7))
        assert ll == pytest.approx(expected, rel=1e-4)


def test_the_texts_of_the_formats(folder):
    found = {q.task: q for q in load(folder)}
    framed = "Question: What colour is the sky?\nAnswer:"
    lettered = "What colour is the sky?\nA. a deep green\nB. blue\nAnswer:"
    mmlu = "The following are multiple choice questions (with answers) about high school physics."
    assert found["arc_easy"].contexts == (framed,) * 2
    assert found["arc_easy"].continuations == (" a deep green", " blue")
    assert found["commonsense_qa"].contexts[0] == f"Question: {lettered}"
    assert found["commonsense_qa"].continuations == (" A", " B")
    assert found["mmlu"].contexts[0] == f"{mmlu}\n\n{lettered}"
    assert found["bbh"].contexts[0] == "Q: not ( True ) is\nA:"
    assert found["boolq"].contexts[0] == "Sky -- It is blue.\nQuestion: is the sky blue?\nAnswer:"
    assert found["boolq"].continuations == (" no", " yes")
    assert found["hellaswag_1k"].contexts[0] == "Singing: A man sings. he"
    assert found["hellaswag_1k"].continuations == (" bows.", " is a chair, and it is loud.")
    assert found["winogrande"].contexts[1] == "The cup did not fit the box as the box"
    assert found["winogrande"].continuations == (" was big.",) * 2
    truthful = found["truthfulqa"]
    assert truthful.contexts[0] == "Q: Who is it?\nA:"
    assert (truthful.right, truthful.best) == ((0, 1), 1)


def test_scores_by_hand():
    one = Question("piqa", "1", ("x",) * 2, (" ab", " äöüßéèêë"), (1,), 1)
    many = Question("piqa", "2", ("x",) * 3, (" ab", " cd", " ef"), (0, 1), 0)
    likelihoods = [np.log([0.2, 0.1]), np.log([0.1, 0.5, 0.2])]
    told = scores([one, many], likelihoods)["piqa"]
    assert told.n == 2
    assert told.acc == 0.0  # the longer choice is less likely; the best is beaten by a wrong one
    assert told.acc_norm == 0.5  # per character it is not; `many` has choices of one length
    assert told.mass == pytest.approx((1 / 3 + 0.6 / 0.8) / 2)


def test_a_limit_is_part_of_a_higher_one(tmp_path):
    rows = [SKY | {"id": f"q{i}", "kind": "mc", "split": "test"} for i in range(30)]
    rows.append(SKY | {"id": "q99", "kind": "mc", "split": "fewshot"})
    file = tmp_path / "piqa.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def ids(limit):
        return [q.id for q in load(tmp_path, limit)]

    assert len(ids(None)) == 30
    assert set(ids(5)) < set(ids(12)) < set(ids(None))
    before = ids(5)
    file.write_text("\n".join(map(json.dumps, rows[::-1])), encoding="utf-8")
    assert ids(5) == before
    (tmp_path / "mini_ids.json").write_text('{"piqa": ["q3", "q7"]}', encoding="utf-8")
    assert ids(2) == ["q3", "q7"]
    assert {"q3", "q7"} < set(ids(4))


def test_what_is_wrong_is_said(folder):
    with pytest.raises(ConfigError, match=r"no task file for piqa \(there are: arc_easy, bbh"):
        load(folder, tasks=["piqa"])
    with pytest.raises(ConfigError, match="no task file for anything"):
        load(folder / "absent")
    (folder / "bbh.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="not a file of JSON lines"):
        load(folder, tasks=["bbh"])
    (folder / "piqa.jsonl").write_text('{"id": "1", "kind": "mc", "split": "test"}', "utf-8")
    with pytest.raises(ConfigError, match="does not have what piqa needs"):
        load(folder, tasks=["piqa"])
