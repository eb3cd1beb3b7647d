"""The evaluation of a finished run, against loops over all of its rows at once."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selections import LAYERS, PER_LAYER, WIDTH
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.evaluation.evaluate import evaluate
from mads_ray.finished_run import FinishedRun
from mads_ray.hashing import seeded_hash
from mads_ray.report.diversity import table
from mads_ray.report.render import rerender
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, fixed_list, read_matrix
from mads_ray.storage import read_json, write_json, write_npy, write_parquet

N, K = 1200, 120
SEED = 3


@pytest.fixture(scope="module")
def rows(compared, small):
    """Every row as the files have it: selection, label, neurons as (layer, index), sketch."""
    folder = small(4).folder
    found = compared.selection().to_pylist()
    at = {row["uid"]: row for row in found}
    for shard in range(4):
        states = pq.read_table(folder.state_file(shard), columns=["uid", "neurons", "sketch"])
        neurons, sketches = read_matrix(states, "neurons"), read_matrix(states, "sketch")
        for uid, neuron, sketch in zip(states["uid"].to_pylist(), neurons, sketches, strict=True):
            at[uid]["neurons"] = {(i // PER_LAYER, int(n)) for i, n in enumerate(neuron)}
            at[uid]["vector"] = sketch.astype(float) / np.linalg.norm(sketch.astype(float))
        for example in pq.read_table(folder.shard_file(shard)).to_pylist():
            at[example["uid"]]["label"] = example["label"]
    return found


@pytest.fixture(scope="module")
def sets(rows):
    """The rows of the three core sets that every evaluation has."""
    uids = [r["uid"] for r in rows]
    hashes = dict(zip(uids, seeded_hash(uids, SEED, 2**35).tolist(), strict=True))
    by_length = sorted(rows, key=lambda r: (-r["n_tokens"], hashes[r["uid"]] >> 32, r["uid"]))
    return {
        "core_set": [r for r in rows if r["rank"] is not None],
        "random": sorted(rows, key=lambda r: hashes[r["uid"]])[:K],
        "longest": by_length[:K],
    }


@pytest.fixture(scope="module")
def found(compared, tmp_path_factory, sets):
    """The three again by name: what they must be equal to."""
    root, named = tmp_path_factory.mktemp("named"), {}
    for name, chosen in sets.items():
        named[f"my_{name}"] = root / f"{name}.txt"
        named[f"my_{name}"].write_text("\n".join(r["uid"] for r in chosen), encoding="utf-8")
    return evaluate(compared.output, named, seed=SEED)


@pytest.fixture
def mine(compared, small, tmp_path):
    """Copies of the run and of its states, to change."""
    run, states = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "states")
    shutil.copytree(compared.output, run.root)
    shutil.copytree(small(4).folder.root, states.root)
    write_json(run.run_json, read_json(run.run_json) | {"states_from": str(states.root)})
    return run, states


def change_examples(folder, columns):
    """Set columns of every shard: name -> one value a row, from its uid."""
    for shard in range(4):
        table = pq.read_table(folder.shard_file(shard))
        for name, value in columns.items():
            values = pa.array([value(u) for u in table["uid"].to_pylist()])
            table = table.set_column(table.schema.get_field_index(name), name, values)
        write_parquet(folder.shard_file(shard), table)


def nats(counts):
    total = sum(counts.values())
    return -sum(c / total * math.log(c / total) for c in counts.values() if c)


@pytest.mark.parametrize("name", ["core_set", "random", "longest"])
def test_the_sets_are_what_they_are_called(found, sets, name):
    """Named core sets of the very rows have the very figures."""
    assert found["core_sets"][f"my_{name}"] == found["core_sets"][name]
    uids = {n: {r["uid"] for r in chosen} for n, chosen in sets.items()}
    for other in ("random", "longest"):
        overlap = found["core_sets"][name][f"overlap_{other}"]
        assert overlap["rows"] == len(uids[name] & uids[other])
        assert overlap["share"] == len(uids[name] & uids[other]) / K
        assert overlap["expected_share"] == K / N


@pytest.mark.parametrize("name", ["pool", "core_set", "random", "longest"])
def test_what_is_counted(found, rows, sets, small, name):
    of = found["pool"] if name == "pool" else found["core_sets"][name]
    chosen = rows if name == "pool" else sets[name]
    assert of["rows"] == len(chosen)
    assert of["mean_tokens"] == pytest.approx(sum(r["n_tokens"] for r in chosen) / len(chosen))
    covered = set().union(*(r["neurons"] for r in chosen))
    assert of["neuron_coverage"] == pytest.approx(len(covered) / (LAYERS * WIDTH))
    for key, field in (("label_entropy", "label"), ("source_entropy", "source_file")):
        counts, pool = Counter(r[field] for r in chosen), Counter(r[field] for r in rows)
        assert of[key]["reached"] == len(counts)
        assert of[key]["categories"] == len(pool)
        assert of[key]["entropy"] == pytest.approx(nats(counts))
        assert of[key]["normalised"] == pytest.approx(nats(counts) / math.log(len(pool)))
    tree = small(4).ground.tree
    assert len(of["partition_entropy"]) == len(tree.level_sizes)
    for level, spread in enumerate(of["partition_entropy"]):
        counts = Counter(int(tree.paths_CP[r["cluster"], level]) for r in chosen)
        assert (spread["reached"], spread["entropy"]) == (
            len(counts),
            pytest.approx(nats(counts)),
        )
    assert of["partition_entropy"][-1]["categories"] == len({r["cluster"] for r in rows})


@pytest.mark.parametrize("name", ["core_set", "random", "longest"])
def test_what_is_measured(found, rows, sets, name):
    of = found["core_sets"][name]
    assert (of["sampled"], of["sample_rows"], found["pool_sample_rows"]) == (False, K, N)
    mine = np.array([r["vector"] for r in sorted(sets[name], key=lambda r: r["uid"])])
    pool = np.array([r["vector"] for r in rows])
    kernel = mine @ mine.T
    assert of["facility_location"] == pytest.approx((pool @ mine.T).max(1).mean())
    assert of["logdet"] == pytest.approx(np.linalg.slogdet(np.eye(K) + kernel)[1])
    shares = np.linalg.eigvalsh(kernel / K)
    entropy = -sum(p * math.log(p) for p in shares if p > 1e-12)
    assert of["vendi"] == pytest.approx(math.exp(entropy))
    unique = np.unique(pool, axis=0)
    density = []
    for x in mine:
        squares = ((unique - x) ** 2).sum(1)
        density.append(1 / (np.sort(squares[squares > 1e-15])[:10].mean() + 1e-9))
    plain = dense = released = 0.0
    for i in range(K):
        order = sorted((1 - kernel[i, j], j) for j in range(K) if j != i)
        weights = [1 / rank for rank in range(1, K)]
        pairs = list(zip(weights, order, strict=True))
        plain += sum(w * d for w, (d, _) in pairs) / sum(weights)
        dense += sum(w * density[j] ** 0.5 * d for w, (d, j) in pairs) / sum(weights)
        released += density[i] ** 0.5 * sum(w * d for w, (d, _) in pairs) / sum(weights)
    assert of["novelsum_0"] == pytest.approx(plain / K)
    assert of["novelsum_05"] == pytest.approx(dense / K)
    assert of["novelsum_05_released"] == pytest.approx(released / K)


def test_larger_sets_are_sampled_and_say_so(compared, found):
    small_ = evaluate(compared.output, sample=50, seed=SEED)
    assert small_["pool_sample_rows"] == 50
    assert small_ == evaluate(compared.output, sample=50, seed=SEED)
    for name, of in small_["core_sets"].items():
        assert (of["sampled"], of["sample_rows"], of["rows"]) == (True, 50, K)
        assert of["neuron_coverage"] == found["core_sets"][name]["neuron_coverage"]
        assert of["vendi"] < found["core_sets"][name]["vendi"]
    other = evaluate(compared.output, sample=50, seed=SEED + 1)["core_sets"]["core_set"]
    assert other["vendi"] != small_["core_sets"]["core_set"]["vendi"]


def test_other_runs_and_core_set_files(compared, by_random):
    named = {"a": by_random.output, "b": by_random.output / "core_set"}
    of = evaluate(compared.output, named)["core_sets"]
    assert of["a"] == of["b"]
    own = evaluate(by_random.output)["core_sets"]["core_set"]
    assert of["a"] == own


def test_a_target(mine, rows, sets):
    run, _ = mine
    features = LAYERS * WIDTH + FinishedRun.open(run.root).tree.nodes
    counts = np.random.default_rng(0).integers(0, 9, features).astype(np.int32)
    write_npy(run.target_counts, counts)
    of = evaluate(run.root, seed=SEED)
    for name, chosen in (sets | {"pool": rows}).items():
        covered = set().union(*(r["neurons"] for r in chosen))
        wanted = sum(int(counts[layer * WIDTH + n]) for layer, n in covered)
        value = (of["pool"] if name == "pool" else of["core_sets"][name])["target_neuron_coverage"]
        assert value == pytest.approx(wanted / counts[: LAYERS * WIDTH].sum())


def test_hidden_states(mine, found):
    """Here they are the sketches, backwards: the same cosines."""
    run, states = mine
    for shard in range(4):
        table = pq.read_table(states.state_file(shard))
        hidden = fixed_list(np.ascontiguousarray(read_matrix(table, "sketch")[:, ::-1]))
        write_parquet(states.state_file(shard), table.append_column("hidden", hidden))
    manifest = StatesManifest.load(states.manifest)
    replace(manifest, hidden_dim=manifest.sketch_dim).save(states.manifest)
    of = evaluate(run.root, vectors="hidden", seed=SEED)
    assert of["vectors"] == "hidden"
    for name in ("novelsum_0", "novelsum_05", "facility_location", "logdet", "vendi"):
        assert of["core_sets"]["core_set"][name] == pytest.approx(
            found["core_sets"]["core_set"][name]
        )


def test_ids_are_no_labels_and_rows_may_have_none(mine):
    run, states = mine
    change_examples(states, {"label": lambda uid: uid})
    of = evaluate(run.root)
    assert "label_entropy" not in of["pool"] | of["core_sets"]["random"]
    change_examples(states, {"label": lambda uid: "x" if uid < "8" else None})
    assert evaluate(run.root)["pool"]["label_entropy"]["categories"] == 1


def test_what_cannot_be_evaluated(compared, mine, tmp_path):
    run, _ = mine
    strange = tmp_path / "strange.txt"
    strange.write_text("0" * 32, encoding="utf-8")
    for arguments, message in (
        ({"core_sets": {"x": strange}}, "core set x: 1 of its 1 rows have no state"),
        ({"core_sets": {"random": strange}}, "no core set under the name"),
        ({"vectors": "hidden"}, "no hidden states"),
        ({"vectors": "neurons"}, "sketch or hidden"),
        ({"sample": 1}, "sample of 2 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(compared.output, **arguments)
    with pytest.raises(ConfigError, match="holds no finished run"):
        evaluate(tmp_path)
    part = run.selection_file(2)
    selection = pq.read_table(part)
    left_out = next(i for i, rank in enumerate(selection["rank"].to_pylist()) if rank is None)
    kept = [i for i in range(len(selection)) if i != left_out]
    write_parquet(part, selection.take(kept))
    with pytest.raises(MismatchError, match="holds 299 rows, the states 300"):
        evaluate(run.root)


def test_the_command(mine, by_random):
    run, _ = mine
    arguments = ["evaluate", str(run.root), "--core-set", f"r={by_random.output}", "--sample", "99"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    stored = read_json(run.evaluation)
    assert stored == json.loads(json.dumps(evaluate(run.root, {"r": by_random.output}, sample=99)))
    names, lines = table(stored)
    assert names == ["pool", "core_set", "random", "longest", "r"]
    for title, cells in lines:
        line = next(x for x in said.output.splitlines() if x.startswith(title))
        assert line.split() == " ".join([title, *cells]).split()
    assert "Only 99 rows were measured of: core_set, random, longest, r." in said.output
    html = run.report_html.read_text(encoding="utf-8")
    assert "<h2>Diversity</h2>" in html
    assert f"{stored['core_sets']['r']['vendi']:.2f}" in html
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout) == stored
    bad = CliRunner().invoke(app, ["evaluate", str(run.root), "--core-set", "x"])
    assert (bad.exit_code, "expected NAME=VALUE" in bad.output) == (2, True)
    twice = CliRunner().invoke(app, [*arguments, "--core-set", "r=elsewhere"])
    assert (twice.exit_code, "a name of its own" in twice.output) == (2, True)


def test_the_report_shows_no_evaluation_of_an_older_core_set(mine):
    run, _ = mine
    write_json(run.evaluation, evaluate(run.root) | {"run_finished": "before"})
    assert "Diversity" not in rerender(run.root).read_text(encoding="utf-8")
