"""Use the calibration of another run: find it, take over its settings, and copy it.

`capture.calibration_from` names that run (the source). Its model and its settings of capture are
used too.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mads_ray.config import CaptureConfig
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import write_whole

log = logging.getLogger(__name__)

CALIBRATED = (
    "neurons_per_layer",
    "max_tokens",
    "token_scope",
    "pooling",
    "hook_module",
    "compile",
    "tensor_parallel",
    "calibration_rows",
    "sketch_dim",
)


def requested_of(capture: CaptureConfig) -> dict[str, Any]:
    """The settings that stored states must agree with."""
    return {
        "requested_revision": capture.revision,
        **capture.model_dump(
            include={*CALIBRATED, "store_hidden", "store_raw", "calibration_from"}
        ),
    }


def which(capture: CaptureConfig) -> tuple[str, str | None, str | None]:
    """Name of the model, its revision, and which of its modules to hook."""
    return capture.model, capture.revision, capture.hook_module


def calibration_source(capture: CaptureConfig, folder: RunFolder) -> RunFolder | None:
    """The run folder whose calibration to use; None to fit one.

    Raises ConfigError where `capture.calibration_from` names a folder without a calibration.
    """
    if capture.calibration_from is None:
        return None
    source = RunFolder(capture.calibration_from)
    if source.manifest.exists() and source.calibration.exists():
        return source
    if folder.manifest.exists():
        copied_from = StatesManifest.load(folder.manifest).requested.get("calibration_from")
        if copied_from == str(source.root):
            return folder  # it has its own copy, and outlives the other run
    raise ConfigError(
        f"capture.calibration_from: {source.root} holds no finished calibration; name the output "
        "folder of a run that captured states (`mads-ray capture` or `mads-ray run`)"
    )


def settings_of_source(
    capture: CaptureConfig, manifest: StatesManifest, source: RunFolder
) -> CaptureConfig:
    """`capture` with the model and the settings that belong to the source's calibration.

    A setting with its default value is replaced by the stored one. Any other value must be equal
    to the stored one, else MismatchError. (A default that the user typed is replaced too: a
    run.json holds every default, and it must repeat its run.)
    """
    from mads_ray.capture.model import local_revision

    requested = manifest.settings
    stored = {"engine": manifest.engine, "model": manifest.model, "dtype": manifest.dtype}
    stored |= {name: requested[name] for name in CALIBRATED}
    default = CaptureConfig()
    asked = {n: getattr(capture, n) for n in stored if getattr(capture, n) != getattr(default, n)}
    if capture.revision not in (None, manifest.revision):
        asked["requested_revision"] = capture.revision
    here = local_revision(manifest.model)
    found = manifest.differences(asked | ({} if here is None else {"revision": here}))
    if found:
        raise MismatchError(
            f"the calibration in {source.states} is of another model or other settings:\n  "
            + "\n  ".join(found)
            + "\nLeave these settings out to use the stored ones, or name another run in "
            "capture.calibration_from."
        )
    # A hub model is pinned to the very commit, in case its branch has moved on.
    revision = manifest.revision if here is None else requested["requested_revision"]
    assert capture.calibration_from is not None
    root = str(RunFolder(capture.calibration_from).root)
    return capture.model_copy(update={**stored, "revision": revision, "calibration_from": root})


def copy_calibration(
    capture: CaptureConfig, folder: RunFolder, source: RunFolder
) -> StatesManifest:
    """Copy the source's calibration. The manifest is written last and commits the copy."""
    from mads_ray.capture.model import inspect_model

    log.info("calibration of %s: model %s", source.root, capture.model)
    hidden = inspect_model(*which(capture))
    # Pooled activations that an interrupted calibration of other settings may have left behind.
    shutil.rmtree(folder.sample, ignore_errors=True)
    stored = StatesManifest.load(source.manifest)
    (digest,) = map_tasks(_copy, [(source, folder)])
    stored.require({"calibration": digest}, source.states)
    manifest = replace(
        stored,
        hidden_dim=hidden if capture.store_hidden else 0,
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested=requested_of(capture),
        raw=capture.store_raw,
    )
    manifest.save(folder.manifest)
    return manifest


def _copy(source: RunFolder, folder: RunFolder) -> str:
    from mads_ray.capture.calibration import Calibration

    def write(temporary: Path) -> None:
        shutil.copyfile(source.calibration, temporary)

    write_whole(folder.calibration, write)
    return Calibration.load(folder.calibration).digest()
