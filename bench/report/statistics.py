"""Intervals, differences and their tests, each on the scale of its metric.

A metric that is bounded below is tested on the logarithm, where its spread is: its differences are ratios.
A fraction is tested on the logit: its differences are odds ratios. Means and intervals are printed back on
the metric's own scale. Below `MIN_SEEDS` seeds no test is made: the report says how many are missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit  # Student's t, also non-central, and its inverse

from bench.evaluation.metrics import Scale

LEVEL = 0.05
POWER = 0.8
MIN_SEEDS = 3
MOST_SEEDS = 100  # beyond this many, a difference is called out of reach rather than counted in seeds
ROUNDING = 1e-9  # spreads below this share of the values are floating-point noise, not a spread
MARGIN = 1.0  # nats within which two variants are called equal, where the experiment states no other
# What has no logarithm counts as the nearest value that has: 0 as 1e-9, a fraction of 0 or 1 as half an image
# of 10,000 away from it
SMALLEST, HALF_IMAGE = 1e-9, 5e-5

Test = Literal["paired by seed", "Welch"]
Values = Mapping[int, float]  # seed -> value


def forward(value: float, scale: Scale) -> float:
    """Put a value on the scale that it is tested on."""
    if scale == "log":
        return math.log(max(value, SMALLEST))
    if scale == "logit":
        fraction = min(max(value, HALF_IMAGE), 1 - HALF_IMAGE)
        return math.log(fraction / (1 - fraction))
    return value


def backward(value: float, scale: Scale) -> float:
    """Put a value of a scale back on the metric's own."""
    if scale == "log":
        return math.exp(min(value, 700.0))
    return 1 / (1 + math.exp(-value)) if scale == "logit" else value


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with the 95 % half-width of Student's t; one seed has no half-width.

    On a scale other than linear the mean is the one there, put back (geometric, for the logarithm); the
    half-width stays on that scale, and `low` and `high` are the ends of the interval, put back.
    """

    mean: float
    half_width: float | None
    n: int
    scale: Scale = "linear"

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return self._end(-1)

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return self._end(1)

    @property
    def bars(self) -> tuple[float, float]:
        """How far the interval reaches below and above the mean; nothing for one seed."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return self.mean - self.low, self.high - self.mean

    def _end(self, sign: int) -> float | None:
        if self.half_width is None:
            return None
        return backward(forward(self.mean, self.scale) + sign * self.half_width, self.scale)


@dataclass(frozen=True)
class Effect:
    """A weighted sum of means, such as a − b, on the scale of its metric: value, error and p-value."""

    value: float
    error: float | None  # None where a group has one value
    df: float
    n: int  # seeds of the smallest group; 0 where there is nothing to compare
    p: float | None  # two-sided; None below MIN_SEEDS
    scale: Scale
    test: Test
    seed_variance: float  # the squared error with one seed in each group
    seed_df: float  # degrees of freedom with two

    @property
    def half_width(self) -> float | None:
        """Half the 95 % interval, on the scale."""
        return None if self.error is None else float(stdtrit(self.df, 1 - LEVEL / 2)) * self.error

    @property
    def size(self) -> Estimate:
        """The effect and its interval: a difference, a ratio (log) or an odds ratio (logit)."""
        scale: Scale = "linear" if self.scale == "linear" else "log"
        return Estimate(backward(self.value, scale), self.half_width, self.n, scale)

    @property
    def mean_size(self) -> Estimate:
        """A mean over settings with its interval, on the metric's own scale."""
        return Estimate(backward(self.value, self.scale), self.half_width, self.n, self.scale)


def estimate(values: Sequence[float], scale: Scale = "linear") -> Estimate:
    """Compute mean and 95 % half-width t(0.975, n − 1)·s/√n, s with ddof 1, on the scale (Student 1908).

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values to average")
    n = len(values)
    mean, variance = moments([forward(value, scale) for value in values])
    half_width = None if n == 1 else float(stdtrit(n - 1, 1 - LEVEL / 2)) * math.sqrt(variance / n)
    same = min(values) == max(values)  # as they are, even where they have no place on the scale
    return Estimate(values[0] if same else backward(mean, scale), half_width, n, scale)


def moments(values: Sequence[float], size: float | None = None) -> tuple[float, float]:
    """Compute mean and variance (ddof 1; 0 for one value); rounding noise beside `size` counts for none."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    noise = ROUNDING * (max(map(abs, values)) if size is None else size)
    return mean, variance if variance > noise**2 else 0.0


def combine(groups: Sequence[tuple[float, Sequence[float]]], scale: Scale, test: Test, size: float) -> Effect:
    """Test a weighted sum of independent groups' means, Σ cᵢ·mean(xᵢ), against 0.

    Its squared error is Σ cᵢ²·sᵢ²/nᵢ from the spreads inside the groups, with the degrees of freedom of Welch
    (1947) and Satterthwaite: at most Σ (nᵢ − 1), fewer where spreads differ. `groups` holds (cᵢ, xᵢ), xᵢ on
    the scale; differences below ROUNDING of `size` are none.
    """
    n = min(len(values) for _, values in groups)
    found = [(weight, *moments(values, size), len(values)) for weight, values in groups]
    value = math.fsum(weight * mean for weight, mean, _, _ in found)
    parts = [(weight**2 * variance, count) for weight, _, variance, count in found]
    variance = math.fsum(part / count for part, count in parts)
    doubt = math.fsum((part / count) ** 2 / max(count - 1, 1) for part, count in parts)
    df = variance**2 / doubt if doubt else float(sum(count - 1 for _, count in parts))
    one = math.fsum(part for part, _ in parts)
    seed_df = one**2 / math.fsum(part**2 for part, _ in parts) if one else float(len(parts))
    error = math.sqrt(variance) if n > 1 else None
    p = None if error is None or n < MIN_SEEDS else two_sided(value, error, df, size)
    return Effect(value, error, df, n, p, scale, test, one, seed_df)


def two_sided(value: float, error: float, df: float, size: float = 0.0) -> float:
    """Compute the two-sided p of Student's t; without spread 1 for equal values, else 0."""
    if error == 0:
        return 0.0 if abs(value) > ROUNDING * size else 1.0
    return 2 * float(stdtr(df, -abs(value) / error))


def mean_of(cells: Sequence[Values], scale: Scale) -> Effect:
    """Average over settings the means over seeds, with the error from inside the settings."""
    groups = [[forward(value, scale) for value in cell.values()] for cell in cells]
    size = max(abs(value) for values in groups for value in values)
    return combine([(1 / len(cells), values) for values in groups], scale, "Welch", size)


def average(cells: Sequence[tuple[Values, Values]], scale: Scale, *, twins: bool = False) -> Effect:
    """Test the mean over settings of a − b, with the error from inside the settings; of one, Welch's t.

    However alike the settings' differences are by luck, the error is that of the seeds within them.
    Near-twins are paired over the seeds that both have. Of n = 0 where a setting has nothing to compare.
    """
    test: Test = "paired by seed" if twins else "Welch"
    groups: list[tuple[float, Sequence[float]]] = []
    size = 0.0
    for pair in cells:
        a, b = ({seed: forward(value, scale) for seed, value in side.items()} for side in pair)
        if not a or not b or (twins and not a.keys() & b.keys()):
            return Effect(math.nan, None, math.nan, 0, None, scale, test, 0.0, 0.0)
        size = max(size, *map(abs, a.values()), *map(abs, b.values()))
        if twins:
            groups.append((1 / len(cells), [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]))
        else:
            groups += [(1 / len(cells), [*a.values()]), (-1 / len(cells), [*b.values()])]
    return combine(groups, scale, test, size)


def one_sided(effect: Effect, bound: float, *, above: bool) -> float | None:
    """Compute the p-value that an effect is above (or below) a bound on its scale; None if seeds are few."""
    if effect.error is None or effect.n < MIN_SEEDS:
        return None
    gap = (effect.value - bound) * (1 if above else -1)
    if effect.error == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stdtr(effect.df, -gap / effect.error))


def equivalence(effect: Effect, margin: float) -> float | None:
    """Compute p of two one-sided tests that |effect| < margin (Schuirmann 1987); None if seeds are few."""
    sides = [one_sided(effect, -margin, above=True), one_sided(effect, margin, above=False)]
    return max((p for p in sides if p is not None), default=None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down procedure (Holm 1979): significant where at most LEVEL."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def rejected(p_values: Sequence[float | None]) -> list[bool]:
    """Tell which of a family of tests Holm's procedure rejects; one that was not made never is."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [p is not None and next(adjusted) <= LEVEL for p in p_values]


def seeds_needed(effect: Effect, level: float = LEVEL, margin: float | None = None) -> int | None:
    """Compute the least n of each group that shows this effect, at its spread, with a power of 80 %.

    Or that shows equality within a margin, where one is given: by two one-sided tests at 5 % (Schuirmann
    1987), whose power is P(both reject). By the non-central t; at least MIN_SEEDS, None beyond MOST_SEEDS.
    """
    if effect.seed_variance == 0:
        return MIN_SEEDS if effect.value else None
    n = np.arange(MIN_SEEDS, MOST_SEEDS + 1)
    df, scale = effect.seed_df * (n - 1), np.sqrt(n / effect.seed_variance)
    shift = np.minimum(abs(effect.value) * scale, 100.0)  # beyond it, certain
    enough = (1 - nctdtr(df, shift, stdtrit(df, 1 - level / 2)) >= POWER) | (shift >= 100)
    if margin and abs(effect.value) < margin:
        critical = stdtrit(df, 1 - LEVEL)
        low, high = (np.clip(scale * (effect.value + side * margin), -100, 100) for side in (1, -1))
        power = nctdtr(df, high, -critical) - nctdtr(df, low, critical)
        enough |= (power >= POWER) | ((low >= 100) & (high <= -100))
    return int(n[enough][0]) if enough.any() else None


def advice(effect: Effect, tests: int = 1) -> str:
    """Say how many seeds would show an effect in one of so many tests, or that they are out of reach."""
    if effect.n < MIN_SEEDS:
        return too_few(effect.n)
    needed = seeds_needed(effect, LEVEL / max(tests, 1))
    if needed is None:  # beyond reach, or equal values without spread
        return f"more than {MOST_SEEDS} seeds would be needed"
    more = max(needed - effect.n, 1)
    return f"add {more} seed{'s' * (more > 1)}"


def too_few(n: int) -> str:
    """Say what is missing below MIN_SEEDS."""
    return f"too few seeds: add at least {max(MIN_SEEDS - n, 2)}"
