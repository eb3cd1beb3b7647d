"""The vLLM engine: the same features by continuous batching, on one or several GPUs a model.

vLLM schedules prompts in chunks of a token budget, without padding. Its workers pool and pack
(`vllm_worker.py`); nothing is generated, one small row a request comes back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mads_ray.capture.engines.engine import TRIED_ALONE, RunStats, Sink, hand_over, within
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed
from mads_ray.errors import ModelError

OWN = "mads_ray_own"  # in a request's extra_kwargs: bounds of its runs of own tokens
# The engine in this very process: rows come back without another copy between processes. And the
# runner whose batches the worker extension reads.
_NEEDED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
_WISHED = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# What a process that ends may have to run again, against a schedule that drains at each end.
_AT_ONCE, _TOKENS_AT_ONCE = 1024, 262_144
_MOST_REQUESTS = 256  # in a step: their pooled neurons are on top of the memory vLLM planned with


class VllmEngine:
    """Opens a model in vLLM; `pooled` or `states` says what rows are, then `run` runs examples.

    `memory_share` of each device is vLLM's for weights, activations and the cache of keys and
    values. `tensor_parallel` devices hold one model. `token_budget`: most tokens in a step, None
    for vLLM's own choice. Raises ModelError where vLLM is missing or cannot load the model.
    """

    def __init__(
        self,
        source: str,
        revision: str | None,
        dtype: str,
        pooling: str = "max",
        hook_module: str | None = None,
        max_tokens: int = 2048,
        tensor_parallel: int = 1,
        memory_share: float = 0.9,
        token_budget: int | None = None,
    ) -> None:
        os.environ.update(_NEEDED | {k: v for k, v in _WISHED.items() if k not in os.environ})
        try:
            from vllm import LLM, PoolingParams
        except ImportError as e:
            raise ModelError(
                "--engine vllm needs vLLM, which is not installed here. On GPUs: pip install "
                "'mads_ray[vllm]' (in an environment of its own; see docs/capture.md)"
            ) from e
        self._params = PoolingParams
        options = {"max_num_seqs": _MOST_REQUESTS}
        if token_budget is not None:
            options = {
                "max_num_batched_tokens": token_budget,
                "max_num_seqs": min(_MOST_REQUESTS, token_budget),
            }
        try:
            self._llm = LLM(
                model=source,
                revision=revision,
                dtype=dtype,
                runner="pooling",
                convert="embed",
                trust_remote_code=False,
                max_model_len=max_tokens,
                tensor_parallel_size=tensor_parallel,
                # Never Ray's: an actor of ours holds all devices of its model.
                distributed_executor_backend="mp" if tensor_parallel > 1 else "uni",
                gpu_memory_utilization=memory_share,
                enforce_eager=True,  # compiled or replayed graphs run no hooks
                enable_prefix_caching=False,  # cached tokens are not computed, and not seen
                enable_chunked_prefill=True,
                worker_extension_cls="mads_ray.capture.engines.vllm_worker.CaptureExtension",
                **options,
            )
        except Exception as e:  # vLLM's, CUDA's and every model's own
            raise ModelError(f"vLLM cannot load {source!r}: {_reason(e)}") from e
        facts = self._call("capture_install", pooling, hook_module)
        self._vocabulary, self._longest = facts["vocabulary"], max_tokens
        self.device = torch.device("cpu")  # where this process reduces what it has already
        self.layers, self.width = facts["layers"], facts["width"]
        self.hidden_size = facts["hidden_size"]
        self._rows_are: tuple[Any, ...] = ("capture_pooled",)

    def pooled(self) -> None:
        """Rows are pooled activations, as `state.pack_pooled` packs them."""
        self._become("capture_pooled")

    def states(self, calibration: Path, hidden_dim: int = 0, raw: bool = False) -> None:
        """Rows are states as a `StateReducer` with this stored calibration packs them."""
        self._become("capture_states", str(calibration), hidden_dim, raw)

    def _become(self, *call: Any) -> None:
        if call != self._rows_are:
            self._call(*call)
            self._rows_are = call

    def _call(self, method: str, *args: Any) -> Any:
        """On every rank; what the first returns."""
        try:
            return self._llm.collective_rpc(method, args=args)[0]
        except ModelError:
            raise
        except Exception as e:  # of another process, with its traceback as text
            raise ModelError(f"vLLM's workers fail at {method}: {_reason(e)}") from e

    def run(
        self,
        examples: Mapping[int, TokenisedExample],
        stats: RunStats,
        sink: Sink,
        journal: Journal | None = None,
    ) -> None:
        """Run examples by row number; hand (row numbers, packed rows) to `sink`, some
        hundred at a time. Rows that were being run when a process died go last, one by one.

        Rows that the model has no embeddings or positions for go to `stats.failures`. Raises
        ModelError when the engine fails: vLLM cannot go on after that.
        """
        journal = journal or Journal()
        fine = within(self._vocabulary, self._longest, examples, stats)
        stats.tokens += sum(len(fine[r].ids_T) for r in fine if r in journal.history.kept)
        left = journal.left(list(fine))
        suspects = [[r] for r in left if journal.deaths([r]) >= TRIED_ALONE]
        rest = [r for r in left if journal.deaths([r]) < TRIED_ALONE]
        most = max((len(fine[r].ids_T) for r in rest), default=1)
        size = max(1, min(_AT_ONCE, _TOKENS_AT_ONCE // most))
        for rows in [*(rest[i : i + size] for i in range(0, len(rest), size)), *suspects]:
            journal.begin(rows)
            packed_NW = self._encode([fine[r] for r in rows])
            stats.tokens += sum(len(fine[r].ids_T) for r in rows)
            hand_over(rows, packed_NW, stats, sink)
            journal.end(rows)
        stats.padded_tokens = stats.tokens

    def _encode(self, examples: Sequence[TokenisedExample]) -> Packed:
        prompts = [{"prompt_token_ids": e.ids_T.tolist()} for e in examples]
        params = [
            self._params(task="embed", extra_kwargs={OWN: _bounds(e.own_T)}) for e in examples
        ]
        try:
            outputs = self._llm.encode(prompts, params, pooling_task="embed", use_tqdm=False)
        except Exception as e:
            raise ModelError(f"vLLM failed: {_reason(e)}") from e
        return np.stack([o.outputs.data.numpy() for o in outputs])


def _bounds(own_T: npt.NDArray[np.bool_]) -> list[int]:
    """Start and end of every run of own tokens, one after the other."""
    edges = np.flatnonzero(np.diff(own_T, prepend=False, append=False))
    bounds: list[int] = edges.tolist()
    return bounds


def _reason(e: Exception) -> str:
    """The telling line: pydantic's second, the last one of a traceback."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    told = lines[1:2] if lines and "validation error" in lines[0] else lines[-1:]
    return f"{type(e).__name__}: {told[0][:400] if told else ''}"
