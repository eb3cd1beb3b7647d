"""The report's figures as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CORE, POOL, RANDOM = "#0f766e", "#cbd5e1", "#b45309"
_INK = "#334155"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "svg.fonttype": "none",
    "svg.hashsalt": "mads_ray",
}


def coverage_chart(curve: dict[str, Any], kind: str) -> str:
    """Plot f (`kind` is "f") or the share of neurons activated ("neurons") against the budget."""
    prefix, core = ("neurons_", "neurons_core") if kind == "neurons" else ("", "core")
    scale = 100.0 if kind == "neurons" else 100.0 / (curve["core"][-1] or 1.0)
    names = (core, f"{prefix}random_mean", f"{prefix}random_low", f"{prefix}random_high")
    y, mean, low, high = ([v * scale for v in curve[n]] for n in names)

    def draw(ax: Axes) -> None:
        x = curve["sizes"]
        ax.fill_between(x, low, high, color=RANDOM, alpha=0.2, linewidth=0)
        ax.plot(x, mean, color=RANDOM, label="random (mean and range of the draws)")
        ax.plot(x, y, color=CORE, linewidth=2, marker="o", markersize=3.5, label="core set")
        ax.set_xlabel("examples in the core set")
        ax.set_ylabel("neurons activated, %" if kind == "neurons" else "f, % of the core set's")
        ax.set_xlim(left=0)
        ax.legend(frameon=False, loc="lower right")

    return _svg(draw, f"coverage-{kind}", (5.6, 3.4))


def length_chart(lengths: dict[str, Any]) -> str:
    """Plot the share of examples by length in tokens, in the pool and in the core set."""
    edges = lengths["edges"]
    used = [i for i, n in enumerate(lengths["pool"]) if n]
    first, last = used[0], used[-1] + 1
    names = [_bin_name(edges[i], edges[i + 1]) for i in range(first, last)]

    def share(counts: list[int]) -> list[float]:
        return [100 * n / max(1, sum(counts)) for n in counts[first:last]]

    def draw(ax: Axes) -> None:
        at = range(len(names))
        pool, core = share(lengths["pool"]), share(lengths["core"])
        ax.bar([i - 0.2 for i in at], pool, 0.4, color=POOL, label="all examples")
        ax.bar([i + 0.2 for i in at], core, 0.4, color=CORE, label="core set")
        ax.set_xticks(list(at), names, rotation=45, ha="right")
        ax.set_xlabel("tokens")
        ax.set_ylabel("% of rows")
        ax.grid(False, axis="x")
        ax.legend(frameon=False)

    return _svg(draw, "lengths", (5.6, 3.4))


def _bin_name(low: int, high: int) -> str:
    return f"{low:,}+" if high >= 2**31 else f"{low:,}-{high - 1:,}"


def _svg(draw: Callable[[Axes], None], name: str, size: tuple[float, float]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Ids count for the whole HTML page, so each figure gets ids of its own.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="chart" role="img"', svg, count=1)
