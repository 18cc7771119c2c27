"""Claims that an experiment makes in advance, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.evaluation.metrics import Metric
from bench.report.frame import number
from bench.report.pairs import near_twins
from bench.report.results import Results
from bench.report.statistics import Effect, advice, average, equivalence, one_sided, rejected


@dataclass(frozen=True)
class Verdict:
    """One claim, what was measured, and whether that supports or contradicts it."""

    claim: Mapping[str, Any]
    metric: Metric | None
    effect: Effect | None  # of the first variant less the second
    state: str = "undecided"
    why: str = ""  # where it is undecided
    late: bool = False  # a run that it is about, perhaps somebody else's, was done before it was made

    @property
    def after_the_fact(self) -> bool:
        """Whether runs that it is about had finished when it was made."""
        return self.late or bool((self.claim.get("registered") or {}).get("finished"))

    @property
    def pair(self) -> tuple[str, str]:
        """The two variants."""
        first, second = (
            self.claim.get(a) or self.claim.get(b) for a, b in (("better", "equal"), ("than", "to"))
        )
        return str(first), str(second)

    @property
    def tests(self) -> tuple[float | None, float | None]:
        """One-sided p-values: against its being false, and against its being true."""
        if self.effect is None or self.metric is None:
            return None, None
        key = "by" if self.claim.get("better") else "within"
        size = number(self.claim.get(key)) or 0.0
        margin = size if self.effect.scale == "linear" else abs(math.log(size)) if size else 0.0
        if key == "within":
            sides = [one_sided(self.effect, sign * margin, above=sign > 0) for sign in (1, -1)]
            outside = min((p for p in sides if p is not None), default=None)
            return equivalence(self.effect, margin), outside
        up = self.metric.direction == "higher"
        bound = margin if up else -margin
        return one_sided(self.effect, bound, above=up), one_sided(self.effect, bound, above=not up)


def verdicts(results: Results) -> list[Verdict]:
    """Judge every claim, by one-sided t-tests at 5 % with Holm's correction over the claims."""
    found = [_measured(results, claim) for claim in results.experiment.get("claims") or ()]
    sides = [rejected([verdict.tests[side] for verdict in found]) for side in (0, 1)]
    judged = []
    for verdict, holds, fails in zip(found, *sides, strict=True):
        state = "supported" if holds else "contradicted" if fails else "undecided"
        why = verdict.why or (advice(verdict.effect, len(found)) if state == "undecided" else "")
        judged.append(replace(verdict, state=state, why=why))
    return judged


def _measured(results: Results, claim: Mapping[str, Any]) -> Verdict:
    metric = results.metric(str(claim.get("on")))
    bare = Verdict(claim, metric, None)
    named = {v.name: v for v in results.variants}
    if metric is None:
        return replace(bare, why="nothing measured yet")
    if lacking := [name for name in bare.pair if name not in named]:
        return replace(bare, why=f"{lacking[0]} is not in this report")
    a, b = (named[name] for name in bare.pair)
    made = str((claim.get("registered") or {}).get("at") or "")
    bare = replace(bare, late=any(str(r.record.get("finished", made)) < made for r in (*a.runs, *b.runs)))
    if lost := next((v for v in (a, b) if v.lost), None):
        return replace(bare, why=f"{lost.name} lost {lost.lost} of {len(lost.runs)} seeds")
    if a.outdated(metric.name) != b.outdated(metric.name):
        return replace(bare, why="measured by two yardsticks")
    pair = (a.values(metric.name), b.values(metric.name))
    return replace(bare, effect=average([pair], metric.scale, twins=near_twins(a, b)))
