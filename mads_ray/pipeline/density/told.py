"""What the density of the pool tells people of it: kinds of rows, and the places that repeat."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from mads_ray.clustering.density import Density
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.report.selection_tally import SelectionTally, snippet
from mads_ray.states import CapturedShard, CapturedStates
from mads_ray.stored.examples import read_examples


def density_told(states: CapturedStates, density: Density, tally: SelectionTally) -> dict[str, Any]:
    """The field `density` of run.json, and of the report with the texts of rows.

    `kinds` counts about how many kinds of rows the pool has; `kinds_core_set` those of which the
    core set has a row; `kinds_random` those that as many random rows have on average. `places`: the
    densest of the pool, with their shares of pool and core set and rows of each.
    """
    pool, survey, reached = density.pool, density.survey, tally.reached
    assert reached is not None
    rows = [survey.landmarks.places_M2[list(place.rows)].tolist() for place in survey.places]
    text_of = _texts(states, {(shard, row) for of_place in rows for shard, row in of_place})
    return {
        "kinds": round(survey.kinds, 1),
        "kinds_core_set": round(float(survey.kinds_M[reached.landmarks_M].sum()), 1),
        "kinds_random": round(survey.kinds_at_random(pool.rows, tally.selected), 1),
        "landmarks": pool.landmarks,
        "rows": pool.rows,
        "places": [
            {
                "share": round(place.share, 4),
                "share_core_set": round(int(core) / max(1, tally.selected), 4),
                "rows": [text_of[shard, row] for shard, row in of_place],
            }
            for place, core, of_place in zip(survey.places, reached.places_P, rows, strict=True)
        ],
    }


def without_texts(told: dict[str, Any]) -> dict[str, Any]:
    """The same for run.json, with the uids of rows alone."""
    places = [p | {"rows": [row["uid"] for row in p["rows"]]} for p in told["places"]]
    return told | {"places": places}


def _texts(
    states: CapturedStates, places: set[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, Any]]:
    wanted: dict[int, list[int]] = {}
    for number, row in sorted(places):
        wanted.setdefault(number, []).append(row)
    shards = [s for s in states.shards if s.shard in wanted]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    answers = map_tasks(_texts_of, ((s, wanted[s.shard]) for s in shards))
    for shard, texts in zip(shards, answers, strict=True):
        found |= {(shard.shard, row): text for row, text in texts.items()}
    return found


def _texts_of(shard: CapturedShard, rows: list[int]) -> dict[int, dict[str, Any]]:
    """uid, label, prompt and response of some rows of a shard's states."""
    uids = shard.read(["uid"]).column("uid").take(rows).to_pylist()
    columns, mine = ["uid", "label", "messages"], pc.field("uid").isin(uids)
    examples = read_examples(shard.examples, columns, filters=mine).to_pylist()
    by_uid = {r["uid"]: snippet(r["messages"], r["label"]) for r in examples}
    return {row: {"uid": u, **by_uid[u]} for row, u in zip(rows, uids, strict=True)}
