"""What runs inside vLLM's workers: hooks that pool, and a pooler that gives packed rows.

vLLM computes many requests in one step. A request comes in one or several chunks of its prompt, and
the tokens of all chunks of a step lie one after the other. Shapes: T tokens of a step, R requests
in it, L layers, N neurons of a layer that this rank holds, F neurons a layer, H hidden size.

Some faults would give wrong rows silently, so two things are checked in every step. Every layer's
hook must fire: compiled or replayed graphs skip hooks. Every token of a request must be seen
exactly once: prefix caching skips tokens, and preemption starts a request over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.distributed import (
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
)
from vllm.forward_context import get_forward_context

from mads_ray.capture.architectures import checked_width, find_down_projections
from mads_ray.capture.calibration import Calibration
from mads_ray.capture.engines.vllm_engine import OWN
from mads_ray.capture.reducer import Pooled, StateReducer, pack_pooled
from mads_ray.errors import ModelError

# Requests that are packed at once. Packing holds all of their neurons several times over, beside
# the memory that vLLM planned with.
_TOGETHER = 32


class CaptureExtension:
    """Mixed into vLLM's worker class; the engine calls these on every rank."""

    model_runner: Any

    def capture_install(self, pooling: str, hook_module: str | None) -> dict[str, int]:
        """Hook the model. Raises ModelError for models that cannot be hooked."""
        self.capture_pooler = CapturePooler(self.model_runner, pooling, hook_module)
        return {
            "layers": self.capture_pooler.layers,
            "width": self.capture_pooler.width,
            "hidden_size": self.capture_pooler.hidden_size,
            "vocabulary": int(self.model_runner.model_config.get_vocab_size()),
        }

    def capture_pooled(self) -> None:
        """Requests give their pooled activations, for calibration."""
        self.capture_pooler.pack = pack_pooled

    def capture_states(self, calibration: str, hidden_dim: int, raw: bool) -> None:
        """Requests give their packed states under the calibration in this file."""
        device = self.capture_pooler.device
        reducer = StateReducer(Calibration.load(Path(calibration)), device, hidden_dim, raw)
        self.capture_pooler.pack = reducer.pack

    def capture_schedule(self) -> dict[str, int]:
        """Most requests and tokens in a step so far, chunks after a first, and restarts."""
        return self.capture_pooler.schedule


@dataclass(slots=True)
class _Step:
    """The requests of one forward pass."""

    lengths_R: torch.Tensor  # of their chunks, on the device
    outside_T1: torch.Tensor  # tokens that are not the example's own
    own: list[int]  # own tokens in each chunk
    done: list[int]  # tokens computed before
    acts_RLN: torch.Tensor
    fired: int = 0


@dataclass(slots=True)
class _Partial:
    """What the chunks of a request have given so far."""

    acts_LN: torch.Tensor
    hidden_H: torch.Tensor
    own: int
    seen: int


class CapturePooler(nn.Module):
    """Takes the place of the model's pooler."""

    def __init__(self, runner: Any, pooling: str, hook_module: str | None) -> None:
        super().__init__()
        model = runner.get_model()
        modules: list[Any] = list(find_down_projections(model, hook_module))
        self.layers = len(modules)
        widths = {int(m.input_size_per_partition) for m in modules}
        if len(widths) > 1:
            raise ModelError(f"layers of different widths are not supported: {sorted(widths)}")
        self.local_width = widths.pop()
        self.width = checked_width(self.local_width * get_tensor_model_parallel_world_size())
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self.device = runner.device
        self.pack = pack_pooled
        self.schedule = {"requests": 0, "tokens": 0, "chunks": 0, "restarts": 0}
        self._runner, self._mean = runner, pooling == "mean"
        self._step: _Step | None = None
        self._original = [model.pooler]  # in a list: no submodule
        model.register_forward_pre_hook(lambda _module, _args: self._begin())
        for layer, module in enumerate(modules):
            module.register_forward_pre_hook(self._pooling_hook(layer))
        model.pooler = self

    def get_supported_tasks(self) -> Any:
        """As the model's own pooler."""
        return self._original[0].get_supported_tasks()

    def get_pooling_updates(self, task: Any) -> Any:
        """As the model's own pooler."""
        return self._original[0].get_pooling_updates(task)

    def _begin(self) -> None:
        """Note which tokens of the step that begins belong to which request."""
        self._step = None
        if not get_forward_context().attn_metadata:
            return  # a trial run of vLLM
        batch = self._runner.input_batch
        requests = batch.num_reqs
        starts_R1 = self._runner.query_start_loc.np[: requests + 1]
        done = batch.num_computed_tokens_cpu[:requests].tolist()
        lengths = np.diff(starts_R1).tolist()
        own_T = np.concatenate(
            [
                _own_tokens(batch.pooling_params[request], at, at + length)
                for request, at, length in zip(batch.req_ids, done, lengths, strict=True)
            ]
        )
        self._step = _Step(
            torch.tensor(lengths).to(self.device, non_blocking=True),
            torch.from_numpy(~own_T[:, None]).to(self.device, non_blocking=True),
            [int(part.sum()) for part in np.split(own_T, starts_R1[1:-1])],
            done,
            torch.empty((requests, self.layers, self.local_width), device=self.device),
        )
        self.schedule["requests"] = max(self.schedule["requests"], requests)
        self.schedule["tokens"] = max(self.schedule["tokens"], len(own_T))

    def _pooling_hook(self, layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            step = self._step
            if step is not None:
                acts_TN = args[0].reshape(-1, self.local_width)[: len(step.outside_T1)]
                step.acts_RLN[:, layer] = self._segments(acts_TN.abs(), step)
                step.fired += 1

        return hook

    def _segments(self, size_TN: torch.Tensor, step: _Step, mean: bool | None = None) -> Any:
        """Maximum (or sum) over the own tokens of every request: float32 (R, N)."""
        size_TN = size_TN.masked_fill(step.outside_T1, 0)
        if self._mean if mean is None else mean:
            return torch.segment_reduce(
                size_TN.float(), "sum", lengths=step.lengths_R, axis=0, unsafe=True
            )
        most_RN = torch.segment_reduce(size_TN, "max", lengths=step.lengths_R, axis=0, unsafe=True)
        return most_RN.float()

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: Any) -> list[Any]:
        """Packed rows of the requests that are complete, None for the others."""
        step, self._step = self._step, None
        if step is None:
            raise RuntimeError("a step without a forward pass of the hooked model")
        if step.fired != self.layers:
            raise RuntimeError(f"hooks fired in {step.fired} of {self.layers} layers of a step")
        hidden_RH = self._segments(hidden_states, step, mean=True)
        cursor = pooling_metadata.get_pooling_cursor()
        complete: dict[int, _Partial] = {}
        for i, (finished, prompt) in enumerate(
            zip(cursor.get_finished_mask(), pooling_metadata.prompt_lens.tolist(), strict=True)
        ):
            scheduled = int(cursor.num_scheduled_tokens_cpu[i])
            part = _Partial(step.acts_RLN[i], hidden_RH[i], step.own[i], scheduled)
            carried = pooling_metadata.pooling_states[i].hidden_states_cache
            if step.done[i]:
                part = self._joined(carried, step.done[i], part)
                self.schedule["chunks"] += 1
            else:
                self.schedule["restarts"] += len(carried)  # after a preemption
            carried.clear()
            if not finished:
                # Clones: the rest of the step's memory must not stay with it.
                carried.append(
                    _Partial(part.acts_LN.clone(), part.hidden_H.clone(), part.own, part.seen)
                )
                continue
            if part.seen != prompt:
                raise RuntimeError(f"{part.seen} of {prompt} tokens of a request were seen")
            complete[i] = part
        rows: list[Any] = [None] * len(step.done)
        indices = list(complete)
        for start in range(0, len(indices), _TOGETHER):
            some = indices[start : start + _TOGETHER]  # the same on every rank
            for i, row in zip(some, self._packed([complete[i] for i in some]), strict=True):
                rows[i] = row
        return rows

    def _joined(self, carried: list[Any], done: int, part: _Partial) -> _Partial:
        if not carried or carried[0].seen != done:
            raise RuntimeError("tokens of a request were computed elsewhere: a cached prefix?")
        before = carried[0]
        join = torch.add if self._mean else torch.maximum
        return _Partial(
            join(before.acts_LN, part.acts_LN),
            before.hidden_H + part.hidden_H,
            before.own + part.own,
            before.seen + part.seen,
        )

    def _packed(self, parts: list[_Partial]) -> torch.Tensor:
        """Packed rows of all neurons: every rank has a slice of them, which are gathered here."""
        own_B1 = torch.tensor([[float(p.own)] for p in parts], device=self.device)
        acts_BLN = torch.stack([p.acts_LN for p in parts])
        if self._mean:
            acts_BLN = acts_BLN / own_B1[:, None]
        acts_BLF: Any = acts_BLN
        if self.width != self.local_width:
            acts_BLF = tensor_model_parallel_all_gather(acts_BLN.contiguous(), -1)
        hidden_BH = torch.stack([p.hidden_H for p in parts]) / own_B1
        return self.pack(Pooled(acts_BLF, hidden_BH))


def _own_tokens(params: Any, start: int, end: int) -> Any:
    """bool (end - start): which tokens of the prompt from `start` are the example's own."""
    own_T = np.zeros(end - start, np.bool_)
    bounds = params.extra_kwargs[OWN]
    for first, last in zip(bounds[0::2], bounds[1::2], strict=True):
        own_T[max(0, first - start) : max(0, last - start)] = True
    return own_T
