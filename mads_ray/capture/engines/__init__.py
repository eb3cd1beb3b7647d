"""What runs a model and pools its neurons: one contract (`engine.py`), and one file an engine.

To add an engine, write a file with a class that fulfils `Engine`, and add its line to `ENGINES`.
"""

from collections.abc import Callable

from mads_ray.capture.engines.engine import Engine, EngineOptions
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.engines.vllm_engine import VllmEngine
from mads_ray.capture.model import Located
from mads_ray.errors import ConfigError

# How to open an engine, by its name in the settings. A library that few people have is imported
# when its engine is opened, not before.
ENGINES: dict[str, Callable[[Located, EngineOptions], Engine]] = {
    "transformers": TransformersEngine.open,
    "vllm": VllmEngine,
}


def open_engine(name: str, located: Located, options: EngineOptions) -> Engine:
    """Load a model into the engine of that name.

    Raises ConfigError for an unknown name, and ModelError where the model cannot be loaded or
    hooked.
    """
    if name not in ENGINES:
        raise ConfigError(f"capture.engine is {name!r}; known engines: {', '.join(ENGINES)}")
    return ENGINES[name](located, options)
