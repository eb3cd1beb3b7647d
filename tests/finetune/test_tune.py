"""Tuning the real model: it learns, repeats itself, and does not mind how a step is cut."""

import copy

import numpy as np
import pytest
import torch

from mads_ray.errors import ConfigError
from mads_ray.finetune import causal
from mads_ray.finetune.loss import held_out_loss
from mads_ray.finetune.tune import Plan, _order, accumulate, tune


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_it_learns_eight_rows(model, examples):
    tuned = copy.deepcopy(model)
    before = held_out_loss(tuned, examples).per_token
    told = tune(tuned, examples, Plan(epochs=1, learning_rate=1e-4, examples_per_step=2), 0)
    after = held_out_loss(tuned, examples).per_token
    assert after < 0.8 * before
    assert (told.steps, told.draws, told.examples, len(told.losses)) == (4, 8, 8, 4)
    assert told.response_tokens == sum(int(e.target_T.sum()) for e in examples)
    assert told.tokens == sum(len(e.query().ids_T) for e in examples)
    assert not tuned.training


def test_the_same_seed_gives_the_same_weights(shallow, examples):
    plan = Plan(steps=3, learning_rate=1e-3, examples_per_step=4, batch_tokens=128)
    found = []
    for rows, seed in ((examples, 0), (examples[::-1], 0), (examples, 1)):
        model = causal.load(causal.find(str(shallow)))
        tune(model, rows, plan, seed)
        found.append(weights(model))
    one, same, other = found
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_micro_batches_add_up_to_one_batch(shallow, examples):
    model = causal.load(causal.find(str(shallow)))
    queries = [e.query() for e in examples]
    found = []
    for budget in (10**6, 100, 1):  # all rows at once, two or three, one by one
        model.zero_grad()
        loss = accumulate(model, queries, budget, bf16=False)
        found.append((float(loss), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        assert (grads - found[0][1]).norm() < 1e-5 * grads.norm()


def test_a_step_of_adamw_by_hand(shallow, examples):
    """One step of torch's own loop over a plain batch, with the labels loss of transformers."""
    ours = causal.load(causal.find(str(shallow)))
    theirs = copy.deepcopy(ours)
    tune(ours, examples, Plan(steps=1, examples_per_step=8, learning_rate=1e-3), 0)
    longest = max(len(e.ids_T) for e in examples)
    ids_BT = torch.zeros((8, longest), dtype=torch.int64)
    labels_BT = torch.full_like(ids_BT, -100)
    for i, e in enumerate(examples):
        ids = torch.from_numpy(e.ids_T.astype(np.int64))
        ids_BT[i, : len(ids)] = ids
        labels_BT[i, : len(ids)] = torch.where(torch.from_numpy(e.target_T), ids, -100)
    mask_BT = torch.arange(longest) < torch.tensor([len(e.ids_T) for e in examples])[:, None]
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    theirs(input_ids=ids_BT, attention_mask=mask_BT.long(), labels=labels_BT).loss.backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    optimizer.step()
    # AdamW's first step is lr * sign(gradient): where that is near 0, rounding decides.
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        near = ((a - b).abs() < 1e-5).float().mean()
        assert near > 0.98, name


def test_bfloat16_is_close(shallow, examples):
    losses = []
    for bf16 in (False, True):
        model = causal.load(causal.find(str(shallow)))
        told = tune(model, examples, Plan(steps=2, examples_per_step=8, bf16=bf16), 0)
        losses.append(told.losses)
        assert all(p.dtype == torch.float32 for p in model.parameters())
    np.testing.assert_allclose(*losses, rtol=0.02)


def test_every_epoch_has_every_row_once():
    uids = [f"{i:032x}" for i in range(7)]
    order = list(_order(uids, 3, 17))
    assert len(order) == 17
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert list(_order(uids, 4, 7)) != order[:7]


def test_steps_and_rates():
    assert Plan(steps=10).n_steps(3) == Plan(steps=10).n_steps(1000) == 10
    assert Plan(epochs=3).n_steps(100) == 19  # 300 draws, the last step has 12
    assert Plan(epochs=0.5, examples_per_step=10).n_steps(100) == 5
    rates = [Plan(steps=100, learning_rate=1.0).rate(s, 100) for s in range(100)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[-1] == pytest.approx(0.1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert Plan(steps=1, learning_rate=1.0).rate(0, 1) == 1.0
    with pytest.raises(ConfigError, match="either steps or epochs"):
        Plan()
    with pytest.raises(ConfigError, match="no example"):
        tune(None, [], Plan(steps=1), 0)
