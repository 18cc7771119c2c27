"""Likelihoods compared where they spend the same KL: at equal β they do not, so most of a difference is rate.

Each seed has a curve a likelihood, over the variants that differ in β (or a Gaussian's variance) alone.
Between its points it is a cubic that keeps their order (PCHIP: Fritsch, Carlson 1980); beyond them it has no
value. At a rate that all curves reach, the seeds' values of two likelihoods are two samples for Welch's t.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from bench.report.cells import NOTHING, code, fixed, plain, spread, table, text, words
from bench.report.contrasts import NOT_PARTS
from bench.report.results import Results, Variant
from bench.report.statistics import Estimate, combine, estimate, rejected

POINTS = 3  # variants of a likelihood at least, for a curve
SAME = 3  # decimals of nats to which two rates are one
RATIOS = ("mse", "frechet_distance")  # compared by their ratio; the ELBO by its difference
COMPARED = ("elbo_bernoulli", *RATIOS)

Rates = Sequence[float] | np.ndarray
Welch = tuple[Estimate, float | None]  # a difference with its 95 % half-width, and p from MIN_SEEDS on


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
        made = [_interpolated(*self._points(metric, seed), rates) for seed in self.rates]
        values = np.array(made).reshape(len(made), len(rates))
        return -values - np.asarray(rates) if metric == "elbo_bernoulli" else values

    def _points(self, metric: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The rates of one seed, ascending, and the values there; equal rates are one point."""
        found: dict[float, list[tuple[float, float]]] = {}
        for v in self.variants:
            rate, value = self.rates[seed].get(v.name), v.values(metric).get(seed)
            if rate is not None and value is not None and not (metric in RATIOS and value <= 0):
                value = math.log(value) if metric in RATIOS else -value - rate
                found.setdefault(round(rate, SAME), []).append((rate, value))
        points = np.array([np.mean(found[r], 0) for r in sorted(found)]).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def left_out(self) -> float:
        """How far, at most, a point of a seed's distortion lies from the curve through the others: nats."""
        far = [0.0]
        for seed in self.rates:
            x, y = self._points("elbo_bernoulli", seed)
            for i in range(1, len(x) - 1):
                if len(x) > POINTS:
                    rest = np.delete(x, i), np.delete(y, i)
                    far.append(abs(float(_interpolated(*rest, [x[i]])[0]) - y[i]))
        return max(far)


@dataclass(frozen=True)
class Pair:
    """Two likelihoods with all else equal, and the rates that both reach: none if `low` is above `high`."""

    setting: str
    a: Curves
    b: Curves

    @property
    def low(self) -> float:
        """The lowest rate that every curve of both reaches."""
        return max(self.a.span[0], self.b.span[0])

    @property
    def high(self) -> float:
        """The highest rate that every curve of both reaches."""
        return min(self.a.span[1], self.b.span[1])

    @cached_property
    def rates(self) -> list[float]:
        """A handful of round rates inside the overlap."""
        for power, digit in itertools.product((2, 1, 0, -1, -2), (5, 2, 1)):
            step = digit * 10.0**power
            inside = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            if len(inside) >= 4:
                return [round(k * step, 2) for k in inside]
        return []

    def compare(self, metric: str, rates: Rates) -> list[Welch]:
        """The first less the second at each rate; of RATIOS the logarithm of first over second."""
        columns = zip(self.a.at(metric, rates).T, self.b.at(metric, rates).T, strict=True)
        return [welch(x[~np.isnan(x)], y[~np.isnan(y)]) for x, y in columns]


def pairs(results: Results) -> list[Pair]:
    """Every two likelihoods that have a curve each, in each setting of all else."""
    groups: dict[str, dict[str, list[Variant]]] = {}
    for v in results.variants:
        kind, options = v.part("objective")
        less = (*NOT_PARTS, "likelihood", "objective")
        rest: dict[str, Any] = {key: value for key, value in v.settings.items() if key not in less}
        rest["objective"] = [kind, {key: value for key, value in options.items() if key != "beta"}]
        alike = json.dumps(rest, sort_keys=True, default=str)
        groups.setdefault(alike, {}).setdefault(v.part("likelihood")[0], []).append(v)
    found = []
    for group in groups.values():
        curves = [Curves(kind, tuple(sorted(members, key=_rate))) for kind, members in group.items()]
        for a, b in itertools.combinations([c for c in curves if c.rates], 2):
            axes = a.variants[0].axes.items()
            setting = " · ".join(
                v for k, v in axes if k != "beta" and k.partition(".")[0] not in ("likelihood", "objective")
            )
            found.append(Pair(setting, a, b))
    return found


def welch(x: Rates, y: Rates) -> Welch:
    """Mean of x less that of y, with Welch's interval and two-sided p-value (Welch 1947).

    Raises:
        ValueError: either is empty.
    """
    groups = [(weight, [float(v) for v in values]) for weight, values in ((1.0, x), (-1.0, y))]
    if not all(values for _, values in groups):
        raise ValueError("no values to compare")
    effect = combine(groups, "linear", "Welch", max(abs(v) for _, values in groups for v in values))
    return effect.size, effect.p


def sentences(results: Results) -> list[str]:
    """What holds at equal rate, a sentence a pair; where curves do not overlap, that."""
    told = []
    for pair in pairs(results):
        names = f"{code(pair.a.likelihood)} and {code(pair.b.likelihood)}"
        where = f" of {code(pair.setting)}" if pair.setting else ""
        question = "**Which likelihood at equal KL?**"
        if not pair.rates:
            spans = words([f"{_nats(c.span[0])} to {_nats(c.span[1])} nats" for c in (pair.a, pair.b)])
            told.append(f"{question} {names}{where} spend no KL in common ({spans}): nothing is compared.")
            continue
        rates = f"{_nats(pair.rates[0])} to {_nats(pair.rates[-1])} nats"
        clauses = [clause for metric in COMPARED if (clause := _clause(results, pair, metric))]
        n = f"{len(pair.a.rates)} and {len(pair.b.rates)}"
        told.append(
            f"{question} At equal KL, from {rates}, {names}{where}: {'; '.join(clauses)} (n = {n} seeds)."
            f" Outside [{_nats(pair.low)}, {_nats(pair.high)}] nats the curves do not overlap."
        )
    return told


def tables(results: Results) -> str:
    """A table a pair: both likelihoods' values at each rate, and how they differ."""
    parts = []
    for pair in pairs(results):
        metrics = _metrics(results, pair)
        if not pair.rates or not metrics:
            continue
        a, b = text(pair.a.likelihood), text(pair.b.likelihood)
        columns: list[list[str]] = [[_nats(rate) for rate in pair.rates]]
        head = ["KL (nats)"]
        for metric, title in metrics.items():
            sign = "/" if metric in RATIOS else "−"
            head += [f"{title}: {a}", b, f"{a} {sign} {b}"]
            values = [curves.at(metric, pair.rates).T for curves in (pair.a, pair.b)]
            columns += [[_level(metric, column) for column in of_one] for of_one in values]
            told = zip(pair.compare(metric, pair.rates), _kept(pair, metric), strict=True)
            columns.append(
                [f"**{_shown(metric, d)}**" if sure else _shown(metric, d) for (d, _), sure in told]
            )
        parts.append(f"### {text(pair.setting)}" if pair.setting else "")
        parts.append(table(head, zip(*columns, strict=True)))
        far = max(pair.a.left_out(), pair.b.left_out())
        parts.append(
            "**Bold**: different (Welch's t over seeds, Holm over a column's rates, 5 %); intervals are 95 %,"
            f" for one rate. Left out, a point lies up to {plain(far, 2)} nats from the curve through the"
            " others: so much may interpolation miss where points are twice as far apart."
        )
    return "\n\n".join(part for part in parts if part)


def _metrics(results: Results, pair: Pair) -> dict[str, str]:
    """What can be compared everywhere, with its title."""
    found = {m: row.title for m in COMPARED if (row := results.metric(m))}
    return {
        m: text(title)
        for m, title in found.items()
        if not any(np.isnan(c.at(m, pair.rates)).all(0).any() for c in (pair.a, pair.b))
    }


def _kept(pair: Pair, metric: str) -> list[bool]:
    """At which rates the likelihoods differ, the column being one family."""
    p = [p for _, p in pair.compare(metric, pair.rates)]
    return rejected(p) if None not in p else [False] * len(p)


def _clause(results: Results, pair: Pair, metric: str) -> str:
    row = results.metric(metric)
    if row is None or metric not in _metrics(results, pair):
        return ""
    found = pair.compare(metric, pair.rates)
    better: dict[str, list[int]] = {pair.a.likelihood: [], pair.b.likelihood: [], "": []}
    for i, ((d, _), sure) in enumerate(zip(found, _kept(pair, metric), strict=True)):
        first = (d.mean > 0) == (row.direction == "higher")
        better[(pair.a if first else pair.b).likelihood if sure else ""].append(i)
    ratio = f" (ratios, {code(pair.a.likelihood)} over {code(pair.b.likelihood)})" if metric in RATIOS else ""
    unit = "" if metric in RATIOS else " nats"

    def told(indices: list[int]) -> str:
        shown = [f"{_shown(metric, found[i][0])}{unit}" for i in dict.fromkeys((indices[0], indices[-1]))]
        return f"at {words([_nats(pair.rates[i]) for i in indices])} nats ({' … '.join(shown)})"

    parts = [f"{code(name)} is better {told(i)}" for name, i in better.items() if i and name]
    if better[""]:
        few = all(p is None for _, p in found)
        why = "too few seeds to tell apart" if few else "no difference is shown"
        parts.append(f"{why} {told(better[''])}")
    return f"on *{text(row.title)}*{ratio} {', and '.join(parts)}"


def _shown(metric: str, d: Estimate) -> str:
    """A difference with its interval, or a ratio with its."""
    if metric not in RATIOS:
        return spread(d) if d.half_width is not None else fixed(d.mean, 2)
    ends = [math.exp(d.mean + s * d.half_width) for s in (-1, 1)] if d.half_width is not None else []
    return f"{math.exp(d.mean):.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _level(metric: str, values: np.ndarray) -> str:
    known = [float(v) for v in values if not math.isnan(v)]
    if not known:
        return NOTHING
    return plain(math.exp(estimate(known).mean), 3) if metric in RATIOS else spread(estimate(known))


def _rate(variant: Variant) -> float:
    mean = variant.estimate("kl")
    return mean.mean if mean else math.inf


def _nats(rate: float) -> str:
    return f"{rate:.4g}"


def _interpolated(x: np.ndarray, y: np.ndarray, rates: Rates) -> np.ndarray:
    """PCHIP between points, NaN outside them; all NaN of fewer than POINTS."""
    if len(x) < POINTS:
        return np.full(len(rates), np.nan)
    # Equal rates are one point, at their mean: the ends of a span are still inside
    inside = np.clip(rates, x[0], x[-1])
    beyond = np.abs(inside - np.asarray(rates)) > 10.0**-SAME
    return np.asarray(np.where(beyond, np.nan, PchipInterpolator(x, y)(inside)))
