"""Checks of the Slurm script and the Dockerfile, and a stand-in for Slurm to run the former."""

import os
import re
import shlex
import shutil
import subprocess
import sys

from manifests_checks import REPO, constraint
from packaging.requirements import Requirement
from ray.scripts import scripts, symmetric_run

COUNT, MINUTES = r"[1-9][0-9]*", r"(\d+-)?\d+(:\d{2}){0,2}"
# Options of sbatch (Slurm 22.05 and later) that the script may use, with what they take.
SBATCH = {
    "job-name": r"[\w.-]+",
    "nodes": rf"{COUNT}(-{COUNT})?",
    "ntasks-per-node": COUNT,
    "cpus-per-task": COUNT,
    "gpus-per-node": rf"([a-z]\w*:)?{COUNT}",
    "mem": r"\d+[KMGT]?",
    "time": MINUTES,
    "output": r"\S+",
    "exclusive": r"(user|mcs)?",
    "signal": r"(R?B:|R:)?(TERM|INT|USR1|USR2|\d+)(@\d+)?",
    "requeue": "",
    "open-mode": r"append|truncate",
    "partition": r"\S+",
    "account": r"\S+",
    "constraint": r"\S+",
}


def sbatch_options(text):
    """The #SBATCH lines that Slurm would read: those before the first command."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            option = " ".join(shlex.split(line.removeprefix("#SBATCH"), comments=True))
            name, _, value = option.removeprefix("--").partition("=")
            found[name] = value
        elif line and not line.startswith("#"):
            break
    return found


def slurm_unsafe(text):
    options, bad = sbatch_options(text), []
    if text.count("\n#SBATCH") != len(options):
        bad.append("an #SBATCH line is twice there, or after the first command")
    for name, value in options.items():
        if name not in SBATCH or not re.fullmatch(SBATCH[name], value):
            bad.append(f"sbatch does not take --{name}={value}")
    if "exclusive" not in options or options.get("ntasks-per-node") != "1":
        bad.append("symmetric-run's `ray stop` may hit another job's Ray")
    if "requeue" not in options or not options.get("signal", "").startswith("B:TERM@"):
        bad.append("nobody stops and queues the run again when its time is up")
    code = "\n".join(li for li in text.splitlines() if not li.lstrip().startswith("#"))
    if not re.search(r"^export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=", code, re.MULTILINE):
        bad.append("no token")
    if "--dashboard-host=127.0.0.1" not in code:
        bad.append("the dashboard is not on localhost")
    if not re.search(r"^srun --wait=\d+ --cpus-per-task=.* ray symmetric-run", code, re.MULTILINE):
        bad.append("one CPU a node, or nodes that stay when the head has gone")
    if re.search(r"\bray stop\b", code):
        bad.append("stops every Ray of the user")
    return bad + unknown_ray_flags(code.replace("\\\n", " "))


def unknown_ray_flags(shell):
    """Flags that a script gives to `ray start`, `stop` or `symmetric-run` and Ray does not know."""
    commands = {
        "start": {o for p in scripts.start.params for o in p.opts},
        "stop": {o for p in scripts.stop.params for o in p.opts},
    }
    theirs = {o for p in symmetric_run.symmetric_run.params for o in p.opts}
    banned = {"--head", "--node-ip-address", "--port", "--block", "--temp-dir"}
    commands["symmetric-run"] = (commands["start"] | theirs) - banned
    bad = []
    for name, rest in re.findall(r"\bray (start|stop|symmetric-run)\b([^\n;]*)", shell):
        arguments = rest.split(" -- ")[0]
        for flag in re.findall(r"(?<!\S)(--[a-z-]+)", arguments):
            if flag not in commands[name]:
                bad.append(f"ray {name} has no {flag}")
    return bad


def dockerfile_unsafe(text, ignored):
    """Complaints about the Dockerfile; `ignored` is its .dockerignore."""
    text = text.replace("\\\n", " ")
    lines = [li.split(maxsplit=1) for li in text.splitlines() if li and not li.startswith("#")]
    steps = [(word.upper(), rest) for word, rest in lines]
    bad, version = [], constraint("ray")
    froms = [rest for word, rest in steps if word == "FROM"]
    if len(froms) != 1 or not re.fullmatch(
        rf"rayproject/ray:{re.escape(version)}-py311-(gpu|cu\d+)(@sha256:[0-9a-f]{{64}})?", froms[0]
    ):
        bad.append(f"FROM is not Ray {version} for Python 3.11 with CUDA: {froms}")
    if f"ray.__version__ == '{version}'" not in text:
        bad.append("the build does not check Ray's version")
    users = [rest.strip() for word, rest in steps if word == "USER"]
    if not users or not users[-1].isdigit() or int(users[-1]) == 0:
        bad.append("the last USER is root, or not a number")
    if not any(w == "ENV" and "RAY_AUTH_MODE=token" in rest for w, rest in steps):
        bad.append("Ray may start without a token")
    for word, rest in steps:
        if word in ("ARG", "ENV") and re.search(r"(?i)secret|passw|_key\b|token=(?!$)", rest):
            bad.append(f"a secret would stay in the image: {rest}")
        if word == "ADD":
            bad.append("ADD may fetch from anywhere")
        if word == "RUN" and "pip install" in rest and "--constraint constraints.txt" not in rest:
            bad.append(f"not pinned: {rest}")
        if word == "COPY":
            sources = [s for s in rest.split()[:-1] if not s.startswith("--")]
            bad += [f"{s} is not in the repository" for s in sources if not (REPO / s).exists()]
            bad += [f"{s} is ignored" for s in sources if f"!{s}" not in ignored.splitlines()]
    return bad


def image_folder(text):
    """Where the Dockerfile puts the repository."""
    return re.search(r"^WORKDIR (\S+)$", text, re.MULTILINE)[1]


def pyproject_allows(package, dependencies):
    for line in dependencies:
        wanted = Requirement(line)
        if wanted.name == package:
            return wanted.specifier.contains(constraint(package))
    return False


DRIVER = """
import os, pathlib, signal, stat, sys, time
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
def mode(path):
    return oct(stat.S_IMODE(path.stat().st_mode))
def end(*_):
    seen.write("stopped\\n")
    seen.close()
    sys.exit(int(os.environ["ON_TERM"]))
seen = open(os.environ["SEEN"], "w", buffering=1)
signal.signal(signal.SIGTERM, end)
scratch = pathlib.Path(os.environ["RAY_TMPDIR"])
print(os.environ["RAY_AUTH_MODE"], os.environ.get("RAY_AUTH_TOKEN"),
      mode(token), mode(token.parent), mode(scratch),
      len(token.read_text()), *sys.argv[1:], file=seen)
time.sleep(float(os.environ["SECONDS_OF_WORK"]))
sys.exit(int(os.environ["STATUS"]))
"""
STUBS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": '[[ $NO_RAY ]] && exit 0; while [[ $1 != -- ]]; do shift; done; shift; "$@"',
    "hostname": "echo '10.1.2.3 172.17.0.1 '",
    "squeue": 'echo "$JOB_STATE"',
    "scontrol": 'echo "$@" >>"$HOME/scontrol"',
}


class FakeSlurm:
    """Runs the script with commands of Slurm and Ray that only pass on what they are given."""

    def __init__(self, folder, job, script):
        self.script, self.job, self.folder = script, job, folder
        self.seen, self.home = folder / "seen", folder / "home"
        self.scratch = f"/tmp/mr-{job}-0"
        for name in ("bin", "home", "repo/jobs", "repo/.venv/bin"):
            (folder / name).mkdir(parents=True)
        for name, body in {**STUBS, "python": f'exec {sys.executable} "$@"'}.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / "bin" / name).chmod(0o755)
        (folder / "repo/.venv/bin/activate").touch()
        (folder / "repo/jobs/pipeline.py").write_text(DRIVER)

    def start(self, *, seconds=0, status=0, on_term=143, state="RUNNING", ray=True):
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "SLURM_JOB_ID": str(self.job),
            "SLURM_SUBMIT_DIR": str(self.folder / "repo"),
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_JOB_NUM_NODES": "1",
            "RAY_AUTH_TOKEN": "of another cluster",
            "SEEN": str(self.seen),
            "SECONDS_OF_WORK": str(seconds),
            "STATUS": str(status),
            "ON_TERM": str(on_term),
            "JOB_STATE": state,
            "NO_RAY": "" if ray else "yes",
        }
        (self.folder / "slurm_script").write_text(self.script)
        command = ["bash", str(self.folder / "slurm_script"), "run.yaml"]
        return subprocess.Popen(command, env=env, umask=0o022, stdout=subprocess.DEVNULL)

    @property
    def requeued(self):
        log = self.home / "scontrol"
        return log.read_text().split() if log.exists() else []

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
