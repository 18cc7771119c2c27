"""Published numbers beside measured ones, and whether they are compatible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from bench.report.cells import NOTHING, exact, fixed, plain, spread, table, text
from bench.report.results import Results, Variant, number
from bench.report.statistics import MIN_SEEDS, Estimate, estimate, moments
from bench.store.records import DONE

TOLERANCE = 0.01  # of the published value
COMPATIBLE = "compatible"


@dataclass(frozen=True)
class Comparison:
    """One published number, what was measured at that epoch, both in nats per image, and the verdict."""

    variant: Variant
    row: Mapping[str, Any]
    nats: float | None
    measured: Estimate | None
    prediction: float | None  # half-width of the 95 % interval of one more run
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
    return Comparison(
        variant, row, nats, measured, prediction(by_seed), _verdict(variant, row, nats, by_seed, doubt)
    )


def at_epoch(variant: Variant, metric: str, epoch: object) -> list[float]:
    """A metric after an epoch in nats per image, one value per seed that has it: of the curve, or at the end.

    A run that diverged later counts: so did the one that was printed, perhaps.
    """
    key = f"{metric}_nats" if metric.endswith("_loss") else metric
    found = []
    for run in variant.runs:
        rows = run.curves if run.status in DONE else ()
        curve = [number(row.get(key)) for row in rows if row.get("epoch") == epoch]
        last = rows[-1].get("epoch") if rows else None
        end = [run.metrics.get(key)] if run.finished and epoch in (None, last) else []
        found += [value for value in (*curve, *end) if value is not None][:1]
    return found


def _verdict(
    variant: Variant, row: Mapping[str, Any], nats: float | None, by_seed: list[float], doubt: float
) -> str:
    """Within 1 %, or where one more run falls in 95 % of the cases, plus what the print leaves open."""
    if row.get("not_comparable"):
        return f"not comparable: {text(row['not_comparable'])}"
    if nats is None:
        return "not comparable: no conversion to nats per image is given"
    if not by_seed:
        if variant.finished:
            return "not measured: no finished run has this epoch"
        gone = variant.runs and all(run.status == "diverged" for run in variant.runs)
        return "not measured: every seed diverged before" if gone else "not measured"
    allowed = max(TOLERANCE * abs(nats), prediction(by_seed) or 0.0) + doubt
    return COMPATIBLE if abs(estimate(by_seed).mean - nats) <= allowed else f"not {COMPATIBLE}"


def prediction(values: list[float]) -> float | None:
    """Half-width t·s·√(1 + 1/n) of the 95 % prediction interval of one more run; None below MIN_SEEDS seeds.

    A published number is one run, not a mean: it should fall where a next seed would.
    """
    n = len(values)
    if n < MIN_SEEDS:
        return None
    _, variance = moments(values)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt(variance * (1 + 1 / n))


def final_values(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The last of the numbers that were published of each curve."""
    last: dict[tuple[str, object], Comparison] = {}
    for c in comparisons:
        key = (c.variant.name, c.row.get("metric"))
        if c.nats is not None and (key not in last or _epoch(c) >= _epoch(last[key])):
            last[key] = c
    return list(last.values())


def _epoch(c: Comparison) -> float:
    return number(c.row.get("epoch")) or math.inf


def counted(comparisons: Iterable[Comparison]) -> str:
    """How many curves end where they were published, in a sentence."""
    verdicts = [c.verdict for c in final_values(comparisons) if c.verdict.endswith(COMPATIBLE)]
    if not verdicts:
        return ""
    good = verdicts.count(COMPATIBLE)
    return f"Of {len(verdicts)} final values of curves that compare, compatible: {good}."


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
    head += ["n", "difference", "one more run", "verdict"]
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
        NOTHING if c.prediction is None else f"±\N{NO-BREAK SPACE}{plain(c.prediction, 2)}",
        c.verdict,
    ]


def _signed(value: float, decimals: int) -> str:
    shown = fixed(value, decimals)
    return shown if shown.startswith("−") or not float(shown.replace(",", "")) else f"+{shown}"
