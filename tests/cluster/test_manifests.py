"""Everything under cluster/, offline: real schemas, safety, and that what it calls exists.

Each check is shown a broken file too, which it must refuse.
"""

import copy
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import manifests_checks as checks
import manifests_faults as faults
import manifests_scripts as scripts
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mads_ray.config import load_config
from mads_ray.errors import ConfigError

CLUSTER, REPO = checks.CLUSTER, checks.REPO
SLURM = (CLUSTER / "slurm.sbatch").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
IGNORED = (CLUSTER / "Dockerfile.dockerignore").read_text()
RAY_KINDS = ("RayCluster", "RayJob")
needs_crds = pytest.mark.skipif(
    not checks.CRDS.is_dir(), reason=f"KubeRay's CRDs are not in {checks.CRDS}"
)


def ray_up(path):
    return yaml.safe_load(path.read_text())


# Schemas


@needs_crds
@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kuberay_schema(kind):
    assert not checks.schema_errors(checks.kuberay(kind), checks.crd_schema(kind))


@needs_crds
@pytest.mark.parametrize("kind", RAY_KINDS)
@pytest.mark.parametrize("fault", faults.SCHEMA_FAULTS)
def test_kuberay_schema_refuses(kind, fault):
    doc = copy.deepcopy(checks.kuberay(kind))
    faults.SCHEMA_FAULTS[fault](doc)
    assert checks.schema_errors(doc, checks.crd_schema(kind))


@pytest.mark.parametrize("path", checks.RAY_UP, ids=lambda p: p.name)
def test_ray_up_schema(path):
    config = ray_up(path)
    assert not checks.schema_errors(config, checks.ray_up_schema())
    validate_config(prepare_config(config))


@pytest.mark.parametrize("path", checks.RAY_UP, ids=lambda p: p.name)
def test_ray_up_schema_refuses(path):
    unknown, too_many, no_head = (ray_up(path) for _ in range(3))
    unknown["idle_timeout"] = 5
    assert checks.schema_errors(unknown, checks.ray_up_schema())
    too_many["available_node_types"]["cpu"]["min_workers"] = too_many["max_workers"] + 1
    no_head["head_node_type"] = "heads"
    for broken in (too_many, no_head):
        with pytest.raises((ValueError, KeyError)):
            validate_config(prepare_config(broken))


# Safety


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_kuberay_is_safe(kind):
    assert not checks.kuberay_unsafe(checks.kuberay(kind), checks.kuberay("NetworkPolicy"))


@pytest.mark.parametrize("kind", RAY_KINDS)
@pytest.mark.parametrize("fault", faults.KUBERAY_FAULTS)
def test_kuberay_safety_refuses(kind, fault):
    doc = yaml.safe_load(yaml.safe_dump(checks.kuberay(kind)))
    policy = checks.kuberay("NetworkPolicy")
    faults.KUBERAY_FAULTS[fault](doc)
    assert checks.kuberay_unsafe(doc, policy)


@pytest.mark.parametrize("fault", faults.POLICY_FAULTS)
def test_open_dashboard_needs_the_policy(fault):
    policy = copy.deepcopy(checks.kuberay("NetworkPolicy"))
    faults.POLICY_FAULTS[fault](policy["spec"])
    assert checks.kuberay_unsafe(checks.kuberay("RayCluster"), policy)
    assert checks.kuberay_unsafe(checks.kuberay("RayCluster"), None)


@pytest.mark.parametrize("path", checks.RAY_UP, ids=lambda p: p.name)
def test_ray_up_is_safe(path):
    assert not checks.ray_up_unsafe(ray_up(path))
    text = path.read_text()
    assert not scripts.unknown_ray_flags("\n".join(ray_up(path)["head_start_ray_commands"]))
    assert not scripts.unknown_ray_flags("\n".join(ray_up(path)["worker_start_ray_commands"]))
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("path", checks.RAY_UP, ids=lambda p: p.name)
@pytest.mark.parametrize("fault", faults.RAY_UP_FAULTS)
def test_ray_up_safety_refuses(path, fault):
    text = path.read_text()
    assert faults.RAY_UP_FAULTS[fault][0] in text
    assert checks.ray_up_unsafe(yaml.safe_load(text.replace(*faults.RAY_UP_FAULTS[fault])))


@pytest.mark.parametrize("field", ["SecurityGroupIds", "networkInterfaces", "tags"])
def test_ray_up_refuses_default_networks(field):
    (path,) = [p for p in checks.RAY_UP if f"{field}:" in p.read_text()]
    config = ray_up(path)
    del config["available_node_types"]["gpu-spot"]["node_config"][field]
    assert checks.ray_up_unsafe(config)


def test_no_secrets():
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            assert not checks.inline_secrets(path.read_text()), path
    for line in (
        "value: hf_abcdefghijklmnop",
        "RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef",
        "HF_TOKEN: abcdefghijklmnop",
        "aws_secret_access_key = AKIAABCDEFGHIJKL",
    ):
        assert checks.inline_secrets(line), line


# What the files call exists


def test_the_two_kuberay_clusters_are_one():
    job = copy.deepcopy(checks.cluster_spec(checks.kuberay("RayJob")))
    pod = job["headGroupSpec"]["template"]["spec"]
    mounts = pod["containers"][0]["volumeMounts"]
    pod["volumes"] = [v for v in pod["volumes"] if v["name"] != "run-config"]
    pod["containers"][0]["volumeMounts"] = [m for m in mounts if m["name"] != "run-config"]
    assert job == checks.cluster_spec(checks.kuberay("RayCluster"))


@pytest.fixture(scope="module")
def pipeline_flags():
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "jobs/pipeline.py", "--help"]
    out = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z-]+", out.stdout))


def test_rayjob_entrypoint(pipeline_flags, tmp_path):
    job = checks.kuberay("RayJob")
    python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert (REPO / Path(script).relative_to(scripts.image_folder(DOCKERFILE))).is_file()
    assert {a for a in arguments if a.startswith("--")} <= pipeline_flags
    config = Path(arguments[arguments.index("--config") + 1])
    mounts = checks.head(job)["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(config.parent) in [m["mountPath"] for m in mounts]
    text = checks.kuberay("ConfigMap")["data"][config.name]
    (tmp_path / "run.yaml").write_text(text)
    run = load_config(str(tmp_path / "run.yaml"), {})
    assert all(p.startswith("/data/") for p in (*run.input, run.output))
    # The GPUs are not there at the start: the run has to ask for them, and may get that many.
    gpus = checks.gpu_group(job)
    assert (gpus["replicas"], run.ray.elastic, run.ray.gpus_per_worker) == (0, True, 1)
    assert run.ray.workers == gpus["maxReplicas"]
    (tmp_path / "run.yaml").write_text(text.replace("fraction", "fractoin"))
    with pytest.raises(ConfigError):
        load_config(str(tmp_path / "run.yaml"), {})


def test_slurm_entrypoint(pipeline_flags):
    script, flags = re.search(r"^driver='python (\S+) (.*)", SLURM, re.MULTILINE).groups()
    assert (REPO / script).is_file()
    assert set(re.findall(r"--[a-z-]+", flags)) <= pipeline_flags
    assert "--no-such-flag" not in pipeline_flags


def test_start_parameters_and_hooks_exist():
    for kind in RAY_KINDS:
        doc = checks.kuberay(kind)
        groups = [checks.head(doc), *checks.cluster_spec(doc)["workerGroupSpecs"]]
        flags = [f"--{name}" for g in groups for name in g["rayStartParams"]]
        assert not scripts.unknown_ray_flags(f"ray start {' '.join(flags)}")
        for _, template in list(checks.pods(doc))[:3]:
            stop = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
            assert not scripts.unknown_ray_flags(stop)
            assert int(stop.split()[-1]) < template["spec"]["terminationGracePeriodSeconds"]
    assert scripts.unknown_ray_flags("ray start --num-cpu=0")


def test_readme_names_what_is_there():
    text = (CLUSTER / "README.md").read_text()
    for name in re.findall(r"\b(?:tests/)?(?:cluster|jobs)/[\w./-]*\.\w+", text):
        assert (REPO / name).exists(), name
    for path in [*checks.KUBERAY, *checks.RAY_UP, CLUSTER / "slurm.sbatch", CLUSTER / "Dockerfile"]:
        assert f"`{path.relative_to(CLUSTER)}`" in text, path
        assert "# CHANGE" in path.read_text(), path
    assert not scripts.unknown_ray_flags(text)


# Dockerfile


def test_dockerfile():
    assert not scripts.dockerfile_unsafe(DOCKERFILE, IGNORED)
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    for package in ("ray", "torch", "transformers", "faiss-cpu"):
        assert scripts.pyproject_allows(package, project["dependencies"]), package
    assert not scripts.pyproject_allows("ray", ["ray<2.60"])


@pytest.mark.parametrize(("old", "new"), faults.DOCKERFILE_FAULTS)
def test_dockerfile_refuses(old, new):
    assert old in DOCKERFILE
    assert scripts.dockerfile_unsafe(DOCKERFILE.replace(old, new), IGNORED)


# Slurm


def test_slurm_script():
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sbatch"], check=True)
    assert not scripts.slurm_unsafe(SLURM)


@pytest.mark.parametrize(("old", "new"), faults.SLURM_FAULTS)
def test_slurm_script_refuses(old, new):
    assert old in SLURM
    assert scripts.slurm_unsafe(SLURM.replace(old, new))


@pytest.fixture
def slurm(tmp_path):
    made = []

    def make(script=SLURM):
        made.append(
            scripts.FakeSlurm(tmp_path / str(len(made)), os.getpid() * 10 + len(made), script)
        )
        return made[-1]

    yield make
    for fake in made:
        fake.close()


def _driver_started(fake, process):
    for _ in range(300):
        if fake.seen.exists() and fake.seen.read_text().endswith("\n"):
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("the driver did not start")


def test_slurm_run_hands_out_a_private_token(slurm):
    fake = slurm()
    assert fake.start().wait(60) == 0
    address = f"10.1.2.3:{20000 + fake.job % 10000}"
    expected = f"token None 0o600 0o700 0o700 64 --config run.yaml --ray-address {address}\n"
    assert fake.seen.read_text() == expected
    assert not list(fake.home.iterdir()), "the token outlived the job"
    assert not Path(fake.scratch).exists()
    careless = slurm(SLURM.replace("umask 077 && ", ""))
    assert careless.start().wait(60) == 0
    assert careless.seen.read_text() != expected


def test_slurm_run_ends_with_the_status_of_the_driver(slurm):
    failed = slurm()
    assert failed.start(status=3).wait(60) == 3
    assert not failed.requeued
    assert slurm().start(ray=False).wait(60) == 1  # symmetric-run itself ends with 0


@pytest.mark.parametrize(
    ("state", "on_term", "requeued"),
    [("RUNNING", 143, True), ("COMPLETING", 143, False), ("RUNNING", 0, False)],
    ids=["time is up", "cancelled", "finished in time"],
)
def test_slurm_run_goes_on_later(slurm, state, on_term, requeued):
    fake = slurm()
    process = fake.start(seconds=60, on_term=on_term, state=state)
    _driver_started(fake, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == on_term
    assert fake.seen.read_text().endswith("stopped\n")
    assert fake.requeued == (["requeue", str(fake.job)] if requeued else [])
