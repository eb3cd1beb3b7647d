"""Which package may import what, by the source alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mads_ray"
# Where each of these may be imported; a path is a file or a folder of the package.
ALLOWED = {
    "ray": ("pipeline",),
    "torch": ("capture", "bench", "finetune", "doctor.py"),
    "transformers": ("capture", "bench", "finetune"),
    "vllm": ("capture", "bench"),
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def within(path, places):
    own = path.relative_to(PACKAGE).as_posix()
    return any(own == place or own.startswith(place + "/") for place in places)


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_stays_in_its_rooms(library):
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for module, line in imported(path)
        if module.split(".")[0] == library and not within(path, ALLOWED[library])
    ]
    assert not wrong


def test_the_corpus_knows_neither_models_nor_runs():
    known = ("corpus", "config", "errors", "hashing", "ledger", "printable", "storage")
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {module}"
        for path in (PACKAGE / "corpus").rglob("*.py")
        for module, line in imported(path)
        if module.startswith("mads_ray.") and module.split(".")[1] not in known
    ]
    assert not wrong
