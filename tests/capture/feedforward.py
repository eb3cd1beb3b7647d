"""An independent, slow way to the neurons of Llama-like models."""

import numpy as np
import torch

from mads_ray.capture.reducer import top_k


def slow_reference(model, example):
    """act(gate(x)) * up(x) of every layer from the block's own weights, one example, no hooks on
    the down projection and no padding."""
    inputs = []
    handles = [
        layer.mlp.register_forward_hook(lambda _m, a, _o: inputs.append(a[0]))
        for layer in model.layers
    ]
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(example.ids_T[None].astype(np.int64)))
        peaks = [
            (layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x))[0][
                torch.from_numpy(example.own_T)
            ]
            .abs()
            .amax(0)
            for layer, x in zip(model.layers, inputs, strict=True)
        ]
    for handle in handles:
        handle.remove()
    return torch.stack(peaks)


def overlap(a, b, k=64):
    mean, scale = torch.zeros(a.shape[1:]), torch.ones(a.shape[1:])
    x, y = top_k(a, mean, scale, k), top_k(b, mean, scale, k)
    same = [
        len(np.intersect1d(p, q))
        for p, q in zip(x.reshape(-1, k).numpy(), y.reshape(-1, k).numpy(), strict=True)
    ]
    return sum(same) / (len(same) * k)
