"""The table of random orders; the hash itself is tested in corpus/test_identity.py."""

from mads_ray import hashing
from mads_ray.hashing import epoch_order, exchange_start, random_set


def test_the_numbers_of_streams_never_change():
    """Stored results depend on them."""
    fixed = {
        "TIES": 0,
        "HELD_OUT_ROWS": 71,
        "CALIBRATION_ROWS": 2**32,
        "BASELINE_ORDER": 2**34,
        "EVALUATED_RANDOM": 2**35,
        "EVALUATED_SET": 2**35 + 1,
        "EVALUATED_POOL": 2**35 + 2,
    }
    assert {name: getattr(hashing, name) for name in fixed} == fixed
    assert [random_set(i) for i in (0, 1, 19)] == [1, 2, 20]
    assert [epoch_order(i) for i in (0, 7)] == [1000, 1007]
    assert [exchange_start(i) for i in (0, 3)] == [2**33, 2**33 + 3]
