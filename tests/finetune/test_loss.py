"""Held-out loss against transformers' own, one row at a time."""

import numpy as np
import pytest
import torch

from mads_ray.finetune.loss import held_out_loss


def slow(model, example):
    ids_1T = torch.from_numpy(example.ids_T.astype(np.int64))[None]
    labels_1T = ids_1T.clone()
    labels_1T[0, ~torch.from_numpy(example.target_T)] = -100
    with torch.no_grad():
        return float(model(input_ids=ids_1T, labels=labels_1T).loss)


def test_it_is_that_of_one_row_at_a_time(model, examples):
    found = held_out_loss(model, examples, budget=150)  # three batches
    tokens = np.array([e.target_T.sum() for e in examples])
    nats = np.array([slow(model, e) for e in examples]) * tokens
    assert found.per_token == pytest.approx(nats.sum() / tokens.sum(), rel=1e-5)
    labels = np.array([e.label for e in examples])
    assert list(found.groups) == ["fact", "sum", "word"]
    for label, group in found.groups.items():
        here = labels == label
        assert group.rows == here.sum()
        assert group.tokens == tokens[here].sum()
        assert group.nats == pytest.approx(nats[here].sum(), rel=1e-5)
    means = [nats[labels == x].sum() / tokens[labels == x].sum() for x in found.groups]
    assert found.mean_of_tasks == pytest.approx(np.mean(means), rel=1e-5)


def test_bfloat16_is_close(model, examples):
    exact, rounded = (held_out_loss(model, examples, bf16=b).per_token for b in (False, True))
    assert rounded == pytest.approx(exact, rel=0.03)
    assert rounded != exact
