"""What run.json tells: counts that add up, metrics, settings, versions."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mads_ray import __version__
from mads_ray.config import RunConfig
from mads_ray.doctor import versions_of
from mads_ray.errors import IncompleteError
from mads_ray.ledger import CorpusLedger, Counts, StateRecord
from mads_ray.pipeline.select.stage import CoreSet
from mads_ray.report.selection_tally import Tally
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, states_checksum

_MOST_INPUTS = 20
_PACKAGES = ("mads_ray", "ray", "torch", "transformers", "numpy", "pyarrow", "faiss-cpu", "numba")


def counts_of(ledger: CorpusLedger, records: list[StateRecord], tally: Tally) -> Counts:
    """Raises IncompleteError where a row was lost or counted twice."""
    failed = sum(r.quarantined for r in records)
    counts = Counts(
        read=ledger.read,
        quarantined=ledger.quarantined + failed,
        duplicates=ledger.duplicates,
        examples=tally.rows,
        selected=tally.selected,
    )
    if counts.read != counts.quarantined + counts.duplicates + counts.examples:
        raise IncompleteError(f"rows were lost or counted twice: {counts}")
    return counts


def summarize(
    config: RunConfig,
    source: RunFolder,
    manifest: StatesManifest,
    counts: Counts,
    core: CoreSet,
    records: list[StateRecord],
    tokens: int,
    timings: dict[str, float],
) -> dict[str, Any]:
    """The content of run.json."""
    padded = manifest.calibration_padded_tokens + sum(r.padded_tokens for r in records)
    computed = manifest.calibration_tokens + sum(r.tokens for r in records)
    return {
        "mads_ray": __version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "mode": core.mode,
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "states_from": str(source.root),
        "states": asdict(manifest),
        "states_checksum": states_checksum(records),
        "counts": asdict(counts),
        "files": _files(source),
        "metrics": core.metrics,
        "certificate": {
            "opt_upper_bound": core.metrics["opt_upper_bound"],
            "certified_ratio": core.metrics["certified_ratio"],
            "method": "weak duality at the core set's own prices, best of 16384 lambdas",
        },
        "capture": {
            "tokens": tokens,
            "padding_waste": round(1 - computed / padded, 4) if padded else 0.0,
            "cut_rows": sum(r.cut_rows for r in records),
            "repeated_rows": sum(r.repeated for r in records),
            "worker_seconds": round(sum(r.seconds for r in records), 1),
        },
        "timings": timings,
        "versions": versions_of(_PACKAGES),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
    }


def _files(source: RunFolder) -> dict[str, Any]:
    """How many files the corpus has, what lies beside them unread, and what was broken."""
    ledger, identity = source.load_ledger(), source.corpus_identity()
    assert identity is not None
    return {
        "read": len(identity["files"]) - len(ledger.lost),
        "left_out": [asdict(x) for x in ledger.left_out],
        "lost": [asdict(x) for x in ledger.lost],
    }


def beginning(stages: str, config: RunConfig) -> dict[str, Any]:
    """The fields of `run_started`: settings that are not the defaults, and where they run."""
    settings = config.model_dump(mode="json", exclude_defaults=True)
    settings["input"] = list(config.input[:_MOST_INPUTS])
    return {
        "stages": stages,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:2000],
        "settings": settings,
        "inputs": len(config.input),
        "versions": versions_of(_PACKAGES),
        "python": platform.python_version(),
        "host": platform.node(),
        "pid": os.getpid(),
        "ray_address": config.ray.address or os.environ.get("RAY_ADDRESS"),
    }
