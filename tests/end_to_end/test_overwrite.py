"""A finished core set is kept."""

import json
import shutil

import pytest
from runs import config_for, core_bytes

from mads_ray import select
from mads_ray.config import SelectionConfig, former_names
from mads_ray.errors import MismatchError
from mads_ray.pipeline.run import capture_states
from mads_ray.runlog import read_log

pytestmark = pytest.mark.usefixtures("in_process")


def times(folder):
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("part-*"))}


def test_only_the_user_may_replace_a_core_set(finished, small_corpus, tmp_path):
    def config(fraction):
        changed = SelectionConfig(fraction=fraction)
        return config_for(small_corpus, tmp_path / "out", selection=changed)

    first = select(config(0.1), finished.output)
    written = times(first.output)
    again = select(config(0.1), finished.output)
    assert times(first.output) == written, "the same core set was written again"
    assert (again.counts, again.metrics) == (first.counts, first.metrics)
    assert read_log(first.output / "log.jsonl")[-1]["already"] is True

    with pytest.raises(MismatchError, match=r"selection\.fraction: stored 0\.1, wanted 0\.3") as e:
        select(config(0.3), finished.output)
    assert "--overwrite" in str(e.value)
    assert times(first.output) == written

    replaced = select(config(0.3), finished.output, overwrite=True)
    assert replaced.counts.selected > first.counts.selected
    assert len(list(replaced.rows())) == replaced.counts.selected


def test_other_states_are_other_settings(finished, small_corpus, tmp_path):
    config = config_for(small_corpus, tmp_path / "out")
    mine = select(config, finished.output)
    before = core_bytes(mine.output)
    moved = tmp_path / "moved"
    moved.symlink_to(finished.output)
    with pytest.raises(MismatchError, match="states: stored"):
        select(config, moved)
    assert core_bytes(mine.output) == before


def test_a_run_of_before_settings_were_renamed_is_found_finished(finished, small_corpus, tmp_path):
    source, output = tmp_path / "states", tmp_path / "out"
    shutil.copytree(finished.output, source)
    manifest = json.loads((source / "states" / "manifest.json").read_text())
    manifest["requested"]["tokens"] = manifest["requested"].pop("token_scope")
    (source / "states" / "manifest.json").write_text(json.dumps(manifest))
    captured = times(source / "states")
    capture_states(config_for(small_corpus, source))
    assert times(source / "states") == captured, "the states were captured again"

    first = select(config_for(small_corpus, output), source)
    stored = json.loads((output / "run.json").read_text())
    for old, new in former_names().items():
        (group, old), (_, new) = old.split("."), new.split(".")
        stored["config"][group][old] = stored["config"][group].pop(new)
    (output / "run.json").write_text(json.dumps(stored))
    written = times(output)
    assert select(config_for(small_corpus, output), source).metrics == first.metrics
    assert times(output) == written, "the same core set was written again"
