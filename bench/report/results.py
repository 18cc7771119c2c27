"""What the report reads: the resolved experiment and the records of exactly its planned runs.

Nothing here or above it imports torch: a report can be rebuilt anywhere from the folders alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.evaluation.metrics import METRICS, Metric, own_metrics
from bench.report.inference import Ranking, rank
from bench.report.statistics import MARGIN, Estimate, Values, estimate
from bench.store.experiments import ExperimentFolder
from bench.store.shapes import Planned

# What differs between machines in a way that changes times; the rest is told in the protocol.
TIMING = ("device", "device_name", "threads", "precision", "engine", "replicas", "torch")

FALL = 5  # epochs up to the one measured over which a run tells how fast its test loss still falls
SINCE = {metric.name: metric.since for metric in METRICS}
SCALES = {metric.name: metric.scale for metric in METRICS}
SATURATED = 0.7  # nats from ln N, about ln 2: z is mostly its own image's, N images tell no I(x; z)


@dataclass(frozen=True)
class Run:
    """One planned run and what became of it; `missing` until its record is written."""

    id: str
    variant: str
    seed: int
    status: str  # finished, diverged, failed, interrupted, unreadable or missing
    key: str = ""  # its folder in the store of runs
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its numbers count."""
        return self.status == "finished"

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Finite metrics by name, beta_eff not among them."""
        return numbers(self.record.get("metrics"))

    @property
    def curves(self) -> Sequence[Mapping[str, Any]]:
        """One row per epoch."""
        return self.record.get("curves") or ()

    @property
    def chosen(self) -> int:
        """The epoch that was measured: the one that patience chose, or the last."""
        of_patience = number((self.record.get("chosen") or {}).get("epoch"))
        return len(self.curves) if of_patience is None else int(of_patience)

    @property
    def losses(self) -> dict[int, float]:
        """Its test loss by epoch, nats per image."""
        rows = ((row["epoch"], number(row.get("test_loss_nats"))) for row in self.curves)
        return {int(epoch): value for epoch, value in rows if value is not None}

    @property
    def fall(self) -> float | None:
        """How fast its test loss still fell at the epoch measured: nats an epoch, over FALL epochs."""
        losses = self.losses
        first, last = losses.get(self.chosen - FALL), losses.get(self.chosen)
        return None if first is None or last is None else (first - last) / FALL

    @property
    def machine(self) -> tuple[str, ...]:
        """What has to be equal for times to be pooled."""
        environment = self.record.get("environment") or {}
        return tuple(str(environment[key]) for key in TIMING if environment.get(key) is not None)

    @property
    def diverged(self) -> Mapping[str, Any]:
        """Epoch and term that became non-finite; empty unless diverged."""
        where = self.record.get("diverged")
        return where if self.status == "diverged" and isinstance(where, Mapping) else {}

    @property
    def yardstick(self) -> int:
        """The version of the definitions by which it was measured."""
        return int(number(self.record.get("yardstick")) or 1)

    @property
    def outcome(self) -> str:
        """What went wrong and where, in words; empty for a finished or missing run."""
        told = f"epoch {self.diverged.get('epoch')}, {self.diverged.get('term')}" if self.diverged else ""
        return str(self.record.get("reason") or told)


@dataclass(frozen=True)
class Variant:
    """One variant as resolved, with its planned runs in order of seed."""

    name: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    newest: int = 1  # yardstick of any run in the report
    same_as: str = ""  # an earlier variant with the very same runs: it is counted and ranked once

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The runs whose numbers count."""
        return tuple(run for run in self.runs if run.finished)

    @cached_property
    def first(self) -> Run | None:
        """The finished run of the smallest seed: whose pictures are shown."""
        return self.finished[0] if self.finished else None

    @property
    def title(self) -> str:
        """What people read: the label that the experiment gives it, or else its name; on one line."""
        return " ".join(str(self.settings.get("label") or self.name).split())

    @property
    def latent(self) -> int | None:
        """Latent size."""
        return self.settings.get("latent")

    @property
    def axes(self) -> dict[str, str]:
        """The matrix axes this variant sits on, values as text; empty for a variant written out by name."""
        return {key: label(value) for key, value in (self.settings.get("axes") or {}).items()}

    @property
    def beta(self) -> float | None:
        """β as its script writes it."""
        return number(self.part("objective")[1].get("beta"))

    @property
    def beta_text(self) -> str:
        """β as the experiment writes it, such as 32/784."""
        value = "" if self.beta is None else f"{self.beta:.3g}"
        written = self.axes.get("beta", value)
        return f"{written} = {value}" if written == "dz/dx" else written

    @property
    def beta_eff(self) -> float | None:
        """The weight on the KL once reconstruction is one image's sum, as the run derived it."""
        return next((b for run in self.runs if (b := number(run.record.get("beta_eff"))) is not None), None)

    @property
    def likelihood_class(self) -> str:
        """Observation model and target: only inside one class do own-terms ELBOs compare."""
        return next((str(c) for run in self.runs if (c := run.record.get("likelihood_class"))), "")

    @property
    def started(self) -> bool:
        """Whether any of its runs has a record."""
        return any(run.status != "missing" for run in self.runs)

    @property
    def lost(self) -> int:
        """Planned seeds that ended without numbers, for which the mean of the others would be a selection."""
        return sum(run.status in ("diverged", "failed") for run in self.runs)

    @property
    def collapsed(self) -> int:
        """Finished seeds whose latents carry nothing: no active unit, or a KL under 0.1 nats."""
        return sum(r.metrics.get("active_units") == 0 or r.metrics.get("kl", 1) < 0.1 for r in self.finished)

    def part(self, kind: str) -> tuple[str, dict[str, Any]]:
        """Name and options of one part, whichever way the experiment writes it."""
        given = self.settings.get(kind)
        if not isinstance(given, Mapping):
            return (str(given) if given is not None else "", {})
        options = given.get("options")
        rest = {k: v for k, v in given.items() if k not in ("name", "options")}
        return str(given.get("name", "")), dict(options) if isinstance(options, Mapping) else rest

    def values(self, metric: str) -> dict[int, float]:
        """One metric by seed, of finished runs only; of runs by two definitions of it, those by the newer."""
        runs = [run for run in self.finished if metric in run.metrics]
        current = [run for run in runs if run.yardstick >= SINCE.get(metric, 1)]
        return {run.seed: run.metrics[metric] for run in current or runs}

    def outdated(self, metric: str) -> bool:
        """Whether its values are by an older definition of a metric than others in the report."""
        return max((run.yardstick for run in self.finished), default=1) < SINCE.get(metric, 1) <= self.newest

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and half-width of one metric over seeds; None without a value."""
        values = list(self.values(metric).values())
        return estimate(values, SCALES.get(metric, "linear")) if values else None

    @property
    def saturated(self) -> bool:
        """Whether I(x; z) is within SATURATED of ln N, the most that N test images can show."""
        mean, size = self.estimate("mutual_information"), self.test_images
        return bool(mean and size and size > 1 and mean.mean > math.log(size) - SATURATED)

    @property
    def test_images(self) -> float | None:
        """How many test images its runs were measured on, where that is one number."""
        sizes = {number((run.record.get("data") or {}).get("test")) for run in self.finished}
        return sizes.pop() if len(sizes) == 1 else None

    def monte_carlo_error(self, metric: Metric) -> float | None:
        """Give the estimator's own standard error; one that all seeds share does not average out."""
        errors = [numbers(run.record.get("monte_carlo_error")).get(metric.name) for run in self.finished]
        known = [e for e in errors if e is not None]
        if not known:
            return None
        return math.sqrt(math.fsum(e**2 for e in known) / len(known) / (1 if metric.shared else len(known)))


@dataclass(frozen=True)
class Results:
    """Everything a report says, before it is put into words."""

    folder: Path
    experiment: Mapping[str, Any]
    variants: tuple[Variant, ...]
    baselines: Mapping[str, Any]
    metrics: tuple[Metric, ...] = METRICS

    @property
    def margin(self) -> float:
        """Nats within which two variants are called equal, as the experiment states."""
        return number(self.experiment.get("equivalence_margin")) or MARGIN

    @property
    def runs(self) -> tuple[Run, ...]:
        """All planned runs."""
        return tuple(run for variant in self.variants for run in variant.runs)

    @property
    def finished(self) -> tuple[Run, ...]:
        """All runs whose numbers count."""
        return tuple(run for run in self.runs if run.finished)

    @property
    def started(self) -> tuple[Variant, ...]:
        """The variants of which any run has a record."""
        return tuple(variant for variant in self.variants if variant.started)

    @property
    def dataset(self) -> str:
        """The dataset in use."""
        return label(self.experiment.get("dataset") or "unknown data")

    @property
    def declared(self) -> str:
        """The dataset that was asked for."""
        return label(self.experiment.get("declared_dataset") or self.dataset)

    @property
    def fallback(self) -> bool:
        """Whether the dataset in use is a stand-in."""
        return bool(self.experiment.get("fallback"))

    def measured(self, *footings: str) -> tuple[Metric, ...]:
        """Rows of the metric table, of these footings, that have at least one value."""
        present = {name for run in self.finished for name in run.metrics}
        return tuple(m for m in self.metrics if m.footing in footings and m.name in present)

    @cached_property
    def rankings(self) -> Mapping[str, Ranking]:
        """The order of each metric that compares across all variants: one family, by which tables mark."""
        metrics = self.measured("common", "details", "latent", "samples")
        return {m.name: ordered(self.variants, m) for m in metrics}

    def metric(self, name: str) -> Metric | None:
        """One row of the metric table, if it has a value."""
        return next((m for m in self.measured(*{m.footing for m in self.metrics}) if m.name == name), None)


def ordered(variants: Iterable[Variant], metric: Metric) -> Ranking:
    """Order variants, each once and none that lost seeds; on latents none that collapsed, of one size."""
    latents = metric.footing == "latent"
    sound = [v for v in variants if not (v.lost or v.same_as or v.outdated(metric.name))]
    entries = [v for v in sound if not (latents and v.collapsed)]
    if latents and len({v.latent for v in entries}) > 1:
        return Ranking()
    column: dict[str, list[Values]] = {v.name: [values] for v in entries if (values := v.values(metric.name))}
    return rank(column, metric.direction, metric.scale)


def load(folder: Path) -> Results:
    """Read an experiment's folder, and the runs that it plans; raises BenchError without experiment.json."""
    home = ExperimentFolder(folder)
    runs = [_run(home, run_id, plan) for run_id, plan in home.planned.items()]
    runs.sort(key=lambda run: run.seed)
    newest = max((run.yardstick for run in runs if run.finished), default=1)
    variants: list[Variant] = []
    first: dict[tuple[str, ...], str] = {}  # the runs of a variant -> its name
    for name, settings in home.spec["variants"].items():
        own = tuple(run for run in runs if run.variant == name)
        if own or not home.planned:
            twin = first.setdefault(tuple(run.key for run in own), name) if own else name
            variants.append(Variant(name, settings, own, newest, twin if twin != name else ""))
    return Results(
        folder,
        home.spec,
        tuple(variants),
        home.baselines(),
        (*METRICS, *own_metrics(home.spec["variants"].values())),
    )


def _run(home: ExperimentFolder, run_id: str, plan: Planned) -> Run:
    try:
        record = home.record(run_id)
    except BenchError:
        return Run(run_id, plan["variant"], plan["seed"], "unreadable", plan["run"])
    if record is None:
        return Run(run_id, plan["variant"], plan["seed"], "missing", plan["run"])
    return Run(run_id, plan["variant"], plan["seed"], str(record["status"]), plan["run"], record)


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(value: object) -> dict[str, float]:
    """The finite numbers of a mapping."""
    if not isinstance(value, Mapping):
        return {}
    return {str(k): n for k, v in value.items() if (n := number(v)) is not None}


def label(value: object) -> str:
    """A setting as text: a part by its name, a number without a tail of zeros."""
    if isinstance(value, Mapping):
        return str(value.get("name", dict(value)))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
