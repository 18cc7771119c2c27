"""Who leads a column, and who may be the best: Hsu's multiple comparison with the best, one family a column.

The best is chosen after seeing the data, so each variant is tested against all others at once: those that no
other beats are the set that holds the best with 95 % confidence (Hsu 1984). Spreads differ between variants
by up to eighty times, so each pair has its own: the test is Dunnett's with Welch's errors and degrees of
freedom (Hasler, Hothorn 2008), and no seed is paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, roots_hermitenorm, roots_legendre, stdtr

from bench.evaluation.metrics import Scale
from bench.report.statistics import (
    LEVEL,
    MIN_SEEDS,
    ROUNDING,
    Effect,
    Values,
    advice,
    average,
    forward,
    mean_of,
    rejected,
    too_few,
    two_sided,
)

NODES = 24
CERTAIN = 5  # seeds from which "better than every other" is said without "provisionally"

ByName = Mapping[str, Sequence[Values]]  # name -> a mapping of seed to value for each setting, most often one


@dataclass(frozen=True)
class Ranking:
    """The order of one column: who leads, who may be best as well, and what is missing to tell."""

    leader: str | None = None  # best mean
    best: str | None = None  # the leader, where there are seeds enough to say so
    ties: tuple[str, ...] = ()  # kept among the possibly best, nearest first
    advice: str = ""  # how many seeds would tell the nearest of them from the leader, or nothing
    untested: tuple[str, ...] = ()  # with too few seeds, nearest first
    beaten: tuple[str, ...] = ()  # excluded from the possibly best, nearest first
    members: Mapping[str, Effect] = field(default_factory=dict)  # the mean of each, on the scale
    scale: Scale = "linear"

    @property
    def provisional(self) -> bool:
        """Whether the seeds are too few to say that one is better than every other without reserve."""
        return (
            min((self.members[name].n for name in (self.leader, *self.beaten) if name), default=0) < CERTAIN
        )

    def apart_from(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Which members differ from a number that has no spread, such as a baseline, and by how much.

        One-sample t-tests with the spreads by which the column is ordered, Holm over the column. `numbers`
        holds the number for each member; found is member − number on the scale.
        """
        known = {name: self.members[name] for name in numbers if name in self.members}
        tested = {name: m for name, m in known.items() if m.p is not None}
        gaps = {name: m.value - forward(numbers[name], self.scale) for name, m in tested.items()}
        p = [two_sided(gaps[name], m.error or 0.0, m.df) for name, m in tested.items()]
        return {name: gaps[name] for name, sure in zip(tested, rejected(p), strict=True) if sure}


def rank(column: ByName, direction: str | None, scale: Scale = "linear") -> Ranking:
    """Order a column by its means over settings: best mean, and who may be best as well (MCB, 95 %)."""
    members = {name: mean_of(cells, scale) for name, cells in column.items() if cells and all(cells)}
    if direction is None or len(members) < 2:
        return Ranking(members=members, scale=scale)
    sign = 1 if direction == "higher" else -1
    leader, *others = sorted(members, key=lambda name: -sign * members[name].value)
    tested = {name: m for name, m in members.items() if m.n >= MIN_SEEDS}
    if leader not in tested:
        return Ranking(leader, advice=too_few(members[leader].n), members=members, scale=scale)
    p = dict(zip(tested, mcb([(sign * m.value, m.error or 0.0, m.df) for m in tested.values()]), strict=True))
    ties = tuple(name for name in others if p.get(name, 0) > LEVEL)
    beaten = tuple(name for name in others if p.get(name, 1) <= LEVEL)
    untested = tuple(name for name in others if name not in p)
    told = ""
    if ties:
        pair = list(zip(column[leader], column[ties[0]], strict=True))
        told = advice(average(pair, scale), len(tested) - 1)
    elif untested:
        told = too_few(members[untested[0]].n)
    return Ranking(leader, leader, ties, told, untested, beaten, members, scale)


def mcb(groups: Sequence[tuple[float, float, float]]) -> list[float]:
    """Compute the p-value that each mean is the highest of all, by Dunnett's test against it (Hsu 1984).

    Two-sided, so that two that are alike are told apart in 5 % of the cases, not in 10. Those above LEVEL are
    the set that holds the best. Where the p of the lone test or Bonferroni's decides, that bound is given.
    `groups` holds mean, standard error and degrees of freedom of each.
    """
    if len(groups) < 2:
        return [1.0] * len(groups)
    means, errors, dfs = np.array(groups).T
    variances = np.maximum(errors**2, 1e-300)
    noise = ROUNDING * np.abs(means).max(initial=0.0)
    found = []
    for i in range(len(means)):
        rest = np.arange(len(means)) != i
        ahead, both = means[rest] - means[i], variances[rest] + variances[i]
        shares = variances[rest] / both, variances[i] / both
        df = 1 / (shares[0] ** 2 / dfs[rest] + shares[1] ** 2 / dfs[i])
        t = np.where(ahead > noise, ahead / np.sqrt(both), 0.0)
        lone = 2 * stdtr(df, -t)
        j = int(np.argmin(lone))
        p = float(lone[j])
        if p <= LEVEL < p * len(lone):
            p = dunnett(float(t[j]), np.sqrt(shares[1]), float(df[j]))
        elif p <= LEVEL:
            p *= len(lone)
        found.append(p)
    return found


def dunnett(t: float, loads: np.ndarray, df: float) -> float:
    """Compute P(max |Tⱼ| > t) of multivariate t, correlations loadⱼ·loadₗ, by quadrature (Dunnett 1955)."""
    z, weight_z, s, weight_s = _nodes(df)
    rest = np.sqrt(np.maximum(1 - loads**2, 1e-12))
    shift, reach = z[:, None, None] * loads, t * s[None, :, None]
    inside = np.prod(ndtr((reach - shift) / rest) - ndtr((-reach - shift) / rest), axis=-1)
    return float(np.clip(1 - weight_z @ inside @ weight_s, 0, 1))


@lru_cache(maxsize=256)
def _nodes(df: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights for a normal variable and for χ/√df."""
    z, weight_z = roots_hermitenorm(NODES)
    x, weight_x = roots_legendre(2 * NODES)
    low, high = max(0.0, 1 - 6 / math.sqrt(df)), 1 + 6 / math.sqrt(df)
    s = low + (high - low) * (x + 1) / 2
    density = weight_x * np.exp((df - 1) * np.log(s) - df * (s**2 - 1) / 2)
    return z, weight_z / weight_z.sum(), s, density / density.sum()
