"""Settings of capture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mads_ray.capture import NEURONS_PER_LAYER, SKETCH_DIM
from mads_ray.config.frozen import Frozen


class CaptureConfig(Frozen):
    """Which model reacts, and what of its reaction is kept."""

    model: str = Field("smollm2-135m", description="hub name, local folder, or smollm2-135m")
    revision: str | None = Field(None, description="hub revision of the model")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="vllm: an extra of its own, for GPUs and large models"
    )
    tensor_parallel: int = Field(
        1, ge=1, description="GPUs that hold one model together (engine vllm)"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the device has instructions for it, else float32"
    )
    neurons_per_layer: int = Field(
        NEURONS_PER_LAYER, ge=1, description="k: active neurons kept in every layer"
    )
    tokens: Literal["all", "prompt", "response", "last"] = Field(
        "all",
        description="whose activations count: all own tokens, those of the user, those of "
        "the assistant, or the last one",
    )
    pooling: Literal["max", "mean"] = Field(
        "max", description="how a neuron's |activations| over these tokens become one number"
    )
    hook_module: str | None = Field(
        None,
        pattern=r"^[^*]+\.\*\.[^*]+$",
        description="for unknown architectures: the layers' last feed-forward modules, with * for "
        "the layer's number, e.g. model.layers.*.mlp.down_proj",
    )
    compile: bool = Field(
        False,
        description="let torch.compile have the layers: faster, but half a minute slower to start "
        "(see docs/capture.md)",
    )
    max_tokens: int = Field(2048, ge=16, description="longer examples lose the prompt's middle")
    token_budget: int | None = Field(
        None,
        ge=16,
        description="padded tokens in a micro-batch to begin with; default 2048 on a CPU, by free "
        "memory on a GPU",
    )
    calibration_rows: int = Field(
        2048, ge=2, le=16_384, description="examples that fit mean, std and sketch"
    )
    sketch_dim: int = Field(SKETCH_DIM, ge=2, le=1024, description="length of a sketch")
    store_hidden: bool = Field(
        False, description="also store the mean last hidden state (for baselines)"
    )
    store_raw: bool = Field(
        False,
        description="also store raw top-k neurons, not standardised (for the raw-topk-union "
        "baseline)",
    )
    calibration_from: str | None = Field(
        None,
        description="run folder whose calibration to use instead of fitting one, so that states "
        "of two corpora compare; its model and settings replace the defaults here",
    )

    @field_validator("calibration_from")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # run.json must name the same folder wherever it is repeated.
        return None if value is None else str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "transformers" and self.tensor_parallel > 1:
            raise ValueError("tensor_parallel needs the engine vllm (--engine vllm)")
        if self.engine == "vllm" and self.compile:
            raise ValueError("compile is for the engine transformers; vLLM must not skip hooks")
        return self
