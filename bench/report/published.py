"""Published numbers beside measured ones, and whether they reproduce."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from bench.report.cells import NOTHING, exact, fixed, spread, table, text
from bench.report.results import Results, Variant, number
from bench.report.statistics import MIN_SEEDS, Estimate, estimate
from bench.store.records import DONE

TOLERANCE = 0.01  # of the published value
IN_NATS = ("elbo", "reconstruction", "kl")  # curves that need no rescaling


@dataclass(frozen=True)
class Comparison:
    """One published number, what was measured at that epoch, both in nats per image, and the verdict."""

    variant: Variant
    row: Mapping[str, Any]
    nats: float | None
    measured: Estimate | None
    verdict: str

    @property
    def difference(self) -> float | None:
        """Measured less published, nats per image."""
        return None if self.nats is None or self.measured is None else self.measured.mean - self.nats


def switched_off(results: Results) -> str:
    """Why published numbers are not compared at all; empty where they are."""
    if results.dataset == "mnist" and not results.fallback:
        return ""
    used = text(results.dataset)
    return f"The published numbers were measured on MNIST; this report is on {used}, so none is compared."


def compare(results: Results) -> list[Comparison]:
    """Every published row of every variant against the finished seeds; none where switched off."""
    if switched_off(results):
        return []
    return [
        _compare(variant, row)
        for variant in results.variants
        for row in variant.settings.get("published") or ()
        if isinstance(row, Mapping)
    ]


def _compare(variant: Variant, row: Mapping[str, Any]) -> Comparison:
    value, factor = number(row.get("value")), number(row.get("to_nats"))
    if factor is None and str(row.get("unit") or "nats/image").startswith("nats"):
        factor = 1.0
    nats = None if value is None or factor is None else value * factor
    by_seed = at_epoch(variant, str(row.get("metric", "")), row.get("epoch"))
    measured = estimate(list(by_seed)) if by_seed else None
    doubt = (number(row.get("uncertainty")) or 0.0) * (factor or 1.0)
    return Comparison(variant, row, nats, measured, _verdict(variant, row, nats, by_seed, doubt))


def at_epoch(variant: Variant, metric: str, epoch: object) -> list[float]:
    """A curve's value at an epoch in nats per image, one per seed that has it.

    A run that diverged later counts: so did the one that was printed, perhaps.
    """
    key = metric if metric in IN_NATS else f"{metric}_nats"
    rows = (r for run in variant.runs if run.status in DONE for r in run.curves if r.get("epoch") == epoch)
    return [value for row in rows if (value := number(row.get(key))) is not None]


def _verdict(
    variant: Variant, row: Mapping[str, Any], nats: float | None, by_seed: list[float], doubt: float
) -> str:
    """Within 1 % or the spread of seeds (the 95 % interval of one more run), plus what the print leaves."""
    if row.get("not_comparable"):
        return f"not comparable: {text(row['not_comparable'])}"
    if nats is None:
        return "not comparable: no conversion to nats per image is given"
    if not by_seed:
        if variant.finished:
            return "not measured: no finished run has this epoch"
        gone = variant.runs and all(run.status == "diverged" for run in variant.runs)
        return "not measured: every seed diverged before" if gone else "not measured"
    measured = estimate(by_seed)
    allowed = max(TOLERANCE * abs(nats), seed_spread(by_seed)) + doubt
    return "reproduced" if abs(measured.mean - nats) <= allowed else "not reproduced"


def seed_spread(values: list[float]) -> float:
    """Half-width of the 95 % prediction interval t·s·√(1 + 1/n) of one more run; 0 below MIN_SEEDS seeds.

    A published number is one run, not a mean: it should fall where a next seed would.
    """
    n = len(values)
    if n < MIN_SEEDS:
        return 0.0
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return float(stdtrit(n - 1, 0.975)) * sd * math.sqrt(1 + 1 / n)


def published_table(comparisons: list[Comparison]) -> str:
    """Published, measured, difference, verdict: one row per published number."""
    head = [
        "variant",
        "metric",
        "published in",
        "epoch",
        "published",
        "unit",
        "nats/image",
        "measured (nats/image)",
    ]
    head += ["n", "difference", "verdict"]
    return table(head, (_row(c) for c in comparisons), left=3)


def _row(c: Comparison) -> list[str]:
    value, doubt, epoch = number(c.row.get("value")), number(c.row.get("uncertainty")), c.row.get("epoch")
    difference = c.difference
    percent = (
        f" ({_signed(100 * difference / abs(c.nats), 1)} %)" if difference is not None and c.nats else ""
    )
    return [
        text(c.variant.title),
        text(c.row.get("metric", "")).replace("\\_", " "),
        text(c.row.get("source") or NOTHING),
        NOTHING if epoch is None else text(epoch),
        (NOTHING if value is None else exact(value)) + (f" ± {exact(doubt)}" if doubt else ""),
        text(c.row.get("unit") or "nats/image"),
        NOTHING if c.nats is None else fixed(c.nats, 2),
        spread(c.measured) if c.measured else NOTHING,
        str(c.measured.n) if c.measured else "0",
        NOTHING if difference is None else _signed(difference, 2) + percent,
        c.verdict,
    ]


def _signed(value: float, decimals: int) -> str:
    shown = fixed(value, decimals)
    return shown if shown.startswith("−") or not float(shown.replace(",", "")) else f"+{shown}"
