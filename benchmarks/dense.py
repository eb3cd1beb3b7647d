"""Pooled activations of whole pools, one forward pass for every way of pooling them.

What capture reduces to a state at once, kept in full, so that an ablation of everything after the
forward pass costs none: float32 (rows, layers x width) for each of three spans of tokens and two
poolings, and the last token. The hooks are the benchmark's own; tokens, spans, batches and weights
are the package's. A test of the same name compares them with the package's engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from mads_ray.capture.architectures import find_down_projections, input_width
from mads_ray.capture.engines.batching import token_batches
from mads_ray.capture.engines.transformers_engine import padded
from mads_ray.capture.model import load_model
from mads_ray.capture.prompts.examples import PromptRenderer, TokenisedExample
from mads_ray.corpus.conversation import Conversation
from mads_ray.errors import RowError
from mads_ray.hashing import checksum
from mads_ray.states import StatesManifest

SPANS = ("all", "prompt", "response")
POOLINGS = ("max", "mean")
WAYS = (*((s, p) for s in SPANS for p in POOLINGS), ("last", "max"))


@dataclass(frozen=True)
class Dense:
    """`acts[span, pooling]` is a memory-mapped float32 (N, layers x width), rows as in `uids`."""

    uids: list[str]
    label_N: npt.NDArray[np.str_]
    tokens_N: npt.NDArray[np.int32]
    layers: int
    width: int
    acts: dict[tuple[str, str], npt.NDArray[np.float32]]


def dense_of(run: Path, folder: Path) -> Dense:
    """Of the examples of a captured run that have tokens in every span; kept in `folder`."""
    manifest = StatesManifest.load(run / "states" / "manifest.json")
    network, tokenizer, _ = load_model(manifest.model, None, "auto")
    network = network.cpu()
    max_tokens = manifest.max_tokens
    modules = find_down_projections(network)
    layers, width = len(modules), input_width(modules)
    shards = sorted((run / "corpus").glob("shard-*.parquet"))
    captured = pq.read_table(sorted((run / "states").glob("part-*.parquet")), columns=["uid"])
    known = set(captured.column("uid").to_pylist())
    rows = pq.read_table(shards, columns=["uid", "label", "messages"]).to_pylist()
    names: tuple[Any, ...] = (*SPANS, "last")
    renderers = [PromptRenderer(tokenizer, max_tokens, span) for span in names]
    examples = []
    for row in rows:
        conversation = Conversation.from_json(row["messages"])
        spans = [rendered(renderer, conversation) for renderer in renderers]
        if row["uid"] in known and None not in spans:
            examples.append((row, spans))
    print(f"{run}: {len(examples)} of {len(known)} rows have tokens in every span", flush=True)
    shape = (len(examples), layers * width)
    acts = {way: opened(folder / f"{'-'.join(way)}.npy", shape) for way in WAYS}
    done = folder / "done"
    about = f"{manifest.model} {max_tokens} {checksum(row['uid'] for row, _ in examples)}"
    if not done.exists() or done.read_text(encoding="utf-8") != about:
        collect(network, modules, [spans for _, spans in examples], acts)
        done.write_text(about, encoding="utf-8")
    return Dense(
        [row["uid"] for row, _ in examples],
        np.array([row["label"] or "" for row, _ in examples]),
        np.array([len(spans[0].ids_T) for _, spans in examples], np.int32),
        layers,
        width,
        acts,
    )


def rendered(renderer: PromptRenderer, conversation: Conversation) -> TokenisedExample | None:
    try:
        return renderer(conversation)
    except RowError:
        return None


def opened(file: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    file.parent.mkdir(parents=True, exist_ok=True)
    mode: Any = "r+" if file.exists() else "w+"
    found: npt.NDArray[np.float32] = np.lib.format.open_memmap(file, mode, np.float32, shape)
    assert found.shape == shape, f"{file} is of another pool: remove its folder"
    return found


def collect(
    network: Any,
    modules: Sequence[torch.nn.Module],
    examples: Sequence[Sequence[TokenisedExample]],
    acts: dict[tuple[str, str], npt.NDArray[np.float32]],
) -> None:
    """Fill `acts`; `examples` has one TokenisedExample a span, of the same tokens."""
    found: list[dict[tuple[str, str], npt.NDArray[np.float32]]] = []
    own: dict[str, torch.Tensor] = {}

    def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        size_BTF = args[0].abs()
        pooled = {}
        for span, own_BT in own.items():
            inside_BTF = size_BTF.masked_fill(~own_BT[..., None], 0)
            pooled[span, "max"] = inside_BTF.amax(1).float().numpy()
            mean_BF = inside_BTF.sum(1, dtype=torch.float32) / own_BT.sum(1, keepdim=True)
            pooled[span, "mean"] = mean_BF.numpy()
        found.append(pooled)

    handles = [m.register_forward_pre_hook(hook) for m in modules]
    batches = token_batches([len(spans[0].ids_T) for spans in examples], 2048)
    with torch.inference_mode():
        for i, batch in enumerate(batches):
            for at, span in enumerate((*SPANS, "last")):
                ids_BT, own[span] = padded([examples[r][at] for r in batch], torch.device("cpu"))
            found.clear()
            network(input_ids=ids_BT, use_cache=False)
            for way, kept in acts.items():
                kept[batch] = np.concatenate([pooled[way] for pooled in found], 1)
            if i % 20 == 0:
                print(f"  batch {i} of {len(batches)}", flush=True)
    for handle in handles:
        handle.remove()
