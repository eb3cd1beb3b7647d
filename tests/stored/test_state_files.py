"""States are what capture wrote, or their file is named: nothing that passes leaves an array."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import FOREIGN, STRANGE, TORN, damage_file
from selections import LAYERS, PER_LAYER, SKETCH, WIDTH, config_of, make_run

from mads_ray import select
from mads_ray.capture.calibration import Calibration
from mads_ray.errors import DamagedFileError
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates, fixed_list, read_matrix
from mads_ray.storage import read_json, write_parquet

ALL = ["uid", "row_id", "n_tokens", "neurons", "sketch"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), 60, 3, raw=True)


@pytest.fixture
def captured(pristine, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(pristine.root, folder.root)
    return folder


def read_all(folder, columns=ALL):
    return [s.read(columns) for s in CapturedStates.open(folder).shards]


def rewrite(folder, change, shard=1):
    """Write a shard's states again, with what `change` makes of its table."""
    path = folder.state_file(shard)
    write_parquet(path, change(pq.read_table(path)))
    return path


def with_column(name, change):
    def changed(table):
        values = change(read_matrix(table, name).copy())
        at = table.schema.get_field_index(name)
        column = fixed_list(values)
        return table.set_column(at, pa.field(name, column.type), column)

    return changed


def setting(row, slot, value):
    def change(matrix):
        matrix[row, slot] = value
        return matrix

    return change


def test_what_capture_wrote_passes(captured):
    assert [t.num_rows for t in read_all(captured, [*ALL, "raw_neurons"])] == [20, 20, 20]


WRONG = {
    "beyond the width": (with_column("neurons", setting(3, -1, WIDTH)), f"a neuron {WIDTH} in neu"),
    "far beyond": (with_column("neurons", setting(0, PER_LAYER - 1, 65535)), "a neuron 65535"),
    "raw beyond the width": (with_column("raw_neurons", setting(3, -1, 999)), "999 in raw_neurons"),
    "a neuron twice": (
        with_column("neurons", lambda m: np.where(np.arange(m.shape[1]) == 1, m[:, :1], m)),
        "do not ascend",
    ),
    "layers reversed": (with_column("neurons", lambda m: m[:, ::-1]), "do not ascend"),
    "fewer neurons": (with_column("neurons", lambda m: m[:, :-PER_LAYER]), "by the manifest it is"),
    "wider neurons": (with_column("neurons", lambda m: m.astype(np.uint32)), "by the manifest it"),
    "a shorter sketch": (with_column("sketch", lambda m: m[:, 1:]), "by the manifest it is"),
    "a NaN": (with_column("sketch", setting(5, 0, np.nan)), "a sketch that is not finite"),
    "an infinity": (with_column("sketch", setting(5, 9, -np.inf)), "a sketch that is not finite"),
    "no sketches": (lambda t: t.drop_columns(["sketch"]), "sketch"),
    "a row less": (lambda t: t.slice(1), "holds 19 rows, its marker says 20"),
    "a row twice": (lambda t: pa.concat_tables([t.slice(0, 19), t.slice(18, 1)]), "other examples"),
    "rows reversed": (lambda t: t.take(list(range(19, -1, -1))), "another order"),
    "two rows exchanged": (lambda t: t.take([1, 0, *range(2, 20)]), "another order"),
    "a null": (
        lambda t: t.set_column(
            t.schema.get_field_index("n_tokens"), "n_tokens", pa.array([None] * 20, pa.int32())
        ),
        "no value in some row of n_tokens",
    ),
    "no uid": (
        lambda t: t.set_column(0, "uid", pa.array(["x" * 32] * 20)),
        "a uid that is none",
    ),
    "a short uid": (
        lambda t: t.set_column(0, "uid", pa.array(["ab"] * 20)),
        "a uid that is none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_states_are_named_with_the_remedy(captured, name):
    change, told = WRONG[name]
    path = captured.state_file(1)
    table = change(pq.read_table(path))
    write_parquet(path, table)
    marker = read_json(captured.state_marker(1))
    ledger = captured.load_ledger()
    columns = [*ALL, "raw_neurons"]
    if table.num_rows == marker["captured"]:
        with pytest.raises(DamagedFileError, match=told) as e:
            read_all(captured, columns)
        assert str(path) in str(e.value)
        assert f"remove {captured.state_marker(1)}".lower() in str(e.value).lower()
    else:  # the marker does not fit its file: capture makes the shard again
        assert [r.shard for r in captured.state_records(ledger.shards, "synthetic")] == [0, 2]


def test_a_file_that_shrinks_after_the_states_were_opened_is_named(captured):
    states = CapturedStates.open(captured)
    rewrite(captured, lambda t: t.slice(1))
    with pytest.raises(DamagedFileError, match="holds 19 rows, its marker says 20"):
        states.shards[1].read(["sketch"])


@pytest.mark.parametrize("swap", ["swapped", "copied"])
def test_states_of_another_shard_are_noticed(captured, swap):
    first, second = captured.state_file(0), captured.state_file(1)
    data = first.read_bytes()
    if swap == "swapped":
        first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(DamagedFileError, match="holds other examples than the marker"):
        read_all(captured)


@pytest.mark.parametrize("column", ["uid", "neurons", "sketch", "n_tokens"])
def test_a_flipped_bit_is_found(captured, column):
    """In the pages of each column: nothing else tells that a sketch was another."""
    path = captured.state_file(1)
    chunk = pq.ParquetFile(path).metadata.row_group(0)
    of = next(
        c
        for c in (chunk.column(i) for i in range(chunk.num_columns))
        if c.path_in_schema.split(".")[0] == column
    )
    start = of.dictionary_page_offset or of.data_page_offset
    for at in (start + of.total_compressed_size - 1, start + of.total_compressed_size // 2):
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match=path.name):
            read_all(captured)


def test_random_flips_are_found_or_change_nothing(captured):
    path = captured.state_file(1)
    before = [t.to_pydict() for t in read_all(captured)]
    data, rng, found = path.read_bytes(), np.random.default_rng(5), 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        states = CapturedStates(  # as at the start of a stage, before the bit flipped
            captured, captured.load_ledger(), *_opened(captured)
        )
        try:
            after = [s.read(ALL).to_pydict() for s in states.shards]
        except DamagedFileError:
            found += 1
        else:
            assert after == before
    assert found > 40


def _opened(folder):
    from mads_ray.ledger import StateRecord
    from mads_ray.states import StatesManifest
    from mads_ray.stored.records import read_marker

    records = tuple(read_marker(folder.state_marker(s), StateRecord) for s in range(3))
    return StatesManifest.load(folder.manifest), records


# --- the manifest against the states ---


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": WIDTH // 2}, "a neuron .* in neurons"),
        ({"layers": LAYERS - 1}, "by the manifest it is"),
        ({"neurons_per_layer": PER_LAYER * 4}, "by the manifest it is"),
        ({"layers": LAYERS // 2, "neurons_per_layer": PER_LAYER * 2}, "do not ascend"),
        ({"sketch_dim": SKETCH * 2}, "by the manifest it is"),
        ({"width": 0}, "has 8 active neurons of 0"),
        ({"neurons_per_layer": WIDTH + 1}, "has 129 active neurons of 128"),
    ],
)
def test_a_manifest_of_other_sizes_is_refused(captured, in_process, tmp_path, change, told):
    captured.manifest.write_text(json.dumps(read_json(captured.manifest) | change))
    with pytest.raises(DamagedFileError, match=told):
        select(config_of(tmp_path / "out", size=6), captured.root)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"layers": 2 * LAYERS, "neurons_per_layer": PER_LAYER // 2}, "4 layers of 128"),
        ({"width": WIDTH * 2}, "4 layers of 128"),
        ({"neurons_per_layer": PER_LAYER + 1}, "8 active neurons in each"),
        ({"sketch_dim": SKETCH + 1}, "sketches of 32"),
    ],
)
def test_a_manifest_must_fit_its_calibration(captured, change, told):
    """Twice as many layers with half as many neurons each have the same columns."""
    projection_DS = np.zeros((LAYERS * WIDTH, SKETCH), np.float32)
    mean_LF, centre_S = np.zeros((LAYERS, WIDTH), np.float32), np.zeros(SKETCH, np.float32)
    Calibration(mean_LF, mean_LF, projection_DS, centre_S, PER_LAYER, 9).save(captured.calibration)
    captured.manifest.write_text(json.dumps(read_json(captured.manifest) | change))
    if told is None:
        assert CapturedStates.open(captured).examples == 60
        return
    with pytest.raises(DamagedFileError, match=told) as e:
        CapturedStates.open(captured)
    assert str(captured.manifest) in str(e.value)


@pytest.mark.parametrize("damage", TORN | FOREIGN | STRANGE)
@pytest.mark.parametrize("name", ["states/manifest.json", "corpus/ledger.json"])
def test_a_torn_manifest_or_ledger_is_named(captured, in_process, tmp_path, name, damage):
    path = captured.root / name
    damage_file(path, (TORN | FOREIGN | STRANGE)[damage])
    with pytest.raises(DamagedFileError, match=r"[Rr]emove it and run the command that") as e:
        select(config_of(tmp_path / "out", size=6), captured.root)
    assert str(path) in str(e.value)
    assert len(str(e.value)) < 600
