"""Engines that fail as devices do."""

from mads_ray.capture.engines.transformers_engine import TransformersEngine


class Faulty:
    """A transformers engine; `fail` sees each batch first, and may raise or end the process."""

    run = TransformersEngine.run

    def __init__(self, engine, fail, token_budget=600):
        self._engine, self._fail, self.token_budget = engine, fail, token_budget
        self.device, self.layers, self.width = engine.device, engine.layers, engine.width
        self.hidden_size, self.vocabulary = engine.hidden_size, engine.vocabulary

    def pool(self, examples):
        self._fail(examples)
        return self._engine.pool(examples)


def batched(engine, token_budget):
    """The engine, with batches of so many tokens."""
    return Faulty(engine, lambda _: None, token_budget)
