"""The dashboard: what Grafana needs to load it, and queries of metrics that exist."""

import importlib.util
import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from mads_ray.pipeline.runtime.prometheus import METRICS, exported

FILE = Path(__file__).parents[2] / "cluster" / "grafana" / "mads_ray.json"
# In Prometheus, a word that is followed by a selector.
METRIC = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\{")
_RAY_HAS = (  # where Ray 2.60 defines or charts its own
    "ray.dashboard.modules.reporter.reporter_agent",
    "ray.dashboard.modules.metrics.dashboards.default_dashboard_panels",
)


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def panels(dashboard):
    return dashboard["panels"]


@pytest.fixture(scope="module")
def targets(panels):
    return [(p["title"], t) for p in panels for t in p.get("targets", [])]


@pytest.fixture(scope="module")
def used(targets):
    """Names in the queries."""
    return {name for _, target in targets for name in METRIC.findall(target["expr"])}


def test_it_is_a_dashboard_of_the_classic_schema(dashboard):
    assert dashboard["schemaVersion"] == 42  # the last one of this schema: Grafana 12 and later
    assert dashboard["title"] == "mads_ray"
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", dashboard["uid"])
    assert dashboard.get("id") is None  # Grafana gives it; the number of another would clash
    assert {"time", "templating", "annotations"} <= dashboard.keys()


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap(panels):
    assert len({p["id"] for p in panels}) == len(panels)
    for p in panels:
        grid = p["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24, p["title"]
        assert grid["y"] >= 0 < grid["h"]
    for a, b in combinations(panels, 2):
        one, other = a["gridPos"], b["gridPos"]
        apart = [
            one[x] + one[w] <= other[x] or other[x] + other[w] <= one[x] for x, w in ("xw", "yh")
        ]
        assert any(apart), (a["title"], b["title"])


def test_panels_say_what_they_show_and_query_the_chosen_datasource(panels):
    source = {"type": "prometheus", "uid": "${datasource}"}
    charts = [p for p in panels if p["type"] != "row"]
    assert len(charts) > 12
    for p in charts:
        assert p["type"] in ("stat", "timeseries")
        assert p["description"]
        assert p["datasource"] == source
        assert p["fieldConfig"]["defaults"]["unit"]
        assert p["targets"]
        assert len({t["refId"] for t in p["targets"]}) == len(p["targets"])
        for target in p["targets"]:
            assert target["datasource"] == source
            assert target["expr"]
            assert target["legendFormat"]


def test_the_datasource_and_the_ray_session_are_variables(dashboard):
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["SessionName"]["datasource"]["uid"] == "${datasource}"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used == variables.keys()


def test_every_query_is_of_one_ray_session(targets):
    for title, target in targets:
        selectors = re.findall(r"\{([^}]*)\}", target["expr"])
        assert selectors, title
        assert all('SessionName=~"$SessionName"' in s for s in selectors), title
        assert target["expr"].count("(") == target["expr"].count(")")


def test_our_metrics_and_those_on_the_dashboard_are_the_same(used):
    ours = {name for name in used if "mads_ray" in name}
    assert ours == {exported(name) for name in METRICS}


def test_counters_are_asked_for_as_counters(targets):
    """A counter's rate or its sum over drivers, a gauge as it is."""
    counters = {exported(name) for name, metric in METRICS.items() if metric.kind == "counter"}
    for title, target in targets:
        for name in METRIC.findall(target["expr"]):
            assert ("rate(" in target["expr"]) <= (name in counters), title


def test_metrics_of_ray_are_ones_that_ray_has(used):
    source = ""
    for module in _RAY_HAS:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source += Path(spec.origin).read_text(encoding="utf-8")
    theirs = {name for name in used if "mads_ray" not in name}
    assert {"ray_node_gpus_utilization", "ray_node_cpu_utilization"} < theirs
    for name in theirs:
        short = name.removeprefix("ray_").removesuffix("_total")
        assert re.search(rf'\b(ray_)?{short}(_total)?["{{]', source), name
