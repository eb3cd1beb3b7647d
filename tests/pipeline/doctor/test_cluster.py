import os
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.pipeline.doctor.cluster import Node, alive_nodes, ask, check_cluster
from mads_ray.pipeline.doctor.findings import version_findings
from mads_ray.pipeline.doctor.node_probe import node_facts, reach_model, shipped_by_value, sign


def fatal(findings):
    return {f.name: f.detail for f in findings if f.fatal}


# --- a real Ray of one node ---


@pytest.fixture(scope="module")
def healthy(ray_local, tmp_path_factory):
    """Findings on this machine, and what is left of the output folder."""
    root = tmp_path_factory.mktemp("shared")
    return list(check_cluster(None, "smollm2-135m", str(root / "runs" / "mine"))), root


def test_a_healthy_cluster_passes(healthy):
    findings, _ = healthy
    assert fatal(findings) == {}
    found = {f.name: f.detail for f in findings}
    assert found["cluster"] == "1 node(s), 3 CPUs, 0 GPUs"
    assert found["workers"].startswith("2 for capture")
    assert "reached from" in found["model"]
    assert "written from" in found["output"]
    assert {"versions", "gpu", "output disk", "object store", "temp disk"} <= set(found)
    assert all(f"{name} " in found["versions"] for name in ("mads_ray", "ray", "torch", "faiss"))


def test_nothing_stays_in_the_output(healthy):
    assert list(healthy[1].iterdir()) == []


def test_an_output_that_holds_a_run_is_left_as_it_was(ray_local, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    assert fatal(check_cluster(None, output=str(tmp_path))) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("output", ["{file}/runs", "s3://bucket/runs"])
def test_an_output_that_cannot_be_a_folder_is_fatal(ray_local, tmp_path, output):
    (tmp_path / "file").touch()
    findings = check_cluster(None, output=output.format(file=tmp_path / "file"))
    assert set(fatal(findings)) == {"output"}


def test_a_node_that_sees_another_folder_is_fatal(ray_local, tmp_path, monkeypatch):
    """The driver works in a folder that is elsewhere for its nodes."""
    from mads_ray.pipeline.doctor import cluster as examine

    def astray(nodes, function, args, timeout_s):
        folder, *rest = args
        if function is sign:
            args = (folder.replace("shared", "local"), *rest)
        return ask(nodes, function, args, timeout_s)

    monkeypatch.setattr(examine, "ask", astray)
    found = fatal(check_cluster(None, output=str(tmp_path / "shared")))
    assert "not the folder that the driver sees (No such file or directory)" in found["output"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_fatal(ray_local, tmp_path):
    found = [f for f in check_cluster(None, str(tmp_path / "model")) if f.fatal]
    assert {f.name for f in found} == {"model"}
    assert any("driver" in f.detail for f in found)
    assert any(str(tmp_path / "model") in f.detail and "driver" not in f.detail for f in found)
    assert all("same path on all nodes" in f.remedy for f in found)


def test_a_folder_without_a_tokenizer_is_no_model(ray_local, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (node,) = alive_nodes(ray_local.nodes())
    answers, silent = ask([node], reach_model, (str(tmp_path),), 120)
    assert silent == {}
    assert "cannot load model" in answers[node.name]["error"]


WITHOUT = """
import sys
class Without:
    def __init__(self, finder): self._finder = finder
    def __getattr__(self, name): return getattr(self._finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "mads_ray":
            return self._finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(f) for f in sys.meta_path]
"""


def test_a_node_without_mads_ray_can_say_so(ray_local, tmp_path):
    """A real worker process in which `import mads_ray` fails."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {"env_vars": {"PYTHONPATH": path.rstrip(os.pathsep)}}
    with shipped_by_value():
        there = ray_local.remote(num_cpus=0, runtime_env=env)(node_facts).remote(["ray", "faiss"])
    versions = ray_local.get(there, timeout=120)["versions"]
    here = node_facts(["ray", "faiss"])["versions"]
    assert versions == {**here, "mads_ray": None}
    (finding, _) = version_findings(here, {"10.0.0.7": versions})
    assert finding.fatal
    assert finding.name == "mads_ray"
    assert "missing on 10.0.0.7" in finding.detail
    assert "install" in finding.remedy


def test_a_node_that_does_not_answer_is_a_finding(ray_local):
    (node,) = alive_nodes(ray_local.nodes())
    gone = replace(node, id="e" * len(node.id), name="gone")
    started = time.monotonic()
    answers, silent = ask([node, gone], lambda s: time.sleep(s), (60,), 2)
    assert time.monotonic() - started < 20
    assert answers == {}
    assert silent[node.name] == "no answer within 2 s"
    assert set(silent) == {node.name, "gone"}


def test_a_cluster_out_of_reach_is_a_finding(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    (finding,) = check_cluster("127.0.0.1:1")
    assert finding.fatal
    assert "cannot join 127.0.0.1:1" in finding.detail


def test_doctor_examines_the_cluster_too(ray_local, tmp_path):
    (tmp_path / "file").touch()
    good = CliRunner().invoke(app, ["doctor", "--output", str(tmp_path / "runs")])
    assert good.exit_code == 0, good.output
    assert "written from" in good.output
    bad = CliRunner().invoke(app, ["doctor", "--output", str(tmp_path / "file" / "runs")])
    assert bad.exit_code == 1
    assert "!! output" in bad.output


# --- nodes as Ray lists them ---


def node(name, **resources):
    table = {"Alive": True, "NodeID": name * 20, "NodeManagerAddress": "10.0.0.1"}
    return {**table, "Resources": resources}


def test_nodes_of_one_address_have_names_of_their_own():
    dead = {**node("cd"), "Alive": False}
    (alone,) = alive_nodes([node("ab", CPU=2.0, GPU=1.0, object_store_memory=5.0), dead])
    assert alone == Node("ab" * 20, "10.0.0.1", 2.0, 1.0, 5.0)
    names = [n.name for n in alive_nodes([node("ef"), node("ab", CPU=1.0), dead])]
    assert names == ["10.0.0.1/abababab", "10.0.0.1/efefefef"]


def test_a_head_without_cpus_does_no_work():
    (head,) = alive_nodes([node("ab", object_store_memory=5.0)])
    assert not head.works
