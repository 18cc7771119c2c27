"""Likelihoods compared where they spend the same KL: at equal β they do not, so most of a difference is rate.

Each seed has a curve a likelihood, over the variants that differ in β (or a Gaussian's variance) alone.
Between its points it is a cubic that keeps their order (PCHIP: Fritsch, Carlson 1980); beyond them it has no
value. The distortion is nearer to a line over the logarithm of the rate, and is interpolated over that: on
MNIST a point that is left out is missed by half as much. At a rate that all curves reach, the seeds' values
of two likelihoods are two samples for Welch's t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from bench.evaluation.metrics import Metric, Scale
from bench.report.cells import plain
from bench.report.effects import EffectRow
from bench.report.pairs import same_but_beta
from bench.report.results import Results, Variant
from bench.report.statistics import Effect, combine, estimate, rejected
from bench.report.tables import Cell, Column, Table, amount, interval, shown

POINTS = 3  # variants of a likelihood at least, for a curve
SAME = 3  # decimals of nats to which two rates are one
RATIOS = ("mse", "frechet_distance")  # compared by their ratio; the ELBO by its difference
COMPARED = ("elbo_bernoulli", *RATIOS)

Rates = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Curves:
    """One likelihood's variants that are alike in all else, and the curve of each seed through them."""

    likelihood: str
    variants: tuple[Variant, ...]

    @cached_property
    def rates(self) -> dict[int, dict[str, float]]:
        """Rate by variant, for each seed with enough of them."""
        seeds = sorted({seed for v in self.variants for seed in v.values("kl")})
        found = {s: {v.name: v.values("kl")[s] for v in self.variants if s in v.values("kl")} for s in seeds}
        return {s: by for s, by in found.items() if len({round(r, SAME) for r in by.values()}) >= POINTS}

    @property
    def span(self) -> tuple[float, float]:
        """The rates that every seed's curve reaches."""
        return (
            max(min(of_seed.values()) for of_seed in self.rates.values()),
            min(max(of_seed.values()) for of_seed in self.rates.values()),
        )

    def at(self, metric: str, rates: Rates) -> np.ndarray:
        """Each seed's value at these rates, NaN where its curve has none: [seeds, rates].

        Ratios are of logarithms. The ELBO is interpolated as the distortion, which falls with the rate.
        """
        logarithmic = metric == "elbo_bernoulli"
        made = [_interpolated(*self._points(metric, seed), rates, logarithmic) for seed in self.rates]
        values = np.array(made).reshape(len(made), len(rates))
        return -values - np.asarray(rates) if logarithmic else values

    def _points(self, metric: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The rates of one seed, ascending, and the values there; equal rates are one point."""
        found: dict[float, list[tuple[float, float]]] = {}
        for v in self.variants:
            rate = self.rates[seed].get(v.name)
            value = None if v.outdated(metric) else v.values(metric).get(seed)
            if rate is not None and value is not None and not (metric in RATIOS and value <= 0):
                value = math.log(value) if metric in RATIOS else -value - rate
                rate = max(rate, 0.0)  # a sampled KL of a collapsed model may fall below
                found.setdefault(round(rate, SAME), []).append((rate, value))
        points = np.array([np.mean(found[r], 0) for r in sorted(found)]).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def left_out(self, low: float, high: float) -> float:
        """How far, at most, a seed's point between two rates lies from the curve through the others: nats."""
        far = [0.0]
        for seed in self.rates:
            x, y = self._points("elbo_bernoulli", seed)
            for i in range(1, len(x) - 1):
                if len(x) > POINTS and low <= x[i] <= high:
                    rest = np.delete(x, i), np.delete(y, i)
                    far.append(abs(float(_interpolated(*rest, [x[i]], True)[0]) - y[i]))
        return max(far)


@dataclass(frozen=True)
class Pair:
    """Two likelihoods with all else equal, and the rates that all their curves reach: none if low > high."""

    setting: str
    a: Curves
    b: Curves
    low: float
    high: float

    @cached_property
    def rates(self) -> list[float]:
        """A handful of round rates inside the overlap."""
        for power, digit in itertools.product((2, 1, 0, -1, -2), (5, 2, 1)):
            step = digit * 10.0**power
            inside = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            if len(inside) >= 4:
                return [round(k * step, 2) for k in inside]
        return []

    @property
    def left_out(self) -> float:
        """How far, at most, a point between the compared rates lies from the curve of the others: nats."""
        return max(c.left_out(self.low, self.high) for c in (self.a, self.b))

    def effects(self, metric: str, rates: Rates) -> list[Effect]:
        """The first less the second at each rate, by Welch's t over seeds; of RATIOS first over second."""
        columns = zip(self.a.at(metric, rates).T, self.b.at(metric, rates).T, strict=True)
        scale: Scale = "log" if metric in RATIOS else "linear"
        found = []
        for x, y in columns:
            groups = [(1.0, x[~np.isnan(x)].tolist()), (-1.0, y[~np.isnan(y)].tolist())]
            size = max(abs(v) for _, values in groups for v in values)
            found.append(combine(groups, scale, "Welch", size))
        return found


def pairs(results: Results) -> list[Pair]:
    """Pair the likelihoods that have a curve each, in each setting of all else."""
    groups: dict[str, dict[str, list[Variant]]] = {}
    for v in results.variants:
        alike = groups.setdefault(same_but_beta(v, "likelihood"), {})
        alike.setdefault(v.part("likelihood")[0], []).append(v)
    found = []
    for group in groups.values():
        curves = [Curves(kind, tuple(sorted(members, key=_mean_rate))) for kind, members in group.items()]
        for a, b in itertools.combinations([c for c in curves if c.rates], 2):
            axes = a.variants[0].axes.items()
            setting = " · ".join(
                v for k, v in axes if k != "beta" and k.partition(".")[0] not in ("likelihood", "objective")
            )
            (low, high), (start, end) = a.span, b.span
            found.append(Pair(setting, a, b, max(low, start), min(high, end)))
    return found


def compared(results: Results) -> list[tuple[Pair, list[list[EffectRow]]]]:
    """Give each pair with its effects, by metric and rate; Holm over the rates of a pair and metric."""
    found = []
    for pair in pairs(results):
        by_metric = []
        for metric in (m for name in COMPARED if pair.rates and (m := results.metric(name))):
            if any(np.isnan(c.at(metric.name, pair.rates)).all(0).any() for c in (pair.a, pair.b)):
                continue  # it has no value at a rate
            told = pair.effects(metric.name, pair.rates)
            sure = rejected([effect.p for effect in told])
            where = [f"KL = {rate:g} nats{pair.setting and f' · {pair.setting}'}" for rate in pair.rates]
            by_metric.append([
                EffectRow("likelihood at equal KL", pair.a.likelihood, pair.b.likelihood, at, metric,
                          effect, 1, sure=kept, tests=len(told))
                for at, effect, kept in zip(where, told, sure, strict=True)
            ])  # fmt: skip
        found.append((pair, by_metric))
    return found


def tables(found: Sequence[tuple[Pair, list[list[EffectRow]]]]) -> list[Table]:
    """Make a table for each pair and metric: both likelihoods' values at each rate, and their difference."""
    made = []
    for pair, by_metric in found:
        for effects in by_metric:
            metric = effects[0].metric
            values = [curves.at(metric.name, pair.rates).T for curves in (pair.a, pair.b)]
            rows = [
                [amount(rate), _level(metric, of_a), _level(metric, of_b),
                 replace(interval(row.effect.size), best=row.sure)]
                for rate, of_a, of_b, row in zip(pair.rates, *values, effects, strict=True)
            ]  # fmt: skip
            sign = "/" if metric.name in RATIOS else "−"
            heads = (pair.a.likelihood, pair.b.likelihood, f"{pair.a.likelihood} {sign} {pair.b.likelihood}")
            title = " · ".join(filter(None, [pair.setting, metric.title]))
            made.append(Table([Column("KL", "nats"), *map(Column, heads)], rows, title))
    return made


def _level(metric: Metric, values: np.ndarray) -> Cell:
    known = [float(v) for v in values if not math.isnan(v)]
    if metric.name not in RATIOS:
        return interval(estimate(known))
    mean = math.exp(estimate(known).mean)
    return Cell(shown(plain(mean, 3)), mean)


def _mean_rate(variant: Variant) -> float:
    mean = variant.estimate("kl")
    return mean.mean if mean else math.inf


def _interpolated(x: np.ndarray, y: np.ndarray, rates: Rates, logarithmic: bool) -> np.ndarray:
    """PCHIP between points, NaN outside them; all NaN of fewer than POINTS."""
    if len(x) < POINTS:
        return np.full(len(rates), np.nan)
    # Equal rates are one point, at their mean: the ends of a span are still inside
    inside = np.clip(rates, x[0], x[-1])
    beyond = np.abs(inside - np.asarray(rates)) > 10.0**-SAME
    if logarithmic:  # from a floor on that lies below all points but one
        x, inside = (np.log(np.maximum(of, 0.1 * 10.0**-SAME)) for of in (x, inside))
    return np.asarray(np.where(beyond, np.nan, PchipInterpolator(x, y)(inside)))
