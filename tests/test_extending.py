"""What the documents say of the tree is true: paths, symbols, and the README's map."""

import ast
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted(
    [REPO / "README.md", *(REPO / "docs").glob("*.md"), *REPO.glob("*/README.md")],
)
FOLDERS = ("mads_ray", "jobs", "cluster", "benchmarks", "docs", "tests")
# A stage that docs/extending.md shows how to write.
SHOWN = {"mads_ray/pipeline/lengths.py"}


def names_of(page):
    return page.relative_to(REPO).as_posix()


def told(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=names_of)
def test_paths_and_links_exist(page):
    paths = set(re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)", told(page)))
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", told(page))}
    missing = {p for p in paths - SHOWN if not (REPO / p).exists()}
    missing |= {x for x in links if x and "://" not in x and not (page.parent / x).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=names_of)
def test_symbols_can_be_imported(page):
    for dotted in set(re.findall(r"`(mads_ray(?:\.\w+)+)`", told(page))):
        module, _, symbol = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), symbol), dotted


def test_code_of_the_page_parses():
    blocks = re.findall(r"```python\n(.*?)```", told(REPO / "docs" / "extending.md"), re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        ast.parse(block)


def test_the_method_of_the_page_works():
    page = told(REPO / "docs" / "extending.md")
    (block,) = re.findall(r"```python\n(def _longest.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r'^"longest": (.*),$', page, re.MULTILINE)
    names = dict(vars(importlib.import_module("mads_ray.baselines")))
    exec(block, names)
    hashes_N, tokens_N = np.array([3, 2, 1], np.uint64), np.array([5, 9, 9], np.int32)
    rows = names["Candidates"](hashes_N, tokens_N)
    assert eval(entry, names).order(rows, 2).tolist() == [2, 1, 0]


def test_tables_that_the_page_names_are_there():
    for file, table in re.findall(
        r"`(\w+)`[^`]{0,20} in\s+`(mads_ray/[\w/]+\.py)`", told(REPO / "docs" / "extending.md")
    ):
        assert re.search(rf"^{file}\b", (REPO / table).read_text(encoding="utf-8"), re.MULTILINE)


def tree():
    """Paths of the map in the README, each with its line."""
    (block,) = re.findall(r"```\n(mads_ray/\n.*?)```", told(REPO / "README.md"), re.DOTALL)
    folders = []
    for line in block.splitlines():
        indent, name, what = re.fullmatch(r"([│├└─ ]*)(\S+)(?:\s+(.+))?", line).groups()
        del folders[len(indent) // 4 :]
        yield "".join([*folders, name]), what
        folders.append(name)


def test_the_map_is_true():
    for path, what in tree():
        assert (REPO / path).exists(), path
        assert path.endswith("/") == (REPO / path).is_dir(), path
        assert what or path == "mads_ray/", path


def test_the_map_names_every_entry_of_the_package():
    named = {Path(path) for path, _ in tree()}
    there = {p.relative_to(REPO) for p in (REPO / "mads_ray").iterdir() if p.name != "__pycache__"}
    rooms = {p.relative_to(REPO) for p in (REPO / "mads_ray").glob("*/*/") if p.is_dir()}
    rooms = {r for r in rooms if r.name != "__pycache__"}
    assert there | rooms <= named


def test_the_glossary_has_27_words_once():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", told(REPO / "docs" / "glossary.md"), re.MULTILINE)
    assert len(words) == len(set(words)) == 27
