"""The report as data: one tidy table with a row a run, and its summary with a row a variant.

`bench.load("reports/all")` gives the first to anybody; results.csv and summary.csv are both as files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from bench.report.results import TIMING, Results, Variant, load

INDEX = ["experiment", "variant", "seed"]
COMPUTE = "compute_precision"  # `precision` is a metric's column
ENVIRONMENT = tuple(COMPUTE if key == "precision" else key for key in TIMING)
PARTS = ("encoder", "decoder", "posterior", "prior", "likelihood", "target", "objective", "optimizer")
RESULTS = ("id", "variant", "seed", "status", "outcome", "likelihood_class", "beta", "beta_eff")


def read(*folders: str | Path) -> pd.DataFrame:
    """Load the runs of one experiment or more as a tidy table: a row a planned run.

    The index is (experiment, variant, seed). Columns hold what became of a run (`status`, `outcome`), its
    settings, every metric under its name in `bench parts` (NaN where a run has none), its cost, and the
    machine. `attrs` has the title and unit of each metric.

    >>> import bench
    >>> runs = bench.load("reports/mnist/beta")  # doctest: +SKIP
    >>> runs.groupby("beta")["elbo_bernoulli"].mean()  # doctest: +SKIP

    Raises:
        BenchError: a folder holds no `experiment.json`.
    """
    loaded = [load(Path(folder)) for folder in folders]
    table = pd.concat([runs(results).infer_objects() for results in loaded])
    metrics = {metric.name: metric for results in loaded for metric in results.metrics}
    table.attrs = {name: f"{m.title}, {m.unit}".rstrip(", ") for name, m in metrics.items() if name in table}
    return table


def runs(results: Results) -> pd.DataFrame:
    """Make the tidy table of an experiment's runs: see `read`."""
    names = metric_names(results)
    settings = {v.name: _settings(v) for v in results.variants}
    rows = []
    for run in results.runs:
        environment = run.record.get("environment") or {}
        rows.append(
            {
                "experiment": results.folder.name, "variant": run.variant, "seed": run.seed, "id": run.id,
                "run": run.key, "status": run.status, "outcome": run.outcome,
                "likelihood_class": run.record.get("likelihood_class"), **settings[run.variant],
                "beta_eff": run.record.get("beta_eff"), "yardstick": run.yardstick,
                **{name: run.metrics.get(name) for name in names},
                **{new: environment.get(old) for new, old in zip(ENVIRONMENT, TIMING, strict=True)},
            }
        )  # fmt: skip
    columns = list(dict.fromkeys(key for row in rows for key in row)) or [*INDEX, *RESULTS]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # a whole number stays one beside a missing one
    return table.astype(dict.fromkeys(names, float)).set_index(INDEX)


def _settings(variant: Variant) -> dict[str, Any]:
    parts = {kind: variant.part(kind)[0] or None for kind in PARTS}
    axes = {f"axis.{axis}": value for axis, value in variant.axes.items()}
    given = {key: variant.settings.get(key) for key in ("latent", "epochs", "batch_size")}
    return {**parts, **given, "beta": variant.beta, **axes}


def metric_names(results: Results) -> list[str]:
    """List metrics in the table's order, then whatever else the records hold."""
    known = [m.name for m in results.metrics]
    present = {name for run in results.runs for name in run.metrics}
    return [n for n in known if n in present] + sorted(present - set(known))


def results_csv(results: Results) -> bytes:
    """One row per planned run, missing ones too: identity, outcome, every scalar metric."""
    table = runs(results).reset_index()
    return csv(table[[*RESULTS, *metric_names(results), *ENVIRONMENT]])


def summary_csv(results: Results) -> bytes:
    """One row per variant: mean, 95 % interval and n of every metric, over finished seeds."""
    rows, names = [], metric_names(results)
    for v in results.variants:
        row: dict[str, object] = {
            "variant": v.name, "latent": v.latent, "likelihood_class": v.likelihood_class, "beta": v.beta,
            "beta_eff": v.beta_eff, "finished": len(v.finished), "planned": len(v.runs),
        }  # fmt: skip
        for name in names:
            value = v.estimate(name)
            known = (value.mean, value.low, value.high, value.n) if value else (None, None, None, 0)
            row |= {f"{name}_{what}": x for what, x in zip(("mean", "low", "high", "n"), known, strict=True)}
        rows.append(row)
    return csv(pd.DataFrame.from_records(rows).astype(object))


def csv(table: pd.DataFrame) -> bytes:
    """Write a table in full precision; text that a spreadsheet would take for a formula is marked as text."""
    safe = table.astype(object).map(_cell)
    safe.columns = pd.Index([_cell(name) for name in safe.columns])
    return bytes(safe.to_csv(index=False, lineterminator="\n").encode())


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
