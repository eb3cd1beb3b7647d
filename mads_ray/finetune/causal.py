"""Load a causal language model in float32, ready to be tuned."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from mads_ray.capture.model import Located, locate, pick_device, pick_dtype
from mads_ray.errors import ModelError
from mads_ray.finetune.forward import Query, nats_of


def find(name: str) -> Located:
    """Find a model by name: smollm2-135m, a folder or a hub name. Raises ModelError."""
    return locate(name, None, "float32")


def load(located: Located) -> Any:
    """Load float32 weights on the best device. (Autocast may compute in bfloat16: see `use_bf16`.)

    Raises ModelError where the model cannot be loaded, lacks weights, or computes its logits in
    another way than `forward.nats_of`.
    """
    name = located.identity.name
    quiet: Any = transformers.logging  # its type stubs are incomplete
    auto: Any = transformers.AutoModelForCausalLM
    verbosity = quiet.get_verbosity()
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        model, found = auto.from_pretrained(
            located.source,
            revision=located.revision,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as e:
        raise ModelError(f"cannot load {name!r} as a causal language model: {e}") from e
    finally:
        quiet.set_verbosity(verbosity)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{name!r} lacks weights: {', '.join(missing[:3])}")
    model = model.eval().to(pick_device())
    _check_head(model, name)
    return model


def use_bf16(wish: str) -> bool:
    """Whether to compute in bfloat16: "on", "off", or "auto" for GPUs that have it."""
    if wish == "auto":
        device = pick_device()
        return device.type == "cuda" and pick_dtype(device) == "bfloat16"
    return wish == "on"


@torch.inference_mode()
def _check_head(model: Any, name: str) -> None:
    """Compare once with the model's own logits: `nats_of` knows no soft caps or scales."""
    ids_T = np.arange(5, 13, dtype=np.int32)
    at_N = np.arange(7)
    ours_N = nats_of(model, [Query(ids_T, at_N, ids_T[1:].astype(np.int64))], bf16=False)
    ids_1T = torch.from_numpy(ids_T.astype(np.int64))[None].to(model.device)
    theirs = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    theirs_N = -theirs.gather(1, ids_1T[0, 1:, None])[:, 0]
    if not torch.allclose(ours_N, theirs_N, rtol=1e-3, atol=1e-3):
        raise ModelError(f"{name!r} changes its logits after its head, which is not supported")
