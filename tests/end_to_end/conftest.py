"""One undisturbed run of the pipeline, for every test that looks at its output."""

import pytest
from runs import config_for

from mads_ray import run


@pytest.fixture(scope="session")
def finished(ray_local, small_corpus, tmp_path_factory):
    return run(config_for(small_corpus, tmp_path_factory.mktemp("run") / "out"))
