"""Rate and distortion: of every variant, and of two likelihoods at equal rate with how far apart they lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.labels import Label, place
from bench.report.marks import GREY, INK, SMALL, WIDTH, Looks, fit
from bench.report.rate import Curves, Pair, pairs
from bench.report.results import Results, Variant
from bench.report.statistics import Estimate, estimate

FINE = 80  # rates at which a line is drawn
BESIDE = 14  # screen pixels from a point beyond which its place on a line is not written
Points = list[tuple[Variant, Estimate, Estimate]]


def rate_distortion(results: Results) -> Figure | None:
    """Draw every variant's rate and distortion, with lines of equal ELBO."""
    looks = Looks(results)
    groups = [[(v, *both) for v in group if (both := _both(v))] for group in looks.lines()]
    if not any(groups):
        return None
    figure = Figure(figsize=(WIDTH, 6.4))
    axes = figure.add_axes((0.085, 0.08, 0.905, 0.88))
    drawn = joined(axes, looks, groups)
    axes.margins(0.1)
    axes.set_xlabel("rate: KL(q(z|x) ‖ p(z)), nats/image")
    axes.set_ylabel("distortion: −E ln p(b|z), binarised and calibrated, nats/image")
    looks.legend(figure, [v for group in groups for v, *_ in group])
    place(figure, [*drawn, *_equal_elbo(axes)])
    return figure


def joined(axes: Any, looks: Looks, groups: list[Points], *, hollow: bool = False) -> list[Label]:
    """Draw points with their intervals, those of a group joined; give their names, ends of lines first."""
    ends, alone, between = [], [], []
    everything = [(v, x.mean, y.mean) for group in groups for v, x, y in group]
    for group in groups:
        for v, x, y in group:
            looks.draw(axes, v, x, y, hollow=hollow and v.saturated)
        if not group:
            continue
        colour = looks.colour(group[0][0])
        where = [(x.mean, y.mean) for _, x, y in group]
        axes.plot(*zip(*where, strict=True), color=colour, lw=0.8, alpha=0.6, zorder=1)
        follows = bool(looks.along) and looks.along in group[0][0].axes
        for (v, *_), at in zip(group, where, strict=True):
            if follows:
                between.append(Label(axes, looks.level(v), at, colour, within=BESIDE))
            else:
                alone.append(Label(axes, looks.name(v), at, colour))
        if follows:
            others = [(x, y) for v, x, y in everything if looks.family(v) != looks.family(group[0][0])]
            screen = axes.transData.transform
            far = {
                at: min((math.dist(screen(at), screen(other)) for other in others), default=0.0)
                for at in (where[0], where[-1])
            }
            end = max(far, key=far.__getitem__)
            ends.append(Label(axes, looks.name(group[0][0], looks.along), end, colour))
    return [*alone, *ends, *(() if hollow else between)]


def draw(results: Results) -> Figure | None:
    """Draw a row for each pair: both lines with lines of equal ELBO, and their difference."""
    found = [pair for pair in pairs(results) if pair.rates]
    if not found or results.metric("elbo_bernoulli") is None:
        return None
    looks = Looks(results)
    figure = Figure(figsize=(WIDTH, 3.8 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False, width_ratios=[1.25, 1])
    labels: list[Label] = []
    for (left, right), pair in zip(panels, found, strict=True):
        for curves, dashes in ((pair.a, "-"), (pair.b, "--")):
            labels += _line(looks, left, curves, dashes)
        left.margins(0.12)
        left.axvspan(pair.low, pair.high, color="#f0f0f0", zorder=0, lw=0)
        left.set_xlabel("rate: KL(q(z|x) ‖ p(z)), nats/image (grey: all curves overlap)", fontsize=SMALL)
        left.set_ylabel("distortion: −E ln p(b|z), nats/image")
        left.set_title(fit(pair.setting, 560), fontsize=8)
        _difference(right, pair)
    place(figure, [*labels, *(label for left, _ in panels for label in _equal_elbo(left))])
    figure.set_layout_engine("none")
    return figure


def _line(looks: Looks, axes: Any, curves: Curves, dashes: str) -> list[Label]:
    """The mean of the seeds' curves, and each variant's mean with its intervals and β."""
    low, high = curves.span
    rates = np.linspace(low, high, FINE)
    distortion = -np.nanmean(curves.at("elbo_bernoulli", rates), 0) - rates
    colour = looks.colour(curves.variants[0])
    axes.plot(rates, distortion, color=colour, lw=1.2, ls=dashes)
    labels = [Label(axes, curves.likelihood, (rates[FINE // 2], distortion[FINE // 2]), colour)]
    for variant in curves.variants:
        if both := _both(variant):
            x, y = both
            looks.draw(axes, variant, x, y)
            labels.append(Label(axes, f"β = {variant.beta_text}", (x.mean, y.mean), colour, within=20))
    return labels


def _both(variant: Variant) -> tuple[Estimate, Estimate] | None:
    """Rate and distortion over the seeds that have both."""
    elbo, rates = variant.values("elbo_bernoulli"), variant.values("kl")
    seeds = sorted(elbo.keys() & rates.keys())
    if not seeds:
        return None
    return estimate([rates[s] for s in seeds]), estimate([-elbo[s] - rates[s] for s in seeds])


def _equal_elbo(axes: Any) -> list[Label]:
    """Lines along which rate and distortion add up to the same, and their names."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    labels = []
    for total in MaxNLocator(6).tick_values(x0 + y0, x1 + y1):
        axes.plot([x0, x1], [total - x0, total - x1], color="#cccccc", lw=0.7, zorder=0)
        path = [(x, total - x) for x in np.linspace(x1, x0, 200) if y0 < total - x < y1]
        labels += [Label(axes, f"ELBO −{total:g}", path[0], GREY, path=path)] if path else []
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    return labels


def _difference(axes: Any, pair: Pair) -> None:
    """The difference of the ELBO at equal rate, with its pointwise 95 % interval."""
    rates = np.linspace(pair.low, pair.high, FINE)
    found = [effect.size for effect in pair.effects("elbo_bernoulli", rates)]
    mean = np.array([d.mean for d in found])
    width = np.array([d.half_width or 0.0 for d in found])
    axes.axhline(0, color=INK, lw=0.8)
    axes.plot(rates, mean, color=INK)
    axes.fill_between(rates, mean - width, mean + width, color=INK, alpha=0.2, lw=0)
    axes.set_xlabel("rate, nats/image")
    axes.set_ylabel(f"ELBO, binarised, nats/image:\n{fit(f'{pair.a.likelihood} − {pair.b.likelihood}', 420)}")
    axes.set_title("difference at equal rate", fontsize=8)
