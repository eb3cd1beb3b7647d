"""The real lm-evaluation-harness beside ours: the same words and scores; its written answers."""

import dataclasses
import sys
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import yaml
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from mads_ray.errors import ConfigError
from mads_ray.finetune import harness, table, tasks
from mads_ray.finetune.choices import encode, log_likelihoods, scores
from mads_ray.finetune.config import Evaluation, GridConfig, Regime
from mads_ray.finetune.grid import Grid, run
from mads_ray.finetune.tasks import FORMATS

TASKS = Path(lm_eval.__file__).parent / "tasks"
LETTERS = "ABCDE"
SKY = {"prompt": "What colour is the sky? ", "choices": ["blue", "dark green", "red", "a b", "x"]}
MAP = {"prompt": "Ann gave Eve _ because she was lost.", "choices": ["a map", "maps"], "answer": 0}
FISH = {
    "prompt": " Catching a fish [title] How to start. He sits  down and",
    "choices": [
        "waits [substeps] long.",
        " eats a fish.",
        "swims away [title] Now rest.",
        "reads.",
    ],
}
SOLAR = {"passage": "Solar power -- it is from the sun.", "prompt": "is solar power from the moon"}


def in_their_fields(task, row):
    """A row of ours as the harness's data set has it."""
    choices, answer, prompt = row["choices"], row["answer"], row["prompt"]
    lettered = {"text": choices, "label": list(LETTERS[: len(choices)])}
    if task.startswith("arc"):
        return {"question": prompt.strip(), "choices": lettered, "answerKey": LETTERS[answer]}
    if task == "commonsense_qa":
        return {"question": prompt, "choices": lettered, "answerKey": LETTERS[answer]}
    if task == "piqa":
        return {"goal": prompt.strip(), "sol1": choices[0], "sol2": choices[1], "label": answer}
    if task == "winogrande":
        options = dict(zip(("option1", "option2"), choices, strict=True))
        return {"sentence": prompt, "answer": str(answer + 1)} | options
    if task == "boolq":
        return {"passage": row["passage"], "question": prompt, "label": answer}
    if task == "social_iqa":
        said, asked = prompt.strip().rsplit(". ", 1)
        options = {f"answer{x}": c for x, c in zip("ABC", choices, strict=True)}
        return {"context": f"{said}.", "question": asked, "label": str(answer + 1)} | options
    if task == "mmlu":
        return {"question": prompt, "choices": choices, "answer": answer}
    first, second = prompt.split(". ", 1)
    split = {"ctx_a": f"{first}.", "ctx_b": second, "activity_label": row["activity"]}
    return split | {"endings": choices, "label": str(answer)}


# Task of ours: the harness's task file, rows.
CASES = {
    "arc_easy": ("arc/arc_easy", [SKY | {"answer": 1}]),
    "arc_challenge": ("arc/arc_challenge", [SKY | {"answer": 4}]),
    "commonsense_qa": ("commonsense_qa/default", [SKY | {"answer": 3}]),
    "piqa": ("piqa/piqa", [SKY | {"choices": ["dim", "very blue"], "answer": 1}]),
    "winogrande": ("winogrande/default", [MAP, MAP | {"answer": 1}]),
    "boolq": (
        "super_glue/boolq/default",
        [SOLAR | {"choices": ["False", "True"], "answer": 0}],
    ),
    "social_iqa": (
        "siqa/siqa",
        [
            {
                "prompt": "Tim fell. What will Tim do?",
                "choices": ["get up", "fly off", "sing"],
                "answer": 0,
            }
        ],
    ),
    "mmlu": (
        "mmlu/default/mmlu_high_school_physics",
        [SKY | {"choices": SKY["choices"][:4], "answer": 2, "subject": "high_school_physics"}],
    ),
    # Its second sentence begins with a capital, as the harness would make it.
    "hellaswag_1k": (
        "hellaswag/hellaswag",
        [FISH | {"prompt": "He sits  down. Then he", "activity": "Fishing", "answer": 2}],
    ),
}


def ours(folder, task, rows, write_rows):
    full = [{"id": f"q{i}", "kind": "mc", "split": "test"} | r for i, r in enumerate(rows)]
    write_rows(f"{folder.name}/{task}.jsonl", full)
    return tasks.load(folder, tasks=[task])


def local_task(folder, task, rows, write_rows):
    """The harness's own task with these rows, and the manager that finds it."""
    data = write_rows(
        f"{folder.name}/{task}-theirs.jsonl", [in_their_fields(task, r) for r in rows]
    )
    config = {
        "include": str(TASKS / f"{CASES[task][0]}.yaml"),
        "task": "here",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": data}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
        "test_split": "test",
    }
    (folder / "here.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.mark.parametrize("task", CASES)
def test_a_model_reads_the_same_words(task, tmp_path, write_rows):
    folder = tmp_path / "tasks"
    rows = CASES[task][1]
    questions = ours(folder, task, rows, write_rows)
    theirs = local_task(folder, task, rows, write_rows).load("here")["tasks"]["here"]
    theirs.build_all_requests(rank=0, world_size=1)
    pairs = [i.arguments[:2] for i in theirs.instances]
    assert pairs == [p for q in questions for p in zip(q.contexts, q.continuations, strict=True)]


@pytest.mark.parametrize("task", ["arc_easy", "winogrande"])
def test_a_model_gets_the_same_scores(task, tmp_path, write_rows, model, tokenizer):
    folder = tmp_path / "tasks"
    sky = [
        SKY | {"prompt": f"What colour is {x}?", "answer": i}
        for i, x in enumerate(("the sky", "grass", "blood", "the alphabet"))
    ]
    gave = ("It was a gift, so Ann gave Eve _ for the wall.", "Bob burned _ in the old stove.")
    rows = sky if task == "arc_easy" else [MAP | {"prompt": p} for p in (*gave, MAP["prompt"])]
    questions = ours(folder, task, rows, write_rows)
    encoded = encode(tokenizer, questions, 512)
    likelihoods = log_likelihoods(model, encoded)
    mine = scores(questions, likelihoods)[task]
    manager = local_task(folder, task, rows, write_rows)
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2),
        tasks=["here"],
        task_manager=manager,
        bootstrap_iters=0,
    )
    samples = sorted(theirs["samples"]["here"], key=lambda s: s["doc_id"])
    for sample, ll_C in zip(samples, likelihoods, strict=True):
        assert [r[0] for r in sample["filtered_resps"]] == pytest.approx(ll_C, abs=2e-3)
    found = theirs["results"]["here"]
    assert found["acc,none"] == pytest.approx(mine.acc)
    if task == "arc_easy":
        assert found["acc_norm,none"] == pytest.approx(mine.acc_norm)
        assert np.ptp([np.argmax(x) for x in likelihoods]) > 0  # more than one answer


SUM = {"kind": "gen", "split": "test", "prompt": "What is 2 + 2?", "rationale": "2+2=4\n#### 4"}
SHOUT = {
    "kind": "ifeval",
    "split": "test",
    "prompt": "Write two words, no commas.",
    "instruction_id_list": ["en:punctuation:no_comma", "en:length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 2}],
}


@pytest.fixture
def folder(tmp_path, write_rows):
    """Two questions with five worked examples; two instructions and one that needs NLTK's model."""
    shown = [SUM | {"id": f"f{i}", "split": "fewshot"} for i in range(5)]
    write_rows("eval/gsm8k.jsonl", [SUM | {"id": "a"}, SUM | {"id": "b"}, *shown])
    sentences = SHOUT | {
        "id": "c",
        "instruction_id_list": ["en:length_constraints:number_sentences"],
        "kwargs": [{"relation": "at least", "num_sentences": 2}],
    }
    write_rows("eval/ifeval.jsonl", [SHOUT | {"id": "a"}, SHOUT | {"id": "b"}, sentences])
    return tmp_path / "eval"


class Sayer(LM):
    """A model that gives prepared answers, by a word in the prompt, in turn."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.prompts = answers, []

    def generate_until(self, requests):
        said = []
        for request in requests:
            prompt, options = request.args
            self.prompts.append((prompt, options))
            said.append(next(self.answers["sum" if "2 + 2" in prompt else "words"]))
        return said

    def loglikelihood(self, requests):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


def test_written_answers_are_scored_by_the_harness(folder, tmp_path):
    prompts = harness.read_prompts(folder, ["gsm8k", "ifeval"])
    assert [len(prompts.asked[t]) for t in ("gsm8k", "ifeval")] == [2, 2]
    sums, words = iter(["So 2+2 is\n#### 4", "I say 5"]), iter(["Two words", "Two, words"])
    model = Sayer({"sum": sums, "words": words})
    found = harness.scored(model, prompts, tmp_path / "work", max_new_tokens=7)
    assert found["gsm8k"].scores == {
        "exact_match,strict-match": 0.5,
        "exact_match,flexible-extract": 0.5,
    }
    assert found["ifeval"].scores["prompt_level_strict_acc,none"] == 0.5
    assert found["ifeval"].scores["inst_level_strict_acc,none"] == 0.75
    assert harness.average(found) == 0.5
    assert {o["max_gen_toks"] for _, o in model.prompts} == {7}
    assert [p.count("2 + 2") for p, _ in model.prompts if "2 + 2" in p] == [6, 6]


def test_the_real_model_writes_in_its_chat_template(folder, tmp_path, model, located):
    from mads_ray.capture.model import load_tokenizer

    prompts = harness.read_prompts(folder, ["ifeval"], limit=1)
    found = harness.written(model, load_tokenizer(located), prompts, tmp_path / "work", 12, 1)
    assert found["ifeval"].n == 1
    assert found["ifeval"].scores["inst_level_loose_acc,none"] > 0  # two words, of whatever kind


def test_a_grid_lets_its_models_write(folder, tmp_path, shallow, rows, write_rows):
    file = write_rows("pool.jsonl", rows)
    config = GridConfig(
        output=str(tmp_path / "out"),
        pool=(file,),
        held_out=(write_rows("held.jsonl", [{"instruction": "Sing.", "output": "La."}]),),
        arms={"random": None},
        regimes=(Regime("short", steps=1),),
        models=(str(shallow),),
        seeds=(0,),
        evaluation=Evaluation(
            folder=str(folder), tasks=(), generate=("ifeval",), generate_limit=2, max_new_tokens=4
        ),
    )
    assert run(config, only="*untuned").done == ("shallow.untuned",)
    (result,) = Grid(config).results().values()
    assert result["written"]["tasks"]["ifeval"]["n"] == 2
    text, _ = table.write(config, [result], 2)
    assert "written answers" in text
    assert f"| {result['written']['average']:.4f} |" in text
    longer = dataclasses.replace(config.evaluation, max_new_tokens=5)
    assert not Grid(dataclasses.replace(config, evaluation=longer)).results()


def test_without_the_harness_a_grid_says_so_before_it_tunes(
    folder, tmp_path, shallow, rows, write_rows, monkeypatch
):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    config = GridConfig(
        output=str(tmp_path / "out"),
        pool=(write_rows("pool.jsonl", rows),),
        held_out=(write_rows("held.jsonl", [{"instruction": "Sing.", "output": "La."}]),),
        arms={"random": None},
        regimes=(Regime("short", steps=1),),
        models=(str(shallow),),
        evaluation=Evaluation(folder=str(folder), tasks=(), generate=("ifeval",)),
    )
    with pytest.raises(ConfigError, match=r"lm-evaluation-harness \(.*langdetect"):
        run(config)
    assert not (tmp_path / "out").exists()


def test_the_first_prompts_are_part_of_more(folder, write_rows):
    rows = [SUM | {"id": f"q{i}", "prompt": f"What is {i} + 1?"} for i in range(9)]
    shown = [SUM | {"id": f"f{i}", "split": "fewshot"} for i in range(5)]
    write_rows("eval/gsm8k.jsonl", rows + shown)
    asked = [
        {r["question"] for r in harness.read_prompts(folder, ["gsm8k"], n).asked["gsm8k"]}
        for n in (3, 6, None)
    ]
    assert [len(a) for a in asked] == [3, 6, 9]
    assert asked[0] < asked[1] < asked[2]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("humaneval", [], "none of gsm8k, ifeval"),
        ("gsm8k", [SUM | {"id": "a"}], "gsm8k has too few rows"),
        ("gsm8k", [{"id": "a", "kind": "gen", "split": "test"}], "lacks what its task needs"),
        ("ifeval", [{"id": "a", "kind": "ifeval", "split": "test"}], "does not have what"),
    ],
)
def test_what_cannot_be_asked_is_said(task, rows, message, tmp_path, write_rows):
    write_rows(f"eval/{task}.jsonl", rows)
    with pytest.raises(ConfigError, match=message):
        harness.read_prompts(tmp_path / "eval", [task])


def test_every_task_with_a_written_answer_has_a_metric():
    assert not harness.METRICS.keys() & FORMATS.keys()
