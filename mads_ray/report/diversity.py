"""The table of an evaluation (evaluation.json), for the terminal and for the report."""

from __future__ import annotations

from typing import Any

from mads_ray.printable import one_line


def table(found: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of the columns (the pool, then the core sets), and lines of a title and its cells."""
    columns = {"pool": found["pool"], **found["core_sets"]}
    sets = list(columns.values())
    rows = [
        ("rows", [f"{s['rows']:,}" for s in sets]),
        ("tokens a row", [f"{s['mean_tokens']:,.0f}" for s in sets]),
        ("neurons activated", [f"{s['neuron_coverage']:.2%}" for s in sets]),
    ]
    if any("target_neuron_coverage" in s for s in sets):
        cells = [f"{s['target_neuron_coverage']:.2%}" for s in sets]
        rows.append(("of the target's neurons", cells))
    measured = [f"{s['sample_rows']:,}" if "sample_rows" in s else "" for s in sets]
    rows.append((f"{found['vectors']} vectors measured", measured))
    for name, title, digits in (
        ("novelsum_0", "NovelSum, beta 0", 4),
        ("novelsum_05", "NovelSum, beta 0.5", 4),
        ("novelsum_05_released", "NovelSum, beta 0.5, as released", 4),
        ("facility_location", "facility location", 4),
        ("logdet", "log-determinant", 1),
        ("vendi", "Vendi score", 2),
    ):
        rows.append((title, [f"{s[name]:.{digits}f}" if name in s else "" for s in sets]))
    for level, pool in enumerate(found["pool"].get("partition_entropy", ())):
        title = f"entropy over {pool['categories']} clusters"
        rows.append((title, [_spread(s["partition_entropy"][level]) for s in sets]))
    for name, title in (("label_entropy", "tasks"), ("source_entropy", "files")):
        if found["pool"].get(name, {"categories": 0})["categories"] > 1:
            title = f"entropy over {found['pool'][name]['categories']} {title}"
            rows.append((title, [_spread(s[name]) for s in sets]))
    for name, title in (("overlap_random", "random"), ("overlap_longest", "longest")):
        rows.append((f"in {title} (by chance)", [_overlap(s.get(name)) for s in sets]))
    return list(columns), rows


def text(found: dict[str, Any]) -> str:
    """The table in plain text, with the note."""
    names, rows = table(found)
    lines = [["", *map(one_line, names)], *([title, *cells] for title, cells in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
        for first, *rest in lines
    ]
    return "\n".join([*shown, "", note(found)])


def note(found: dict[str, Any]) -> str:
    """Say in a sentence or two how the figures were made."""
    said = (
        "Entropy: nats, in brackets of what the pool allows, then categories reached. NovelSum, "
        "facility location, log-determinant and Vendi score are of cosines of the "
        f"{found['vectors']} vectors; density and facility location against "
        f"{found['pool_sample_rows']:,} of {found['pool']['rows']:,} pool rows."
    )
    sampled = [name for name, s in found["core_sets"].items() if s["sampled"]]
    if sampled:
        said += f" Only {found['sample']:,} rows were measured of: {', '.join(sampled)}."
    return said


def _spread(of: dict[str, Any]) -> str:
    share = "" if of["normalised"] is None else f" ({of['normalised']:.2f})"
    return f"{of['entropy']:.2f}{share} {of['reached']}"


def _overlap(of: dict[str, Any] | None) -> str:
    return "" if of is None else f"{of['share']:.1%} ({of['expected_share']:.1%})"
