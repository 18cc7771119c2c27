"""Saved views of MLflow's experiment page.

A view is an experiment tag whose value the UI reads. The format is undocumented and was read from the front
end of MLflow 3.17. So it is guarded by version, and failing to write it is a warning.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

TAG = "mlflow.sharedViewState."
VERSIONS = ((3, 17), (4, 0))  # from, below: where this format is known to be read
FOOTING = "One footing: every variant may be compared"
OWN_TERMS = "Own terms: compare inside one likelihood class only"  # each density is another quantity
LONGEST = 20_000  # characters of an experiment tag
TERMS = 40  # of a search, each a join: sqlite makes 63
MOST = 10  # variants of one view: the UI has ten colours, and an image grid draws ten runs

Json = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One saved view: charts by section, and the metrics in the columns of the table.

    It shows the variants' means over seeds, or else the runs of the first seed one by one.
    """

    name: str
    sections: Mapping[str, tuple[Json, ...]]
    columns: tuple[str, ...]
    variants: tuple[str, ...] = ()
    chosen: str = ""  # the runs of `variants` alone, in MLflow's language of searches; all, if empty
    first_seed_only: bool = False
    across: int = 2  # charts beside each other
    height: int = 400  # of a chart, in pixels

    @property
    def key(self) -> str:
        """The id in the view's tag and link; stable, so that a link stays good."""
        return "bench-" + re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")

    def value(self, seed: int, now: int) -> str:
        """Give the value of its tag; `now` in milliseconds since 1970. ValueError where that is too long."""
        state = json.dumps(self._state(seed), separators=(",", ":"))
        value = json.dumps({"name": self.name, "createdAt": now, "updatedAt": now, "state": state})
        if len(value) > LONGEST:
            raise ValueError(f"the view {self.name!r} takes {len(value)} characters, a tag holds {LONGEST}")
        return value

    def _state(self, seed: int) -> Json:
        chosen = f" AND {self.chosen}" if self.chosen else ""
        chosen += f" AND params.`seed` = '{seed}'" if self.first_seed_only else ""
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
            "groupsExpanded": {f"param.variant.{name}": False for name in self.variants},
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


def saved_views(epochs: int, variants: Mapping[str, Mapping[str, Any]]) -> tuple[View, ...]:
    """List the views of an experiment with these variants; pictures open at the last of `epochs`."""
    footing = ("elbo_bernoulli", "log_px_bernoulli", "mse", "frechet_distance", "recall", "coverage")
    latent = ("kl", "active_units", "prior_divergence")
    pictures = [{"type": "IMAGE", "imageKeys": [key], "step": epochs, "showRunParams": False}
                for key in ("samples", "reconstructions")]  # fmt: skip
    rate, elbo = ({"key": key, "type": "METRIC"} for key in ("kl", "elbo_bernoulli"))
    found: list[View] = []
    for group, names in groups(variants).items():
        of_group, of = (tuple(names), selection(names, variants)), f" · {group}" if group else ""
        found += [
            View(
                f"ELBO{of}",
                {
                    FOOTING: (_bar("elbo_bernoulli"), {"type": "SCATTER", "xaxis": rate, "yaxis": elbo}),
                    OWN_TERMS: (_line("test/elbo"), _line("test/kl")),
                },
                ("elbo_bernoulli", "elbo", "kl", "reconstruction"), *of_group,
            ),
            View(
                f"One footing{of}",
                {FOOTING: tuple(map(_bar, footing)), "Latent space": tuple(map(_bar, latent))},
                (*footing, *latent), *of_group, across=3,
            ),
            View(
                f"Samples by step{of}", {"Pictures of the first seed": tuple(pictures)},
                ("elbo_bernoulli", "frechet_distance"), *of_group, first_seed_only=True, across=1, height=640,
            ),
        ]  # fmt: skip
    return tuple(found)


def saved(tags: Mapping[str, str]) -> dict[str, str]:
    """List the views in an experiment's tags, name by key."""
    return {
        key.removeprefix(TAG): _read(text).get("name", key)
        for key, text in tags.items()
        if key.startswith(TAG)
    }


def untouched(tags: Mapping[str, str]) -> set[str]:
    """List the tags with views of bench that nobody edited."""
    found = {key: _read(text) for key, text in tags.items() if key.startswith(f"{TAG}bench-")}
    return {key for key, view in found.items() if view.get("updatedAt") == view.get("createdAt")}


def _read(text: str) -> Json:
    try:
        view = json.loads(text)
    except ValueError:
        return {}
    return view if isinstance(view, dict) else {}


def groups(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Split an experiment's variants into groups of at most MOST, by name; up to MOST are one, unnamed.

    Those written out by name are one, those of a matrix one for each value of its first axis that is fine
    enough.
    """
    if len(variants) <= MOST:
        return {"": [*variants]}
    axes = {
        name: {key: _value(v) for key, v in (each.get("axes") or {}).items()}
        for name, each in variants.items()
    }
    named = [name for name in variants if not axes[name]]
    found = {"documents" if all(variants[name].get("document") for name in named) else "by name": named}
    for axis in dict.fromkeys(key for each in axes.values() for key in each):
        parts: dict[str, list[str]] = {}
        for name in variants:
            if axis in axes[name]:
                parts.setdefault(axes[name][axis], []).append(name)
        if max(map(len, parts.values())) <= MOST:
            break
    else:
        parts = {"matrix": [name for name in variants if axes[name]]}
    chunks: dict[str, list[str]] = {}
    for label, names in (found | parts).items():
        for start in range(0, len(names), MOST):
            number = f" {start // MOST + 1}" if len(names) > MOST else ""
            chunks[f"{label}{number}"] = names[start : start + MOST]
    return chunks


def selection(names: Sequence[str], variants: Iterable[str]) -> str:
    """Select the runs of some variants: by how their names begin, less the others that begin so too.

    MLflow's searches know neither "or" nor lists of parameters.
    """
    start = os.path.commonprefix(names)  # noqa: RUF071  characters are what is meant
    others = [name for name in variants if name not in names]
    terms = [f"params.`variant` LIKE '{start}%'"] if start and others else []
    alike = [name for name in others if name.startswith(start)]
    return " AND ".join([*terms, *(f"params.`variant` != '{name}'" for name in alike[:TERMS])])


def run_name(variant: str, seed: int) -> str:
    """Name a run, briefly: the UI cuts names."""
    return f"{variant} · s{seed}"


def _value(value: Any) -> str:
    return str(value["name"] if isinstance(value, Mapping) else value)


def _bar(metric: str) -> Json:
    return {"type": "BAR", "metricKey": metric}


def _line(metric: str) -> Json:
    return {
        "type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "ignoreOutliers": False,
        "xAxisKey": "step",
    }  # fmt: skip
