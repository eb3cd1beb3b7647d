"""The disk cache of the compiled loops."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mads_ray import submodular

CALLER = (
    "from mads_ray.submodular.jit import jit\n"
    "from mads_ray.submodular.callee import inner\n"
    "@jit\n"
    "def outer(x):\n"
    "    return inner(x)\n"
)


def test_a_change_in_a_called_function_is_noticed(tmp_path):
    """In another file than the caller's, which numba does not look at."""
    package = tmp_path / "mads_ray" / "submodular"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    shutil.copy(Path(submodular.__file__).parent / "jit.py", package)
    (package / "caller.py").write_text(CALLER, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    call = "from mads_ray.submodular.caller import outer; print(outer(1), outer.stats.cache_hits)"
    told = []
    for added in (1, 1, 5):
        source = "from mads_ray.submodular.jit import jit\n@jit\ndef inner(x):\n"
        (package / "callee.py").write_text(f"{source}    return x + {added}\n", encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-c", call],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        told.append([int(x) if x.isdigit() else x for x in run.stdout.split()[:1]])
    assert told == [[2], [2], [6]]
    assert len(list((package / "__pycache__").glob("numba-*"))) == 2
