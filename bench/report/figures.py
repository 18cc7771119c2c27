"""The figures of a report: matplotlib without global state, colour-blind safe, equal bytes for equal results.

Variants are numbered in the experiment's order, the same in every figure, so that thirty of them stay legible;
a likelihood class has one colour and one marker everywhere.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from bench.metrics import Metric
from bench.report.contrasts import same_but_beta
from bench.report.results import Results, Variant, number
from bench.report.statistics import estimate
from bench.report.tables import ARROWS, by_machine, machines

# Okabe & Ito 2008, without black; the order keeps neighbours apart under every kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
WIDTH, DPI = 8.0, 150  # inches, 1200 pixels
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
Point = tuple[int, Variant, float, float, float, float]  # number, variant, x, y, half-widths of x and y


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
    figure = Figure(figsize=(WIDTH, 1.0 + 0.19 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for row, (_, variant) in enumerate(order):
            value = variant.estimate(metric.name)
            if value is not None:
                colour, marker = _look(results, variant)
                width = value.half_width or 0.0
                axes.errorbar(
                    value.mean, row, xerr=width, color=colour, marker=marker, ms=3.5, capsize=2, lw=1
                )
        axes.set_title(f"{metric.title}{ARROWS[metric.direction]}\n{metric.unit}", fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(labelsize=7)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(order)), [f"{_name(v)}  {i}" for i, v in order])
    panels[0].set_ylim(-0.7, len(order) - 0.3)
    _classes(figure, results, [v for _, v in order])
    return figure


def _rate_distortion(results: Results) -> Figure | None:
    points = []
    for i, v in _numbered(results):
        elbo, rates = v.values("elbo_bernoulli"), v.values("kl")
        seeds = sorted(elbo.keys() & rates.keys())
        if seeds:
            kl = estimate([rates[s] for s in seeds])
            distortion = estimate([-elbo[s] - rates[s] for s in seeds])
            points.append((i, v, kl.mean, distortion.mean, kl.half_width or 0, distortion.half_width or 0))
    if not points:
        return None
    figure, axes = _scatter(results, points)
    axes.set_xlabel("rate: KL(q(z|x) ‖ p(z)), nats/image")
    axes.set_ylabel("distortion: −E ln p(b|z), binarised and calibrated, nats/image")
    # Lines of equal ELBO: rate + distortion
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(6).tick_values(x0 + y0, x1 + y1):
        axes.plot([x0, x1], [total - x0, total - x1], color="#bbbbbb", lw=0.6, zorder=0)
        at = total - y1
        if x0 < at < x1:
            axes.text(
                at, y1, f"{-total:g}".replace("-", "−"), fontsize=6, color="#777777", ha="center", va="bottom"
            )
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    return figure


def _elbo_time(results: Results) -> Figure | None:
    known = machines(results)
    if not known or results.metric("elbo_bernoulli") is None:
        return None
    # Times are never pooled: the machine that ran most is shown
    machine = max(known, key=lambda m: sum(run.machine == m for run in results.finished))
    points = []
    for i, v in _numbered(results):
        seconds = [
            r.metrics["train_seconds"] for r in by_machine(v).get(machine, ()) if "train_seconds" in r.metrics
        ]
        elbo = v.estimate("elbo_bernoulli")
        if elbo and seconds:
            time = estimate(seconds)
            points.append((i, v, time.mean, elbo.mean, time.half_width or 0, elbo.half_width or 0))
    if not points:
        return None
    figure, axes = _scatter(results, points, log_x=_wide([p[2] for p in points], 5))
    axes.set_xlabel(f"training seconds on {' · '.join(machine[:2])}")
    axes.set_ylabel("ELBO, binarised ↑ (nats/image)")
    return figure


def _beta_aggregate(results: Results) -> Figure | None:
    points = []
    for i, v in _numbered(results):
        value, beta = v.estimate("aggregate_kl"), v.beta_eff
        if value and beta:
            points.append((i, v, beta, value.mean, 0.0, value.half_width or 0.0))
    if len({p[2] for p in points}) < 2:
        return None
    ys = [p[3] for p in points]
    figure, axes = _scatter(results, points, log_x=True, log_y=min(ys) > 0 and _wide(ys, 30))
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(same_but_beta(point[1]), []).append(point)
    for group in groups.values():
        line = sorted(group, key=lambda p: p[2])
        axes.plot(
            [p[2] for p in line], [p[3] for p in line], color=_look(results, line[0][1])[0], lw=0.7, zorder=1
        )
    axes.set_xlabel("β_eff: weight on the KL, reconstruction summed over pixels in nats")
    axes.set_ylabel("aggregate KL(q(z) ‖ p(z)) ↓ (nats)")
    return figure


def _learning(results: Results) -> Figure | None:
    classes: dict[str, list[tuple[int, Variant]]] = {}
    for i, v in _numbered(results):
        if any(number(row.get("test_loss_nats")) is not None for run in v.finished for row in run.curves):
            classes.setdefault(v.likelihood_class, []).append((i, v))
    if not classes:
        return None
    heights = [max(1.9, 0.35 + 0.15 * len(members)) for members in classes.values()]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    panels = figure.subplots(len(classes), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (kind, members) in zip(panels, classes.items(), strict=True):
        for place, (i, variant) in enumerate(members):
            _curve(axes, variant, place, f"{i} {_name(variant)}")
        axes.set_title(kind or "likelihood not recorded")
        axes.set_ylabel("test loss\n(nats/image)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=6.5, handlelength=3
        )
    panels[-1].set_xlabel("epoch")
    return figure


def _curve(axes: Any, variant: Variant, place: int, label: str) -> None:
    """Mean over seeds with its 95 % band, at the epochs that every finished seed reached."""
    by_epoch: dict[int, list[float]] = {}
    for run in variant.finished:
        for row in run.curves:
            value = number(row.get("test_loss_nats"))
            if value is not None:
                by_epoch.setdefault(int(row["epoch"]), []).append(value)
    most = max(map(len, by_epoch.values()))
    values = {epoch: estimate(v) for epoch, v in sorted(by_epoch.items()) if len(v) == most}
    x = np.array(list(values))
    y = np.array([v.mean for v in values.values()])
    width = np.array([v.half_width or 0.0 for v in values.values()])
    look = {"color": COLOURS[place % len(COLOURS)], "ls": DASHES[place // len(COLOURS) % len(DASHES)]}
    every = max(1, len(x) // 6)
    axes.plot(
        x,
        y,
        marker=MARKERS[place % len(MARKERS)],
        ms=3,
        markevery=(place % every, every),
        label=label,
        **look,
    )
    axes.fill_between(x, y - width, y + width, color=look["color"], alpha=0.15, lw=0)


def _scatter(
    results: Results, points: Sequence[Point], *, log_x: bool = False, log_y: bool = False
) -> tuple[Figure, Any]:
    """Points with intervals and numbers, the names of the numbers beside them."""
    figure = Figure(figsize=(WIDTH, max(4.2, 0.9 + 0.145 * len(points))), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.11, 0.56, 0.83))
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for _, variant, x, y, dx, dy in points:
        colour, marker = _look(results, variant)
        axes.errorbar(
            x, y, xerr=dx, yerr=dy, color=colour, marker=marker, ms=4.5, mec="white", mew=0.5, lw=0.8
        )
    axes.margins(0.07)
    _place_numbers(axes, [(str(i), x, y, _look(results, v)[0]) for i, v, x, y, _, _ in points])
    top = 0.94
    step = 0.145 / figure.get_figheight()
    for row, (i, variant, *_) in enumerate(points):
        colour, marker = _look(results, variant)
        y = top - (row + 0.5) * step
        figure.add_artist(Line2D([0.672], [y], color=colour, marker=marker, ms=4, ls=""))
        figure.text(0.685, y, f"{i}  {_name(variant)}", fontsize=6.5, va="center")
    _classes(figure, results, [v for _, v, *_ in points])
    return figure, axes


def _place_numbers(axes: Any, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Number each point beside it; numbers push each other and the points away, a thin line leads back."""
    axes.autoscale_view()
    anchors = np.array([axes.transData.transform((x, y)) for _, x, y, _ in labels])
    rng = np.random.default_rng(0)
    places = anchors + np.array([9.0, 7.0]) + rng.uniform(-2, 2, anchors.shape)  # pixels
    for _ in range(120):
        move = 0.08 * (anchors - places)
        move += _push(places, places, 15.0) + _push(places, anchors, 12.0)
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


def _classes(figure: Figure, results: Results, variants: Iterable[Variant]) -> None:
    """The legend of likelihood classes, along the top."""
    handles = []
    for kind in dict.fromkeys(v.likelihood_class for v in variants):
        colour, marker = _class_look(results, kind)
        handles.append(
            Line2D([], [], color=colour, marker=marker, ms=4.5, ls="", label=kind or "not recorded")
        )
    figure.legend(handles=handles, loc="outside upper left" if figure.get_layout_engine() else "upper left",
                  ncols=4, frameon=False, fontsize=7, handletextpad=0.2)  # fmt: skip


def _numbered(results: Results) -> list[tuple[int, Variant]]:
    return list(enumerate(results.variants, start=1))


def _look(results: Results, variant: Variant) -> tuple[str, str]:
    return _class_look(results, variant.likelihood_class)


def _class_look(results: Results, kind: str) -> tuple[str, str]:
    place = list(dict.fromkeys(v.likelihood_class for v in results.variants)).index(kind)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def _name(variant: Variant) -> str:
    name = " ".join(str(variant.settings.get("label") or variant.name).split())
    return name if len(name) <= 44 else f"{name[:43]}…"


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
    "elbo-time.png": ("ELBO against training time", _elbo_time),
    "beta-aggregate-kl.png": (
        "β against the drift of the latent distribution from the prior",
        _beta_aggregate,
    ),
    "learning-curves.png": ("Test loss by epoch, one panel a likelihood class", _learning),
}
