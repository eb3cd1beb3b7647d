"""The transformers engine: token ids in, pooled activations out.

Right padding and causal attention make an attention mask unnecessary: real tokens never see
padding, the fused causal kernel is used, and padded positions are left out of the pooling.
Shapes: B rows, T tokens, L layers, F neurons a layer, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from mads_ray.capture.architectures import decoder_layers, find_down_projections, input_width
from mads_ray.capture.engines.batching import TokenBudget, budget_for
from mads_ray.capture.engines.compiling import (
    Pool,
    cannot_compile,
    compile_function,
    fused_or_plain,
    outside_graphs,
)
from mads_ray.capture.engines.engine import EngineOptions, Pooling, RowsAs, RunStats, Sink
from mads_ray.capture.engines.micro_batches import MicroBatches
from mads_ray.capture.flops import Peak
from mads_ray.capture.journal import Journal
from mads_ray.capture.model import Located, load_weights
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Pooled
from mads_ray.errors import ModelError


class TransformersEngine:
    """An `Engine`: runs a base model and pools the inputs of its down projections inside hooks.

    A hook keeps no activations of its layer, so memory beside the forward pass is B x L x F.
    `token_budget`: padded tokens that a run begins with; `budget`: that of the latest run.

    Raises ModelError for a model that cannot be hooked (see `find_down_projections`), whose tokens
    see others to their right, or where `options.compile` is asked for and torch.compile fails.
    """

    def __init__(self, model: Any, options: EngineOptions = EngineOptions()) -> None:
        self._model = model
        self._pool = _POOLINGS[options.pooling]
        parameter = next(model.parameters())
        self.device = parameter.device
        self.peak = Peak.of(model, str(parameter.dtype).removeprefix("torch."))
        modules = find_down_projections(model, options.hook_module)
        self.layers = len(modules)
        self.width = input_width(modules)
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._outside_BT1: torch.Tensor | None = None
        self._acts_BLF: torch.Tensor | None = None
        self._fired = 0
        self.options = options
        self.token_budget = options.token_budget or self._first_budget(options.memory_share)
        self.budget = TokenBudget(self.token_budget)
        if options.compile:
            self._pool = compile_function(self._pool)
            for decoder_layer in decoder_layers(model, modules):
                decoder_layer.compile(dynamic=True)
        elif self.device.type == "cuda" and options.pooling == "max":
            # A maximum is exact in any order. How a sum is split may depend on the first shape.
            self._pool = fused_or_plain(self._pool, self.device)
        for layer, module in enumerate(modules):
            hook = self._pooling_hook(layer)
            module.register_forward_pre_hook(outside_graphs(hook) if options.compile else hook)
        try:
            self._require_causal()
            if options.compile:
                self._warm_up()
        except torch._dynamo.exc.TorchDynamoException as e:
            raise cannot_compile(e) from e

    @classmethod
    def open(cls, located: Located, options: EngineOptions) -> Self:
        """Load the model onto the best device. Raises ModelError where that fails."""
        return cls(load_weights(located), options)

    def run(
        self,
        windows: Iterable[Mapping[int, TokenisedExample]],
        rows_as: RowsAs,
        stats: RunStats,
        sink: Sink,
        journal: Journal | None = None,
    ) -> None:
        """As `Engine.run`, in micro-batches. Each run begins with the whole token budget."""
        self.budget = TokenBudget(self.token_budget)
        batches = MicroBatches(self, self.budget, rows_as, stats, sink, journal or Journal())
        for examples in windows:
            batches.run(examples)

    def _first_budget(self, memory_share: float) -> int:
        """Padded tokens to begin with: 2,048 on a CPU, else by the share of the device's memory
        that is ours, less the weights.

        Memory that is free now does not count: batches decide the last bits of a matrix product,
        and should be the same on every device of a kind.
        """
        if self.device.type != "cuda":
            return 2048
        whole = torch.cuda.get_device_properties(self.device).total_memory
        weights = sum(p.numel() * p.element_size() for p in self._model.parameters())
        left = max(0, int(memory_share * whole) - weights)
        size = next(self._model.parameters()).element_size()
        return budget_for(left, self.layers, self.width, self.hidden_size, size)

    def pool(self, examples: Sequence[TokenisedExample]) -> Pooled:
        """One forward pass over right-padded `examples`."""
        ids_BT, own_BT = padded(examples, self.device)
        self._outside_BT1 = ~own_BT[..., None]
        self._acts_BLF = torch.empty(
            (len(examples), self.layers, self.width), dtype=torch.float32, device=self.device
        )
        self._fired = 0
        try:
            with torch.inference_mode():
                hidden_BTH = self._model(input_ids=ids_BT, use_cache=False).last_hidden_state
                weights_BT1 = own_BT[..., None].to(torch.float32)
                hidden_BH = (hidden_BTH.float() * weights_BT1).sum(1) / weights_BT1.sum(1)
            if self._fired != self.layers:
                raise ModelError(
                    f"{self._fired} of {self.layers} hooked modules ran in a forward pass: these "
                    "are not the layers that see the text"
                )
            return Pooled(self._acts_BLF, hidden_BH)
        finally:
            self._outside_BT1 = self._acts_BLF = None

    def _require_causal(self) -> None:
        """Raise ModelError where tokens see those to their right: then features would depend on the
        padding, and so on the batch."""
        own_T = np.arange(16) < 8
        heads = np.arange(1, 17, dtype=np.int32)
        tails = np.where(own_T, heads, heads + 32)
        a, b = (self.pool([TokenisedExample(x, own_T, 0)]).acts_BLF for x in (heads, tails))
        if not torch.allclose(a, b, rtol=0.05, atol=0.01 * float(a.max())):
            raise ModelError(
                f"{type(self._model).__name__}: tokens see others to their right; only decoders "
                "are supported"
            )

    def _warm_up(self) -> None:
        """Compile for several rows too, and for the same ones in every process: kernels may be laid
        out for the first shape that they see, which must not be that of the first shard."""
        ones_T = np.ones(24, np.int32)
        rows = [TokenisedExample(ones_T[:n], np.ones(n, np.bool_), 0) for n in (24, 17, 9)]
        self.pool(rows)
        self.pool(rows[:2])

    def _pooling_hook(self, layer: int) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self._outside_BT1 is None or self._acts_BLF is None:
                return
            rows, tokens, _ = self._outside_BT1.shape
            acts_BTF = args[0].reshape(rows, tokens, self.width)  # OPT flattens its tokens
            self._acts_BLF[:, layer] = self._pool(acts_BTF, self._outside_BT1)
            self._fired += 1

        return hook


def _max(acts_BTF: torch.Tensor, outside_BT1: torch.Tensor) -> torch.Tensor:
    return acts_BTF.abs().masked_fill_(outside_BT1, 0).amax(1).float()


def _mean(acts_BTF: torch.Tensor, outside_BT1: torch.Tensor) -> torch.Tensor:
    size_BTF = acts_BTF.abs().masked_fill_(outside_BT1, 0)
    own_B1 = outside_BT1.shape[1] - outside_BT1.sum(1)
    return size_BTF.sum(1, dtype=torch.float32) / own_B1


_POOLINGS: dict[Pooling, Pool] = {"max": _max, "mean": _mean}


def padded(
    examples: Sequence[TokenisedExample], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT int64, own_BT bool) on the device, padded to the right with zeros."""
    lengths = [len(e.ids_T) for e in examples]
    ids_BT = torch.zeros((len(examples), max(lengths)), dtype=torch.long)
    own_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        ids_BT[row, :length] = torch.from_numpy(example.ids_T)
        own_BT[row, :length] = torch.from_numpy(example.own_T)
    if device.type == "cuda":  # from pageable memory the copy would wait for the batch before
        ids_BT, own_BT = ids_BT.pin_memory(), own_BT.pin_memory()
    return ids_BT.to(device, non_blocking=True), own_BT.to(device, non_blocking=True)
