"""The figure of likelihoods at equal rate: distortion over rate, a line each, and how far apart they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.marks import WIDTH, look
from bench.report.rate import Curves, Pair, pairs
from bench.report.results import Results
from bench.report.statistics import estimate

FINE = 80  # rates at which a line is drawn


def draw(results: Results) -> Figure | None:
    """A row a pair: on the left both lines with lines of equal ELBO, on the right their difference."""
    found = [pair for pair in pairs(results) if pair.rates]
    if not found or results.metric("elbo_bernoulli") is None:
        return None
    figure = Figure(figsize=(WIDTH, 3.6 * len(found)))
    panels = figure.subplots(len(found), 2, squeeze=False, width_ratios=[1.25, 1])
    for (left, right), pair in zip(panels, found, strict=True):
        for curves in (pair.a, pair.b):
            _line(results, left, curves)
        left.margins(0.09)
        left.axvspan(pair.low, pair.high, color="#f0f0f0", zorder=0, lw=0)
        _equal_elbo(left)
        left.set_xlabel("rate: KL(q(z|x) ‖ p(z)), nats/image (grey: all curves overlap)")
        left.set_ylabel("distortion: −E ln p(b|z), nats/image")
        left.set_title(pair.setting)
        left.legend(frameon=False, fontsize=8, loc="upper right")
        _difference(right, pair)
    figure.tight_layout()
    return figure


def _line(results: Results, axes: Any, curves: Curves) -> None:
    """The mean of the seeds' curves, and each variant's mean with its intervals and β."""
    colour, marker = look(results, curves.variants[0])
    low, high = curves.span
    rates = np.linspace(low, high, FINE)
    distortion = -np.nanmean(curves.at("elbo_bernoulli", rates), 0) - rates
    axes.plot(rates, distortion, color=colour, lw=1.4)
    name = curves.variants[0].likelihood_class or curves.likelihood
    for k, variant in enumerate(curves.variants):
        kl, elbo = variant.values("kl"), variant.values("elbo_bernoulli")
        seeds = sorted(kl.keys() & elbo.keys())
        if seeds:
            x, y = estimate([kl[s] for s in seeds]), estimate([-elbo[s] - kl[s] for s in seeds])
            axes.errorbar(x.mean, y.mean, xerr=x.half_width, yerr=y.half_width, color=colour, marker=marker,
                          ms=4.5, elinewidth=0.9, capsize=1.5, ls="", label=None if k else name)  # fmt: skip
            axes.annotate(f"β {variant.beta_text}", (x.mean, y.mean), (4, 4), textcoords="offset points",
                          fontsize=7, color=colour)  # fmt: skip


def _equal_elbo(axes: Any) -> None:
    """Lines along which rate and distortion add up to the same, each named where it leaves below."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(7).tick_values(x0 + y0, x1 + y1):
        axes.plot([x0, x1], [total - x0, total - x1], color="#aaaaaa", lw=0.5, zorder=0.5)
        x = min(x1 - 0.05 * (x1 - x0), total - y0 - 0.03 * (y1 - y0))
        if x0 < x and total - x < y0 + 0.75 * (y1 - y0):
            axes.text(x, total - x, f"−{total:g}", fontsize=6.5, color="#666666", ha="center", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6}, zorder=0.6)  # fmt: skip
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)


def _difference(axes: Any, pair: Pair) -> None:
    """The difference of the ELBO at equal rate, with its pointwise 95 % interval."""
    rates = np.linspace(pair.low, pair.high, FINE)
    found = [d for d, _ in pair.compare("elbo_bernoulli", rates)]
    mean = np.array([d.mean for d in found])
    width = np.array([d.half_width or 0.0 for d in found])
    axes.axhline(0, color="#444444", lw=0.8)
    axes.plot(rates, mean, color="#444444")
    axes.fill_between(rates, mean - width, mean + width, color="#444444", alpha=0.2, lw=0)
    axes.set_xlabel("rate, nats/image")
    axes.set_ylabel(f"ELBO, binarised, nats/image:\n{pair.a.likelihood} − {pair.b.likelihood}")
    axes.set_title("difference at equal rate")
