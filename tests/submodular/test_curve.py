import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import OBJECTIVES, marginals, quick

from mads_ray.submodular import kernels
from mads_ray.submodular.objective import Curve, phi

LINEAR = 2**16
CURVES = {name: Curve.of(name) for name in ("sqrt", "log1p", "union", "cap:2", "cap:90000")}
edges = {2**k + d for k in range(17, 31) for d in (-1, 0, 1)}
edges |= {0, 1, LINEAR - 1, LINEAR, LINEAR + 255, LINEAR + 256, LINEAR + 257, 2**31 - 1, 10**8}
counts = st.one_of(st.integers(0, 2**31 - 1), st.sampled_from(sorted(edges)))


def value_at(curve, c):
    segment = kernels.segment(c)
    return int(curve.value_M[segment] + (c - curve.start_M[segment]) * curve.marginal_M[segment])


@pytest.mark.parametrize(
    ("name", "by_math"),
    [
        ("sqrt", math.sqrt),
        ("log1p", math.log1p),
        ("union", lambda c: min(c, 1)),
        ("cap:3", lambda c: min(c, 3)),
        ("cap:12", lambda c: min(c, 12)),
    ],
)
def test_phi_is_the_named_function(name, by_math):
    found = phi(name, np.arange(41))
    assert found.tolist() == pytest.approx([by_math(c) for c in range(41)], rel=1e-15)
    assert found[0] == 0


@pytest.mark.parametrize("name", ["", "Sqrt", "linear", "cap"])
def test_unknown_phi_is_refused_by_name(name):
    with pytest.raises(ValueError, match="unknown objective"):
        phi(name, np.arange(3))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_small_counts_have_the_marginals_of_the_reference(name):
    curve, expected = CURVES[name], marginals(name)
    assert curve.marginal_M[: len(expected)].tolist() == expected
    assert curve.value_M[: len(expected)].tolist() == [0, *np.cumsum(expected)[:-1].tolist()]


@pytest.mark.parametrize("name", CURVES)
def test_every_count_below_2_to_16_has_a_segment_of_its_own(name):
    curve = CURVES[name]
    assert curve.start_M[:LINEAR].tolist() == list(range(LINEAR))
    rise = np.diff(phi(name, np.arange(LINEAR + 1))) * 2**20
    assert (np.abs(curve.marginal_M[:LINEAR] - rise) <= 0.501).all()


@pytest.mark.parametrize("name", CURVES)
def test_concave_continuous_and_rising(name):
    curve = CURVES[name]
    assert curve.value_M[0] == curve.start_M[0] == 0
    assert (np.diff(curve.marginal_M) <= 0).all()
    assert (curve.marginal_M >= 0).all()
    lengths = np.diff(curve.start_M)
    assert (np.diff(curve.value_M) == lengths * curve.marginal_M[:-1]).all()
    assert len(curve.start_M) == LINEAR + 256 * 15
    octave_of = np.log2(curve.start_M[LINEAR:]).astype(int)
    assert lengths[LINEAR:].tolist() == [2 ** (o - 8) for o in octave_of[:-1]]
    # The last segment reaches the largest int32 count.
    assert curve.start_M[-1] < 2**31 <= curve.start_M[-1] + 2 ** (30 - 8)


@quick
@given(st.lists(counts, min_size=1, max_size=40))
def test_both_ways_to_find_a_segment_agree(some):
    curve = CURVES["sqrt"]
    found = curve.segments(np.array(some, np.int32))
    assert found.tolist() == [kernels.segment(c) for c in some]
    for c, segment in zip(some, found.tolist(), strict=True):
        assert curve.start_M[segment] <= c
        assert segment + 1 == len(curve.start_M) or c < curve.start_M[segment + 1]


def test_the_start_of_every_segment_is_in_it():
    starts = CURVES["sqrt"].start_M
    segments = np.arange(len(starts))
    assert (CURVES["sqrt"].segments(starts.astype(np.int32)) == segments).all()
    last = (starts[1:] - 1).astype(np.int32)
    assert (CURVES["sqrt"].segments(last) == segments[:-1]).all()
    assert [kernels.segment(c) for c in last] == segments[:-1].tolist()


def test_no_counts_have_no_segments():
    assert CURVES["sqrt"].segments(np.empty(0, np.int32)).tolist() == []


@pytest.mark.parametrize("count", [LINEAR, 10**5, 10**6, 10**7, 10**8, 10**9, 2**31 - 1])
@pytest.mark.parametrize("name", ["sqrt", "cap:90000"])
def test_large_counts_are_worth_what_the_curve_says(name, count):
    expected = phi(name, np.array([count]))[0] * 2**20
    assert value_at(CURVES[name], count) == pytest.approx(expected, rel=1e-3)


def test_log1p_is_close_to_a_million_and_flat_beyond_a_few():
    """Its rise falls below half a unit of 2^-20 there."""
    for count, share in [(LINEAR, 1e-3), (10**6, 0.02), (2**21, 0.03)]:
        expected = math.log1p(count) * 2**20
        assert value_at(CURVES["log1p"], count) == pytest.approx(expected, rel=share)
    assert CURVES["log1p"].marginal_M[kernels.segment(2**22)] == 0
