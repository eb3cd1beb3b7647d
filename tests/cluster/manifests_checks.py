"""What every file under cluster/ must keep.

Each check returns its complaints, so that a test can also show that it refuses a broken file.
"""

import copy
import gzip
import json
import re
from functools import cache
from pathlib import Path

import jsonschema
import ray
import yaml

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "cluster"
CRDS = REPO.parent / "shared" / "data" / "kuberay"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
RAY_UP = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the CRDs are a megabyte of YAML
PART_OF = {"app.kubernetes.io/part-of": "mads-ray"}
PUBLIC_KEYS = {"hostNetwork", "hostPort", "nodePort", "hostPID", "hostIPC", "externalIPs"}
SPOT = re.compile(r"spot|preemptible", re.IGNORECASE)


def constraint(package):
    lines = (REPO / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)[package]


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def kuberay(kind):
    """The document of that kind under cluster/kuberay."""
    (found,) = [d for p in KUBERAY for d in documents(p) if d["kind"] == kind]
    return found


def walk(node, path=()):
    """Every (path, value) under a document."""
    yield path, node
    items = node.items() if isinstance(node, dict) else ()
    items = enumerate(node) if isinstance(node, list) else items
    for key, value in items:
        yield from walk(value, (*path, key))


def _closed(schema):
    """The schema with unknown fields refused, as `kubectl --validate=strict` does."""
    for _, node in walk(schema):
        if not isinstance(node, dict):
            continue
        if node.get("x-kubernetes-int-or-string") is True:
            node.pop("type", None)
            node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        closed = isinstance(node.get("properties"), dict) and node.get("type") == "object"
        if closed and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
    return schema


@cache
def crd_schema(kind):
    packed = CRDS / f"ray.io_{kind.lower()}s.yaml.gz"
    crd = yaml.load(gzip.decompress(packed.read_bytes()), Loader=_LOADER)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = _closed(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in a CRD
    return schema


def schema_errors(doc, schema):
    found = jsonschema.Draft202012Validator(schema).iter_errors(doc)
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in found]


def ray_up_schema():
    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    return json.loads(path.read_text())


def cluster_spec(doc):
    spec = doc["spec"]
    return spec["rayClusterSpec"] if doc["kind"] == "RayJob" else spec


def pods(doc):
    """(name, pod template) of everything that a RayCluster or RayJob starts."""
    spec = cluster_spec(doc)
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]
    if doc["kind"] == "RayJob":
        yield "submitter", doc["spec"]["submitterPodTemplate"]


def head(doc):
    return cluster_spec(doc)["headGroupSpec"]


def gpu_group(doc):
    return cluster_spec(doc)["workerGroupSpecs"][1]


def gpu_container(doc):
    return gpu_group(doc)["template"]["spec"]["containers"][0]


def containers(doc):
    for name, template in pods(doc):
        for container in template["spec"]["containers"]:
            yield name, container


def kuberay_unsafe(doc, policy):
    """Complaints about a RayCluster or RayJob; `policy` is the NetworkPolicy applied with it."""
    spec = cluster_spec(doc)
    head = spec["headGroupSpec"]
    bad = [f"{'/'.join(map(str, p))} is set" for p, v in walk(doc) if p and p[-1] in PUBLIC_KEYS]
    if spec.get("authOptions", {}).get("mode") != "token":
        bad.append("authOptions.mode is not token")
    for name, container in containers(doc):
        env = {e["name"]: e.get("value") for e in container.get("env", [])}
        if env.get("RAY_AUTH_MODE") != "token":
            bad.append(f"{name}: RAY_AUTH_MODE is not token")
        if "RAY_grpc_client_keepalive_time_ms" in env:
            bad.append(f"{name}: keepalive aborts healthy calls")
        if not container["image"].endswith(f"-ray{constraint('ray')}"):
            bad.append(f"{name}: the image {container['image']} is not pinned to this Ray")
        resources = container.get("resources", {})
        if not resources.get("limits") or resources["limits"] != resources.get("requests"):
            bad.append(f"{name}: requests are not limits")
    for name, template in pods(doc):
        if not PART_OF.items() <= template.get("metadata", {}).get("labels", {}).items():
            bad.append(f"{name}: the network policy does not know it")
        user = template["spec"].get("securityContext", {})
        if user.get("runAsNonRoot") is not True or not user.get("runAsUser"):
            bad.append(f"{name}: may run as root")
    confined = [(n, c) for n, c in containers(doc)] + [("autoscaler", spec["autoscalerOptions"])]
    for name, container in confined:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            bad.append(f"{name}: may gain privileges")
        if context.get("capabilities") != {"drop": ["ALL"]}:
            bad.append(f"{name}: keeps capabilities")
    if head.get("serviceType") != "ClusterIP" or "headService" in head or head["enableIngress"]:
        bad.append("the head's service is not internal")
    if head["rayStartParams"].get("dashboard-host") == "0.0.0.0":
        bad += policy_unsafe(policy)
    if head["rayStartParams"].get("num-cpus") != "0":
        bad.append("work may land on the head")
    if spec["rayVersion"] != constraint("ray"):
        bad.append("rayVersion is not that of constraints.txt")
    return bad + _shared_volume(doc)


def _shared_volume(doc):
    bad = []
    claim = kuberay("PersistentVolumeClaim")
    for name, template in pods(doc):
        if name == "submitter":
            continue
        volumes = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in template["spec"]["volumes"]
            if "persistentVolumeClaim" in v
        }
        mounts = template["spec"]["containers"][0]["volumeMounts"]
        seen = [volumes.get(m["name"]) for m in mounts if m["mountPath"] == "/data"]
        if seen != [claim["metadata"]["name"]]:
            bad.append(f"{name}: /data is not the shared volume")
    if claim["spec"]["accessModes"] != ["ReadWriteMany"]:
        bad.append("the volume cannot be shared by nodes")
    return bad


def policy_unsafe(policy):
    """Complaints about a NetworkPolicy: who but the cluster and the operator reaches a pod?"""
    if policy is None:
        return ["an open dashboard without a NetworkPolicy"]
    spec, bad = policy["spec"], []
    if spec["podSelector"].get("matchLabels") != PART_OF or "Ingress" not in spec["policyTypes"]:
        bad.append("the policy does not cover the pods")
    for rule in spec["ingress"]:
        if not rule.get("from"):
            bad.append("a rule lets everybody in")
        for peer in rule.get("from", ()):
            own = peer.get("podSelector", {}).get("matchLabels") == PART_OF and len(peer) == 1
            names = peer.get("namespaceSelector", {}).get("matchLabels", {})
            operator = "kubernetes.io/metadata.name" in names and len(peer) == 1
            if not own and not (operator and rule.get("ports")):
                bad.append(f"lets in {peer}")
    return bad


def ray_up_unsafe(config):
    """Complaints about a file for `ray up`."""
    bad = []
    types, head = config["available_node_types"], config["head_node_type"]
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    for command in (c for c in starts if "ray start" in c):
        if not re.search(r"\bRAY_AUTH_MODE=token\b.* ray start", command):
            bad.append(f"no token: {command}")
    if "/home/ray/.ray/auth_token" not in config.get("file_mounts", {}):
        bad.append("nodes do not get the token")
    if "-e RAY_AUTH_MODE=token" not in config["docker"]["run_options"]:
        bad.append("jobs in the container do not use the token")
    (start,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    if "--dashboard-host=127.0.0.1" not in start.split():
        bad.append("the dashboard is not on localhost")
    if "--num-cpus=0" not in start.split() or types[head]["resources"].get("CPU") != 0:
        bad.append("work may land on the head")
    if not config["docker"]["image"].endswith(f"-ray{constraint('ray')}"):
        bad.append("the image is not pinned to this Ray")
    if not any(o.endswith(":/data") for o in config["docker"]["run_options"]):
        bad.append("/data is not shared")
    if not any(re.search(r"mount -t nfs", c) for c in config["initialization_commands"]):
        bad.append("no shared file system is mounted")
    if "IpPermissions" in config["provider"].get("security_group", {}):
        bad.append("opens ports")
    for name, kind in types.items():
        node = kind["node_config"]
        fenced = node.get("SecurityGroupIds") or (node.get("networkInterfaces"), node.get("tags"))
        if not fenced or not all(fenced):
            bad.append(f"{name}: Ray or the cloud picks who may reach it")
        spot = bool(SPOT.search(json.dumps(node)))
        if spot != bool(kind["resources"].get("GPU")):
            bad.append(f"{name}: spot is for GPUs alone")
        if spot and kind.get("min_workers") != 0:
            bad.append(f"{name}: idle GPUs stay")
    return bad


def inline_secrets(text):
    """Lines that look as if they held a credential."""
    known = re.compile(
        r"hf_[A-Za-z0-9]{8}|AKIA[A-Z0-9]{8}|AIza[A-Za-z0-9_-]{8}|ghp_[A-Za-z0-9]{8}"
        r"|-----BEGIN|\b[0-9a-f]{32,}\b"
    )
    # A name that ends in TOKEN, KEY and so on, with a value that is not a shell variable.
    named = re.compile(
        r"(?i)\b\w*(token|secret|password|api_?key)\b['\"]?\s*[:=]\s*['\"]?[\w-]{12,}"
    )
    return [line for line in text.splitlines() if known.search(line) or named.search(line)]
