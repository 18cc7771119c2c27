"""The figures of a report: no global state, colour-blind safe, equal bytes for equal results.

Variants are numbered in the experiment's order, the same in every figure, so that thirty stay legible.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from bench.evaluation.metrics import Metric
from bench.report import rate_figure
from bench.report.contrasts import same_but_beta
from bench.report.marks import (
    COLOURS,
    DASHES,
    DPI,
    MARKERS,
    WIDTH,
    Point,
    class_legend,
    intervals,
    look,
    scatter,
    short_name,
)
from bench.report.results import Results, Variant
from bench.report.statistics import estimate
from bench.report.tables import ARROWS, by_machine, machines

STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # names are text, whatever they contain
}


def draw(results: Results) -> dict[str, tuple[str, bytes]]:
    """File name -> (caption, PNG bytes) of every figure that the results have data for."""
    found = {}
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold glyphs that the font lacks
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for file, (caption, make) in FIGURES.items():
            figure = make(results)
            if figure is not None:
                found[file] = (caption, _png(figure))
    return found


def _forest(results: Results) -> Figure | None:
    metrics = results.measured("common")
    variants = [(i, v) for i, v in _numbered(results) if v.finished]
    if not metrics or not variants:
        return None
    order = sorted(variants, key=lambda numbered: _sort_key(numbered[1], metrics[0]))  # best on top
    labels = [f"{short_name(v)}  {i}" for i, v in order]
    height = 1.15 + 0.18 * len(order)
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    left = 0.03 + 0.0066 * max(map(len, labels))
    figure.subplots_adjust(left=left, right=0.985, bottom=0.28 / height, top=1 - 0.78 / height, wspace=0.12)
    rows = {variant.name: row for row, (_, variant) in enumerate(order)}
    for axes, metric in zip(panels, metrics, strict=True):
        points = []
        for i, variant in order:
            value = variant.estimate(metric.name)
            if value is not None:
                points.append((i, variant, value.mean, rows[variant.name], value.bars, (0.0, 0.0)))
        intervals(axes, results, points, size=3.2)
        axes.set_title(
            "\n".join([*wrap(metric.title + ARROWS[metric.direction], 17), metric.unit]), fontsize=7
        )
        axes.xaxis.set_major_locator(MaxNLocator(2))
        axes.tick_params(labelsize=7, length=2)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(order)), labels)
    panels[0].set_ylim(-0.7, len(order) - 0.3)
    class_legend(figure, results, [v for _, v in order])
    return figure


def _rate_distortion(results: Results) -> Figure | None:
    points = []
    for i, v in _numbered(results):
        elbo, rates = v.values("elbo_bernoulli"), v.values("kl")
        seeds = sorted(elbo.keys() & rates.keys())
        if seeds:
            kl = estimate([rates[s] for s in seeds])
            distortion = estimate([-elbo[s] - rates[s] for s in seeds])
            points.append((i, v, kl.mean, distortion.mean, kl.bars, distortion.bars))
    if not points:
        return None
    figure, axes = scatter(results, points)
    axes.set_xlabel("rate: KL(q(z|x) ‖ p(z)), nats/image")
    axes.set_ylabel("distortion: −E ln p(b|z), binarised and calibrated, nats/image")
    # Lines of equal ELBO: rate + distortion, named where they leave, on the right or below
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    behind: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for total in MaxNLocator(6).tick_values(x0 + y0, x1 + y1):
        axes.plot([x0, x1], [total - x0, total - x1], color="#bbbbbb", lw=0.6, zorder=0)
        x = min(x1 - 0.04 * (x1 - x0), total - y0 - 0.03 * (y1 - y0))
        if x0 < x and total - x < y1 - 0.02 * (y1 - y0):
            axes.text(
                x, total - x, f"{-total:g}".replace("-", "−"), fontsize=6, color="#777777",
                ha="center", va="center", bbox=behind, zorder=0.5,
            )  # fmt: skip
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    return figure


def _elbo_time(results: Results) -> Figure | None:
    known = machines(results)
    if not known or results.metric("elbo_bernoulli") is None:
        return None
    # Times are never pooled: on the device that ran most, each variant as most of its seeds were trained
    where = max((m[:2] for m in known), key=lambda w: sum(run.machine[:2] == w for run in results.finished))
    points, absent = [], []
    for i, v in _numbered(results):
        there = [runs for machine, runs in by_machine(v).items() if machine[:2] == where]
        runs = max(there, key=len, default=[])
        seconds = [r.metrics["train_seconds"] for r in runs if "train_seconds" in r.metrics]
        elbo = v.estimate("elbo_bernoulli")
        if elbo and seconds:
            time = estimate(seconds)
            points.append((i, v, time.mean, elbo.mean, time.bars, elbo.bars))
        elif elbo:
            absent.append(str(i))
    if not points:
        return None
    log = _wide([p[2] for p in points], 5)
    figure, axes = scatter(results, points, log_x=log)
    if not log:
        axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    rest = f"; elsewhere: {', '.join(absent)}" if absent else ""
    axes.set_xlabel(f"training seconds on {' · '.join(where)}{rest}")
    axes.set_ylabel("ELBO, binarised ↑ (nats/image)")
    return figure


def _beta_aggregate(results: Results) -> Figure | None:
    points: list[Point] = []
    for i, v in _numbered(results):
        value, beta = v.estimate("aggregate_kl"), v.beta_eff
        if value and beta:
            points.append((i, v, beta, value.mean, (0.0, 0.0), value.bars))
    betas = [p[2] for p in points]
    if len(set(betas)) < 2:
        return None
    apart = [0.1 * (betas[:k].count(b) - (betas.count(b) - 1) / 2) for k, b in enumerate(betas)]
    points = [(p[0], p[1], p[2] * math.exp(a), *p[3:]) for p, a in zip(points, apart, strict=True)]
    ys = [p[3] for p in points]
    figure, axes = scatter(results, points, log_x=True, log_y=min(ys) > 0 and _wide(ys, 30))
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(same_but_beta(point[1]), []).append(point)
    for group in groups.values():
        line = sorted(group, key=lambda p: p[2])
        axes.plot(
            [p[2] for p in line], [p[3] for p in line], color=look(results, line[0][1])[0], lw=0.5, zorder=1
        )
    axes.set_xlabel("β_eff (weight on the KL, reconstruction summed over pixels in nats); equal β set apart")
    axes.set_ylabel("aggregate KL(q(z) ‖ p(z)) ↓ (nats)")
    return figure


def _learning(results: Results) -> Figure | None:
    classes: dict[str, list[tuple[int, Variant]]] = {}
    for i, v in _numbered(results):
        if any(run.losses for run in v.runs):
            classes.setdefault(v.likelihood_class, []).append((i, v))
    if not classes:
        return None
    heights = [max(1.9, 0.5 + 0.15 * len(members)) for members in classes.values()]
    height = sum(heights) + 0.45
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(len(classes), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    figure.subplots_adjust(left=0.105, right=0.66, bottom=0.42 / height, top=1 - 0.25 / height, hspace=0.3)
    for axes, (kind, members) in zip(panels, classes.items(), strict=True):
        for place, (i, variant) in enumerate(members):
            _curve(axes, variant, place, f"{i} {short_name(variant)}")
        axes.set_title(kind or "likelihood not recorded")
        axes.set_ylabel("test loss\n(nats/image)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=6.5, handlelength=3
        )
    panels[-1].set_xlabel("epoch")
    return figure


def _curve(axes: Any, variant: Variant, place: int, label: str) -> None:
    """Mean over seeds with its 95 % band; a seed that diverged is a line of its own that ends in a cross."""
    colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
    gone = [known for run in variant.runs if run.status == "diverged" and (known := run.losses)]
    for k, losses in enumerate(gone):
        name = f"{label}: diverged" if k == 0 else None
        axes.plot(list(losses), list(losses.values()), color=colour, ls=dashes, lw=0.8, label=name,
                  marker="x", ms=6, markevery=[-1])  # fmt: skip
    by_epoch: dict[int, list[float]] = {}
    for run in variant.finished:
        for epoch, value in run.losses.items():
            by_epoch.setdefault(epoch, []).append(value)
    if not by_epoch:
        return
    most = max(map(len, by_epoch.values()))  # the epochs that every finished seed reached
    values = {epoch: estimate(v) for epoch, v in sorted(by_epoch.items()) if len(v) == most}
    x = np.array(list(values))
    y = np.array([v.mean for v in values.values()])
    width = np.array([v.half_width or 0.0 for v in values.values()])
    every = max(1, len(x) // 6)
    axes.plot(x, y, color=colour, ls=dashes, label=label,
              marker=MARKERS[place % len(MARKERS)], ms=3, markevery=(place % every, every))  # fmt: skip
    axes.fill_between(x, y - width, y + width, color=colour, alpha=0.15, lw=0)


def _numbered(results: Results) -> list[tuple[int, Variant]]:
    return list(enumerate(results.variants, start=1))


def _sort_key(variant: Variant, metric: Metric) -> float:
    value = variant.estimate(metric.name)
    return -math.inf if value is None else value.mean * (-1 if metric.direction == "lower" else 1)


def _wide(values: Sequence[float], ratio: float) -> bool:
    return min(values) > 0 and max(values) / min(values) > ratio


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
    "forest.png": ("Means and 95 % intervals on one footing, sorted by the first column", _forest),
    "rate-distortion.png": ("Rate and distortion; grey lines join equal ELBO", _rate_distortion),
    "equal-rate.png": (
        "Likelihoods at equal rate: distortion over rate, grey lines join equal ELBO; the difference, with"
        " its 95 % interval at each rate",
        rate_figure.draw,
    ),
    "elbo-time.png": ("ELBO against training time", _elbo_time),
    "beta-aggregate-kl.png": (
        "β against the drift of the latent distribution from the prior",
        _beta_aggregate,
    ),
    "learning-curves.png": ("Test loss by epoch, one panel a likelihood class", _learning),
}
