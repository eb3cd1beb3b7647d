"""What an interrupted calibration leaves behind."""

import numpy as np

from mads_ray.capture.calibration_sample import CalibrationSample, write_group
from mads_ray.pipeline.capture.calibrate import _require_same_sample
from mads_ray.run_folder import RunFolder


def test_groups_of_another_calibration_are_thrown_away(tmp_path):
    folder = RunFolder(tmp_path)
    plan = {"capture": {"model": "a"}, "rows": [("u0", 0), ("u1", 3)]}
    _require_same_sample(folder, plan)
    peaks, hidden = np.zeros((2, 3, 4), np.float32), np.zeros((2, 5), np.float32)
    write_group(folder.sample, 0, ["u0", "u1"], peaks, hidden)
    _require_same_sample(folder, plan)
    assert len(CalibrationSample(folder.sample)) == 2
    _require_same_sample(folder, plan | {"capture": {"model": "b"}})
    assert len(CalibrationSample(folder.sample)) == 0


def test_a_group_without_its_list_of_uids_does_not_count(tmp_path):
    peaks, hidden = np.ones((2, 3, 4), np.float32), np.ones((2, 5), np.float32)
    write_group(tmp_path, 0, ["u0", "u1"], peaks, hidden)
    write_group(tmp_path, 1, ["u2", "u3"], 2 * peaks, 2 * hidden)
    (tmp_path / "group-00000.json").unlink()
    sample = CalibrationSample(tmp_path)
    assert [p.shape for p in sample.pooled()] == [(2, 3, 4)]
    found = sample.lookup(["u0", "u9", "u3"])
    assert list(found) == [2]
    assert (found[2][0] == 2).all()
    assert (found[2][1] == 2).all()
