"""Effects: what changes when one thing does, all else equal. One kind of row, whatever the one thing is.

Two settings are compared setting by setting of all else, and averaged where the better of them is the same in
all. The error of an average is that of the seeds inside each setting: ten settings of one seed are not ten
draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from bench.evaluation.metrics import Metric
from bench.report import pairs
from bench.report.cells import exact, spread
from bench.report.inference import Ranking, rank
from bench.report.pairs import Levels, near_twins
from bench.report.results import Results
from bench.report.statistics import (
    LEVEL,
    Effect,
    Estimate,
    Values,
    advice,
    average,
    backward,
    equivalence,
    rejected,
)
from bench.report.tables import SAMPLES, SIGNS, Cell, Column, Table, amount, shown

DRIFT = ("prior_divergence", "aggregate_kl")  # the first that is measured
OF_SAMPLES = (SAMPLES, "recall", "coverage")  # what a verdict on samples looks at


@dataclass(frozen=True)
class Contrast:
    """One metric over the values of an axis, in the settings of all else that every value has."""

    metric: Metric
    cells: Mapping[str, Mapping[Hashable, Values]]  # level -> setting -> seed -> value
    left_out: int  # settings in which a seed diverged or failed: what is left would be a selection
    twins: bool  # whether the variants of each setting are near-twins

    @cached_property
    def settings(self) -> list[Hashable]:
        """The settings of all else."""
        return list(next(iter(self.cells.values())))

    @property
    def n(self) -> int:
        """The seeds of the variant that has fewest."""
        return min(len(values) for cells in self.cells.values() for values in cells.values())

    def effect(self, a: str, b: str) -> Effect:
        """a − b, averaged over the settings."""
        pairs = [(self.cells[a][s], self.cells[b][s]) for s in self.settings]
        return average(pairs, self.metric.scale, twins=self.twins)

    def row(self, axis: str, a: str, b: str, where: str = "", **more: Any) -> EffectRow:
        """The effect of a against b as a row, not tested yet."""
        effect = self.effect(a, b)
        return EffectRow(axis, a, b, where, self.metric, effect, len(self.settings), self.left_out, **more)

    def effects(self, a: str, b: str) -> list[Effect]:
        """a − b in each setting."""
        each = (self.only([s]).effect(a, b) for s in self.settings)
        return [effect for effect in each if effect.n]

    def turns(self, a: str, b: str) -> bool:
        """Whether the sign of a − b differs between settings, of which at least one has an effect."""
        effects = self.effects(a, b)
        signs = {effect.value > 0 for effect in effects if effect.value}
        return len(signs) > 1 and any(rejected([effect.p for effect in effects]))

    def only(self, settings: Iterable[Hashable]) -> Contrast:
        """Some of the settings."""
        kept = list(settings)
        return replace(self, cells={level: {s: c[s] for s in kept} for level, c in self.cells.items()})

    def by(self, axis: str) -> dict[str, Contrast]:
        """The settings apart by the value of another axis."""
        groups: dict[str, list[Hashable]] = {}
        for setting in self.settings:
            groups.setdefault(dict(_pairs(setting))[axis], []).append(setting)
        return {value: self.only(settings) for value, settings in groups.items()}

    @property
    def others(self) -> list[str]:
        """The other axes."""
        return list(dict.fromkeys(axis for setting in self.settings for axis, _ in _pairs(setting)))

    def ranking(self) -> Ranking:
        """Which level is best on the average, and which may be."""
        column = {level: [*cells.values()] for level, cells in self.cells.items()}
        return rank(column, self.metric.direction, self.metric.scale)


@dataclass(frozen=True)
class EffectRow:
    """One effect: metric of a less metric of b, all else equal."""

    axis: str  # what is changed
    a: str
    b: str
    where: str  # of which settings; empty where of all
    metric: Metric
    effect: Effect
    settings: int
    left_out: int = 0
    sure: bool = False  # kept by Holm's procedure over its family
    turns: bool = False  # the better of both differs between settings: the average says nothing
    tests: int = 1  # of its family
    aside: str | None = None  # why it is in no family of tests; None where it is

    @property
    def tested(self) -> bool:
        """Whether it is in a family of tests."""
        return self.aside is None and not self.turns

    @property
    def better(self) -> str:
        """The better of both, as the difference says."""
        return self.a if (self.effect.value > 0) == (self.metric.direction == "higher") else self.b

    @property
    def worse(self) -> str:
        """The other."""
        return self.b if self.better == self.a else self.a

    def verdict(self, margin: float) -> str:
        """What is to be concluded, in a word or two."""
        if self.aside is not None:
            return self.aside
        if self.turns:
            return "turns with the setting"
        if self.sure:
            return f"{self.better} is better"
        if self.effect.p is None:
            return advice(self.effect)
        return unequal(self.effect, self.metric, margin, self.tests)


def contrast(by_level: Levels, metric: Metric) -> Contrast | None:
    """Take a metric in the settings that every level has, of variants that lost no seed; None without."""
    name = metric.name
    measured = {
        level: {s: v for s, v in cells.items() if v.lost or (v.values(name) and not v.outdated(name))}
        for level, cells in by_level.items()
    }
    present = {level: cells for level, cells in measured.items() if cells}
    if len(present) < 2:
        return None
    shared = [s for s in next(iter(present.values())) if all(s in cells for cells in present.values())]
    kept = [s for s in shared if not any(cells[s].lost for cells in present.values())]
    if not kept:
        return None
    first, *others = present.values()
    twins = all(near_twins(first[s], other[s]) for other in others for s in kept)
    values = {level: {s: cells[s].values(name) for s in kept} for level, cells in present.items()}
    return Contrast(metric, values, len(shared) - len(kept), twins)


def contrasts(results: Results, axis: str) -> list[Contrast]:
    """Take an axis of the matrix in every metric that compares across all variants, that of samples last."""
    by_level = pairs.levels(results.variants, axis)
    metrics = (*results.measured("common"), *(m for m in results.measured("samples") if m.name == SAMPLES))
    return [c for m in metrics if m.direction and (c := contrast(by_level, m)) is not None]


def of_axis(results: Results, axis: str) -> list[EffectRow]:
    """Find the effects of an axis: of two values on each metric, of more values each against the best.

    Where the better turns with the setting, the rows below say with which: the values of another axis if
    these explain it, else every setting.
    """
    by_metric = {c.metric.name: c for c in contrasts(results, axis)}
    rows = []
    for c in by_metric.values():
        if len(c.cells) > 2:
            order = c.ranking()
            others = [level for level in order.members if level != order.leader]
            rows += [c.row(axis, order.leader, level) for level in others] if order.leader else []
        else:
            a, b = c.cells
            rows.append(c.row(axis, a, b, turns=c.turns(a, b)))
    found = []
    for row in holm_tested(row for row in rows if row.effect.n):
        found += [row, *(apart(row, by_metric[row.metric.name]) if row.turns else ())]
    return found


def apart(row: EffectRow, c: Contrast) -> list[EffectRow]:
    """Take the settings apart, Holm over them: by the axis that explains the turn, or one by one."""
    for axis in c.others:
        parts = c.by(axis)
        if len(parts) > 1 and all(
            len({e.value > 0 for e in part.effects(row.a, row.b)}) == 1 for part in parts.values()
        ):
            found = _rows(row, {f"{SIGNS.get(axis, axis)} = {value}": part for value, part in parts.items()})
            if len({each.better for each in found if each.sure}) > 1:
                return found
    named = {
        " · ".join(value for _, value in _pairs(s)) or f"setting {i}": s for i, s in enumerate(c.settings, 1)
    }
    return _rows(row, {name: c.only([s]) for name, s in named.items()})


def _rows(row: EffectRow, parts: Mapping[str, Contrast]) -> list[EffectRow]:
    return holm_tested(
        found
        for where, part in parts.items()
        if (found := part.row(row.axis, row.a, row.b, where, aside=row.aside)).effect.n
    )


def of_small_beta(results: Results) -> list[EffectRow]:
    """Compare each β below 1 with 1 by likelihood class: drift, samples and reconstruction.

    One family: Holm over all classes, β and metrics of the samples. Drift and reconstruction are described.
    """
    drift = next((name for name in DRIFT if results.metric(name)), "")
    metrics = [m for name in (drift, *OF_SAMPLES, "mse") if (m := results.metric(name)) is not None]
    rows = []
    for (kind, beta), pair in pairs.beta_pairs(results.variants).items():
        for c in (found for m in metrics if (found := contrast(pair, m)) is not None):
            aside = None if c.metric.name in OF_SAMPLES else "described only"
            rows.append(c.row("beta", beta, "1", kind, turns=c.turns(beta, "1"), aside=aside))
    return holm_tested(rows)


def of_linear(results: Results) -> list[EffectRow]:
    """Compare the linear encoder with the other, by latent size; Holm over the sizes."""
    metric = results.metric("elbo_bernoulli")
    if metric is None:
        return []
    found = {z: contrast(pair, metric) for z, pair in pairs.linear_pairs(results.variants).items()}
    ends = ("linear", "not linear")
    return holm_tested(c.row("encoder", *ends, f"latent = {z}") for z, c in found.items() if c)


def table(rows: Sequence[EffectRow], margin: float) -> Table:
    """Make the table of effects for people: what is changed, where, and what that does to a metric."""
    heads = ("changed", "where", "metric", "effect", "n", "settings", "verdict")
    lines = [
        [Cell(f"{r.axis}: {r.a} against {r.b}"), Cell(r.where or "everywhere"), Cell(r.metric.title),
         Cell(shown(signed(r.effect)), r.effect.value), amount(r.effect.n), amount(r.settings),
         Cell(r.verdict(margin))]
        for r in rows
    ]  # fmt: skip
    return Table([*map(Column, heads)], lines)


def signed(effect: Effect) -> str:
    """Format a difference with sign and interval; a ratio on the logarithm, an odds ratio on the logit."""
    told = spread(effect.size)
    if effect.scale == "linear":
        return f"+{told}" if effect.value > 0 else told
    return f"{'odds ' if effect.scale == 'logit' else ''}×{told}"


def by(effect: Effect, metric: Metric) -> str:
    """Say by how much the better is better, with unit: a difference, a factor or an odds ratio."""
    scale = effect.size.scale
    told = spread(Estimate(backward(abs(effect.value), scale), effect.half_width, effect.n, scale))
    if effect.scale == "linear":
        return f"{told} {metric.unit}".rstrip()
    return f"{'a factor' if effect.scale == 'log' else 'an odds ratio'} of {told}"


def unequal(effect: Effect, metric: Metric, margin: float, tests: int) -> str:
    """Say what a difference is that is not significant: equal within the margin, or none found."""
    if effect.error == 0 and effect.value == 0:
        return "equal in every seed"
    p = equivalence(effect, margin) if metric.unit.startswith("nats") else None
    if p is not None and p <= LEVEL:
        return f"equal within {exact(margin)} {'nat' if margin == 1 else 'nats'}"
    return f"no difference found ({advice(effect, tests)})"


def frame(rows: Sequence[EffectRow], margin: float) -> pd.DataFrame:
    """Make the table of effects for programs: a row each, its size a difference, a ratio or an odds ratio."""
    kinds = {"linear": "difference", "log": "ratio", "logit": "odds ratio"}
    return pd.DataFrame.from_records([
        {
            "axis": r.axis, "a": r.a, "b": r.b, "where": r.where, "metric": r.metric.name,
            "size": kinds[r.effect.scale], "value": r.effect.size.mean, "low": r.effect.size.low,
            "high": r.effect.size.high, "n": r.effect.n, "settings": r.settings, "left_out": r.left_out,
            "p": r.effect.p, "sure": r.sure, "verdict": r.verdict(margin),
        }
        for r in rows
    ])  # fmt: skip


def holm_tested(rows: Iterable[EffectRow]) -> list[EffectRow]:
    """Test those rows that are judged and do not turn as one family."""
    known = [*rows]
    family = [row.effect.p for row in known if row.tested]
    sure = iter(rejected(family))
    return [replace(row, sure=next(sure), tests=len(family)) if row.tested else row for row in known]


def _pairs(setting: Hashable) -> tuple[tuple[str, str], ...]:
    """The axes and values of a setting; nothing for one that is not made of axes."""
    return setting if isinstance(setting, tuple) else ()
