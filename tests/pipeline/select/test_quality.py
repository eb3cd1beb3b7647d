"""A quality column tilts the core set, by its weight; a row without a number is an error."""

import numpy as np
import pytest
from selections import FILES, config_of, file_of, make_run, pick, settings_of, setup_of

from mads_ray import select
from mads_ray.errors import ConfigError
from mads_ray.features import configured_objective
from mads_ray.pipeline.select.load import LoadPlan, load_shards
from mads_ray.pipeline.select.stage import open_workers
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.problem import Budget, Problem

pytestmark = pytest.mark.usefixtures("in_process_module")

N, K = 800, 100
QUALITY = np.random.default_rng(5).normal(3, 1, N).round(3)
EXCHANGE = {"exact_rows": 0, "buffer_rows": 200}


@pytest.fixture(scope="module")
def rated(in_process_module, tmp_path_factory):
    """Every row has a quality, once more within an object."""
    folder = make_run(
        tmp_path_factory.mktemp("rated") / "r",
        N,
        3,
        extra=lambda i: {"score": QUALITY[i], "meta": {"judge": {"score": -float(QUALITY[i])}}},
    )
    return setup_of(folder, config_of())


@pytest.fixture(scope="module")
def rated_workers(rated):
    with open_workers(settings_of(quality_column="score"), rated.ground) as workers:
        yield workers


def picked_at(rated_workers, rated, weight, **how):
    config = config_of(size=K, quality_column="score", quality_weight=weight, **how)
    return pick(rated_workers, rated, config)


@pytest.mark.parametrize("mode", [{}, EXCHANGE], ids=["exact", "exchange"])
def test_more_weight_brings_more_quality(rated_workers, rated, mode):
    means, covered = [], []
    for weight in (0, 0.1, 0.5, 2, 20):
        index = picked_at(rated_workers, rated, weight, **mode).index
        assert len(set(index.tolist())) == K
        means.append(QUALITY[index].mean())
        covered.append(rated.value(index))
    assert means == sorted(means)
    assert abs(means[0] - QUALITY.mean()) < 0.3
    assert means[1] > means[0] + 0.05
    assert means[-1] == pytest.approx(np.sort(QUALITY)[-K:].mean(), abs=0.02)
    assert covered[0] == max(covered)
    assert covered[1] > 0.98 * covered[0]


def test_without_weight_it_is_as_without_a_column(rated_workers, rated):
    greedy = lazy_greedy(rated.rows, Problem(rated.objective, Budget(rows=K)))
    picked = picked_at(rated_workers, rated, 0)
    assert picked.index.tolist() == greedy.picks.tolist()
    assert picked.gains.tolist() == greedy.gains.tolist()


def test_gains_are_coverage_and_bonus(rated_workers, rated):
    """The bonus is in proportion to the quality; the best is worth the weight's share of what a
    random row adds."""
    picked = picked_at(rated_workers, rated, 0.5)
    counts, bonus = rated.objective.empty_counts(), []
    for i, gain in zip(picked.index, picked.gains, strict=True):
        after = counts + rated.objective.counts(rated.rows, np.array([i]))
        bonus.append(int(gain) - rated.objective.value(after) + rated.objective.value(counts))
        counts = after
    share = (QUALITY[picked.index] - QUALITY.min()) / (QUALITY.max() - QUALITY.min())
    most = np.array(bonus)[share > 0.1] / share[share > 0.1]
    assert np.ptp(most) <= 20
    rng = np.random.default_rng(0)
    random = np.mean([rated.value(rng.permutation(N)[:K]) for _ in range(20)]) / K
    assert most.mean() == pytest.approx(0.5 * random, rel=0.03)


@pytest.mark.parametrize("mode", [{}, EXCHANGE], ids=["exact", "exchange"])
def test_in_tokens_too(rated_workers, rated, mode):
    tokens = int(rated.rows.tokens_N.sum() // 8)
    means = []
    for weight in (0, 2):
        options = {"token_budget": tokens, "quality_column": "score", "quality_weight": weight}
        index = pick(rated_workers, rated, config_of(**options, **mode)).index
        assert rated.rows.tokens_N[index].sum() <= tokens
        means.append(QUALITY[index].mean())
    assert means[1] > means[0] + 0.05


def test_a_dotted_name_reaches_into_objects(rated, tmp_path):
    """The nested number is the quality's negative."""
    how = {"size": K, "quality_column": "meta.judge.score", "quality_weight": 20}
    result = select(config_of(tmp_path, **how), rated.folder.root)
    scores = [row["score"] for row in result.rows()]
    assert np.mean(scores) == pytest.approx(np.sort(QUALITY)[:K].mean(), abs=0.02)
    assert result.metrics["lift"] is None  # not the greedy core set of coverage alone
    assert 0 < result.metrics["certified_ratio"] <= 1


def loaded(folder, column):
    setup = setup_of(folder, config_of())
    states, tree = setup.ground.states, setup.ground.tree
    objective = configured_objective(config_of().selection, states.manifest, tree)
    plan = LoadPlan(objective, tree, 0, None, files=FILES, quality_column=column)
    return load_shards(states.shards, plan)[0]


@pytest.mark.parametrize(
    "value", [None, "4.5", True, [4.5], {"x": 1}, float("nan"), float("inf"), 10**400, "absent"]
)
def test_what_is_no_number_is_named(tmp_path, value):
    def extra(i):
        if i == 47:
            return {"meta": {}} if value == "absent" else {"meta": {"score": value}}
        return {"meta": {"score": i % 3}}

    folder = make_run(tmp_path / "r", 60, 2, extra=extra)
    told = rf"^{file_of(47)}, row 47: --quality-column meta.score is not a finite number"
    with pytest.raises(ConfigError, match=told):
        loaded(folder, "meta.score")


def test_whole_numbers_and_fractions_are_read_as_they_are(tmp_path):
    values = [-3, 0, 2**60, 1e-300, 7.25]
    folder = make_run(tmp_path / "r", 60, 2, extra=lambda i: {"score": values[i % 5]})
    found = np.concatenate([s.quality_N for s in loaded(folder, "score")])
    assert found.tolist() == [float(values[i % 5]) for i in range(60)]


def test_the_error_arrives_from_the_worker_as_itself(rated, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl, row 0: --quality-column none is not a"):
        select(config_of(tmp_path, size=9, quality_column="none"), rated.folder.root)


def test_a_column_of_one_value_says_nothing(tmp_path):
    folder = make_run(tmp_path / "r", 60, 2, extra=lambda i: {"score": 4})
    with pytest.raises(ConfigError, match=r"--quality-column score is 4\.0 in every example"):
        select(config_of(tmp_path / "o", size=9, quality_column="score"), folder.root)
