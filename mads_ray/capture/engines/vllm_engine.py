"""The vLLM engine: the same features by continuous batching, for models on one or several GPUs.

vLLM schedules prompts in chunks of a token budget, without padding. Its workers pool and pack
(`vllm_worker.py`). Nothing is generated: one small row comes back for each request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mads_ray.capture.engines.engine import (
    TRIED_ALONE,
    EngineOptions,
    RowsAs,
    RunStats,
    Sink,
    StateRows,
    hand_over,
    within,
)
from mads_ray.capture.flops import Peak
from mads_ray.capture.journal import Journal
from mads_ray.capture.model import Located
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed
from mads_ray.errors import ModelError, reason_of

OWN = "mads_ray_own"  # in a request's extra_kwargs: bounds of its runs of own tokens
# vLLM's engine in this process: rows come back without another copy between processes. And the
# model runner whose batches the worker extension reads.
_NEEDED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
_WISHED = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# Requests that vLLM gets at once. More: a process that ends has more of them to run again. Fewer:
# the schedule runs empty more often.
_AT_ONCE, _TOKENS_AT_ONCE = 1024, 262_144
_MEMORY_SHARE = 0.9  # of what is ours: weights, activations, and the cache of keys and values
_MOST_REQUESTS = 256  # in a step: their pooled neurons are on top of the memory vLLM planned with


class VllmEngine:
    """An `Engine`: vLLM runs the model, and its workers pool and pack.

    `options.tensor_parallel` devices hold one model. `options.token_budget`: most tokens in a step,
    None for vLLM's own choice. Raises ModelError where vLLM is missing or cannot load the model.
    """

    def __init__(self, located: Located, options: EngineOptions = EngineOptions()) -> None:
        os.environ.update(_NEEDED | {k: v for k, v in _WISHED.items() if k not in os.environ})
        try:
            from vllm import LLM, PoolingParams
        except ImportError as e:
            raise ModelError(
                "--engine vllm needs vLLM, which is not installed here. On GPUs: pip install "
                "'mads_ray[vllm]' (in an environment of its own; see docs/capture.md)"
            ) from e
        self._params = PoolingParams
        step = {"max_num_seqs": _MOST_REQUESTS}
        if options.token_budget is not None:
            step = {
                "max_num_batched_tokens": options.token_budget,
                "max_num_seqs": min(_MOST_REQUESTS, options.token_budget),
            }
        try:
            self._llm = LLM(
                model=located.source,
                revision=located.revision,
                dtype=located.identity.dtype,
                runner="pooling",
                convert="embed",
                trust_remote_code=False,
                max_model_len=options.max_tokens,
                tensor_parallel_size=options.tensor_parallel,
                # Never Ray's: an actor of ours holds all devices of its model.
                distributed_executor_backend="mp" if options.tensor_parallel > 1 else "uni",
                gpu_memory_utilization=_MEMORY_SHARE * options.memory_share,
                enforce_eager=True,  # compiled or replayed graphs run no hooks
                enable_prefix_caching=False,  # cached tokens are not computed, and not seen
                enable_chunked_prefill=True,
                worker_extension_cls="mads_ray.capture.engines.vllm_worker.CaptureExtension",
                **step,
            )
        except Exception as e:  # vLLM's, CUDA's and every model's own
            raise ModelError(f"vLLM cannot load {located.source!r}: {_reason(e)}") from e
        facts = self._call("capture_install", options.pooling, options.hook_module)
        self._vocabulary, self._longest = facts["vocabulary"], options.max_tokens
        self.device = torch.device("cpu")  # of this process; the model's devices are the workers'
        self.peak: Peak | None = None
        self.layers, self.width = facts["layers"], facts["width"]
        self.hidden_size = facts["hidden_size"]
        self._rows_are: tuple[Any, ...] = ("capture_pooled",)

    def _pack_as(self, rows_as: RowsAs) -> None:
        """Tell the workers how to pack rows, where they do not know it yet."""
        call: tuple[Any, ...] = ("capture_pooled",)
        if isinstance(rows_as, StateRows):
            assert rows_as.calibration is not None, "the workers read it"
            file, reducer = str(rows_as.calibration), rows_as.reducer
            call = ("capture_states", file, reducer.hidden_dim, reducer.store_raw)
        if call != self._rows_are:
            self._call(*call)
            self._rows_are = call

    def _call(self, method: str, *args: Any) -> Any:
        """Call a method on every rank; return what the first rank's gives."""
        try:
            return self._llm.collective_rpc(method, args=args)[0]
        except ModelError:
            raise
        except Exception as e:  # of another process, with its traceback as text
            raise ModelError(f"vLLM's workers fail at {method}: {_reason(e)}") from e

    def run(
        self,
        windows: Iterable[Mapping[int, TokenisedExample]],
        rows_as: RowsAs,
        stats: RunStats,
        sink: Sink,
        journal: Journal | None = None,
    ) -> None:
        """As `Engine.run`; `sink` gets some hundred rows at a time. Rows that were being run when a
        process died go last in their window, one by one.

        vLLM cannot continue after it has failed: a failure raises ModelError.
        """
        self._pack_as(rows_as)
        for examples in windows:
            self._run(examples, stats, sink, journal or Journal())

    def _run(
        self,
        examples: Mapping[int, TokenisedExample],
        stats: RunStats,
        sink: Sink,
        journal: Journal,
    ) -> None:
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
    """[start, end, start, end, ...] of every run of own tokens."""
    edges = np.flatnonzero(np.diff(own_T, prepend=False, append=False))
    bounds: list[int] = edges.tolist()
    return bounds


def _reason(e: Exception) -> str:
    """The line that names the reason: the second of pydantic's, the last of a traceback."""
    second = "validation error" in reason_of(e, 1000)
    return reason_of(e, 400, line=1 if second else -1, named=True)
