"""A worker goes on only with states that were rendered as it renders."""

import pytest

from mads_ray.capture.prompts.clock import DATE
from mads_ray.config import CaptureConfig
from mads_ray.errors import MismatchError
from mads_ray.pipeline.capture.capturer import capturer, open_configured
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest


@pytest.fixture(scope="module")
def facts():
    return open_configured(CaptureConfig(dtype="float32"), 1, 0).facts


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"template": "0ther"}, "template: stored '0ther', wanted '"),
        ({"template": ""}, "template: stored '', wanted '"),  # of an older version
        ({"date": "2025-01-01"}, "date: stored '2025-01-01', wanted '2024-07-26'"),
    ],
)
def test_another_template_or_day_is_refused(facts, tmp_path, changed, told):
    assert facts["date"] == DATE
    known = {k: v for k, v in facts.items() if k != "hidden_size"} | changed
    manifest = StatesManifest(
        **known,
        neurons_per_layer=4,
        sketch_dim=8,
        hidden_dim=0,
        max_tokens=128,
        calibration="c0ffee",
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested={},
    )
    with pytest.raises(MismatchError, match=told):
        capturer(CaptureConfig(), manifest, RunFolder(tmp_path), 1, 0)
