"""What more time would decide: comparisons that are open, the seeds that each needs, and how long these take.

It stands in reports of experiments that were given a budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.evaluation.metrics import Metric
from bench.report.claims import Verdict
from bench.report.frame import number, seconds_spent
from bench.report.pairs import near_twins
from bench.report.results import Results, Variant
from bench.report.statistics import LEVEL, MIN_SEEDS, Effect, average, equivalence, seeds_needed

MOST = 12  # rows of the table


@dataclass(frozen=True)
class Open:
    """Two variants that a metric neither tells apart nor calls equal."""

    a: Variant
    b: Variant
    metric: Metric
    effect: Effect
    seeds: int | None  # of each that decide it; None where they are out of reach

    @property
    def add(self) -> int:
        """The seeds to add to the variant that has fewer."""
        return max(self.seeds - self.effect.n, 1) if self.seeds else 0

    @property
    def seconds(self) -> float:
        """How long these take, one run at a time."""
        return math.fsum(self.missing(v) * seed_seconds(v) for v in (self.a, self.b))

    def missing(self, variant: Variant) -> int:
        """Count the seeds that one of the two lacks."""
        return max((self.seeds or 0) - len(variant.values(self.metric.name)), int(bool(self.seeds)))


@dataclass(frozen=True)
class Undecided:
    """What is open in a report, the quickest to decide first."""

    hours: float  # of the budget
    rows: Sequence[Open]  # that more seeds decide, MOST at most
    more: int  # that they decide too
    beyond: int  # that are out of reach
    seconds: float  # for all that seeds decide: seeds that serve several comparisons count once
    runs: int  # that are planned and not done
    runs_seconds: float | None  # how long they take; None where a variant has no run to go by


def undecided(results: Results, claims: Sequence[Verdict]) -> Undecided | None:
    """Collect the open comparisons: the leader of each column with those that may be best too, and claims.

    None where the experiment has no budget.
    """
    hours = number((results.experiment.get("budget") or {}).get("hours"))
    if not hours:
        return None
    named = {variant.name: variant for variant in results.variants}
    found: list[Open] = []
    for metric in results.measured("common", "samples"):
        order = results.rankings[metric.name]
        tested = len(order.ties) + len(order.beaten)
        for other in (*order.ties, *order.untested):
            found += _open(results, named[order.leader or other], named[other], metric, max(tested, 1))
    for claim in claims:
        if claim.state == "undecided" and claim.metric and set(claim.pair) <= named.keys():
            a, b = claim.pair
            found += _open(results, named[a], named[b], claim.metric, len(claims))
    reachable = sorted((o for o in found if o.seeds), key=lambda o: (o.seconds, o.a.name, o.b.name))
    needed: dict[str, int] = {}
    for each in reachable:
        for variant in (each.a, each.b):
            needed[variant.name] = max(needed.get(variant.name, 0), each.missing(variant))
    missing = [v for v in results.variants for run in v.runs if run.status in ("missing", "interrupted")]
    lengths = [seed_seconds(variant) for variant in missing]
    return Undecided(
        hours,
        reachable[:MOST],
        len(reachable[MOST:]),
        len(found) - len(reachable),
        math.fsum(n * seed_seconds(named[name]) for name, n in needed.items()),
        len(missing),
        math.fsum(lengths) if all(lengths) else None,
    )


def seed_seconds(variant: Variant) -> float:
    """Average what a finished seed took to train and to evaluate; 0 where none has."""
    spent = [sum(seconds_spent(run.record)) for run in variant.finished]
    return math.fsum(spent) / len(spent) if spent else 0.0


def _open(results: Results, a: Variant, b: Variant, metric: Metric, tests: int) -> list[Open]:
    """Judge one comparison: nothing where the two are equal within the margin."""
    effect = average([(a.values(metric.name), b.values(metric.name))], metric.scale, twins=near_twins(a, b))
    if not effect.n:
        return []
    margin = results.margin if metric.unit.startswith("nats") and metric.scale == "linear" else None
    if effect.n < MIN_SEEDS:
        return [Open(a, b, metric, effect, MIN_SEEDS)]
    if margin and (p := equivalence(effect, margin)) is not None and p <= LEVEL:
        return []
    return [Open(a, b, metric, effect, seeds_needed(effect, LEVEL / tests, margin))]
