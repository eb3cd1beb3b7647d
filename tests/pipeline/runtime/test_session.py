import pytest

from mads_ray.config import RayConfig
from mads_ray.errors import ConfigError
from mads_ray.pipeline.runtime.session import PoolShape, pool_shape
from mads_ray.pipeline.runtime.tasks import map_tasks


def test_a_pool_leaves_one_cpu_free(ray_local):
    assert pool_shape(RayConfig(), tasks=10) == PoolShape(2, 10, 1, 0.0)
    assert pool_shape(RayConfig(), tasks=1) == PoolShape(1, 1, 1, 0.0)
    assert pool_shape(RayConfig(cpus_per_worker=2), tasks=10) == PoolShape(1, 10, 2, 0.0)


@pytest.mark.parametrize(
    "config", [RayConfig(workers=3), RayConfig(cpus_per_worker=3), RayConfig(gpus_per_worker=1)]
)
def test_a_pool_that_cannot_start_is_refused_at_once(ray_local, config):
    with pytest.raises(ConfigError, match="ray\\."):
        pool_shape(config, tasks=10)


def lend(monkeypatch, *gpus):
    """Nodes with so many GPUs each, and a dead one."""
    nodes = [{"Alive": True, "Resources": {"GPU": float(n)}} for n in gpus]
    nodes += [{"Alive": False, "Resources": {"GPU": 8.0}}, {"Alive": True, "Resources": {}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 10.0, "GPU": float(sum(gpus))})


@pytest.mark.parametrize(
    ("settings", "gpus_a_model", "shape"),
    [
        ({}, 1, (4, 1, 1.0)),
        ({"gpus_per_worker": 0.5}, 1, (8, 1, 0.5)),
        ({"gpus_per_worker": 0}, 1, (9, 1, 0)),
        ({}, 2, (2, 1, 2.0)),
        ({"gpus_per_worker": 2}, 2, (2, 1, 2.0)),
        ({"workers": 3, "cpus_per_worker": 2}, 1, (3, 2, 1.0)),
    ],
)
def test_gpus_are_dealt_out(monkeypatch, settings, gpus_a_model, shape):
    lend(monkeypatch, 4)
    found = pool_shape(RayConfig(**settings), 9, gpus_a_model)
    assert (found.workers, found.cpus, found.gpus) == shape
    assert found.most == settings.get("workers", 9)


@pytest.mark.parametrize(
    ("settings", "gpus_a_model", "reason"),
    [
        ({"gpus_per_worker": 1}, 2, "leave ray.gpus_per_worker out"),
        ({}, 8, "has 6 GPUs in all"),
        ({}, 5, r"GPUs \(of one node each\) do not fit"),
        ({"workers": 2}, 3, r"GPUs \(of one node each\) do not fit"),
    ],
)
def test_a_model_that_the_gpus_cannot_hold_is_refused(monkeypatch, settings, gpus_a_model, reason):
    lend(monkeypatch, 4, 2)
    with pytest.raises(ConfigError, match=reason):
        pool_shape(RayConfig(**settings), 9, gpus_a_model)


def _square(n):
    return n * n


def test_map_tasks_keeps_the_order_of_its_calls(ray_local):
    assert list(map_tasks(_square, ((n,) for n in range(40)))) == [n * n for n in range(40)]
