"""A gate for continuous integration: is one variant not worse than another by more than a margin?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.errors import BenchError, did_you_mean
from bench.report.compare import Comparison, Difference
from bench.report.statistics import LEVEL, one_sided

EXITS = {"passed": 0, "failed": 1, "undecided": 3}
_GATE = re.compile(r"\s*(?P<metric>\w+)\s*(?P<sign>>=|<=)\s*(?P<bound>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Gate:
    """`metric >= bound` or `metric <= bound`, of A less B; of A/B for one tested on the logarithm."""

    metric: str
    sign: Literal[">=", "<="]
    bound: float

    def judge(self, comparisons: Sequence[Comparison]) -> tuple[str, str]:
        """Decide by two one-sided t-tests at 5 %: "passed", "failed" or "undecided", and why.

        With several comparisons, the worst of them. Raises BenchError where nothing can be compared.
        """
        found = []
        for pair in comparisons:
            rows = {row.metric.name: row for row in pair.rows}
            if self.metric not in rows:
                raise BenchError(f"--gate {self.metric}: no such row here{did_you_mean(self.metric, rows)}")
            state, why = self._judge(rows[self.metric])
            found.append((state, f"{pair.a.name} against {pair.b.name}: {why}"))
        return max(found, key=lambda one: ("passed", "undecided", "failed").index(one[0]))

    def _judge(self, row: Difference) -> tuple[str, str]:
        effect = row.difference
        if effect is None or not row.judged:
            return "undecided", row.verdict or "a description, which is not tested"
        if effect.scale != "linear" and self.bound <= 0:
            what = f"--gate {self.metric}: {self.bound:g} bounds a ratio"
            raise BenchError(f"{what}; give a number above 0")
        bound = self.bound if effect.scale == "linear" else math.log(self.bound)
        above = self.sign == ">="
        holds, fails = (one_sided(effect, bound, above=side) for side in (above, not above))
        if holds is None or fails is None:
            return "undecided", row.verdict
        state = "passed" if holds <= LEVEL else "failed" if fails <= LEVEL else "undecided"
        size = effect.size
        interval = f"{size.mean:.6g} [{size.low:.6g}, {size.high:.6g}]"
        return state, f"{interval}, n = {effect.n}, p = {min(holds, fails):.2g}"


def parse(text: str) -> Gate:
    """Read `log_px_bernoulli >= -0.5`; raises BenchError for anything else."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise BenchError(f"--gate {text!r} is not of the form 'METRIC >= NUMBER' or 'METRIC <= NUMBER'")
    sign: Literal[">=", "<="] = ">=" if match["sign"] == ">=" else "<="
    return Gate(match["metric"], sign, float(match["bound"]))
