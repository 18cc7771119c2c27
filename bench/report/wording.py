"""Effects, and what was tested, in words."""

from __future__ import annotations

from collections.abc import Iterable

from bench.evaluation.metrics import Metric
from bench.report.cells import NOTHING, plain, spread, text
from bench.report.statistics import LEVEL, Effect, Estimate, advice, backward, equivalence

TESTS = {
    "Welch": "Welch's t",
    "paired by seed": "t of differences by seed, as they are near-twins",
}
PAIRING = (
    "Variants are paired by seed only if they are near-twins: all settings but the arithmetic precision are"
    " equal, so that they share initialisation, data order and noise."
)


def signed(effect: Effect | None) -> str:
    """A difference with its sign and interval; a ratio on the logarithm, an odds ratio on the logit."""
    if effect is None:
        return NOTHING
    shown = spread(effect.size)
    if effect.scale == "linear":
        return f"+{shown}" if effect.value > 0 else shown
    return f"{'odds ' if effect.scale == 'logit' else ''}×{shown}"


def by(effect: Effect, metric: Metric) -> str:
    """By how much the better is better, with unit: a difference, a factor or an odds ratio."""
    scale = effect.size.scale
    shown = spread(Estimate(backward(abs(effect.value), scale), effect.half_width, effect.n, scale))
    if effect.scale == "linear":
        return f"{shown} {text(metric.unit)}".rstrip()
    return f"{'a factor' if effect.scale == 'log' else 'an odds ratio'} of {shown}"


def unequal(effect: Effect, metric: Metric, margin: float, tests: int) -> str:
    """What a difference is that is not significant: equal within the margin, or none found."""
    if effect.error == 0 and effect.value == 0:
        return "equal in every seed"
    p = equivalence(effect, margin) if metric.unit.startswith("nats") else None
    if p is not None and p <= LEVEL:
        return f"equal within {plain(margin)} {'nat' if margin == 1 else 'nats'}"
    return f"no difference found ({advice(effect, tests)})"


def tests(effects: Iterable[Effect | None]) -> str:
    """Which tests were made, and over how many seeds."""
    made = list(dict.fromkeys(TESTS[effect.test] for effect in effects if effect and effect.p is not None))
    return f"tested by {' and '.join(made)}" if made else ""
