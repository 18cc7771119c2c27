"""Spread over seeds, and when one variant may be called better than another.

Seed s means the same initialisation stream, data order and evaluation noise in every variant, so values are
paired by seed. Below `MIN_SEEDS` seeds no test is made: the report says how many are missing, not who wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # Student's t: cumulative distribution, and its inverse

LEVEL = 0.05
MIN_SEEDS = 3
MOST_SEEDS = 100  # beyond this many, a difference is called unresolvable rather than counted in seeds
ROUNDING = 1e-9  # spreads below this share of the values are floating-point noise, not a spread

Column = Mapping[str, Mapping[int, float]]  # name -> seed -> value


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with the 95 % half-width of Student's t; one seed has no half-width."""

    mean: float
    half_width: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences a − b over shared seeds, its spread (ddof 1) and two-sided p-value."""

    mean: float
    half_width: float | None
    n: int
    sd: float | None
    p: float | None  # None below MIN_SEEDS


@dataclass(frozen=True)
class Ranking:
    """The order of one column: who leads, who is not separated from it, and what is missing to tell."""

    leader: str | None  # best mean
    best: str | None  # the leader, where there are seeds enough to say so
    ties: tuple[str, ...]  # not separated from the leader by the test, nearest first
    advice: str  # "too few seeds: add k", or nothing
    untested: tuple[str, ...] = ()  # with too few seeds in common with the leader, nearest first
    beaten: tuple[str, ...] = ()  # significantly worse than the leader, nearest first


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % half-width t(0.975, n − 1)·s/√n, s with ddof 1 (Student 1908).

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("no values to average")
    n = len(values)
    mean = math.fsum(values) / n
    sd = _deviation(values, mean)
    return Estimate(mean, None if sd is None else _half_width(sd, n), n)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """The paired t-test of a − b over the seeds both have; None where they share no seed."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    differences = [a[s] - b[s] for s in seeds]
    n = len(seeds)
    mean = math.fsum(differences) / n
    scale = max(abs(v) for s in seeds for v in (a[s], b[s]))
    sd = _deviation(differences, mean, scale)
    if sd is None:
        return Difference(mean, None, n, None, None)
    return Difference(
        mean, _half_width(sd, n), n, sd, _p_value(mean, sd, n, scale) if n >= MIN_SEEDS else None
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979): significant where at most LEVEL."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def seeds_needed(difference: float, sd: float, level: float = LEVEL) -> int | None:
    """The least n >= MIN_SEEDS that makes this difference and spread significant; None beyond MOST_SEEDS."""
    for n in range(MIN_SEEDS, MOST_SEEDS + 1):
        if sd == 0 or abs(difference) * math.sqrt(n) / sd > float(stdtrit(n - 1, 1 - level / 2)):
            return n if difference else None
    return None


def rank(column: Column, direction: str | None) -> Ranking:
    """Order one column: best mean, and those that paired t-tests with Holm do not separate from it."""
    if direction is None or len(column) < 2:
        return Ranking(None, None, (), "")
    sign = 1 if direction == "higher" else -1
    means = {name: sign * estimate(list(seeds.values())).mean for name, seeds in column.items() if seeds}
    order = sorted(means, key=lambda name: -means[name])
    leader, others = order[0], order[1:]
    if len(column[leader]) < MIN_SEEDS:
        return Ranking(leader, None, (), _too_few(len(column[leader])))
    differences = {name: paired(column[leader], column[name]) for name in others}
    tested = {name: d for name, d in differences.items() if d is not None and d.p is not None}
    p = dict(zip(tested, holm([d.p for d in tested.values() if d.p is not None]), strict=True))
    ties = tuple(name for name in others if name in p and p[name] > LEVEL)
    untested = tuple(name for name in others if name not in p)
    beaten = tuple(name for name in others if name in p and p[name] <= LEVEL)
    nearest = (*ties, *untested)[:1]
    needs = "".join(advice(differences[name], len(tested)) for name in nearest)
    return Ranking(leader, leader, ties, needs, untested, beaten)


def advice(difference: Difference | None, family: int) -> str:
    """How many seeds would make a difference significant, at Holm's strictest level of `family` tests."""
    if difference is None or difference.sd is None or difference.n < MIN_SEEDS:
        return _too_few(difference.n if difference else 0)
    needed = seeds_needed(difference.mean, difference.sd, LEVEL / max(family, 1)) if difference.sd else None
    if needed is None:  # beyond reach, or a tie without spread: equal values
        return f"not to be told apart by {MOST_SEEDS} seeds"
    return f"too few seeds: add {max(needed - difference.n, 1)}"


def _too_few(n: int) -> str:
    return f"too few seeds: add at least {max(MIN_SEEDS - n, 2)}"


def _deviation(values: Sequence[float], mean: float, scale: float | None = None) -> float | None:
    """Standard deviation with ddof 1, rounding noise taken for zero; None for one value."""
    if len(values) < 2:
        return None
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    noise = ROUNDING * (max(map(abs, values)) if scale is None else scale)
    return sd if sd > noise else 0.0


def _half_width(sd: float, n: int) -> float:
    return float(stdtrit(n - 1, 1 - LEVEL / 2)) * sd / math.sqrt(n)


def _p_value(mean: float, sd: float, n: int, scale: float) -> float:
    """Two-sided p of Student's t; without spread, equal values are equal (1) and others differ (0)."""
    if sd == 0:
        return 0.0 if abs(mean) > ROUNDING * scale else 1.0
    return 2 * float(stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd))
