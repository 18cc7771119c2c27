"""Learning curves: a panel an architecture and a loss, since losses of another β or likelihood are others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.report.cells import fixed, plain
from bench.report.labels import Label, place
from bench.report.marks import DPI, SMALL, WIDTH, Looks, fit
from bench.report.results import Results, Variant
from bench.report.statistics import estimate

ACROSS = 4
EPOCHS = (1, 5, 20, 100, 500)
Loss = tuple[str, str, float | None]  # architecture or document, likelihood and β_eff


def learning(results: Results) -> Figure | None:
    """Draw the test loss by epoch, epochs on a logarithm: twenty have room beside a hundred and fifty."""
    looks = Looks(results)
    panels: dict[Loss, list[Variant]] = {}
    for v in sorted(results.variants, key=lambda v: bool(v.axes)):
        if any(run.losses or run.diverged for run in v.runs):
            kind = v.axes.get("likelihood") if "likelihood" in looks.results.axes else None
            kind = f"{kind or v.likelihood_class or 'likelihood not recorded'}"
            panels.setdefault((looks.family(v), kind, v.beta_eff), []).append(v)
    if not panels:
        return None
    documents = sum(not members[0].axes for members in panels.values())
    across = min(ACROSS, math.ceil(math.sqrt(max(documents, len(panels) - documents))))
    skipped = -documents % across if documents < len(panels) else 0  # the matrix begins a row
    rows = math.ceil((len(panels) + skipped) / across)
    most = max(sum(1 + len([r for r in v.runs if r.diverged]) for v in group) for group in panels.values())
    row = max(1.6, 0.6 + 0.22 * most)
    height = 0.45 + row * rows
    figure = Figure(figsize=(WIDTH, height))
    grid = figure.subplots(rows, across, squeeze=False, sharex=True)
    figure.subplots_adjust(0.075, 0.45 / height, 0.985, 1 - 0.38 / height, 0.27, 0.48 / (row - 0.48))
    labels: list[Label] = []
    shared: dict[str, list[Any]] = {}
    places = [*range(documents), *range(documents + skipped, rows * across)]
    for spot, ((name, kind, beta), members) in zip(places, panels.items(), strict=False):
        axes = grid.flat[spot]
        told = f"β = {plain(beta, 3)} · " if beta is not None else ""
        words = f"{fit(name, 900 / across)}\n{fit(told + kind, 900 / across)}"
        axes.set_title(words, fontsize=SMALL, color=looks.colour(members[0]))
        for dash, variant in enumerate(members):
            labels += _curves(axes, looks, variant, dash, several=len(members) > 1)
        shared.setdefault(f"{kind} {beta} {members[0].part('likelihood')}", []).append(axes)
    _axes(grid, shared, (row - 0.48) * DPI, beside=across < 3 and most > 1)
    told = "epoch, on a logarithm; numbers at the lines: change of the loss an epoch, over the last five"
    figure.supxlabel(told, fontsize=8, y=0.06 / height)
    figure.supylabel("test loss, nats/image", fontsize=8, x=0.005)
    place(figure, labels, width=1000 / across)
    return figure


def _curves(axes: Any, looks: Looks, variant: Variant, dash: int, *, several: bool) -> list[Label]:
    """Mean over seeds with its 95 % band; a seed that diverged ends, a cross says in which epoch."""
    colour, style = looks.colour(variant), ("-", "--", ":", "-.")[dash % 4]
    name = looks.name(variant, looks.kind(variant), "likelihood", "beta") if several else ""
    labels: list[Label] = []
    for k, run in enumerate(run for run in variant.runs if run.diverged):
        axes.plot(list(run.losses), list(run.losses.values()), color=colour, ls=style, lw=0.8)
        epoch = int(run.diverged.get("epoch") or 1)
        at = (epoch, 0.94 - 0.13 * k % 0.9)
        axes.plot(*at, color=colour, marker="x", ms=6, transform=axes.get_xaxis_transform(), clip_on=False)
        words = f"{'' if k else name} seed {run.seed}: epoch {epoch}".strip()
        labels.append(Label(axes, words, at, colour, transform=axes.get_xaxis_transform()))
    by_epoch: dict[int, list[float]] = {}
    for run in variant.finished:
        for epoch, value in run.losses.items():
            by_epoch.setdefault(epoch, []).append(value)
    most = max(map(len, by_epoch.values()), default=0)  # the epochs that every finished seed reached
    values = {epoch: estimate(v) for epoch, v in sorted(by_epoch.items()) if len(v) == most}
    if values:
        x, y = np.array(list(values)), np.array([v.mean for v in values.values()])
        width = np.array([v.half_width or 0.0 for v in values.values()])
        axes.plot(x, y, color=colour, ls=style)
        axes.fill_between(x, y - width, y + width, color=colour, alpha=0.15, lw=0)
        falls = [run.fall for run in variant.finished if run.fall is not None]
        slope = fixed(-math.fsum(falls) / len(falls), 2) if falls else ""
        labels.append(Label(axes, f"{name}  {slope}".strip(), (x[-1], y[-1]), colour))
    return [label for label in labels if label.words]


def _axes(grid: Any, shared: dict[str, list[Any]], height: float, *, beside: bool) -> None:
    """The same loss has the same scale in all panels, with room for names beside the lines or above them."""
    for alike in shared.values():
        ends = [axes.get_ylim() for axes in alike]
        low, high = min(e[0] for e in ends), max(e[1] for e in ends)
        lines = max(len(axes.lines) for axes in alike)
        names = 0 if beside or lines == 1 else lines
        share = min(0.6, 0.08 + 22 * names / height)
        for axes in alike:
            axes.set_ylim(low, low + (high - low) / (1 - share))
            axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    first = grid.flat[0]
    first.set_xscale("log")
    last = max(line.get_xdata()[-1] for axes in grid.flat for line in axes.lines if len(line.get_xdata()))
    first.set_xlim(0.9, 1.1 * last ** (1.5 if beside else 1.0))
    first.set_xticks([e for e in EPOCHS if e <= last], [str(e) for e in EPOCHS if e <= last])
    first.xaxis.set_minor_locator(NullLocator())
