"""Ways to break the files under cluster/; the checks must see each."""

from manifests_checks import cluster_spec, gpu_container, gpu_group, head

SCHEMA_FAULTS = {
    "unknown field": lambda d: head(d).update(numCpus=0),
    "unknown field of a pod": lambda d: gpu_container(d).update(imagePullPolice="Always"),
    "misspelt field of the cluster": lambda d: cluster_spec(d).update(authOption={}),
    "wrong type": lambda d: gpu_group(d).update(maxReplicas="16"),
    "unknown mode": lambda d: cluster_spec(d)["authOptions"].update(mode="tokens"),
    "missing field": lambda d: gpu_group(d).pop("groupName"),
}


def _unmount(doc):
    gpu_container(doc)["volumeMounts"] = gpu_container(doc)["volumeMounts"][1:]


def _drop_auth_env(doc):
    gpu_container(doc)["env"] = gpu_container(doc)["env"][1:]


KUBERAY_FAULTS = {
    "LoadBalancer": lambda d: head(d).update(serviceType="LoadBalancer"),
    "NodePort": lambda d: head(d).update(serviceType="NodePort"),
    "own service": lambda d: head(d).update(headService={"spec": {"type": "LoadBalancer"}}),
    "ingress": lambda d: head(d).update(enableIngress=True),
    "host network": lambda d: gpu_group(d)["template"]["spec"].update(hostNetwork=True),
    "no authentication": lambda d: cluster_spec(d).pop("authOptions"),
    "authentication off": lambda d: cluster_spec(d)["authOptions"].update(mode="disabled"),
    "a container without": _drop_auth_env,
    "another Ray": lambda d: gpu_container(d).update(image="registry.example.com/mads-ray:latest"),
    "Ray version": lambda d: cluster_spec(d).update(rayVersion="2.59.0"),
    "work on the head": lambda d: head(d)["rayStartParams"].pop("num-cpus"),
    "root": lambda d: gpu_group(d)["template"]["spec"]["securityContext"].pop("runAsNonRoot"),
    "capabilities": lambda d: gpu_container(d)["securityContext"].pop("capabilities"),
    "escalation": lambda d: cluster_spec(d)["autoscalerOptions"].pop("securityContext"),
    "requests below limits": lambda d: gpu_container(d)["resources"]["requests"].update(cpu="1"),
    "not shared": _unmount,
    "outside the policy": lambda d: gpu_group(d)["template"]["metadata"]["labels"].clear(),
    "keepalive": lambda d: gpu_container(d)["env"].append(
        {"name": "RAY_grpc_client_keepalive_time_ms", "value": "5000"}
    ),
}


POLICY_FAULTS = {
    "no peers": lambda s: s["ingress"][0].pop("from"),
    "any address": lambda s: s["ingress"].append({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
    "any namespace": lambda s: s["ingress"][1]["from"][0]["namespaceSelector"].clear(),
    "other pods": lambda s: s["podSelector"].update(matchLabels={"app": "other"}),
    "egress only": lambda s: s.update(policyTypes=["Egress"]),
    "all ports for the operator": lambda s: s["ingress"][1].pop("ports"),
}


RAY_UP_FAULTS = {
    "token of the head": (
        "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start --head",
        "ray start --head",
    ),
    "token of workers": (
        "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start --addr",
        "ray start --addr",
    ),
    "token of jobs": ("    - -e RAY_AUTH_MODE=token\n", ""),
    "token file": ("/home/ray/.ray/auth_token:", "/home/ray/.ray/other:"),
    "open dashboard": ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    "work on the head": ("--num-cpus=0", "--num-cpus=4"),
    "head for the autoscaler": ("{CPU: 0, GPU: 0}", "{CPU: 4}"),
    "another Ray": ("-ray2.60.0", "-ray2.59.0"),
    "no volume": ("    - -v /mnt/mads/data:/data\n", ""),
    "idle GPUs": ("min_workers: 0", "min_workers: 4"),
}


DOCKERFILE_FAULTS = [
    ("FROM rayproject/ray:2.60.0-py311-gpu", "FROM rayproject/ray:latest-gpu"),
    ("FROM rayproject/ray:2.60.0-py311-gpu", "FROM rayproject/ray:2.59.0-py311-gpu"),
    ("2.60.0-py311-gpu", "2.60.0-py311"),
    ("USER 1000", "USER root"),
    ("USER 1000", "USER 0"),
    ("--constraint constraints.txt .", "."),
    ("COPY --chown=1000:100 jobs ./jobs", "COPY job ./jobs"),
    ("ENV RAY_AUTH_MODE=token", "ENV HF_TOKEN=x RAY_AUTH_MODE=token"),
    ("ENV RAY_AUTH_MODE=token", "ENV"),
]


SLURM_FAULTS = [
    ("#SBATCH --exclusive\n", ""),
    ("--signal=B:TERM@120", "--signal=TERMINATE@120"),
    ("--nodes=4", "--node=4"),
    ("--time=24:00:00", "--time=a day"),
    ("#SBATCH --requeue\n", ""),
    ("#SBATCH --requeue\n", "true\n#SBATCH --requeue\n"),
    ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    ("export RAY_AUTH_MODE=token", "export RAY_AUTH_MODE=disabled"),
    ("--min-nodes", "--nodes"),
    (' --cpus-per-task="$SLURM_CPUS_PER_TASK"', ""),
    (" --wait=30", ""),
    ("--dashboard-host", "--head --dashboard-host"),
    ("step=$!", "step=$!\nray stop"),
]
