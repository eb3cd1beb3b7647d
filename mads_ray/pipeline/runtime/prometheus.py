"""Metrics of a run for Prometheus, exported by Ray.

Only the driver reports metrics. It adds up the results that come in, so the counts stay exact when
Ray repeats a task. Ray exports a gauge as `ray_<name>` and a counter as `ray_<name>_total`, on the
metrics port of the driver's node, with the labels SessionName and WorkerId beside the tag.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `text` names its unit; `staged`: whether it has the tag `stage`."""

    kind: Literal["counter", "gauge"]
    text: str
    staged: bool = True


METRICS = {
    "mads_ray_rows": Metric("counter", "Rows done by this driver, quarantined ones included."),
    "mads_ray_resumed_rows": Metric("counter", "Rows that an earlier run had done."),
    "mads_ray_quarantined_rows": Metric("counter", "Rows that the model could not use."),
    "mads_ray_tokens": Metric("counter", "Tokens of rows that the model ran."),
    "mads_ray_padded_tokens": Metric("counter", "Tokens that the model computed, with padding."),
    "mads_ray_stage": Metric("gauge", "1 while the stage runs, else 0."),
    "mads_ray_progress": Metric("gauge", "Share of the stage's rows that is done, 0 to 1."),
    "mads_ray_tokens_per_second": Metric("gauge", "Tokens a second since the stage began."),
    "mads_ray_padding_waste": Metric("gauge", "Share of the computed tokens that is padding."),
    "mads_ray_mfu": Metric("gauge", "Model FLOPs utilisation of the GPUs while they capture."),
    "mads_ray_exchange_round": Metric("gauge", "Rounds of the exchange so far.", staged=False),
    "mads_ray_f": Metric(
        "gauge", "Coverage f of the core set so far, less the base's.", staged=False
    ),
    "mads_ray_lift_at_least": Metric(
        "gauge", "Lower bound on the lift: 0 is random, 1 the optimum.", staged=False
    ),
}


def exported(name: str) -> str:
    """The name that Prometheus sees."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


def observe(name: str, value: float | None, stage: str | None = None) -> None:
    """Add to a counter, or set a gauge. None changes nothing, nor does adding 0.

    Does nothing where Ray is not running. Never raises: a metric must not end a run.
    """
    if value is None or (METRICS[name].kind == "counter" and value <= 0):
        return
    try:
        import ray

        if ray.is_initialized():
            metric = _ray_metric(name)
            change = metric.inc if METRICS[name].kind == "counter" else metric.set
            change(float(value), tags={"stage": stage} if stage else None)
    except Exception as e:
        log.debug("metric %s: %s", name, e)


@cache
def _ray_metric(name: str) -> Any:
    """Make a metric once for the life of the process: Ray keeps it in its next session."""
    from ray.util.metrics import Counter, Gauge

    kind = Counter if METRICS[name].kind == "counter" else Gauge
    tags = ("stage",) if METRICS[name].staged else ()
    return kind(name, description=METRICS[name].text, tag_keys=tags)
