"""The second model of the grid, Gemma 3 270M: a base model without a chat template."""

import pytest

from mads_ray.capture.model import load_tokenizer
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.finetune import causal, data
from mads_ray.finetune.choices import encode, log_likelihoods
from mads_ray.finetune.loss import held_out_loss
from mads_ray.finetune.tasks import Question
from mads_ray.finetune.tune import Plan, tune

pytestmark = pytest.mark.slow  # half a minute to convert it, once a machine


def test_it_is_tuned_and_scored(gemma, write_rows, rows):
    located = causal.find(str(gemma))
    model, tokenizer = causal.load(located), load_tokenizer(located)
    read, _ = data.read([write_rows("rows.jsonl", rows[:4])])
    examples, _ = data.tokenise(read, PromptRenderer(tokenizer, 64, "response"))
    example = examples[0]
    assert example.ids_T[0] == tokenizer.bos_token_id
    assert tokenizer.decode(example.ids_T[example.target_T]).strip() == "Blue is a colour."
    before = held_out_loss(model, examples).per_token
    told = tune(model, examples, Plan(steps=2, examples_per_step=4), 0)
    assert told.losses[0] == pytest.approx(before, rel=1e-4)
    assert held_out_loss(model, examples).per_token < before
    question = Question("bbh", "x", ("The capital of Italy is",) * 2, (" Rome", " green"), (0,), 0)
    encoded = encode(tokenizer, [question], 64)
    assert encoded.queries[0].ids_T[0] == tokenizer.bos_token_id
    (ll_C,) = log_likelihoods(model, encoded)
    assert ll_C[0] > ll_C[1] + 2
