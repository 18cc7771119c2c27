"""Saved views of MLflow's experiment page.

A view is an experiment tag whose value the UI reads. The format is undocumented and was read from the front
end of MLflow 3.17. So it is guarded by version, and failing to write it is a warning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

TAG = "mlflow.sharedViewState."
VERSIONS = ((3, 17), (4, 0))  # from, below: where this format is known to be read
FOOTING = "One footing: every variant may be compared"
OWN_TERMS = "Own terms: compare inside one likelihood class only"  # each density is another quantity
LONGEST = 20_000  # characters of an experiment tag

Json = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One saved view: charts by section, what the runs are grouped by, and which runs it shows."""

    name: str
    sections: Mapping[str, tuple[Json, ...]]
    columns: tuple[str, ...]
    order_by: str = "elbo_bernoulli"
    ascending: bool = False
    grouped: bool = True
    first_seed_only: bool = False
    all_runs: bool = True  # else the first 10: the image grid draws no more
    across: int = 2  # charts beside each other
    height: int = 400  # of a chart, in pixels

    @property
    def key(self) -> str:
        """The id in the view's tag and link; stable, so that a link stays good."""
        return "bench-" + self.name.lower().replace(",", "").replace(" ", "-")

    def tag(self, seed: int, now: int) -> tuple[str, str]:
        """The experiment tag that makes the view; `now` in milliseconds since 1970.

        Raises ValueError when it exceeds what a tag holds.
        """
        state = json.dumps(self._state(seed), separators=(",", ":"))
        value = json.dumps({"name": self.name, "createdAt": now, "updatedAt": now, "state": state})
        if len(value) > LONGEST:
            raise ValueError(f"the view {self.name!r} takes {len(value)} characters, a tag holds {LONGEST}")
        return TAG + self.key, value

    def _state(self, seed: int) -> Json:
        chosen = "tags.`bench.attempt` = 'latest'" + (
            f" AND params.`seed` = '{seed}'" if self.first_seed_only else ""
        )
        by_variant = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "variant"}],
        }
        return {
            "searchFilter": chosen,
            "orderByKey": f"metrics.`{self.order_by}`",
            "orderByAsc": self.ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "runsHiddenMode": "SHOW_ALL" if self.all_runs else "FIRST_10_RUNS",
            "groupBy": by_variant if self.grouped else None,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": self.grouped,
            "hideEmptyCharts": True,
            "isAccordionReordered": True,
            "compareRunSections": [
                {"uuid": self._uuid(section), "name": section, "display": True, "isReordered": True,
                 "deleted": False, "isGenerated": False, "columns": self.across, "cardHeight": self.height}
                for section in self.sections
            ],
            "compareRunCharts": [
                {"uuid": self._uuid(f"{section} {i}"), "metricSectionId": self._uuid(section),
                 "isGenerated": False, "deleted": False, "runsCountToCompare": 100, **chart}
                for section, charts in self.sections.items() for i, chart in enumerate(charts)
            ],
        }  # fmt: skip

    def _uuid(self, name: str) -> str:
        return str(uuid5(NAMESPACE_URL, f"bench/{self.name}/{name}"))


def line(metric: str, *, against: str | None = None) -> Json:
    """A curve per run or group, by epoch or against another metric."""
    x = {"xAxisKey": "metric", "selectedXAxisMetricKey": against} if against else {"xAxisKey": "step"}
    return {
        "type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "ignoreOutliers": False, **x,
    }  # fmt: skip


def bar(metric: str) -> Json:
    """A bar per run or group."""
    return {"type": "BAR", "metricKey": metric}


def scatter(x: str, y: str) -> Json:
    """A point per run or group."""
    return {"type": "SCATTER", "xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}


def images(key: str, step: int) -> Json:
    """A picture per run, with a slider for the epoch."""
    return {"type": "IMAGE", "imageKeys": [key], "step": step, "showRunParams": False}


def columns(*metrics: str) -> tuple[str, ...]:
    """The columns of the runs table: variant, seed, then metrics."""
    return ("params.`variant`", "params.`seed`", *(f"metrics.`{name}`" for name in metrics))


def saved_views(epochs: int) -> tuple[View, ...]:
    """The views of every experiment; pictures open at the last of `epochs`."""
    footing = ("elbo_bernoulli", "log_px_bernoulli", "elbo_gaussian", "log_px_gaussian", "mse")
    latent = ("active_units", "aggregate_kl", "linear_probe_accuracy", "frechet_distance")
    return (
        View(
            "ELBO by variant, mean over seeds",
            {
                FOOTING: (bar("elbo_bernoulli"), line("test/kl")),
                OWN_TERMS: (line("test/elbo"), line("test/reconstruction")),
            },
            columns("elbo_bernoulli", "elbo", "kl", "reconstruction"),
        ),
        View(
            "One footing",
            {
                FOOTING: tuple(bar(name) for name in footing),
                "Latent space and samples": tuple(bar(name) for name in latent),
            },
            columns(*footing, *latent),
            across=3,
        ),
        View(
            "Samples by step",
            {"Pictures of the first seed": (images("samples", epochs), images("reconstructions", epochs))},
            columns("elbo_bernoulli", "frechet_distance"),
            grouped=False, first_seed_only=True, all_runs=False, across=1, height=640,
        ),
        View(
            "Time against ELBO",
            {
                FOOTING: (scatter("train_seconds", "elbo_bernoulli"),),
                OWN_TERMS: (line("test/elbo", against="time/total_seconds"),),
            },
            columns("train_seconds", "images_per_second", "elbo_bernoulli"),
            across=1, height=320,
            grouped=False, first_seed_only=True,  # grouped, the UI would draw all seeds as one zigzag
        ),
    )  # fmt: skip


def known(version: str) -> bool:
    """Whether this MLflow's front end reads views as written here."""
    first, below = VERSIONS
    return first <= tuple(int(part) for part in version.split(".")[:2]) < below


def edited(value: str | None) -> bool:
    """Whether a view's tag was changed in the UI since the tool wrote it."""
    if value is None:
        return False
    view = json.loads(value)
    return bool(view.get("updatedAt") != view.get("createdAt"))
