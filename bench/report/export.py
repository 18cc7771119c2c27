"""The report as data, in full precision.

results.csv has a row per run, summary.csv a row per variant, published.csv a row per published number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from bench.report.published import compare
from bench.report.results import TIMING, Results, Run

COMPUTE = "compute_precision"  # `precision` is a metric's column


def results_csv(results: Results) -> bytes:
    """One row per planned run, missing ones too: identity, outcome, every scalar metric."""
    names = _names(results)
    head = [
        "id",
        "variant",
        "seed",
        "status",
        "outcome",
        "likelihood_class",
        "beta",
        "beta_eff",
        *names,
        *(COMPUTE if key == "precision" else key for key in TIMING),
    ]
    betas = {v.name: v.beta for v in results.variants}
    return _csv(head, (_run(run, betas[run.variant], names) for run in results.runs))


def summary_csv(results: Results) -> bytes:
    """One row per variant: mean, 95 % interval and n of every metric, over finished seeds."""
    names = _names(results)
    head = ["variant", "latent", "likelihood_class", "beta", "beta_eff", "finished", "planned"]
    head += [f"{name}_{what}" for name in names for what in ("mean", "low", "high", "n")]
    rows = []
    for v in results.variants:
        row: list[object] = [
            v.name,
            v.latent,
            v.likelihood_class,
            v.beta,
            v.beta_eff,
            len(v.finished),
            len(v.runs),
        ]
        for name in names:
            value = v.estimate(name)
            row += [value.mean, value.low, value.high, value.n] if value else [None, None, None, 0]
        rows.append(row)
    return _csv(head, rows)


def published_csv(results: Results) -> bytes | None:
    """One row per published number: as printed, in nats per image, what was measured there, the verdict.

    None where nothing is compared.
    """
    rows = [
        [
            c.variant.name,
            *(c.row.get(key) for key in ("metric", "epoch", "source", "value", "uncertainty", "unit")),
            c.nats,
            *((c.measured.mean, c.measured.half_width, c.measured.n) if c.measured else (None, None, 0)),
            c.prediction,
            c.difference,
            c.verdict,
        ]
        for c in compare(results)
    ]
    head = ["variant", "metric", "epoch", "source", "published", "uncertainty", "unit", "nats"]
    head += [
        "measured_mean",
        "measured_half_width",
        "measured_n",
        "prediction_half_width",
        "difference",
        "verdict",
    ]
    return _csv(head, rows) if rows else None


def _names(results: Results) -> list[str]:
    """Metrics in the table's order, then whatever else the records hold."""
    known = [m.name for m in results.metrics]
    present = {name for run in results.runs for name in run.metrics}
    return [n for n in known if n in present] + sorted(present - set(known))


def _run(run: Run, beta: float | None, names: Sequence[str]) -> list[object]:
    environment = run.record.get("environment") or {}
    return [
        run.id,
        run.variant,
        run.seed,
        run.status,
        run.outcome,
        run.record.get("likelihood_class"),
        beta,
        run.record.get("beta_eff"),
        *(run.metrics.get(name) for name in names),
        *(environment.get(key) for key in TIMING),
    ]


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, head))
    writer.writerows(map(_cell, row) for row in rows)
    return out.getvalue().encode()


def _cell(value: object) -> object:
    """A value as a spreadsheet takes it: text that looks like a formula is marked as text."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value
