"""How variants look in a figure, the same in all of them; scatter plots whose points are numbered.

A likelihood class has one colour and one marker, open where β_eff is not 1; the number is the variant's place
in the experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from bench.report.results import Results, Variant

# Okabe & Ito 2008, without black; the order keeps neighbours apart under every kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
WIDTH, DPI = 8.0, 150  # inches, 1200 pixels
Bars = tuple[float, float]  # how far an interval reaches below and above
Point = tuple[int, Variant, float, float, Bars, Bars]  # number, variant, x, y and their intervals


def scatter(
    results: Results, points: Sequence[Point], *, log_x: bool = False, log_y: bool = False
) -> tuple[Figure, Any]:
    """Points with intervals and numbers, the names of the numbers beside them."""
    figure = Figure(figsize=(WIDTH, max(4.2, 0.9 + 0.145 * len(points))), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.11, 0.56, 0.83))
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if log:
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())
    intervals(axes, results, points, size=4.5)
    axes.margins(0.07)
    _place_numbers(axes, [(str(i), x, y, look(results, v)[0]) for i, v, x, y, _, _ in points])
    top = 0.94
    step = 0.145 / figure.get_figheight()
    for row, (i, variant, *_) in enumerate(points):
        y = top - (row + 0.5) * step
        figure.add_artist(Line2D([0.672], [y], ls="", **_mark(results, variant, 4)))
        figure.text(0.685, y, f"{i}  {short_name(variant)}", fontsize=6.5, va="center_baseline")
    class_legend(figure, results, [v for _, v, *_ in points])
    return figure, axes


def _place_numbers(axes: Any, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Number each point beside it; numbers push each other and the points away, a thin line leads back."""
    axes.autoscale_view()
    anchors = np.array([axes.transData.transform((x, y)) for _, x, y, _ in labels])
    aside = np.where(np.argsort(np.argsort(anchors[:, 0])) % 2, -1.0, 1.0)  # above and below in turn
    places = anchors + np.stack([np.linspace(6, 7, len(anchors)), 8 * aside], 1)  # pixels
    for _ in range(120):
        move = 0.08 * (anchors - places)
        move += _push(places, places, 15.0) + _push(places, anchors, 18.0)
        places += np.clip(move, -4, 4)
    for (shown, x, y, colour), place in zip(labels, places, strict=True):
        offset = (place - axes.transData.transform((x, y))) * 72 / DPI
        lead = {"arrowstyle": "-", "color": colour, "lw": 0.4, "shrinkA": 0, "shrinkB": 0}
        far = float(np.hypot(*offset)) > 9
        axes.annotate(
            shown, (x, y), offset, textcoords="offset points", fontsize=6.5, ha="center", va="center",
            arrowprops=lead if far else None,
        )  # fmt: skip


def _push(places: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """How far each place is moved away from the others that are nearer than `reach` pixels."""
    apart = places[:, None, :] - others[None, :, :]
    distance = np.hypot(apart[..., 0], apart[..., 1])
    strength = np.where((distance < reach) & (distance > 1e-9), (reach - distance) / 2, 0.0)
    return np.asarray((apart / np.maximum(distance, 1e-9)[..., None] * strength[..., None]).sum(1))


def intervals(axes: Any, results: Results, points: Sequence[Point], size: float) -> None:
    """Points with their intervals, all that look alike in one go."""
    alike: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        alike.setdefault(tuple(_mark(results, point[1], size).items()), []).append(point)
    for mark, group in alike.items():
        x, y, dx, dy = zip(*(point[2:] for point in group), strict=True)
        bars = [np.transpose(d) if np.any(d) else None for d in (dx, dy)]  # below and above
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], ls="", elinewidth=0.9, capsize=1.5, **dict(mark))


def _mark(results: Results, variant: Variant, size: float) -> dict[str, Any]:
    """A variant's mark: colour and shape by likelihood class, filled at β_eff = 1."""
    colour, marker = look(results, variant)
    plain = variant.beta_eff is None or abs(variant.beta_eff - 1) < 1e-9
    return {"color": colour, "marker": marker, "ms": size, "mew": 0.8, "mfc": colour if plain else "white"}


def class_legend(figure: Figure, results: Results, variants: Sequence[Variant]) -> None:
    """The legend of likelihood classes, along the top."""
    shown = {v.likelihood_class for v in variants}
    handles = []
    for kind in dict.fromkeys(v.likelihood_class for v in results.variants if v.likelihood_class in shown):
        colour, marker = class_look(results, kind)
        handles.append(
            Line2D([], [], color=colour, marker=marker, ms=4.5, ls="", label=kind or "not recorded")
        )
    if any(_mark(results, v, 4)["mfc"] == "white" for v in variants):
        handles.append(
            Line2D([], [], color="#555555", marker="o", mfc="white", ms=4.5, ls="", label="open: β_eff ≠ 1")
        )
    figure.legend(handles=handles, loc="upper left", ncols=5, frameon=False, fontsize=7, handletextpad=0.2)


def look(results: Results, variant: Variant) -> tuple[str, str]:
    """Colour and marker of a variant."""
    return class_look(results, variant.likelihood_class)


def class_look(results: Results, kind: str) -> tuple[str, str]:
    """Colour and marker of a likelihood class."""
    place = list(dict.fromkeys(v.likelihood_class for v in results.variants if v.finished)).index(kind)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def short_name(variant: Variant) -> str:
    """A variant's name, cut where it would run out of the figure."""
    name = variant.title
    return name if len(name) <= 44 else f"{name[:43]}…"
