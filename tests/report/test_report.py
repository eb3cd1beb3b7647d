"""The report of a made-up run: numbers, escaping, and what a browser would be given."""

from collections import Counter

import numpy as np
import pytest

from mads_ray.clustering.tree import ClusterTree
from mads_ray.report.charts import coverage_chart, length_chart
from mads_ray.report.data import report_data
from mads_ray.report.render import render_report
from mads_ray.report.selection_tally import LENGTH_EDGES, SelectionTally
from mads_ray.run_folder import RunFolder

CURVE = {
    "sizes": [1, 2, 4],
    "core": [2.0, 3.5, 5.0],
    "random_mean": [1.0, 2.0, 4.0],
    "random_low": [0.5, 1.5, 3.5],
    "random_high": [1.5, 2.5, 4.5],
    "neurons_core": [0.1, 0.2, 0.3],
    "neurons_random_mean": [0.1, 0.15, 0.2],
    "neurons_random_low": [0.1, 0.1, 0.1],
    "neurons_random_high": [0.1, 0.2, 0.3],
}
EVIL = "<script>alert('row')</script>"
READING = {
    "reasons": [
        {
            "reason": "missing_field",
            "field": EVIL,
            "count": 1234,
            "file": f"/x/{EVIL}.jsonl",
            "row": 7,
            "where": EVIL,
            "message": f"the row has no field {EVIL}",
        }
    ],
    "schemas": {"messages": 4321, EVIL: 1},
    "read": {"messages": 4321},
    "unread": {"rejected": 55},
    "other": {EVIL: 66},
    "without_media": 77,
    "worst_file": None,
}

DENSITY = {
    "kinds": 1234.4,
    "kinds_core_set": 987.6,
    "kinds_random": 555.5,
    "landmarks": 8192,
    "rows": 1_000_000,
    "places": [
        {
            "share": 0.31,
            "share_core_set": 0.08,
            "rows": [{"uid": "0" * 32, "label": EVIL, "prompt": EVIL, "response": EVIL}] * 3,
        }
    ],
}


@pytest.fixture
def tally():
    lengths = np.zeros(len(LENGTH_EDGES) - 1, np.int64)
    lengths[3], lengths[5] = 6, 4
    core = np.zeros_like(lengths)
    core[3] = core[5] = 2
    return SelectionTally(
        rows=10,
        selected=4,
        tokens=200,
        tokens_core=90,
        labels=Counter({"common": 8, "rare": 2}),
        labels_core=Counter({"common": 4}),
        files=Counter({"/x/a.jsonl": 10}),
        files_core=Counter({"/x/a.jsonl": 4}),
        lengths=lengths,
        lengths_core=core,
        nodes=np.array([7, 3, 5, 2, 3]),
        nodes_core=np.array([2, 2, 1, 1, 2]),
        typical={
            0: [(0.2, "b", {"label": "common", "prompt": EVIL, "response": "far"})],
            1: [(0.1, "c", {"label": "common", "prompt": "second leaf", "response": ""})],
            2: [(0.1, "d", {"label": None, "prompt": "third leaf", "response": "x"})],
        },
    )


@pytest.fixture
def tree():
    paths = np.array([[0, 2], [0, 3], [1, 4]], np.int32)
    return ClusterTree(np.zeros((3, 2), np.int32), paths, (2, 3))


@pytest.fixture
def data(tally, tree, tmp_path):
    return report_data(RunFolder(tmp_path), tree, CURVE, {}, tally, READING, DENSITY)


def test_clusters_come_largest_first_with_rows_of_their_largest_leaves(data):
    assert [(c["cluster"], c["pool"], c["core"]) for c in data["clusters"]] == [
        (0, 7, 2),
        (1, 3, 2),
    ]
    assert [r["prompt"] for r in data["clusters"][0]["typical"]] == [EVIL, "second leaf"]


def test_tasks_reached_and_what_random_would_reach(data):
    assert (data["labels"]["reached"], data["labels"]["total"]) == (1, 2)
    # 4 of 10 rows: "common" (8) cannot be missed, "rare" (2) is missed with (6*5)/(10*9) = 1/3.
    assert data["labels"]["expected_random"] == pytest.approx(2 - 1 / 3)
    assert data["lengths"]["mean_pool"] == 20
    assert data["lengths"]["mean_core"] == 22.5


def test_the_page_escapes_every_row(data, tmp_path):
    summary = {
        "config": {
            "input": ["/x/a.jsonl"],
            "selection": {
                "random_draws": 20,
                "objective": "sqrt",
                "method": "mads",
                "balance": 1.0,
            },
        },
        "counts": {"read": 12, "quarantined": 1, "duplicates": 1, "examples": 10, "selected": 4},
        "metrics": {
            "neuron_coverage": 0.3,
            "neuron_coverage_random": 0.2,
            "certified_ratio": 0.9,
            "lift": None,
            "prefixes": [
                {
                    "size": 1,
                    "fraction": 0.1,
                    "f": 3.0,
                    "f_random_mean": 2.0,
                    "lift": None,
                    "lift_at_least": 0.5,
                    "certified_ratio": 0.8,
                }
            ],
        },
        "timings": {"total": 3.0},
        "states": {
            "model": "m",
            "layers": 2,
            "width": 8,
            "neurons_per_layer": 2,
            "max_tokens": 9,
        },
        "capture": {"tokens": 200, "padding_waste": 0.1, "cut_rows": 1},
        "versions": {"ray": "2"},
        "finished": "now",
        "command": "mads-ray run",
        "seed": 0,
        "mode": "exact",
        "files": {
            "left_out": [{"why": EVIL, "what": EVIL, "files": 2, "example": EVIL}],
            "lost": [{"path": EVIL, "rows": 3, "reason": EVIL}],
        },
    }
    target = tmp_path / "a folder" / "report.html"
    render_report(target, summary, data)
    html = target.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert "1 / 2" in html
    for told in (
        "can reach more than\n  11.11% more of f",  # 1 / 0.9
        "1,234",
        "4,321",
        "rejected",
        "55 rows",
        "66 rows",
        "77 rows",
        "Files left out: 2",
        "988 / 1,234",
        "31.0%",
        "8.0%",
        "8,192 random rows",
    ):
        assert told in html
    del data["reading"], data["density"]  # as stored by an older version
    render_report(target, summary, data)
    assert "Read as" not in target.read_text(encoding="utf-8")
    assert "kinds of rows" not in target.read_text(encoding="utf-8")
    assert f"--config '{target.with_name('run.json')}'" in html.replace("&#39;", "'")


def test_figures_keep_their_ids_apart():
    first, second = coverage_chart(CURVE, "f"), coverage_chart(CURVE, "neurons")
    ids = [{part.split('"')[0] for part in svg.split('id="')[1:]} for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        for used in (part.split(")")[0] for part in svg.split("url(#")[1:]):
            assert used in own


def test_a_figure_is_the_same_every_time():
    assert coverage_chart(CURVE, "f") == coverage_chart(CURVE, "f")
    lengths = {"edges": LENGTH_EDGES, "pool": [0] * 8 + [5] + [0] * 13, "core": [0] * 22}
    assert length_chart(lengths).startswith("<svg")
