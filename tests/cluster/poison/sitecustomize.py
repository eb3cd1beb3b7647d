"""On a node's PYTHONPATH: the model's process ends by a signal when it meets one row.

As a fault in a kernel would: in the thread that has the row, at once. `MADS_RAY_TEST_POISON` holds
the row's length in tokens and their sum; `MADS_RAY_TEST_POISON_TEXT` a word: a row with it ends the
process while its text is rendered.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys


class Patching(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WAYS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            WAYS[name](module)

        spec.loader.exec_module = exec_module
        return spec


def poison_model(module):
    length, total = map(int, os.environ["MADS_RAY_TEST_POISON"].split(","))
    engine = module.TransformersEngine
    pool = engine.pool

    def deadly(self, examples):
        if any(len(e.ids_T) == length and int(e.ids_T.sum()) == total for e in examples):
            signal.raise_signal(signal.SIGSEGV)
        return pool(self, examples)

    engine.pool = deadly


def poison_text(module):
    word, renderer = os.environ["MADS_RAY_TEST_POISON_TEXT"], module.PromptRenderer
    render = renderer.__call__

    def deadly(self, messages):
        if word in str(messages):
            signal.raise_signal(signal.SIGSEGV)
        return render(self, messages)

    renderer.__call__ = deadly


WAYS = {}
if "MADS_RAY_TEST_POISON" in os.environ:
    WAYS["mads_ray.capture.engines.transformers_engine"] = poison_model
if "MADS_RAY_TEST_POISON_TEXT" in os.environ:
    WAYS["mads_ray.capture.prompts.examples"] = poison_text
if WAYS:
    sys.meta_path.insert(0, Patching())
