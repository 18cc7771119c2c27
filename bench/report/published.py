"""Published numbers beside measured ones, and whether they are compatible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from bench.report.cells import NOTHING, exact, fixed, signed
from bench.report.frame import csv, number
from bench.report.results import Results, Variant
from bench.report.statistics import MIN_SEEDS, Estimate, estimate, moments
from bench.report.tables import Cell, Column, Table, interval, shown
from bench.store.records import DONE

TOLERANCE = 0.01  # of the published value
COMPATIBLE = "compatible"


@dataclass(frozen=True)
class Published:
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


def switched_off(results: Results) -> bool:
    """Tell whether the data are not those of the published numbers, so that none is compared."""
    return results.dataset != "mnist" or results.fallback


def compare(results: Results) -> list[Published]:
    """Compare every published number of every variant with the finished seeds; none where switched off."""
    if switched_off(results):
        return []
    found = []
    for variant in results.variants:
        for row in variant.settings.get("published") or ():
            value, factor = number(row.get("value")), number(row.get("to_nats"))
            if factor is None and str(row.get("unit") or "nats/image").startswith("nats"):
                factor = 1.0
            nats = None if value is None or factor is None else value * factor
            by_seed = at_epoch(variant, str(row.get("metric", "")), row.get("epoch"))
            measured = estimate(by_seed) if by_seed else None
            doubt = (number(row.get("uncertainty")) or 0.0) * (factor or 1.0)
            verdict = _verdict(variant, row, nats, by_seed, doubt)
            found.append(Published(variant, row, nats, measured, prediction(by_seed), verdict))
    return found


def at_epoch(variant: Variant, metric: str, epoch: object) -> list[float]:
    """Read a metric after an epoch, nats per image, of each seed that has it: of the curve, or at the end.

    A run that diverged later counts: so did the one that was printed, perhaps.
    """
    key = f"{metric}_nats" if metric.endswith("_loss") else metric
    found = []
    for run in variant.runs:
        rows = (run.record.get("curves") or ()) if run.status in DONE else ()
        curve = [number(row.get(key)) for row in rows if row.get("epoch") == epoch]
        last = rows[-1].get("epoch") if rows else None
        end = [variant.values(key).get(run.seed)] if epoch in (None, last) else []
        found += [value for value in (*curve, *end) if value is not None][:1]
    return found


def _verdict(
    variant: Variant, row: Mapping[str, Any], nats: float | None, by_seed: list[float], doubt: float
) -> str:
    """Within 1 %, or where one more run falls in 95 % of the cases, plus what the print leaves open."""
    if row.get("not_comparable"):
        return f"not comparable: {row['not_comparable']}"
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
    """Compute the half-width t·s·√(1 + 1/n) of the 95 % prediction interval of one more run.

    None below MIN_SEEDS seeds. A published number is one run, not a mean: it should fall where a next
    seed would.
    """
    n = len(values)
    if n < MIN_SEEDS:
        return None
    _, variance = moments(values)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt(variance * (1 + 1 / n))


def final_values(comparisons: Iterable[Published]) -> list[Published]:
    """Keep the last of the numbers that were published of each curve."""
    last: dict[tuple[str, object], Published] = {}
    for c in comparisons:
        key = (c.variant.name, c.row.get("metric"))
        if c.nats is not None and (key not in last or _epoch(c) >= _epoch(last[key])):
            last[key] = c
    return list(last.values())


def _epoch(c: Published) -> float:
    return number(c.row.get("epoch")) or math.inf


def table(comparisons: Iterable[Published]) -> Table:
    """Make the table of published numbers: published, measured, difference and verdict."""
    rows = []
    for c in comparisons:
        value, doubt, epoch = number(c.row.get("value")), number(c.row.get("uncertainty")), c.row.get("epoch")
        metric = str(c.row.get("metric", "")).replace("_", " ")
        where = metric if epoch is None else f"{metric}, epoch {epoch}"
        printed = NOTHING if value is None else exact(value) + (f" ± {exact(doubt)}" if doubt else "")
        difference = Cell(NOTHING)
        if c.difference is not None and c.nats:
            percent = signed(100 * c.difference / abs(c.nats), 1)
            difference = Cell(shown(f"{signed(c.difference, 2)} ({percent} %)"), c.difference)
        rows.append([
            Cell(c.variant.title), Cell(where), Cell(f"{printed} {c.row.get('unit') or ''}".strip(), value),
            Cell(NOTHING) if c.nats is None else Cell(shown(fixed(c.nats, 2)), c.nats),
            interval(c.measured), difference, Cell(c.verdict),
        ])  # fmt: skip
    columns = [Column("variant"), Column("published"), Column("as printed"), Column("in nats", "nats/image"),
               Column("measured", "nats/image"), Column("difference"), Column("verdict")]  # fmt: skip
    return Table(columns, rows)


def published_csv(comparisons: Iterable[Published]) -> bytes | None:
    """Write a row per published number, in full precision; None where nothing is compared."""
    rows = [
        {
            "variant": c.variant.name,
            **{key: c.row.get(key) for key in ("metric", "epoch", "source")},
            "published": c.row.get("value"), **{key: c.row.get(key) for key in ("uncertainty", "unit")},
            "nats": c.nats, "measured_mean": c.measured and c.measured.mean,
            "measured_half_width": c.measured and c.measured.half_width,
            "measured_n": c.measured.n if c.measured else 0,
            "prediction_half_width": c.prediction, "difference": c.difference, "verdict": c.verdict,
        }
        for c in comparisons
    ]  # fmt: skip
    return csv(pd.DataFrame(rows, dtype=object)) if rows else None
