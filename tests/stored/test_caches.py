"""What only saves time (tree, counts of like rows, rounds) is made again where it is torn."""

import shutil

import numpy as np
import pytest
from damage import FOREIGN, STRANGE, TORN, damage_file
from selections import config_of, make_run

from mads_ray import select
from mads_ray.capture.calibration import Calibration
from mads_ray.clustering.tree import ClusterTree
from mads_ray.errors import DamagedFileError
from mads_ray.pipeline.select.checkpoint import Checkpoint
from mads_ray.run_folder import RunFolder
from mads_ray.storage import write_json, write_npz

pytestmark = pytest.mark.usefixtures("in_process_module")

CACHES = [
    "clusters/tree.npz",
    "clusters/tree.json",
    "density/pool.json",
    "density/pool.npz",
    "density/landmarks.npz",
    "density/part-00001.npz",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory, in_process_module):
    root = tmp_path_factory.mktemp("made")
    make_run(root / "states", 80, 3)
    select(config_of(root / "out", size=20, balance=1), root / "states")
    return root


@pytest.mark.parametrize("damage", ["gone", *TORN])
@pytest.mark.parametrize("name", CACHES)
def test_a_torn_cache_is_made_again(made, tmp_path, caplog, name, damage):
    output = RunFolder(tmp_path / "out")
    shutil.copytree(made / "out", output.root)
    wanted = (output.core_set / "part-00000.jsonl").read_bytes()
    output.run_json.unlink()  # as if it had been interrupted after these stages
    path = output.root / name
    path.unlink() if damage == "gone" else damage_file(path, TORN[damage])
    select(config_of(output.root, size=20, balance=1), made / "states")
    assert (output.core_set / "part-00000.jsonl").read_bytes() == wanted
    harmless = damage == "gone" and name.endswith(".json")
    assert (name.split("/")[1] in caplog.text) != harmless


TREES = {
    "a path out of its level": {"paths_CP": np.array([[0, 4], [1, 2]], np.int32)},
    "a path below": {"paths_CP": np.array([[0, -1], [1, 2]], np.int32)},
    "a leaf more": {"centroids_CS": np.zeros((3, 4), np.int32)},
    "floats": {"centroids_CS": np.zeros((2, 4), np.float32)},
    "another sketch": {"centroids_CS": np.zeros((2, 5), np.int32)},
    "a level more": {"level_sizes": np.array([2, 2, 2])},
    "no leaves": {"centroids_CS": np.zeros((0, 4), np.int32), "paths_CP": np.zeros((0, 2), int)},
}


@pytest.mark.parametrize("name", TREES)
def test_a_foreign_tree_is_none(tmp_path, name):
    tree = {
        "centroids_CS": np.zeros((2, 4), np.int32),
        "paths_CP": np.array([[0, 2], [1, 3]], np.int32),
        "level_sizes": np.array([2, 2]),
    }
    write_npz(tmp_path / "tree.npz", **tree)
    assert ClusterTree.load(tmp_path / "tree.npz", 4).nodes == 4
    write_npz(tmp_path / "tree.npz", **tree | TREES[name])
    with pytest.raises(DamagedFileError, match=r"tree\.npz"):
        ClusterTree.load(tmp_path / "tree.npz", 4)


@pytest.mark.parametrize("damage", TORN)
def test_a_torn_calibration_is_named_with_the_remedy(tmp_path, damage):
    of = np.ones((2, 3), np.float32)
    path = tmp_path / "calibration.npz"
    Calibration(of, of, np.ones((6, 2), np.float32), np.ones(2, np.float32), 1, 4).save(path)
    assert Calibration.load(path).rows == 4
    damage_file(path, TORN[damage])
    with pytest.raises(DamagedFileError, match=r"[Rr]emove it and .*manifest\.json") as e:
        Calibration.load(path)
    assert str(path) in str(e.value)


# --- rounds ---

ROUND = {
    "name": "00-001",
    "level": 0,
    "budget": {"rows": 9, "tokens": None},
    "bonus": 0,
    "rows": 9,
    "tokens": 90,
    "f": 7,
    "files": ["sums.npz", "depths-00000.npz"],
    "left": [],
    "waves": 1,
    "rounds": 1,
    "started": 0,
    "bound": None,
}


def stored(folder):
    """A checkpoint with one round: (its folder, what it has)."""
    checkpoint = Checkpoint(folder, "about")
    at = checkpoint._folder
    write_json(at / "state.json", [ROUND])
    for name in ROUND["files"]:
        write_npz(at / ROUND["name"] / name, values=np.arange(50))
    assert Checkpoint(folder, "about")._stored == [ROUND]
    return at


@pytest.mark.parametrize("damage", ["gone", *TORN])
@pytest.mark.parametrize("name", ["state.json", "00-001/sums.npz", "00-001/depths-00000.npz"])
def test_a_torn_round_does_not_count(tmp_path, caplog, name, damage):
    path = stored(tmp_path) / name
    path.unlink() if damage == "gone" else damage_file(path, TORN[damage])
    assert Checkpoint(tmp_path, "about")._stored == []
    assert (path.name in caplog.text) == ((name, damage) != ("state.json", "gone"))


@pytest.mark.parametrize("damage", FOREIGN | STRANGE)
def test_a_foreign_round_does_not_count(tmp_path, damage):
    path = stored(tmp_path) / "state.json"
    write_json(path, ROUND)
    damage_file(path, (FOREIGN | STRANGE)[damage])
    path.write_bytes(b"[" + path.read_bytes() + b"]")
    assert Checkpoint(tmp_path, "about")._stored == []
