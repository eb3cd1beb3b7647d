"""On a node's PYTHONPATH: the model's process ends by a signal when it meets one row.

As a fault in a kernel would. `MADS_RAY_TEST_POISON` holds the row's length in tokens and their sum.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys

ENGINE = "mads_ray.capture.transformers_engine"


class Patching(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != ENGINE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            poison(module.TransformersEngine)

        spec.loader.exec_module = exec_module
        return spec


def poison(engine):
    length, total = map(int, os.environ["MADS_RAY_TEST_POISON"].split(","))
    pool = engine.pool

    def deadly(self, examples):
        if any(len(e.ids_T) == length and int(e.ids_T.sum()) == total for e in examples):
            os.kill(os.getpid(), signal.SIGSEGV)
        return pool(self, examples)

    engine.pool = deadly


if "MADS_RAY_TEST_POISON" in os.environ:
    sys.meta_path.insert(0, Patching())
