"""Settings of capture."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mads_ray.config.frozen import Frozen
from mads_ray.paths import absolute, refuse_credentials


class CaptureConfig(Frozen):
    """Which model reacts, and what of its reaction is kept."""

    former_names: ClassVar[dict[str, str]] = {
        "tokens": "token_scope",
        "token_budget": "batch_tokens",
    }

    model: str = Field("smollm2-135m", description="Hub name, local folder, or smollm2-135m.")
    revision: str | None = Field(None, description="Hub revision of the model.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What runs the model. The engine vllm is an extra of its own, for GPUs and "
        "large models.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="GPUs that hold one model together; more than 1 only with the engine vllm.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the model. The choice auto is bfloat16 where the device has "
        "instructions for it, else float32.",
    )
    neurons_per_layer: int = Field(
        64, ge=1, description="Active neurons that are kept of every layer (k)."
    )
    token_scope: Literal["all", "prompt", "response", "last"] = Field(
        "all",
        description="Tokens whose activations count. They are all of the example's own, those of "
        "the user, those of the assistant, or the last one.",
    )
    pooling: Literal["max", "mean"] = Field(
        "max", description="How a neuron's |activations| over these tokens become one number."
    )
    hook_module: str | None = Field(
        None,
        pattern=r"^[^*]+\.\*\.[^*]+$",
        description="Last feed-forward module of each layer of an unknown architecture, e.g. "
        "model.layers.*.mlp.down_proj. The * stands for the layer's number.",
    )
    compile: bool = Field(
        False,
        description="Let torch.compile have the layers: faster, but half a minute slower to "
        "start. See docs/capture.md.",
    )
    max_tokens: int = Field(
        2048,
        ge=16,
        description="Most tokens of an example; a longer one loses the middle of its prompt.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=16,
        description="Padded tokens in a micro-batch to begin with; by default 2048 on a CPU, by "
        "free memory on a GPU. For the engine vllm: most tokens in a step.",
    )
    calibration_rows: int = Field(
        2048,
        ge=2,
        le=16_384,
        description="Examples that fit the mean and std of each neuron, and the sketches.",
    )
    sketch_dim: int = Field(256, ge=2, le=1024, description="Length of a sketch.")
    store_hidden: bool = Field(
        False, description="Also store the mean last hidden state, for baselines and evaluation."
    )
    store_raw: bool = Field(
        False,
        description="Also store raw top-k neurons, not standardised. The baseline raw-topk-union "
        "needs them.",
    )
    calibration_from: str | None = Field(
        None,
        description="Run folder whose calibration to use instead of fitting one. States of two "
        "corpora then compare. Its model and settings replace the defaults here.",
    )

    @field_validator("calibration_from")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # run.json must name the same folder wherever it is repeated.
        if value is None:
            return None
        refuse_credentials(value)  # log.jsonl and run.json hold all settings
        return absolute(value)

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "transformers" and self.tensor_parallel > 1:
            raise ValueError("tensor_parallel needs the engine vllm (--engine vllm)")
        if self.engine == "vllm" and self.compile:
            raise ValueError("compile is for the engine transformers; vLLM must not skip hooks")
        return self
