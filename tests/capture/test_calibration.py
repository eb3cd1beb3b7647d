import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD

from mads_ray.capture.calibration import Calibration, fit_calibration
from mads_ray.capture.reducer import Pooled, StateReducer
from mads_ray.errors import CorpusError

LAYERS, WIDTH, K = 4, 40, 6


@pytest.fixture
def peaks():
    rng = np.random.default_rng(0)
    scale = rng.lognormal(size=(LAYERS, WIDTH))
    return (rng.gamma(2, size=(50, LAYERS, WIDTH)) * scale).astype(np.float32)


def states(calibration, acts):
    """Through the packed rows that leave the device."""
    hidden = torch.arange(len(acts) * 3, dtype=torch.float32).reshape(-1, 3) / 7
    reducer = StateReducer(calibration, torch.device("cpu"), hidden_dim=3, store_raw=True)
    packed = reducer.pack(Pooled(torch.from_numpy(acts), hidden)).numpy()
    assert (packed[:, -1] == 1).all()
    found = reducer.unpack(packed)
    np.testing.assert_array_equal(found["hidden"], hidden.numpy().astype(np.float16))
    return found


def test_mean_and_std_are_those_of_all_rows(peaks):
    fitted = fit_calibration(np.split(peaks, [7, 30]), K, 8)
    np.testing.assert_allclose(fitted.mean_LF, peaks.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(fitted.std_LF, peaks.astype(np.float64).std(0), rtol=1e-6)
    assert fitted.rows == 50


def test_the_sketch_spans_the_truncated_svd_of_the_states(peaks):
    fitted = fit_calibration([peaks], K, 8)
    z = (peaks - fitted.mean_LF) * fitted.scale_LF()
    x = np.zeros((50, LAYERS * WIDTH))
    for i in range(50):
        for layer in range(LAYERS):
            x[i, layer * WIDTH + np.argsort(-z[i, layer])[:K]] = 1
    svd = TruncatedSVD(8, algorithm="arpack", random_state=0).fit(x)
    overlap = np.linalg.svd(svd.components_ @ fitted.projection_DS, compute_uv=False)
    np.testing.assert_allclose(overlap, 1, atol=1e-4)  # the same subspace
    np.testing.assert_allclose(fitted.centre_S, (x @ fitted.projection_DS).mean(0), atol=1e-4)


def test_states_match_a_slow_reference(peaks):
    fitted = fit_calibration([peaks], K, 8)
    state = states(fitted, peaks[:9])
    neurons, sketch = state["neurons"], state["sketch"]
    assert neurons.dtype == np.uint16
    assert sketch.dtype == np.float16
    for i in range(9):
        dense = np.zeros(LAYERS * WIDTH)
        for layer in range(LAYERS):
            z = (peaks[i, layer] - fitted.mean_LF[layer]) * fitted.scale_LF()[layer]
            best = sorted(range(WIDTH), key=lambda j: -z[j])[:K]
            assert neurons[i, layer * K : (layer + 1) * K].tolist() == sorted(best)
            dense[layer * WIDTH + np.array(best)] = 1
        expected = dense @ fitted.projection_DS - fitted.centre_S
        expected /= np.sqrt(LAYERS * K)  # what a state is long
        assert np.linalg.norm(expected) <= 1
        np.testing.assert_allclose(sketch[i], expected / np.linalg.norm(expected) ** 0.5, atol=2e-3)


def test_of_equal_raw_peaks_the_lower_index_wins(peaks):
    """bfloat16 activations are often equal; the raw state must not depend on the sort."""
    fitted = fit_calibration([peaks], K, 8)
    coarse = torch.from_numpy(np.round(peaks[:20]))
    raw = states(fitted, coarse.numpy())["raw_neurons"].reshape(20, LAYERS, K)
    ties = 0
    for row, state in zip(coarse.numpy(), raw, strict=True):
        for layer, chosen in zip(row, state, strict=True):
            order = sorted(range(WIDTH), key=lambda j: (-layer[j], j))
            assert chosen.tolist() == sorted(order[:K])
            ties += layer[order[K - 1]] == layer[order[K]]
    assert ties > 10
    assert (states(fitted, coarse[3:4].numpy())["raw_neurons"] == raw[3].ravel()).all()


def test_a_neuron_that_never_moved_is_never_unusual(peaks):
    peaks[:, 1, 5] = 3.0
    fitted = fit_calibration([peaks], K, 8)
    loud = peaks[:1].copy()
    loud[0, 1, 5] = 1e6
    neurons = states(fitted, loud)["neurons"]
    assert 5 not in neurons[0, K : 2 * K]


def test_saved_and_loaded_it_is_the_same(tmp_path, peaks):
    fitted = fit_calibration([peaks], K, 8)
    fitted.save(tmp_path / "c.npz")
    loaded = Calibration.load(tmp_path / "c.npz")
    assert loaded.digest() == fitted.digest()
    peaks[0, 0, 0] += 1
    assert fit_calibration([peaks], K, 8).digest() != fitted.digest()


def test_few_rows_give_a_shorter_sketch_and_one_row_an_error(peaks):
    assert fit_calibration([peaks[:5]], K, 8).projection_DS.shape[1] <= 4
    with pytest.raises(CorpusError, match="at least 2"):
        fit_calibration([peaks[:1]], K, 8)
