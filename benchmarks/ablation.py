"""What the default state rests on: one setting changed at a time, tasks reached by the core set.

From activations kept in full (dense.py: one forward pass a pool), everything after it again for
every variant: standardise, top k of each layer, sketch, tree, lazy greedy at 5 and 15%. Tasks are
labels that the selection never sees; means over seeds of k-means and ties. Variants of the
selection alone (weights, levels, share) are in defaults.py too.

  python benchmarks/ablation.py --runs RUN... --work DIR [--seeds 6] [--store NAME]

DIR needs 1.3 MB a row. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.capture.calibration import Calibration
from mads_ray.hashing import uid_words
from mads_ray.states import StatesManifest

sys.path.insert(0, str(Path(__file__).parent))
from balance_peers import random
from captured_pools import Pool, figures, sketches_of
from core_sets import Variant, core_set
from dense import Dense, dense_of
from results import store

DRAWS = 200
THIRDS = {"first third": 0, "middle third": 1, "last third": 2}


@dataclass(frozen=True)
class State:
    """How activations become states; `layers` names some of them."""

    tokens: str = "all"
    pooling: str = "max"
    per_layer: int = 64
    layers: str = "all"
    standardise: str = "mean and std"


@dataclass(frozen=True)
class Selection:
    """What is done with states."""

    curve: str = "sqrt"
    sketch: str = "root-256"
    levels: tuple[int, ...] | None = None
    share: float = 2.0


STATES: tuple[tuple[str, State], ...] = (
    ("default", State()),
    *((f"{k} a layer", State(per_layer=k)) for k in (8, 16, 32, 128, 256)),
    ("mean of tokens", State(pooling="mean")),
    ("prompt", State(tokens="prompt")),
    ("prompt, mean", State(tokens="prompt", pooling="mean")),
    ("response", State(tokens="response")),
    ("response, mean", State(tokens="response", pooling="mean")),
    ("last token", State(tokens="last")),
    *((name, State(layers=name)) for name in THIRDS),
    ("every third layer", State(layers="every third")),
    ("every third layer, 192", State(layers="every third", per_layer=192)),
    ("raw", State(standardise="no")),
    ("less the mean only", State(standardise="mean")),
    ("by the std only", State(standardise="std")),
)
SELECTIONS: tuple[tuple[str, Selection], ...] = (
    *((f"phi = {c}", Selection(curve=c)) for c in ("log1p", "cap:4", "union")),
    *((f"sketch {s}", Selection(sketch=f"root-{s}")) for s in (32, 64, 128, 512)),
    *((f"sketch unit {s}", Selection(sketch=f"unit-{s}")) for s in (32, 64, 128, 256, 512)),
    ("no tree", Selection(share=0.0)),
    ("one level of 64", Selection(levels=(64,))),
    ("one level of 256", Selection(levels=(256,))),
    ("tree alone", Selection(share=1000.0)),  # neurons decide ties
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", nargs="+", required=True, help="captured folders with labels")
    parser.add_argument("--work", required=True, help="folder for activations")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    started = time.time()
    result: dict[str, Any] = {"benchmark": "ablation", "seeds": args.seeds, "pools": {}}
    runs = {(r.parent if r.name == "run" else r).name: r for r in map(Path, args.runs)}
    assert len(runs) == len(args.runs), "two of the runs have the same name"
    for name, run in runs.items():
        dense = dense_of(run, Path(args.work) / name)
        manifest = StatesManifest.load(run / "states" / "manifest.json")
        result["pools"][name] = found = ablate(dense, manifest, args.seeds)
        print(name, {k: v for k, v in found.items() if k != "variants"})
    result["seconds"] = round(time.time() - started)
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def ablate(dense: Dense, manifest: StatesManifest, seeds: int) -> dict[str, Any]:
    variants: dict[str, Any] = {}

    def add(name: str, pool: Pool, selection: Selection) -> None:
        # Of balance 0, as the stored result is.
        variant = Variant(balance=0, **dataclasses.asdict(selection))
        picks = [core_set(pool, variant, seed) for seed in range(seeds)]
        row = figures([[pool.reached(p[:size]) for size in pool.sizes] for p in picks])
        variants[name] = row
        print(f"  {name:24} tasks {row['tasks']} (± {row['error']}), tokens {row['tokens']}")
        sys.stdout.flush()

    default = pool_of(dense, manifest, State(), (32, 64, 128, 256, 512))
    draws = [[default.reached(random(default, k, i)) for k in default.sizes] for i in range(DRAWS)]
    found = {
        "rows": len(dense.uids),
        "tasks": len(set(dense.label_N)),
        "random": figures(draws)["tasks"],
        "variants": variants,
    }
    for name, state in STATES:
        pool = default if state == State() else pool_of(dense, manifest, state, (256,))
        add(name, pool, Selection())
    for name, selection in SELECTIONS:
        add(name, default, selection)
    return found


def pool_of(dense: Dense, manifest: StatesManifest, state: State, sizes: tuple[int, ...]) -> Pool:
    kept = layers_of(state.layers, dense.layers)
    neurons_NA = neurons_of(dense, state, kept)
    manifest = dataclasses.replace(
        manifest, layers=len(kept), width=dense.width, neurons_per_layer=state.per_layer
    )
    return Pool(
        "",
        manifest,
        dense.label_N,
        dense.tokens_N,
        np.stack(uid_words(dense.uids), axis=1),
        neurons_NA,
        sketches_of(neurons_NA, manifest.width, manifest.layers, sizes),
    )


def layers_of(name: str, layers: int) -> list[int]:
    if name in THIRDS:
        start = THIRDS[name] * (layers // 3)
        return list(range(start, start + layers // 3))
    return list(range(0, layers, 3 if name == "every third" else 1))


def neurons_of(dense: Dense, state: State, kept: list[int]) -> npt.NDArray[np.uint16]:
    """The k neurons of every layer that stand out, (N, layers x k); calibrated on the pool."""
    acts_NLF = dense.acts[state.tokens, state.pooling].reshape(-1, dense.layers, dense.width)
    found = []
    for layer in kept:
        acts_NF = np.ascontiguousarray(acts_NLF[:, layer])
        mean_F = acts_NF.mean(0, dtype=np.float64).astype(np.float32)
        std_F = acts_NF.std(0, dtype=np.float64).astype(np.float32)
        none = np.zeros((1, 0), np.float32)
        scale_F = Calibration(mean_F[None], std_F[None], none, none[0], 0, 0).scale_LF()[0]
        z_NF = acts_NF
        if "mean" in state.standardise:
            z_NF = z_NF - mean_F
        if "std" in state.standardise:
            z_NF = np.where(scale_F > 0, z_NF * scale_F, -np.inf)
        top_Nk = np.argpartition(-z_NF, state.per_layer - 1, axis=1)[:, : state.per_layer]
        found.append(np.sort(top_Nk, axis=1).astype(np.uint16))
    return np.concatenate(found, axis=1)


if __name__ == "__main__":
    main()
