import pytest

from mads_ray.config import RayConfig
from mads_ray.errors import ConfigError
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.session import pool_shape
from mads_ray.pipeline.runtime.tasks import map_tasks


def test_a_pool_leaves_one_cpu_free(ray_local):
    assert pool_shape(RayConfig(), tasks=10) == (2, 1, 0.0)
    assert pool_shape(RayConfig(), tasks=1) == (1, 1, 0.0)
    assert pool_shape(RayConfig(cpus_per_worker=2), tasks=10) == (1, 2, 0.0)


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
    assert pool_shape(RayConfig(**settings), 9, gpus_a_model) == shape


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


def _doubler(offset):
    def work(item):
        if item["n"] == 13:
            from mads_ray.errors import CorpusError

            raise CorpusError("thirteen is unreadable")
        return {"n": 2 * item["n"] + offset}

    return work


def test_a_stream_returns_every_item_once(ray_local):
    items = [{"n": i} for i in range(12)]
    results = stream("test", items, _doubler, (1,), workers=2)
    assert sorted(r["n"] for r in results) == [2 * i + 1 for i in range(12)]


def test_an_error_for_the_user_arrives_as_itself(ray_local):
    from mads_ray.errors import CorpusError

    with pytest.raises(CorpusError, match=r"^thirteen is unreadable$"):
        list(stream("test", [{"n": 13}], _doubler, (1,), workers=1))


def _fails_once(flag, n):
    """A worker process that dies by a signal the first time it sees item 3."""
    import os
    import signal

    if n == 3 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def _fragile(flag):
    return lambda item: {"n": _fails_once(flag, item["n"])}


def test_a_killed_worker_costs_no_item(ray_local, tmp_path):
    items = [{"n": i} for i in range(6)]
    results = list(stream("test", items, _fragile, (tmp_path / "flag",), workers=2))
    assert (tmp_path / "flag").exists()
    assert sorted(r["n"] for r in results) == list(range(6))


def _square(n):
    return n * n


def test_map_tasks_keeps_the_order_of_its_calls(ray_local):
    assert list(map_tasks(_square, ((n,) for n in range(40)))) == [n * n for n in range(40)]


def _dies_so_often(folder, times):
    """One item ends its process, as a lost node would, more often than Ray tries again."""

    def work(item):
        import os
        import signal

        marks = len(list(folder.glob("death-*")))
        if item["n"] == 2 and marks < times:
            (folder / f"death-{marks}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": item["n"]}

    return work


def test_what_ray_gives_up_is_streamed_again(ray_local, tmp_path):
    items = [{"n": i} for i in range(5)]
    results = list(stream("test", items, _dies_so_often, (tmp_path, 6), workers=2))
    assert sorted(r["n"] for r in results) == list(range(5))
    assert len(list(tmp_path.iterdir())) == 6
