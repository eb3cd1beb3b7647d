"""Which room may import what, by the source alone. Imports within functions count too."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mads_ray"

# Files and folders at the top of the package. Each may import those before it, and none after it.
ORDER = (
    *("errors", "printable", "arrays", "hashing", "storage", "paths", "runlog"),
    *("baselines", "config"),
    *("ledger", "stored", "run_folder", "states", "corpus", "capture", "doctor"),
    *("clustering", "submodular", "features", "finished_run", "report", "evaluation"),
    *("pipeline", "bench", "finetune", "cli", "__init__", "__main__"),
)

# Where each of these may be imported; a path is a file or a folder of the package.
LIBRARIES = {
    "ray": ("pipeline",),
    "torch": ("capture", "bench", "finetune", "doctor.py"),
    "transformers": ("capture", "bench", "finetune"),
    "vllm": ("capture", "bench"),
    "pydantic": ("config", "finished_run.py"),
    "typer": ("cli",),
}

# Rooms that stand alone: all that they may import of the package, beside themselves.
ALONE = {
    "submodular": {"arrays", "hashing", "storage"},
    "clustering": {"arrays", "hashing", "storage", "stored"},
    # Of capture the alarm and the journals, which know no torch.
    "pipeline/runtime": {"arrays", "capture", "config", "errors", "runlog", "storage"},
    "corpus": {
        *("arrays", "config", "errors", "hashing", "ledger", "paths", "printable", "storage"),
        "stored",
    },
}


@cache
def imports():
    """(file, line, imported module) of every import, absolute names."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(path, node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}:{node.lineno}: relative imports hide their room"
                for alias in node.names:  # `from package import module` is an import of the module
                    if alias.name == "__version__":  # stands at the top of the package, below all
                        continue
                    whole = f"{node.module}.{alias.name}"
                    found.append((path, node.lineno, whole if is_module(whole) else node.module))
    return found


def is_module(dotted):
    where = PACKAGE.parent / dotted.replace(".", "/")
    return where.is_dir() or where.with_suffix(".py").exists()


def inner():
    """(file, line, path of the imported file or folder) of imports within the package."""
    return [
        (path, line, module.removeprefix("mads_ray").replace(".", "/").lstrip("/") or "__init__")
        for path, line, module in imports()
        if module.split(".")[0] == "mads_ray"
    ]


def own(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def within(name, room):
    return name == room or name.startswith(room + "/")


def told(path, line, what):
    return f"{path.relative_to(PACKAGE)}:{line}: {what}"


def test_every_room_has_its_place_in_the_order():
    rooms = {own(p).split("/")[0] for p in PACKAGE.rglob("*.py")}
    assert rooms - set(ORDER) == set()


def test_imports_go_down_only():
    at = {room: i for i, room in enumerate(ORDER)}
    wrong = [
        told(path, line, target)
        for path, line, target in inner()
        if at[target.split("/")[0]] > at[own(path).split("/")[0]]
    ]
    assert not wrong


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library):
    wrong = [
        told(path, line, module)
        for path, line, module in imports()
        if module.split(".")[0] == library
        and not any(within(own(path), r.removesuffix(".py")) for r in LIBRARIES[library])
    ]
    assert not wrong


@pytest.mark.parametrize("room", ALONE)
def test_a_room_that_stands_alone(room):
    wrong = [
        told(path, line, target)
        for path, line, target in inner()
        if within(own(path), room)
        and not within(target, room)
        and target.split("/")[0] not in ALONE[room]
    ]
    assert not wrong


@pytest.mark.parametrize("room", ["select", "doctor"])
def test_rooms_of_the_pipeline_know_ray_but_no_stage(room):
    wrong = [
        told(path, line, target)
        for path, line, target in inner()
        if within(own(path), f"pipeline/{room}")
        and within(target, "pipeline")
        and not within(target, f"pipeline/{room}")
        and not within(target, "pipeline/runtime")
    ]
    assert not wrong


def test_no_file_imports_itself_by_way_of_others():
    below = {}
    for path, _, target in inner():
        name = f"{target}/__init__" if (PACKAGE / target).is_dir() else target
        below.setdefault(own(path), set()).add(name)
    done, on_the_way = set(), []

    def visit(name):
        if name in on_the_way:
            raise AssertionError(" -> ".join([*on_the_way[on_the_way.index(name) :], name]))
        if name not in done:
            on_the_way.append(name)
            for other in sorted(below.get(name, ())):
                visit(other)
            on_the_way.pop()
            done.add(name)

    for name in sorted(below):
        visit(name)


def test_files_and_folders_stay_small():
    long = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 330
    }
    full = {
        folder.relative_to(PACKAGE.parent).as_posix(): files
        for folder in [PACKAGE, *PACKAGE.rglob("*/")]
        if folder.is_dir() and (files := len(list(folder.glob("*.py")))) > 16
    }
    assert not long
    assert not full
