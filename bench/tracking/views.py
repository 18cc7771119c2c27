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
    """One saved view: charts by section, and the metrics in the columns of the table.

    It shows the variants' means over seeds, or else the runs of the first seed one by one.
    """

    name: str
    sections: Mapping[str, tuple[Json, ...]]
    columns: tuple[str, ...]
    first_seed_only: bool = False
    across: int = 2  # charts beside each other
    height: int = 400  # of a chart, in pixels

    @property
    def key(self) -> str:
        """The id in the view's tag and link; stable, so that a link stays good."""
        return "bench-" + self.name.lower().replace(",", "").replace(" ", "-")

    def value(self, seed: int, now: int) -> str:
        """Give the value of its tag; `now` in milliseconds since 1970. ValueError where that is too long."""
        state = json.dumps(self._state(seed), separators=(",", ":"))
        value = json.dumps({"name": self.name, "createdAt": now, "updatedAt": now, "state": state})
        if len(value) > LONGEST:
            raise ValueError(f"the view {self.name!r} takes {len(value)} characters, a tag holds {LONGEST}")
        return value

    def _state(self, seed: int) -> Json:
        chosen = f" AND params.`seed` = '{seed}'" if self.first_seed_only else ""
        columns = ["params.`variant`", "params.`seed`", *(f"metrics.`{name}`" for name in self.columns)]
        by_variant = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "variant"}],
        }
        pictures = any(chart["type"] == "IMAGE" for charts in self.sections.values() for chart in charts)
        return {
            "searchFilter": f"tags.`bench.attempt` = 'latest'{chosen}",
            "orderByKey": "metrics.`elbo_bernoulli`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": columns,
            "runsHiddenMode": "FIRST_10_RUNS" if pictures else "SHOW_ALL",  # the image grid draws no more
            "groupBy": None if self.first_seed_only else by_variant,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": not self.first_seed_only,
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


def saved_views(epochs: int) -> tuple[View, ...]:
    """List the views of every experiment; pictures open at the last of `epochs`."""
    footing = ("elbo_bernoulli", "log_px_bernoulli", "iwae_bernoulli", "gaussian_bits_per_dim", "mse")
    latent = ("active_units", "aggregate_kl", "linear_probe_accuracy", "frechet_distance")
    pictures = [{"type": "IMAGE", "imageKeys": [key], "step": epochs, "showRunParams": False}
                for key in ("samples", "reconstructions")]  # fmt: skip
    seconds, elbo = ({"key": key, "type": "METRIC"} for key in ("train_seconds", "elbo_bernoulli"))
    return (
        View(
            "ELBO by variant, mean over seeds",
            {
                FOOTING: (_bar("elbo_bernoulli"), _line("test/kl")),
                OWN_TERMS: (_line("test/elbo"), _line("test/reconstruction")),
            },
            ("elbo_bernoulli", "elbo", "kl", "reconstruction"),
        ),
        View(
            "One footing",
            {FOOTING: tuple(map(_bar, footing)), "Latent space and samples": tuple(map(_bar, latent))},
            (*footing, *latent), across=3,
        ),
        View(
            "Samples by step", {"Pictures of the first seed": tuple(pictures)},
            ("elbo_bernoulli", "frechet_distance"), first_seed_only=True, across=1, height=640,
        ),
        View(  # of one seed, as the UI would draw the means of several as one zigzag
            "Time against ELBO",
            {
                FOOTING: ({"type": "SCATTER", "xaxis": seconds, "yaxis": elbo},),
                OWN_TERMS: (_line("test/elbo", against="time/total_seconds"),),
            },
            ("train_seconds", "images_per_second", "elbo_bernoulli"),
            first_seed_only=True, across=1, height=320,
        ),
    )  # fmt: skip


def _bar(metric: str) -> Json:
    return {"type": "BAR", "metricKey": metric}


def _line(metric: str, against: str = "") -> Json:
    x = {"xAxisKey": "metric", "selectedXAxisMetricKey": against} if against else {"xAxisKey": "step"}
    return {
        "type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "ignoreOutliers": False, **x,
    }  # fmt: skip
