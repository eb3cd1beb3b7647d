"""The table of methods: what settings take, what each needs, and that reading it is quick."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from mads_ray.baselines import BASELINES, Candidates
from mads_ray.config import METHODS, SelectionConfig

N = 60
COLUMNS = {
    "cluster": ("leaf_N", "distance_N"),
    "sketch": ("sketches_NS",),
    "our_lengths": ("our_tokens_K",),
}


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return Candidates(
        rng.integers(0, 2**64, N, np.uint64),
        rng.integers(1, 50, N).astype(np.int32),
        rng.integers(0, 4, N).astype(np.int32),
        rng.random(N),
        rng.normal(0, 0.1, (N, 8)).astype(np.float16),
        rng.integers(1, 50, 12).astype(np.int32),
    )


@pytest.mark.parametrize("method", BASELINES)
def test_an_order_uses_what_its_method_names_and_no_more(rows, method):
    baseline = BASELINES[method]
    absent = {c: None for need, cs in COLUMNS.items() if need not in baseline.needs for c in cs}
    order = baseline.order(replace(rows, **absent), 12)
    assert len(order) >= 12
    assert len(set(order.tolist())) == len(order)
    assert order.tolist() == baseline.order(rows, 12).tolist()


def test_some_of_the_candidates(rows):
    index = np.array([5, 3, 40])
    some = replace(rows, leaf_N=None).take(index)
    assert some.hashes_N.tolist() == rows.hashes_N[index].tolist()
    assert (some.sketches_NS == rows.sketches_NS[index]).all()
    assert some.leaf_N is None
    assert some.our_tokens_K is rows.our_tokens_K


def test_settings_take_the_methods_of_the_table():
    assert (
        *("mads", "random", "length-matched-random", "kmeans", "k-center", "raw-topk-union"),
    ) == METHODS
    for method in METHODS:
        assert SelectionConfig(method=method, compare=(method,)).method == method
    told = SelectionConfig.model_fields["method"].description
    assert all(name in told and b.text in told for name, b in BASELINES.items())


@pytest.mark.parametrize("settings", [{"method": "best"}, {"compare": ["random", "best"]}])
def test_another_method_is_refused_with_a_list(settings):
    listed = (
        r"Input should be 'mads', 'random', 'length-matched-random', 'kmeans', 'k-center' or "
        r"'raw-topk-union'"
    )
    with pytest.raises(ValidationError, match=listed):
        SelectionConfig(**settings)


def test_settings_do_not_wait_for_a_compiler():
    code = "import sys, mads_ray.config; sys.exit(bool({'numba', 'ray'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
