"""Where each model family keeps its feed-forward neurons.

The hooked tensor is the input of the block's last linear layer, act(gate) * up or act(fc1): the
output of the neurons themselves, before they are mixed into the residual stream.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from mads_ray.errors import ModelError

# suffix of the module's name after the layer number -> families that use it
_DOWN_PROJECTIONS = {
    "mlp.down_proj": "Llama, Qwen, Mistral, Gemma, Phi-3, OLMo 2, GLM-4",
    "mlp.c_proj": "GPT-2, StarCoder 2",
    "mlp.fc2": "Phi",
    "fc2": "OPT",
    "mlp.dense_4h_to_h": "GPT-NeoX, Falcon",
}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")


def find_down_projections(model: nn.Module) -> list[nn.Module]:
    """Return the down projection of every layer, in layer order.

    Raises ModelError, with the module names found, for a model of none of the known families and
    for mixture-of-experts models, whose neurons belong to experts.
    """
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder; only decoders are supported, whose "
            "tokens never see padding to their right"
        )
    found: dict[str, dict[int, nn.Module]] = {}
    tails: Counter[str] = Counter()
    for name, module in model.named_modules():
        match = _LAYER.search(name)
        if match:
            tails[match[2]] += 1
            if match[2] in _DOWN_PROJECTIONS:
                found.setdefault(match[2], {})[int(match[1])] = module
    # A multimodal model's own configuration has no layers; its language model's has.
    expected = int(getattr(config.get_text_config(), "num_hidden_layers", 0))
    for tail in _DOWN_PROJECTIONS:
        by_layer = found.get(tail, {})
        if expected and sorted(by_layer) == list(range(expected)):
            return [by_layer[i] for i in range(expected)]
    raise ModelError(_explain(type(model).__name__, tails, expected))


def _explain(model: str, tails: Counter[str], expected: int) -> str:
    if any("expert" in tail for tail in tails):
        return f"{model} is a mixture of experts; only dense models are supported so far"
    names: Sequence[str] = [tail for tail, _ in tails.most_common(12)]
    known = "; ".join(f"{tail} ({who})" for tail, who in _DOWN_PROJECTIONS.items())
    return (
        f"{model}: no known feed-forward output in each of its {expected} layers. "
        f"Known: {known}. This model's layers hold: {', '.join(names) or 'nothing by layer'}"
    )
