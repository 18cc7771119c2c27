"""The figures of a report: one question each, names beside what they name, equal bytes for equal results."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from bench.evaluation.metrics import Metric
from bench.report import curves, rate_figure
from bench.report.labels import Label, place
from bench.report.marks import DPI, SMALL, WIDTH, Looks, fit, key
from bench.report.results import Results, Variant, best_first
from bench.report.statistics import Estimate, backward, forward
from bench.report.tables import ARROWS

STYLE = {
    "font.size": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # names are text, whatever they contain
}
SHOWN = ("elbo_bernoulli", "log_px_bernoulli", "frechet_distance")
ROW = 0.19  # inches
ACROSS = 5  # panels


def draw(results: Results) -> dict[str, tuple[str, bytes]]:
    """Draw every figure that the results have data for: file name -> (caption, PNG bytes)."""
    return {file: (FIGURES[file][0], _png(figure)) for file, figure in made(results)}


def made(results: Results) -> Iterator[tuple[str, Figure]]:
    """Make the figures that the results have data for, one at a time, with their file names."""
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold glyphs that the font lacks
        for file, (_, make) in FIGURES.items():
            if figure := make(results):
                yield file, figure


def _forest(results: Results) -> Figure | None:
    metrics = [metric for name in SHOWN if (metric := results.metric(name))]
    variants = [v for v in results.variants if v.finished]
    if not metrics or not variants:
        return None
    looks = Looks(results)
    parts = {"documents:": [v for v in variants if not v.axes], "matrix:": [v for v in variants if v.axes]}
    rows: list[Variant | str] = []  # from the top
    for heading, part in parts.items():
        rows += [*([heading] if all(parts.values()) else []), *best_first(part, metrics[0])]
    names = [v if isinstance(v, str) else fit(v.title, 330) for v in rows]
    height = 0.95 + ROW * len(rows)
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    left = 0.02 + 0.0075 * max(map(len, names))
    figure.subplots_adjust(left=left, right=0.98, bottom=0.26 / height, top=1 - 0.62 / height, wspace=0.16)
    for axes, metric in zip(panels, metrics, strict=True):
        _intervals(axes, looks, metric, rows)
        axes.set_title(f"{fit(metric.title, 250)}{ARROWS[metric.direction]}\n{metric.unit}", fontsize=SMALL)
        _ticks(axes.xaxis, metric)
    panels[0].set_yticks(range(len(rows)), names)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    looks.legend(figure, variants)
    return figure


def _intervals(axes: Any, looks: Looks, metric: Metric, rows: Sequence[Variant | str]) -> None:
    """One metric's means and intervals; what lies far from the others is written at the edge."""
    there = {y: v for y, v in enumerate(rows) if isinstance(v, Variant)}
    known = {y: (v, value) for y, v in there.items() if (value := v.estimate(metric.name))}
    means = [forward(value.mean, metric.scale) for _, value in known.values()]
    low, high = np.percentile(means, (25, 75)) if means else (0.0, 1.0)
    reach = 2 * (high - low) if len(means) > 4 else math.inf
    inside = [m for m in means if low - reach <= m <= high + reach]
    span = max(inside, default=1.0) - min(inside, default=0.0) or 1.0
    sides = (min(inside, default=0.0) - 0.1 * span, max(inside, default=1.0) + 0.1 * span)
    ends = [backward(side, metric.scale) for side in sides]
    for y, (v, value) in known.items():
        if ends[0] < value.mean < ends[1]:
            looks.draw(axes, v, value, y)
            if value.low is not None and value.low < ends[0]:
                axes.plot(ends[0], y, marker="<", ms=4, color=looks.colour(v), clip_on=False)
            if value.high is not None and value.high > ends[1]:
                axes.plot(ends[1], y, marker=">", ms=4, color=looks.colour(v), clip_on=False)
            continue
        right = value.mean > ends[0]
        told = f"{value.mean:.0f} → " if right else f" ← {value.mean:.0f}"
        told = told.replace("-", "−")
        axes.text(1 if right else 0, y, told, transform=axes.get_yaxis_transform(), fontsize=SMALL,
                  color=looks.colour(v), va="center", ha="right" if right else "left")  # fmt: skip
    axes.set_xlim(*ends)


def _drift(results: Results) -> Figure | None:
    looks = Looks(results)
    groups = []
    for group in looks.lines():
        known = ((v, v.beta_eff, v.estimate("aggregate_kl")) for v in group)
        groups.append([(v, Estimate(beta, None, 1), kl) for v, beta, kl in known if beta and kl])
    points = [point for group in groups for point in group]
    if len({beta.mean for _, beta, _ in points}) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 5.6))
    axes = figure.add_axes((0.085, 0.09, 0.905, 0.85))
    axes.set_xscale("log")
    means = [kl.mean for *_, kl in points]
    if min(means) > 0 and max(means) > 30 * min(means):
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            _plain_log(axis)
    axes.margins(0.25, 0.08)
    labels = rate_figure.joined(axes, looks, groups, hollow=True)
    axes.set_xlabel("β_eff: weight on the KL where reconstruction is summed over pixels, in nats")
    axes.set_ylabel("KL(q(z) ‖ p(z)) ↓ (nats)")
    shown = [v for v, *_ in points]
    hollow = key("hollow: an upper bound, I(x; z) saturates", marker="o", mfc="white")
    looks.legend(figure, shown, *([hollow] if any(v.saturated for v in shown) else []))
    place(figure, labels)
    return figure


def _matrix(results: Results) -> Figure | None:
    looks = Looks(results)
    metrics = [metric for name in SHOWN if (metric := results.metric(name))]
    lines = [group for group in looks.lines() if looks.along in group[0].axes and len(group) > 1]
    families: dict[str, list[list[Variant]]] = {}
    for group in lines if looks.along else ():
        families.setdefault(looks.family(group[0]), []).append(group)
    if not families or not metrics:
        return None
    across = min(ACROSS, len(families))
    strips = math.ceil(len(families) / across)
    height = 1.75 * len(metrics) * strips + 0.5
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(strips * len(metrics), across, squeeze=False, sharex=True, sharey="row")
    figure.subplots_adjust(0.095, 0.5 / height, 0.99, 1 - 0.25 / height, 0.08, 0.2)
    labels: list[Label] = []
    for k, (name, groups) in enumerate(families.items()):
        for row, metric in enumerate(metrics):
            axes = panels[len(metrics) * (k // across) + row, k % across]
            labels += _family(axes, looks, metric, groups)
            axes.set_title(
                "" if row else fit(name, 900 / across), fontsize=8, color=looks.colour(groups[0][0])
            )
            if k % across == 0:
                told = f"{fit(metric.title, 240)}{ARROWS[metric.direction]}\n{metric.unit}"
                axes.set_ylabel(told, fontsize=SMALL)
    for k, axes in enumerate(panels.flat):
        axes.set_visible(axes.has_data())
        _ticks(axes.yaxis, metrics[k // across % len(metrics)])
    figure.supxlabel("β" if looks.along == "beta" else looks.along, fontsize=8, y=0.08 / height)
    place(figure, labels, width=1000 / across)
    return figure


def _family(axes: Any, looks: Looks, metric: Metric, groups: Sequence[Sequence[Variant]]) -> list[Label]:
    """One architecture's lines in a metric, and their names."""
    labels, ticks = [], {}
    for k, group in enumerate(groups):
        known = [(looks.place(v), v.estimate(metric.name), v) for v in group]
        points = [(x, value, v) for x, value, v in known if x and value]
        if not points:
            continue
        for x, value, v in points:
            looks.draw(axes, v, x, value)
            ticks[x] = v.axes[looks.along]
        xs, ys = [x for x, *_ in points], [value.mean for _, value, _ in points]
        axes.plot(xs, ys, color=looks.colour(group[0]), ls=("-", "--", ":", "-.")[k % 4], lw=1)
        at = len(xs) // 2
        name = looks.name(group[0], looks.along, looks.kind(group[0]))
        labels += [Label(axes, name, (xs[at], ys[at]), looks.colour(group[0]))] if len(groups) > 1 else []
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xticks([], minor=True)
    axes.margins(0.14)
    return labels


def _ticks(axis: Any, metric: Metric) -> None:
    """Few round ticks, three at least; a logarithm where the metric is compared on one."""
    if metric.scale == "log":
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        _plain_log(axis)
    low, high = sorted(axis.get_view_interval())
    if metric.scale == "log" and high < 1.001 * low:  # all values are one
        axis.axes.set(**{f"{axis.axis_name}lim": (low / 1.1, high * 1.1)})
    if metric.scale == "log" and high > 10 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    else:
        axis.set_major_locator(MaxNLocator(4, min_n_ticks=3))


def _plain_log(axis: Any) -> None:
    """Numbers in full, and none between them."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def _png(figure: Figure) -> bytes:
    """1200 pixels wide, 128 colours, no metadata: equal results give equal bytes."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    out = io.BytesIO()
    pixels.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True
    )
    return out.getvalue()


FIGURES: dict[str, tuple[str, Callable[[Results], Figure | None]]] = {
    "forest.png": (
        "Means and 95 % intervals, documents apart from the matrix, sorted by the first column; what lies"
        " far out is written at the edge, and an arrow there ends an interval that goes on",
        _forest,
    ),
    "matrix.png": ("ELBO and samples along an axis of the matrix, a line a likelihood", _matrix),
    "rate-distortion.png": (
        "Rate and distortion: a colour an architecture, lines join its β; grey lines join equal ELBO",
        rate_figure.rate_distortion,
    ),
    "equal-rate.png": (
        "Likelihoods at equal rate: distortion over rate, grey lines join equal ELBO; the difference, with"
        " its 95 % interval at each rate",
        rate_figure.draw,
    ),
    "beta-aggregate-kl.png": ("β against the drift of the latent distribution from the prior", _drift),
    "learning-curves.png": (
        "Test loss by epoch, a panel an architecture and a loss. Beside a line stands its change an epoch"
        " over the last five; a cross marks the epoch in which a seed diverged",
        curves.learning,
    ),
}
