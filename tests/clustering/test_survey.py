from itertools import combinations

import numpy as np
import pytest

from mads_ray.clustering.landmarks import Landmarks, directions_of
from mads_ray.clustering.survey import Survey


def uids(n):
    return np.stack([np.arange(n), np.zeros(n)], axis=1).astype(np.uint64)


def survey_of(groups, shards=None):
    """Landmarks of orthogonal directions, so many of each: rows are like those of their own."""
    of = np.repeat(np.arange(len(groups)), groups)
    x = directions_of(np.eye(max(2, len(groups)), dtype=np.float16)[of])
    shard = np.zeros(len(of)) if shards is None else shards
    places = np.stack([shard, np.arange(len(of))], axis=1).astype(np.int32)
    return Survey.of(Landmarks(uids(len(of)), x, places)), of, x


def test_kinds_are_groups_of_rows_like_each_other():
    survey, *_ = survey_of([40, 5, 3, 1, 1])
    assert survey.kinds == pytest.approx(5)
    assert survey.kinds_M[:40] == pytest.approx(1 / 40)


def test_places_are_the_densest_first_with_their_shares():
    survey, of, _ = survey_of([5, 40, 3, 2])
    assert [p.share for p in survey.places] == [0.8, 0.1, 0.06]  # two rows are no place
    for place, group in zip(survey.places, (1, 0, 2), strict=True):
        assert len(place.rows) == 3
        assert set(of[list(place.rows)]) == {group}


def test_shares_of_places_do_not_overlap():
    rng = np.random.default_rng(0)
    x = directions_of(rng.normal(size=(200, 4)).astype(np.float16))
    places = np.stack([np.zeros(200), np.arange(200)], axis=1).astype(np.int32)
    survey = Survey.of(Landmarks(uids(200), x, places))
    shares = [p.share for p in survey.places]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1
    assert survey.reached(x).places_P.tolist() == [round(200 * s) for s in shares]


def test_reached_is_what_selected_rows_are_like_and_adds_up():
    survey, of, x = survey_of([40, 5, 3, 1, 1])
    picks = np.flatnonzero(np.isin(of, [0, 3]))
    got = survey.reached(x[picks])
    assert survey.kinds_M[got.landmarks_M].sum() == pytest.approx(2)
    assert got.places_P.tolist() == [40, 0, 0]
    parts = survey.reached(x[picks[:7]]) + survey.reached(x[picks[7:]])
    assert parts.landmarks_M.tolist() == got.landmarks_M.tolist()
    assert parts.places_P.tolist() == got.places_P.tolist()
    nothing = survey.reached(x[:0])
    assert not nothing.landmarks_M.any()
    assert nothing.places_P.tolist() == [0, 0, 0]


@pytest.mark.parametrize("selected", [1, 3, 9])
def test_kinds_at_random_is_the_mean_over_all_sets(selected):
    survey, of, _ = survey_of([5, 2, 1, 1])
    every = [len(set(of[list(s)])) for s in combinations(range(9), selected)]
    assert survey.kinds_at_random(9, selected) == pytest.approx(np.mean(every))


def test_landmarks_of_a_sample_stand_for_the_pool():
    survey, *_ = survey_of([50, 50])
    # 100 of 100,000 rows: a kind has 50,000, and any set of ten random rows nearly has both.
    assert survey.kinds_at_random(100_000, 10) == pytest.approx(2 * (1 - 0.5**10), abs=1e-3)


def test_rows_of_a_base_are_no_kinds_of_the_pool_and_no_place():
    shards = np.array([0] * 4 + [-1] * 6)
    survey, *_ = survey_of([4, 6], shards)
    assert survey.kinds == pytest.approx(1)
    assert [p.share for p in survey.places] == [1.0]


def test_an_empty_pool():
    survey, *_ = survey_of([0])
    assert survey.kinds == 0
    assert survey.places == ()
