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


def find_down_projections(model: nn.Module, hook_module: str | None = None) -> list[nn.Module]:
    """Return the down projection of every layer, in layer order.

    `hook_module` names it for families that are not in the table, with * for the layer's number:
    `layers.*.mlp.down_proj`; what comes before it in the module's full name may be left out.
    Raises ModelError, with the module names found, for a model of none of the known families and
    for mixture-of-experts models, whose neurons belong to experts.
    """
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder; only decoders are supported, whose "
            "tokens never see padding to their right"
        )
    # A multimodal model's own configuration has no layers; its language model's has.
    expected = int(getattr(config.get_text_config(), "num_hidden_layers", 0))
    if hook_module is not None:
        return _named(model, hook_module, expected)
    found: dict[str, dict[int, nn.Module]] = {}
    tails: Counter[str] = Counter()
    for name, module in model.named_modules():
        match = _LAYER.search(name)
        if match:
            tails[match[2]] += 1
            if match[2] in _DOWN_PROJECTIONS:
                found.setdefault(match[2], {})[int(match[1])] = module
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
        f"Known: {known}. This model's layers hold: {', '.join(names) or 'nothing by layer'}. "
        "Name the last feed-forward module of a layer with --hook-module, * for its number: "
        "--hook-module 'layers.*.mlp.down_proj'"
    )


def _named(model: nn.Module, hook_module: str, expected: int) -> list[nn.Module]:
    """The modules of that name, by the number at its star; one in each layer."""
    before, after = map(re.escape, hook_module.split("*"))
    pattern = re.compile(rf"(?:^|\.){before}(\d+){after}$")
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        match = pattern.search(name)
        if match and int(match[1]) in found:
            raise ModelError(
                f"--hook-module {hook_module}: both {found[int(match[1])][0]} and {name}; give "
                "more of the name"
            )
        if match:
            found[int(match[1])] = (name, module)
    if not found:
        names = sorted({re.sub(r"\.\d+\.", ".*.", n) for n, _ in model.named_modules()} - {""})
        raise ModelError(
            f"--hook-module {hook_module}: {type(model).__name__} has no such module. It has: "
            f"{', '.join(n for n in names if '*' in n)}"
        )
    missing = sorted(set(range(expected)) - set(found))
    if missing or len(found) > max(expected, 1):
        raise ModelError(
            f"--hook-module {hook_module}: in {len(found)} of {expected} layers, not in {missing}; "
            "every layer must have one"
        )
    return [found[layer][1] for layer in sorted(found)]


def input_width(modules: Sequence[nn.Module]) -> int:
    """Neurons a layer: the input features of its down projection, the same in all layers.

    Raises ModelError where they differ, or where a module is no linear layer.
    """
    widths = set()
    for module in modules:
        features: Any = getattr(module, "in_features", None)
        weight: Any = getattr(module, "weight", None)
        if features is None and (weight is None or weight.dim() != 2):
            raise ModelError(
                f"{type(module).__name__} is no linear layer; name the one that the neurons feed"
            )
        widths.add(int(features if features is not None else weight.shape[0]))  # Conv1D: (in, out)
    if len(widths) > 1:
        raise ModelError(f"layers of different widths are not supported: {sorted(widths)} neurons")
    return checked_width(widths.pop())


def checked_width(width: int) -> int:
    """Raise ModelError where a neuron's index in its layer would not fit 16 bits."""
    if width > 2**16:
        raise ModelError(f"layers of {width} neurons do not fit 16-bit neuron indices")
    return width


def decoder_layers(model: nn.Module, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers that hold these down projections, in their order. Raises ModelError without."""
    for found in model.modules():
        if isinstance(found, nn.ModuleList) and len(found) == len(modules):
            pairs = zip(found, modules, strict=True)
            if all(any(m is module for m in layer.modules()) for layer, module in pairs):
                return list(found)
    raise ModelError(
        f"{type(model).__name__}: no list of layers to compile; leave capture.compile out"
    )
