"""What `import mads_ray` offers: everything is there, and every example in a docstring runs."""

import doctest
import inspect
import json
import subprocess
import sys

import pytest

import mads_ray

# In this order: later examples look at what the first ones made.
VERBS = ("inspect_input", "run", "capture_states", "select", "explain", "evaluate", "rerender")
CLASSES = ("FinishedRun", "RunResult", "CapturedStates")


@pytest.fixture(scope="module")
def folder(ray_local, sample_rows, tmp_path_factory):
    """A working folder with 40 short rows in data/."""
    folder = tmp_path_factory.mktemp("api")
    rows = [r for r in sample_rows if sum(len(m.content) for m in r.messages) < 400][:40]
    (folder / "data").mkdir()
    text = "".join(json.dumps(row.to_row()) + "\n" for row in rows)
    (folder / "data" / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def examples_of(thing, name):
    finder = doctest.DocTestFinder(recurse=False)
    return [t for t in finder.find(thing, name, globs={}) if t.examples]


def test_all_names_are_there():
    assert {name for name in mads_ray.__all__ if getattr(mads_ray, name) is None} == set()
    assert set(mads_ray.__all__) == set(mads_ray._HOME_OF)
    assert dir(mads_ray) == sorted(mads_ray.__all__)


@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_a_verb_runs(here, name):
    verb = getattr(mads_ray, name)
    (example,) = examples_of(verb, name)
    assert doctest.DocTestRunner().run(example).failed == 0
    for part in ("Args:", "Returns:", "Raises:", "Example:"):
        assert part in inspect.getdoc(verb)


@pytest.mark.parametrize("name", ["mads_ray", *CLASSES])
def test_other_examples_run(here, name):
    thing = mads_ray if name == "mads_ray" else getattr(mads_ray, name)
    for example in examples_of(thing, name):
        assert doctest.DocTestRunner().run(example).failed == 0


def test_no_verb_hides_behind_a_folder_of_the_package():
    script = (
        "import mads_ray.capture.model, mads_ray.report.render, mads_ray.pipeline.run, mads_ray\n"
        "print([n for n in mads_ray.__all__ if type(getattr(mads_ray, n)).__name__ == 'module'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
