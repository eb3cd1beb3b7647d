"""Log-determinant and Vendi score against the whole kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import logm

from mads_ray.evaluation.spectrum import kernel_eigenvalues, log_determinant, vendi_score
from mads_ray.evaluation.vectors import unit_rows


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 10**6))
def test_against_the_whole_kernel(n, width, seed):
    unit = unit_rows(np.random.default_rng(seed).normal(size=(n, width)))
    eigenvalues = kernel_eigenvalues(unit)
    assert len(eigenvalues) == min(n, width)
    kernel = np.array([[sum(x * y) for y in unit] for x in unit])
    sign, wanted = np.linalg.slogdet(np.eye(n) + kernel)
    assert sign == 1
    assert log_determinant(eigenvalues) == pytest.approx(wanted)
    score = vendi_score(eigenvalues)
    all_n = np.linalg.eigvalsh(kernel / n)
    positive = all_n[all_n > 1e-14]
    assert score == pytest.approx(np.exp(-sum(p * np.log(p) for p in positive)), rel=1e-6)
    assert 1 - 1e-9 <= score <= min(n, width) + 1e-9


def test_vendi_is_the_entropy_of_a_density_matrix():
    """exp(-tr(K/n log K/n)), by the logarithm of a matrix of full rank."""
    unit = unit_rows(np.random.default_rng(0).normal(size=(6, 9)))
    matrix = unit @ unit.T / 6
    wanted = np.exp(-np.trace(matrix @ logm(matrix)).real)
    assert vendi_score(kernel_eigenvalues(unit)) == pytest.approx(wanted)


def test_vendi_counts_kinds():
    kinds = np.eye(7)[np.repeat([0, 1, 2], 4)]
    assert vendi_score(kernel_eigenvalues(kinds)) == pytest.approx(3)
    assert log_determinant(kernel_eigenvalues(kinds)) == pytest.approx(3 * np.log(5))


def test_no_rows():
    for rows in (np.empty((0, 4)), np.zeros((3, 4))):
        eigenvalues = kernel_eigenvalues(rows)
        assert (log_determinant(eigenvalues), vendi_score(eigenvalues)) == (0, 0)
