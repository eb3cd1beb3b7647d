"""Parts of the core set hold what they held, and each reads its own rows only."""

import pytest
from selections import config_of, make_run

from mads_ray import select
from mads_ray.pipeline import write as stage
from mads_ray.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize(("part_rows", "most", "held"), [(7, 512, 1 << 27), (7, 1, 1), (100, 2, 1)])
def test_small_parts_together_are_one(tmp_path, monkeypatch, part_rows, most, held):
    states = make_run(tmp_path / "run", 300, 9, raw=True).root
    (one,) = lines(select(config_of(tmp_path / "one", size=100), states).output)
    monkeypatch.setattr(stage, "PART_ROWS", part_rows)
    monkeypatch.setattr(stage, "_MOST_SHARDS", most)
    monkeypatch.setattr(stage, "_GROUPS_A_CPU", 0)
    monkeypatch.setattr(stage, "_PICKED_BYTES", held)
    asked, read = [], stage.read_buckets

    def reading(path, first, stop, schema):
        for bucket, rows in read(path, first, stop, schema):
            asked.append((first, rows.num_rows))
            yield bucket, rows

    monkeypatch.setattr(stage, "read_buckets", reading)
    output = select(config_of(tmp_path / "many", size=100), states).output
    parts = lines(output)
    assert [len(p) for p in parts[:-1]] == [part_rows] * (len(parts) - 1)
    assert [line for p in parts for line in p] == one
    assert sum(n for _, n in asked) == 100  # every row is read once
    assert not RunFolder(output).picks.exists()


def lines(output):
    paths = sorted(RunFolder(output).core_set.glob("part-*.jsonl"))
    return [p.read_text(encoding="utf-8").splitlines() for p in paths]
