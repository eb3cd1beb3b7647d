"""The small configuration that the end-to-end tests share."""

from pathlib import Path

from mads_ray import RunConfig
from mads_ray.config import CaptureConfig, CorpusConfig, SelectionConfig

CAPTURE = CaptureConfig(calibration_rows=40, max_tokens=256)


def config_for(corpus, output, **changes):
    base = {
        "input": (str(corpus),),
        "output": str(output),
        "corpus": CorpusConfig(shard_rows=24),
        "capture": CAPTURE,
        "selection": SelectionConfig(fraction=0.2),
    }
    return RunConfig(**(base | changes))


def core_bytes(output):
    return [p.read_bytes() for p in sorted((Path(output) / "core_set").glob("part-*"))]
