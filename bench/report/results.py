"""What a report says, before it is put into words: the tidy table, and each variant as a view of its rows.

Tables, figures, answers and CSVs take their numbers from there alone. Nothing here or above it imports torch:
a report can be rebuilt anywhere from the folders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from bench.evaluation.metrics import METRICS, Metric, own_metrics
from bench.report import frame
from bench.report.frame import TIMES, label, metric_names, number, numbers
from bench.report.inference import Ranking, rank
from bench.report.statistics import MARGIN, MIN_SEEDS, Estimate, Values, estimate
from bench.store.experiments import JUDGED, ExperimentFolder

BY_NAME = {metric.name: metric for metric in METRICS}
FIT = ("log_px_bernoulli", "elbo_bernoulli")  # the first that is measured says which model fits best
SATURATED = 0.7  # nats from ln N, about ln 2: z is mostly its own image's, N images tell no I(x; z)
DIGITS = ("mnist", "digits", "QMNIST", "SVHN", "USPS", "EMNIST-digits", "EMNIST-mnist")

Run: TypeAlias = Any  # a row of `bench.report.frame.table`: its columns are attributes


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant as resolved, and the rows of its planned runs in order of seed."""

    name: str
    settings: Mapping[str, Any]
    table: pd.DataFrame
    newest: int = 1  # yardstick of any run in the report
    same_as: str = ""  # an earlier variant with the very same runs: it is counted and ranked once

    # What it is

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

    def part(self, kind: str) -> tuple[str, dict[str, Any]]:
        """Name and options of one part, whichever way the experiment writes it."""
        return frame.part(self.settings, kind)

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

    @cached_property
    def beta_eff(self) -> float | None:
        """The weight on the KL once reconstruction is one image's sum, as the run derived it."""
        return next((float(run.beta_eff) for run in self.runs if run.beta_eff is not None), None)

    @cached_property
    def likelihood_class(self) -> str:
        """Observation model and target: only inside one class do own-terms ELBOs compare."""
        return next((run.likelihood_class for run in self.runs if run.likelihood_class), "")

    @property
    def judged(self) -> bool:
        """Whether it was trained elsewhere."""
        return self.settings.get("origin") == JUDGED

    # What became of its runs

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Its rows, one at a time."""
        return tuple(self.table.itertuples(index=False))

    @cached_property
    def done(self) -> pd.DataFrame:
        """The rows of finished runs, whose numbers count."""
        return self.table[self.table.status == "finished"]

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The same, one at a time."""
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def first(self) -> Run | None:
        """The finished run of the smallest seed: whose pictures are shown."""
        return next(iter(self.finished), None)

    @property
    def started(self) -> bool:
        """Whether any of its runs has a record."""
        return any(run.status != "missing" for run in self.runs)

    @property
    def lost(self) -> int:
        """Planned seeds that ended without numbers, for which the mean of the others would be a selection."""
        return sum(run.status in ("diverged", "failed") for run in self.runs)

    @cached_property
    def collapsed(self) -> int:
        """Finished seeds whose latents carry nothing: no active unit, or a KL under 0.1 nats."""
        units, kl = self.values("active_units"), self.values("kl")
        return sum(units.get(run.seed) == 0 or kl.get(run.seed, 1) < 0.1 for run in self.finished)

    # What was measured

    @cached_property
    def _values(self) -> dict[str, Values]:
        found: dict[str, Values] = {}
        of = [(run.seed, run.yardstick) for run in self.finished]
        for metric in metric_names(self.done):
            each = zip(of, self.done[metric].tolist(), strict=True)
            known = [(seed, value, newest) for (seed, newest), value in each if not math.isnan(value)]
            current = [one for one in known if one[2] >= since(metric)]
            found[metric] = {seed: value for seed, value, _ in current or known}
        return found

    def values(self, metric: str) -> Values:
        """One metric by seed, of finished runs only; of runs by two definitions of it, those by the newer."""
        return self._values.get(metric, {})

    @property
    def yardstick(self) -> int:
        """The newest definitions by which a finished run of it was measured."""
        return max((run.yardstick for run in self.finished), default=1)

    def outdated(self, metric: str) -> bool:
        """Whether its values are by an older definition of a metric than others in the report."""
        return self.yardstick < since(metric) <= self.newest

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and half-width of one metric over seeds; None without a value, or of times of two machines."""
        pooled = metric not in TIMES or len(set(self.done.machine)) == 1
        values = list(self.values(metric).values()) if pooled else []
        return estimate(values, BY_NAME[metric].scale if metric in BY_NAME else "linear") if values else None

    @property
    def saturated(self) -> bool:
        """Whether I(x; z) is within SATURATED of ln N, the most that N test images can show."""
        mean = self.estimate("mutual_information")
        sizes = {number((run.record.get("data") or {}).get("test")) for run in self.finished}
        size = sizes.pop() if len(sizes) == 1 else None
        return bool(mean and size and size > 1 and mean.mean > math.log(size) - SATURATED)

    def monte_carlo_error(self, metric: Metric) -> float | None:
        """Give the estimator's own standard error; one that all seeds share does not average out."""
        errors = [numbers(run.record.get("monte_carlo_error")).get(metric.name) for run in self.finished]
        known = [e for e in errors if e is not None]
        if not known:
            return None
        return math.sqrt(math.fsum(e**2 for e in known) / len(known) / (1 if metric.shared else len(known)))


@dataclass(frozen=True, eq=False)
class Results:
    """Everything a report says, before it is put into words."""

    folder: Path
    experiment: Mapping[str, Any]
    table: pd.DataFrame  # a row a planned run: COLUMNS, then its metrics
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
    def done(self) -> pd.DataFrame:
        """The rows of finished runs."""
        return self.table[self.table.status == "finished"]

    @property
    def finished(self) -> tuple[Run, ...]:
        """All runs whose numbers count."""
        return tuple(run for variant in self.variants for run in variant.finished)

    @property
    def started(self) -> tuple[Variant, ...]:
        """The variants of which any run has a record."""
        return tuple(variant for variant in self.variants if variant.started)

    @cached_property
    def axes(self) -> list[str]:
        """The axes of the matrix with at least two values among the variants."""
        seen = {(axis, value): axis for v in self.variants for axis, value in v.axes.items()}
        return [axis for axis, count in Counter(seen.values()).items() if count > 1]

    @property
    def dataset(self) -> str:
        """The dataset in use."""
        return label(self.experiment.get("dataset") or "unknown data")

    @property
    def class_word(self) -> str:
        """What a class of the data is called."""
        return "digit" if self.dataset in DIGITS else "class"

    @property
    def unlabelled(self) -> bool:
        """Whether the data have no labels, and so no probes and no feature networks."""
        return any((run.record.get("data") or {}).get("unlabelled") for run in self.runs)

    @property
    def declared(self) -> str:
        """The dataset that the experiment asks for."""
        return label(self.experiment.get("declared_dataset") or self.dataset)

    @property
    def fallback(self) -> bool:
        """Whether the dataset in use is a stand-in."""
        return bool(self.experiment.get("fallback"))

    def measured(self, *footings: str) -> tuple[Metric, ...]:
        """Rows of the metric table, of these footings or of all, that a finished run has a value of."""
        of_these = (m for m in self.metrics if m.footing in footings or not footings)
        return tuple(m for m in of_these if any(v.values(m.name) for v in self.variants))

    @cached_property
    def rankings(self) -> Mapping[str, Ranking]:
        """The order of each metric that compares across all variants: one family, by which tables mark."""
        metrics = self.measured("common", "details", "latent", "samples")
        return {m.name: ordered(self.variants, m) for m in metrics}

    def metric(self, name: str) -> Metric | None:
        """One row of the metric table, if it has a value."""
        return next((m for m in self.measured() if m.name == name), None)

    @cached_property
    def fit(self) -> Metric | None:
        """The metric that says which model fits best: ln p(x) where it is measured, else its bound."""
        return next((metric for name in FIT if (metric := self.metric(name))), None)


def ordered(variants: Iterable[Variant], metric: Metric) -> Ranking:
    """Order variants, each once and none that lost seeds; on latents none that collapsed, of one size.

    One that was trained elsewhere gets no more seeds by training on: with too few it is in no order.
    """
    latents = metric.footing == "latent"
    sound = [v for v in variants if not (v.lost or v.same_as or v.outdated(metric.name))]
    sound = [v for v in sound if not v.judged or len(v.finished) >= MIN_SEEDS]
    entries = [v for v in sound if not (latents and v.collapsed)]
    if latents and len({v.latent for v in entries}) > 1:
        return Ranking()
    column: dict[str, list[Values]] = {v.name: [values] for v in entries if (values := v.values(metric.name))}
    return rank(column, metric.direction, metric.scale)


def best_first(variants: Sequence[Variant], metric: Metric) -> list[Variant]:
    """Order variants by their mean; those without a value are last."""
    sign = 1 if metric.direction == "lower" else -1
    means = {v.name: value.mean for v in variants if (value := v.estimate(metric.name))}
    return sorted(variants, key=lambda v: sign * means[v.name] if v.name in means else math.inf)


def load(folder: Path) -> Results:
    """Read an experiment's folder, and the runs that it plans; raises BenchError without experiment.json."""
    home = ExperimentFolder(folder)
    runs = frame.table(home)
    newest = max(runs.yardstick[runs.status == "finished"], default=1)
    variants: list[Variant] = []
    first: dict[tuple[str, ...], str] = {}  # the runs of a variant -> its name
    for name, settings in home.spec["variants"].items():
        own = runs[runs.variant == name]
        if len(own) or not home.planned:
            twin = first.setdefault(tuple(own.run), name) if len(own) else name
            variants.append(Variant(name, settings, own, newest, twin if twin != name else ""))
    metrics = (*METRICS, *own_metrics(home.spec["variants"].values()))
    return Results(folder, home.spec, runs, tuple(variants), home.baselines(), metrics)


def read(*folders: str | Path) -> pd.DataFrame:
    """Load the runs of one experiment or more as a tidy table: a row a planned run.

    The index is (experiment, variant, seed). Columns hold what became of a run (`status`, `outcome`), its
    settings, the machine, its cost, and every metric under its name in `bench parts` (NaN where a run has
    none). `attrs` has the title and unit of each metric.

    >>> import bench
    >>> runs = bench.load("reports/mnist/beta")  # doctest: +SKIP
    >>> runs.groupby("beta")["elbo_bernoulli"].mean()  # doctest: +SKIP

    Raises:
        BenchError: a folder holds no `experiment.json`.
    """
    loaded = [load(Path(folder)) for folder in folders]
    tables = [
        found.table.drop(columns=[*frame.INNER]).assign(experiment=found.folder.name).infer_objects()
        for found in loaded
    ]
    runs = pd.concat(tables).set_index(["experiment", "variant", "seed"])
    metrics = [metric for found in loaded for metric in found.metrics]
    runs.attrs = {m.name: f"{m.title}, {m.unit}".rstrip(", ") for m in metrics if m.name in runs}
    return runs


def summary_csv(results: Results) -> bytes:
    """Write one row per variant: mean, 95 % interval and n of every metric, over finished seeds."""
    rows = []
    for v in results.variants:
        row: dict[str, object] = {
            "variant": v.name, "latent": v.latent, "likelihood_class": v.likelihood_class, "beta": v.beta,
            "beta_eff": v.beta_eff, "finished": len(v.finished), "planned": len(v.runs),
        }  # fmt: skip
        for name in metric_names(results.table):
            value = v.estimate(name)
            known = (value.mean, value.low, value.high, value.n) if value else (None, None, None, 0)
            row |= {f"{name}_{what}": x for what, x in zip(("mean", "low", "high", "n"), known, strict=True)}
        rows.append(row)
    return frame.csv(pd.DataFrame.from_records(rows).astype(object))


def since(metric: str) -> int:
    """Give the yardstick from which on a metric has its definition of today."""
    return BY_NAME[metric].since if metric in BY_NAME else 1
