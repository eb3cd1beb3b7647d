"""A finished core set that is no longer whole is made again; a base is used only as it was."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import FOREIGN, TORN, damage_file
from selections import config_of, make_run

from mads_ray import FinishedRun, evaluate, explain, rerender, select
from mads_ray.errors import DamagedFileError, IncompleteError, MadsRayError, MismatchError
from mads_ray.ledger import StateRecord
from mads_ray.run_folder import RunFolder
from mads_ray.storage import read_json, write_json, write_parquet

pytestmark = pytest.mark.usefixtures("in_process_module")


@pytest.fixture(scope="module")
def made(tmp_path_factory, in_process_module):
    """The states of 80 rows, and a core set of 20: parts, selection, report."""
    root = tmp_path_factory.mktemp("made")
    make_run(root / "states", 80, 3)
    select(config_of(root / "out", size=20), root / "states")
    return root


@pytest.fixture
def copied(made, tmp_path):
    """(config, states, output) of a copy."""
    shutil.copytree(made / "out", tmp_path / "out")
    shutil.copytree(made / "states", tmp_path / "states")
    for path in (tmp_path / "out" / "run.json",):
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return config_of(tmp_path / "out", size=20), tmp_path / "states", RunFolder(tmp_path / "out")


def content(output):
    """What must come back: core set, ranks and arrays."""
    found = {p.name: p.read_bytes() for p in output.core_set.iterdir()}
    found |= {p.name: p.read_bytes() for p in output.selection.glob("*.np*")}
    return found | {p.name: pq.read_table(p) for p in output.selection.glob("*.parquet")}


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_whole_core_set_is_there_already(copied, caplog):
    config, states, output = copied
    before = {p: p.stat().st_mtime_ns for p in output.root.rglob("*") if p.name != "log.jsonl"}
    caplog.set_level("INFO")
    select(config, states)
    assert "holds this core set already" in caplog.text
    changed = {p for p, at in before.items() if p.stat().st_mtime_ns != at}
    assert changed <= {output.root, output.root / ".mads_ray.lock"}


PARTS = [
    "core_set",
    "core_set/part-00000.jsonl",
    "selection",
    "selection/part-00001.parquet",
    "selection/cluster_tree.npz",
]


@pytest.mark.parametrize("name", PARTS)
def test_what_is_gone_is_made_again_and_said(copied, caplog, name):
    config, states, output = copied
    before = content(output)
    remove(output.root / name)
    select(config, states)
    assert content(output) == before
    assert f"first {name.split('/')[0]}/" in caplog.text
    assert "selecting again" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "cut", "one byte short", "zeros"])
@pytest.mark.parametrize("name", [p for p in PARTS if "." in p])
def test_what_is_torn_is_made_again(copied, name, damage):
    config, states, output = copied
    before = content(output)
    damage_file(output.root / name, TORN[damage])
    select(config, states)
    assert content(output) == before


def test_a_changed_row_of_the_core_set_is_noticed(copied):
    config, states, output = copied
    before, path = content(output), output.core_set / "part-00000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Question", b"Quastion", 1))
    select(config, states)
    assert content(output) == before


@pytest.mark.parametrize("gone", ["report.html", "report.json", "both", "torn"])
def test_the_report_is_made_again(copied, caplog, gone):
    config, states, output = copied
    for name in ("report.html", "report.json"):
        if gone in (name, "both"):
            (output.root / name).unlink()
    if gone == "torn":
        damage_file(output.report_html, TORN["cut"])
    select(config, states)
    html = output.report_html.read_text()
    assert html.rstrip().endswith("</html>")
    assert ("making it again" in caplog.text) == (gone != "report.json")
    assert output.report_data.exists() or gone == "report.json"
    rerender(output.root) if gone != "report.json" else None


def test_a_core_set_of_before_files_were_noted(copied):
    config, states, output = copied
    summary = read_json(output.run_json)
    del summary["made"], summary["selected_checksum"]
    write_json(output.run_json, summary)
    select(config, states)
    assert "made" not in read_json(output.run_json)  # it was there already
    before = content(output)
    remove(output.core_set)
    select(config, states)
    assert content(output) == before
    assert read_json(output.run_json)["made"]


@pytest.mark.parametrize("damage", TORN | FOREIGN)
def test_a_torn_run_json_is_named_by_every_verb(copied, damage):
    config, states, output = copied
    damage_file(output.run_json, (TORN | FOREIGN)[damage])
    if damage == "a key less":  # one that says nothing of the core set
        damage_file(output.run_json, lambda data: json.dumps({"finished": "today"}).encode())
    uid = "0" * 32
    on_top = config.model_copy(
        update={
            "output": str(output.root.parent / "more"),
            "selection": config.selection.model_copy(update={"base_core_set": str(output.root)}),
        }
    )
    for verb in (
        lambda: select(config, states),
        lambda: select(on_top, states),
        lambda: explain(output.root, uid),
        lambda: evaluate(output.root),
        lambda: rerender(output.root),
    ):
        with pytest.raises(DamagedFileError, match="Remove it and run the command that") as e:
            verb()
        assert str(output.run_json) in str(e.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros"])
@pytest.mark.parametrize("name", PARTS[3:])
def test_what_explain_and_evaluate_read_is_named_when_torn(copied, name, damage):
    output = copied[2]
    uid = next(FinishedRun.open(output.root).result().rows())["_mads"]["uid"]
    damage_file(output.root / name, TORN[damage])
    for verb in (lambda: explain(output.root, uid), lambda: evaluate(output.root)):
        with pytest.raises(MadsRayError) as e:
            verb()
        assert name in str(e.value)
        assert "with the same --output" in str(e.value)


def test_states_that_were_moved_are_named_by_their_old_place(copied):
    _, states, output = copied
    states.rename(states.with_name("moved"))
    for verb in (lambda: evaluate(output.root), lambda: explain(output.root, "0" * 32)):
        with pytest.raises(IncompleteError, match=f"{states} holds no complete corpus"):
            verb()


# --- base core sets ---


def change_table(path, change):
    write_parquet(path, change(pq.read_table(path)))


def shifted(table):
    """Ranks a row further down."""
    ranks = table.column("rank").to_pylist()
    at = table.schema.get_field_index("rank")
    column = pa.array([ranks[-1], *ranks[:-1]], pa.int64())
    return table.set_column(at, table.schema.field("rank"), column)


BASES = {
    "reversed": lambda t: t.take(list(range(t.num_rows - 1, -1, -1))),
    "shifted": shifted,
    "shorter": lambda t: t.slice(1),
    "no ranks": lambda t: t.set_column(
        t.schema.get_field_index("rank"), "rank", pa.nulls(t.num_rows, pa.int64())
    ),
}


@pytest.mark.parametrize("balance", [0, 1])
@pytest.mark.parametrize("name", BASES)
def test_a_base_with_another_selection_is_refused(copied, tmp_path, name, balance):
    _, states, output = copied
    change_table(output.selection_file(1), BASES[name])
    extending = config_of(
        tmp_path / "more", size=5, base_core_set=str(output.root), balance=balance
    )
    with pytest.raises(DamagedFileError, match="selection") as e:
        select(extending, states)
    assert "run the command that selected again" in str(e.value).lower()
    assert not (tmp_path / "more" / "core_set").exists()
    with pytest.raises(DamagedFileError, match="selection"):
        evaluate(output.root)


def test_a_base_whose_states_were_captured_again_with_a_row_less_is_refused(copied, tmp_path):
    """Also where the row that is gone was never picked."""
    _, states, output = copied
    folder, record = RunFolder(states), read_json(RunFolder(states).state_marker(2))
    ranks = pq.read_table(output.selection_file(2)).column("rank").to_pylist()
    row = ranks.index(None)
    table = pq.read_table(folder.state_file(2))
    kept = table.take(np.delete(np.arange(table.num_rows), row))
    write_parquet(folder.state_file(2), kept)
    gone = int(table["uid"][row].as_py()[:16], 16) + int(table["uid"][row].as_py()[16:], 16)
    left = f"{(int(record['captured_checksum'], 16) - gone) % 2**64:016x}"
    new = StateRecord(**record | {"captured": kept.num_rows, "captured_checksum": left})
    write_json(folder.state_marker(2), asdict(new) | {"quarantined": 1})
    extending = config_of(tmp_path / "more", size=5, base_core_set=str(output.root))
    with pytest.raises(MismatchError, match=r"holds other states than .* selected"):
        select(extending, states)


def test_a_whole_base_is_extended(copied, tmp_path):
    _, states, output = copied
    extending = config_of(tmp_path / "more", size=5, base_core_set=str(output.root), balance=1)
    assert select(extending, states).counts.selected == 5
