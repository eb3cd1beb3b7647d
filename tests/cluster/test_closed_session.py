"""Nobody else on the machine gets at a local run: another user tries, in a network namespace.

Each attack is also made with the session's token and certificate, where it must succeed: so it
fails for want of these and of nothing else.
"""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from attacked import THEIRS, Session
from netns import possible

# What answers without anything (docs/clusters.md lists it), beside the agent's /api/healthz: pages
# of metrics of Ray's monitor, its dashboard head and the node's agent.
METRICS = {"python", "ray::DashboardA"}
# And what needs the certificate alone.
OPEN = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
OPEN |= {"grpc.channelz.v1.Channelz"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    if not possible() or any(shutil.which(c) is None for c in ("ss", "nsenter", "unshare")):
        pytest.skip("another user in a network namespace needs root, ip, ss, nsenter and unshare")
    made = Session(tmp_path_factory.mktemp("victim"))
    try:
        yield made
    finally:
        made.close()
    assert made.driver.returncode == 0, made.log.read_text()
    assert not made.folder.exists()


def test_everything_listens_on_the_loopback_only(session):
    listening = session.listening()
    assert {name for name, _, _ in listening} >= {"gcs_server", "raylet"}
    assert {address for _, address, _ in listening} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


@pytest.mark.parametrize("step", ["list_keys", "submit", "job", "join"])
def test_nobody_else_gets_in(session, step):
    assert "REACHED" not in session.attack(step)


@pytest.mark.parametrize("step", ["list_keys", "job"])
def test_nobody_gets_in_with_less_than_both(session, step):
    assert "REACHED" not in session.attack(step, certificate=True)
    assert "REACHED" not in session.attack(step, "0" * 64, certificate=True)


def test_the_token_alone_does_not_list(session):
    assert "REACHED" not in session.attack("list_keys", session.token)


@pytest.mark.parametrize(
    ("step", "got"), [("list_keys", "keys"), ("job", "as uid 0"), ("join", "as uid 0")]
)
def test_with_both_the_same_attack_succeeds(session, step, got):
    told = session.attack(step, session.token, certificate=True)
    assert re.search(f"REACHED.* {got}", told), told


def answers(told):
    """(process, port, path, answer) of what `calls` prints."""
    (line,) = [line for line in told.splitlines() if line.startswith("{")]
    found = json.loads(line)
    return [(*key.split(" ", 2), answer) for key, answer in found.items()]


def closed_pages(found):
    """Check the HTTP of all ports but those of metrics; give back the answers of these ports."""
    metrics = {port for _, port, path, answer in found if (path, answer) == ("/metrics", 200)}
    assert {name for name, port, *_ in found if port in metrics} <= METRICS
    others = [(path, answer) for _, port, path, answer in found if port not in metrics]
    pages = [(path, answer) for path, answer in others if answer in (200, 403, 404, 405, 500)]
    assert pages == [("/api/healthz", 200)]
    assert sum(answer == 401 for _, answer in others) > 10
    return others


def test_nothing_answers_but_metrics_and_health(session):
    found = answers(session.attack("calls"))
    assert {name for name, *_ in found} >= {"gcs_server", "raylet", "ray::Worker", *METRICS}
    assert {answer for _, answer in closed_pages(found)} == {0, 200, 401}  # 0: no HTTP


def test_every_call_needs_the_token_too(session):
    others = closed_pages(answers(session.attack("calls", certificate=True)))
    calls = {path: answer for path, answer in others if isinstance(answer, str)}
    closed = {p for p in calls if p.split("/")[1] not in OPEN}
    assert {calls[path] for path in closed} == {"UNAUTHENTICATED"}
    # Of every process: the GCS, the raylet (two ports), workers, the agent.
    for call in (
        "InternalKVGcsService/InternalKVKeys",
        "NodeManagerService/RequestWorkerLease",
        "ObjectManagerService/Push",
        "CoreWorkerService/PushTask",
        "ReporterService/GetTraceback",
        "syncer.RaySyncer/StartSync",
    ):
        assert f"/ray.rpc.{call}" in closed


def test_with_both_calls_succeed(session):
    found = answers(session.attack("calls", session.token, certificate=True))
    answered = {path for *_, path, answer in found if answer == "OK"}
    assert "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo" in answered
    assert not {"UNAUTHENTICATED", 401, 403} & {answer for *_, answer in found}


@pytest.mark.parametrize("certificate", [False, True])
def test_the_port_of_a_dead_worker_hears_no_token(session, certificate):
    told = session.squatted(certificate)
    assert ("REACHED" in told) == certificate, told  # with the certificate: the port is called


def test_nobody_else_reads_a_thing(session):
    assert len(session.sockets()) == 2
    assert "REACHED" not in session.attack("local")


def test_it_is_the_folder_that_nobody_else_enters(session):
    session.folder.chmod(0o755)
    try:
        assert f"REACHED {session.folder}" in session.attack("local")
    finally:
        session.folder.chmod(0o700)


def test_token_and_key_are_in_one_private_file_each(session):
    assert len(session.token) == 64
    for path in (session.token_file, session.folder / "key.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert session.folder.stat().st_mode & 0o777 == 0o700
    files = [p for p in session.folder.rglob("*") if p.is_file() and not p.is_symlink()]
    assert len(files) > 10
    files += [session.log, session.run_log]
    key = (session.folder / "key.pem").read_bytes().splitlines()[1]
    files += [Path(f"/proc/{p.pid}/environ") for p in session.inside()]
    files += list(Path("/proc").glob("[0-9]*/cmdline"))
    holding = {session.token.encode(): set(), key: set()}
    for path in files:
        with suppress(OSError):  # a process that has ended
            held = path.read_bytes()
            for secret, paths in holding.items():
                if secret in held:
                    paths.add(path.name)
    assert list(holding.values()) == [{"token"}, {"key.pem"}]


def test_the_environment_is_as_it_was(session):
    assert session.worker["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in session.worker
    after = {k: v for k, v in session.environment.items() if k.startswith("RAY_AUTH")}
    assert after == THEIRS
