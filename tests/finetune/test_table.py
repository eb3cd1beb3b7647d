"""Intervals against scipy, pairs by seed, and what a table says."""

import dataclasses
import json

import pytest
from scipy import stats

from mads_ray.finetune import table
from mads_ray.finetune.config import GridConfig, Regime

CONFIG = GridConfig(
    output="unused",
    pool=("pool.jsonl",),
    held_out=("held.jsonl",),
    arms={"random-5": "r-{seed}.jsonl", "mads-5": "m.jsonl", "full": None},
    regimes=(Regime("short", steps=2),),
    models=("org/tiny",),
)


def result(arm, seed, loss, choices):
    tuned = None if seed is None else {"examples": 10, "steps": 2}
    return {
        "model": "org/tiny",
        "regime": None if seed is None else "short",
        "arm": arm,
        "seed": seed,
        "held_out": {"per_token": loss, "mean_of_tasks": loss + 1},
        "choices": {
            "average": choices,
            "tasks": {"piqa": {"n": 4, "acc": choices, "acc_norm": 0.5, "mass": 0.25}},
        },
        "tuned": tuned,
    }


RESULTS = [
    result("untuned", None, 3.0, 0.25),
    result("random-5", 0, 2.0, 0.5),
    result("random-5", 1, 2.2, 0.5),
    result("random-5", 2, 2.4, 0.5),
    result("mads-5", 0, 1.8, 0.75),
    result("mads-5", 1, 2.1, 0.5),
    result("full", 0, 1.5, 0.5),
]


@pytest.mark.parametrize("freedom", [1, 2, 9, 10, 11, 14, 29, 100, 5000])
def test_quantiles_are_those_of_scipy(freedom):
    assert table.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_an_interval_is_that_of_scipy():
    values = [2.0, 2.2, 2.4, 1.9]
    told = table.interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=2.125, scale=stats.sem(values))
    assert (told.mean - told.half, told.mean + told.half) == pytest.approx((low, high), rel=1e-5)
    assert table.interval([1.0]) == table.Interval(1.0, None, 1)


def test_differences_are_paired_by_seed():
    lines = {x.arm: x for x in table.summarise(CONFIG, RESULTS)}
    assert list(lines) == ["untuned", "random-5", "mads-5", "full"]
    mads = lines["mads-5"]
    assert mads.reference == "random-5"
    difference = mads.differences["loss_per_token"]
    assert (difference.mean, difference.n) == (pytest.approx(-0.15), 2)
    assert difference.half == pytest.approx(stats.t.ppf(0.975, 1) * 0.05, rel=1e-4)
    assert mads.measures["piqa.acc"].mean == 0.625
    assert lines["full"].reference is None
    assert not lines["full"].differences
    assert not lines["random-5"].differences
    assert lines["random-5"].measures["loss_per_token"].half == pytest.approx(
        stats.t.ppf(0.975, 2) * 0.2 / 3**0.5, rel=1e-4
    )


def test_the_files_of_a_table(tmp_path):
    config = dataclasses.replace(CONFIG, output=str(tmp_path))
    text, files = table.write(config, RESULTS, 10)
    assert files == ["summary.json", "table.md", "plot.png"]
    assert "| tiny | short | mads-5 | 10 | 2 | 2 | 1.9500 ± " in text
    assert " | -0.1500 ± 0.6353 (random-5) | " in text
    told = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert told.startswith("7 of 10 cells.")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [x["arm"] for x in summary["lines"]] == ["untuned", "random-5", "mads-5", "full"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_nothing_but_untuned_models(tmp_path):
    config = dataclasses.replace(CONFIG, output=str(tmp_path))
    text, _ = table.write(config, RESULTS[:1], 10)
    assert "| tiny |  | untuned |  |  |  | 3.0000 |" in text
