"""Fixtures: synthetic corpora, workers of them, and finished runs of selections.

Numba is imported in the fixtures only. Beside it vLLM's build for CPUs does not
start, and the tests of vLLM load this plugin too.
"""

from contextlib import ExitStack
from functools import cache

import pytest
from in_process import in_this_process

import mads_ray


@pytest.fixture(scope="session")
def zipf(tmp_path_factory):
    """4,000 zipfian rows in so many shards."""
    from selections import config_of, make_run, setup_of

    root = tmp_path_factory.mktemp("zipf")

    @cache
    def setup(shards):
        tree = setup(8).ground.tree if shards != 8 else None
        return setup_of(make_run(root / str(shards), 4000, shards), config_of(), tree)

    return setup


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """1,200 rows of few large clusters, with raw neurons, in so many shards."""
    from selections import config_of, make_run, setup_of

    root = tmp_path_factory.mktemp("small")

    @cache
    def setup(shards):
        folder = make_run(root / str(shards), 1200, shards, kind="skewed", raw=True)
        tree = setup(4).ground.tree if shards != 4 else None
        return setup_of(folder, config_of(), tree)

    return setup


@pytest.fixture(scope="session")
def workers_of(ray_local, zipf):
    """Workers of the zipfian rows that stay for the session, by their spread."""
    from selections import config_of, started_workers

    with ExitStack() as stack:

        @cache
        def workers(*spread):
            setup = zipf(sum(map(len, spread)))
            return stack.enter_context(started_workers(setup, config_of(), spread))

        yield workers


@pytest.fixture(scope="session")
def workers(workers_of):
    """Two workers of 8 shards of the zipfian rows."""
    return workers_of((0, 2, 4, 6), (1, 3, 5, 7))


# --- finished runs, for every test that looks at what they stored ---


@pytest.fixture(scope="session")
def compared(small, tmp_path_factory):
    """120 rows in exact mode, beside those of all other methods."""
    from selections import config_of

    others = ("random", "length-matched-random", "kmeans", "k-center", "raw-topk-union")
    config = config_of(tmp_path_factory.mktemp("compared"), size=120, compare=others, workers=3)
    with in_this_process():
        return mads_ray.select(config, small(4).folder.root)


@pytest.fixture(scope="session")
def by_random(small, tmp_path_factory):
    """120 random rows."""
    from selections import config_of

    config = config_of(tmp_path_factory.mktemp("random"), size=120, method="random")
    with in_this_process():
        return mads_ray.select(config, small(4).folder.root)


@pytest.fixture(scope="session")
def chain(small, tmp_path_factory):
    """A core set of 40 rows, one of 60 that extends it, and one of 30 that extends both."""
    from selections import config_of

    root, results, base = tmp_path_factory.mktemp("chain"), [], None
    for size in (40, 60, 30):
        config = config_of(root / str(size), size=size, base_core_set=base)
        with in_this_process():
            results.append(mads_ray.select(config, small(4).folder.root))
        base = str(results[-1].output)
    return results
