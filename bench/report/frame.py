"""The report as data: one tidy table with a row a planned run, made from the records of an experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.errors import BenchError, printable
from bench.evaluation.metrics import METRICS, own_metrics
from bench.store.experiments import ExperimentFolder

# What differs between machines in a way that changes times; the rest is told in the protocol.
TIMING = ("device", "device_name", "threads", "precision", "engine", "replicas", "torch")
TIMES = ("train_seconds", "images_per_second", "peak_memory_mb")  # what it changes
# What has to be equal for times to be compared: precision and engine are what a variant itself decides
PLACE = (*(key for key in TIMING if key not in ("precision", "engine")), "origin")
ENVIRONMENT = tuple("compute_precision" if key == "precision" else key for key in TIMING)  # one is a metric
PARTS = ("encoder", "decoder", "posterior", "prior", "likelihood", "target", "objective", "optimizer")
RESULTS = ("id", "variant", "seed", "status", "outcome", "likelihood_class", "beta", "beta_eff")
INNER = ("record", "losses", "diverged")  # no scalars: for the report alone
COLUMNS = (*RESULTS, "run", "yardstick", "measured_epoch", "fall", *PARTS, "latent", "epochs", "batch_size",
           *ENVIRONMENT, "origin", "machine", *INNER)  # fmt: skip
# Where a spreadsheet sees a formula: at a cell's start, which it may also see behind a semicolon
FORMULA = re.compile(r"(?:^|(?<=;))(?=[=+\-@＝＋－＠])")
FALL = 5  # epochs up to the one measured over which a run tells how fast its test loss still falls


def table(home: ExperimentFolder) -> pd.DataFrame:
    """Make the table of an experiment: what is planned, what became of it, settings, machine, then metrics.

    `status` is finished, diverged, failed, interrupted, unreadable or missing. `run` is the folder in the
    store. `outcome` says in words what went wrong, and `diverged` which epoch and term became non-finite.
    `losses` is the test loss by epoch, in nats per image. `fall` says how fast that still fell at
    `measured_epoch`: nats an epoch, over FALL epochs. `origin` is whose run it is, where it was joined, and
    `machine` what has to be equal for times to be pooled. The metrics are the columns of floats: those that
    bench knows in their order, then what else the records hold.
    """
    settings = home.spec["variants"]
    order = {name: place for place, name in enumerate(settings)}
    planned = [(run_id, plan) for run_id, plan in home.planned.items() if plan["variant"] in order]
    planned.sort(key=lambda each: (order[each[1]["variant"]], each[1]["seed"]))
    rows = []
    for run_id, plan in planned:
        variant, seed = plan["variant"], plan["seed"]
        identity = {"id": run_id, "variant": variant, "seed": seed, "run": plan["run"]}
        rows.append({**identity, **_outcome(home, run_id), **_settings(settings[variant])})
    columns = list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))
    measured = [numbers(row["record"].get("metrics")) for row in rows]
    present = {name for values in measured for name in values}.difference(columns)
    known = [metric.name for metric in (*METRICS, *own_metrics(settings.values()))]
    names = [*(name for name in known if name in present), *sorted(present.difference(known))]
    told = [
        [*map(row.get, columns), *map(values.get, names)] for row, values in zip(rows, measured, strict=True)
    ]
    found = pd.DataFrame(told, columns=[*columns, *names], dtype=object)  # 1 stays so beside a missing one
    return found.astype(dict.fromkeys(names, float))


def metric_names(table: pd.DataFrame) -> list[str]:
    """List the columns of metrics."""
    return [str(name) for name, kind in table.dtypes.items() if kind == "float64"]


def _outcome(home: ExperimentFolder, run_id: str) -> dict[str, Any]:
    """What became of a run, as its record says."""
    try:
        record = home.record(run_id)
        status = "missing" if record is None else str(record["status"])
    except BenchError:
        record, status = None, "unreadable"
    record = record or {}
    curves = record.get("curves") or ()
    losses = {row["epoch"]: float(x) for row in curves if (x := row.get("test_loss_nats")) is not None}
    chosen = number((record.get("chosen") or {}).get("epoch"))  # by patience
    measured = len(curves) if chosen is None else int(chosen)
    first, last = losses.get(measured - FALL), losses.get(measured)
    diverged = (record.get("diverged") or {}) if status == "diverged" else {}
    told = f"epoch {diverged.get('epoch')}, {diverged.get('term')}" if diverged else ""
    environment, origin = record.get("environment") or {}, record.get("joined")
    machine = [str(environment[key]) for key in TIMING if environment.get(key) is not None]
    return {
        "status": status, "outcome": record.get("reason") or told,
        "likelihood_class": record.get("likelihood_class"), "beta_eff": record.get("beta_eff"),
        "yardstick": record.get("yardstick", 1), "measured_epoch": measured,
        "fall": None if first is None or last is None else (first - last) / FALL,
        **{new: environment.get(old) for new, old in zip(ENVIRONMENT, TIMING, strict=True)},
        "record": record, "losses": losses, "diverged": diverged,
        "origin": origin, "machine": ", ".join([*machine, f"of {origin}"] if origin else machine),
    }  # fmt: skip


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's settings: its parts by name, its sizes, and its place on the axes of the matrix."""
    prior = "standard" if settings.get("encoder") else None  # unsaid; a whole model may have its own
    return {
        **{kind: part(settings, kind)[0] or None for kind in PARTS},
        "prior": part(settings, "prior")[0] or prior,
        **{key: settings.get(key) for key in ("latent", "epochs", "batch_size")},
        "beta": number(part(settings, "objective")[1].get("beta")),
        **{f"axis.{axis}": label(value) for axis, value in (settings.get("axes") or {}).items()},
    }


def part(settings: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """Read name and options of one part, whichever way the experiment writes it."""
    given = settings.get(kind)
    if not isinstance(given, Mapping):
        return (str(given) if given is not None else "", {})
    options = given.get("options")
    rest = {k: v for k, v in given.items() if k not in ("name", "options")}
    return str(given.get("name", "")), dict(options) if isinstance(options, Mapping) else rest


def number(value: object) -> float | None:
    """Read a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(value: object) -> dict[str, float]:
    """Read the finite numbers of a mapping."""
    if not isinstance(value, Mapping):
        return {}
    return {str(k): n for k, v in value.items() if (n := number(v)) is not None}


def seconds_spent(record: Mapping[str, Any]) -> tuple[float, float]:
    """Add up what a run took to train and to evaluate, in seconds."""
    epochs = (number(row.get("train_seconds")) or 0.0 for row in record.get("curves") or ())
    return math.fsum(epochs), math.fsum(numbers(record.get("evaluation_seconds")).values())


def label(value: object) -> str:
    """Write a setting as text: a part by its name, a number without a tail of zeros."""
    if isinstance(value, Mapping):
        return str(value.get("name", dict(value)))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def results_csv(table: pd.DataFrame) -> bytes:
    """Write one row per planned run, missing ones too: identity, outcome, every scalar metric."""
    origin = ["origin"] if table.origin.notna().any() else []
    return csv(table[[*RESULTS, *origin, *metric_names(table), *ENVIRONMENT]])


def csv(table: pd.DataFrame) -> bytes:
    """Write a table in full precision; text that a spreadsheet would take for a formula is marked as text."""
    safe = table.astype(object).map(_cell)
    safe.columns = pd.Index([_cell(name) for name in safe.columns])
    return bytes(safe.to_csv(index=False, lineterminator="\n").encode())


def _cell(value: object) -> object:
    return FORMULA.sub("'", printable(value)) if isinstance(value, str) else value
